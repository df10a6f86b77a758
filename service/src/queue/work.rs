//! The kinds of work, and who does them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ClaimedJob, NewJob, Performed, Priority, tidy};
use crate::{
    Service,
    flake::{self, Pushed, Spent},
    forge::{self, Conclusion},
    host,
    identity::{GitRef, RepositoryName},
    metadata::MetadataError,
    prefetch::{self, Of, Reason},
    trust::{PushEvent, SaidOfRepository},
};

/// What a job does. Its JSON lies in the database: a kind may be added, but never change its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Forgets what is too old to be of use. One such job is always there.
    Tidy,
    /// A ref was deleted: forgets what its jobs reported before then, and lets go of what they pushed.
    ForgetRef {
        /// The repository.
        repository: RepositoryName,
        /// Its number, where it is known.
        #[serde(default)]
        id: Option<u64>,
        /// The ref.
        git_ref: GitRef,
        /// When it was deleted, in seconds since 1970.
        before: i64,
    },
    /// A ref is there again: nothing of it is forgotten.
    KeepRef {
        /// The repository.
        repository: RepositoryName,
        /// The ref.
        git_ref: GitRef,
        /// Since when.
        since: i64,
    },
    /// A repository was deleted: forgets what its jobs reported before then, and lets go of what they pushed.
    ForgetRepository {
        /// The repository.
        repository: RepositoryName,
        /// Its number, where it is known.
        #[serde(default)]
        id: Option<u64>,
        /// What was done before then is forgotten.
        before: i64,
        /// When it was changed last, before that.
        #[serde(default)]
        at: i64,
    },
    /// A repository is there again: nothing of it is forgotten.
    KeepRepository {
        /// The repository.
        repository: RepositoryName,
        /// Since when.
        since: i64,
    },
    /// A repository is called otherwise.
    RenameRepository {
        /// What it was called.
        from: RepositoryName,
        /// What it is called.
        to: RepositoryName,
        /// Its number.
        id: u64,
    },
    /// A repository is another owner's.
    SuspendRepository {
        /// What it was called.
        repository: RepositoryName,
        /// Its number.
        id: u64,
        /// The number of whoever owns it now.
        owner: u64,
    },
    /// A release was published or taken back.
    Release {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: String,
        /// Whether it is there.
        published: bool,
        /// When it was published, in seconds since 1970.
        #[serde(default)]
        at: i64,
    },
    /// Reports on a commit to GitHub.
    Report {
        /// The repository.
        repository: RepositoryName,
        /// The commit.
        sha: String,
    },
    /// Asks for deliveries that were missed. One such job is always there.
    AskForMissed,
    /// Where the App is installed has changed.
    LookAgain,
    /// An attempt at a run is over.
    ConcludeRun {
        /// The repository.
        repository: RepositoryName,
        /// Its number, where it is known.
        #[serde(default)]
        id: Option<u64>,
        /// The run.
        run: u64,
        /// The attempt.
        attempt: u64,
        /// How it ended.
        conclusion: Conclusion,
    },
    /// Prefetches what somebody asked for by hand.
    Prefetch {
        /// Which prefetch.
        prefetch: String,
    },
    /// Something came to a ref: prefetches what its jobs wanted last.
    PrefetchRef {
        /// The repository.
        repository: RepositoryName,
        /// Its number, where it is known.
        #[serde(default)]
        id: Option<u64>,
        /// The ref.
        git_ref: GitRef,
        /// Refs whose jobs stand for those of the ref, if it had none: the first that had some.
        fallbacks: Vec<GitRef>,
        /// The commit that came.
        commit: String,
        /// When, in seconds since 1970 by the forge's clock.
        pushed_at: i64,
    },
    /// Has something prefetched whenever its time comes. One such job is there for each that is configured.
    Schedule {
        /// Who vouches for its jobs.
        #[serde(default)]
        issuer: String,
        /// The repository.
        repository: RepositoryName,
        /// The ref.
        git_ref: GitRef,
        /// When, as the configuration says it.
        schedule: String,
    },
    /// Its time has come: prefetches what a ref's jobs wanted last.
    PrefetchScheduled {
        /// Who vouches for its jobs.
        #[serde(default)]
        issuer: String,
        /// The repository.
        repository: RepositoryName,
        /// The ref.
        git_ref: GitRef,
    },
    /// Something came to a ref: prefetches the inputs of its lock file.
    PrefetchInputs {
        /// The repository.
        repository: RepositoryName,
        /// What the event says of the repository.
        #[serde(default)]
        said: SaidOfRepository,
        /// The ref.
        git_ref: GitRef,
        /// The commit that came.
        commit: String,
        /// When, in seconds since 1970 by the forge's clock.
        pushed_at: i64,
        /// What the inputs have cost so far.
        #[serde(default)]
        spent: Spent,
    },
    /// A run succeeded: takes what it published into the host's own store, where that is configured.
    FillHostStore {
        /// The repository.
        repository: RepositoryName,
        /// The run.
        run: u64,
    },
    /// A run is over: prefetches what its jobs wanted.
    PrefetchRun {
        /// The repository.
        repository: RepositoryName,
        /// Its number, where it is known.
        #[serde(default)]
        id: Option<u64>,
        /// The run.
        run: u64,
        /// The attempt.
        attempt: u64,
    },
}

impl Work {
    /// The job that does it.
    pub fn job(&self, due_at: i64) -> NewJob {
        let (kind, what, priority) = match self {
            Self::Tidy => ("tidy", String::new(), Priority::BRIEF),
            Self::ForgetRef { repository, git_ref, before, .. } => {
                ("forget-ref", format!(" {repository} {git_ref} {before}"), Priority::BRIEF)
            }
            Self::KeepRef { repository, git_ref, since } => {
                ("keep-ref", format!(" {repository} {git_ref} {since}"), Priority::BRIEF)
            }
            Self::KeepRepository { repository, since } => {
                ("keep-repository", format!(" {repository} {since}"), Priority::BRIEF)
            }
            Self::RenameRepository { from, to, id } => {
                ("rename-repository", format!(" {from} {to} {id}"), Priority::BRIEF)
            }
            Self::SuspendRepository { repository, id, owner } => {
                ("suspend-repository", format!(" {repository} {id} {owner}"), Priority::BRIEF)
            }
            Self::Release { repository, tag, published, .. } => {
                ("release", format!(" {repository} {tag} {published}"), Priority::BRIEF)
            }
            Self::Report { repository, sha } => ("report", format!(" {repository} {sha}"), Priority::ASKING),
            Self::AskForMissed => ("ask-for-missed", String::new(), Priority::ASKING),
            Self::LookAgain => ("look-again", String::new(), Priority::BRIEF),
            Self::ForgetRepository { repository, before, .. } => {
                ("forget-repository", format!(" {repository} {before}"), Priority::BRIEF)
            }
            Self::ConcludeRun { repository, run, attempt, .. } => {
                ("conclude-run", format!(" {repository} {run} {attempt}"), Priority::BRIEF)
            }
            Self::Prefetch { prefetch } => ("prefetch", format!(" {prefetch}"), Priority::WAITED),
            Self::PrefetchRef { repository, git_ref, commit, .. } => {
                ("prefetch-ref", format!(" {repository} {git_ref} {commit}"), Priority::EVENT)
            }
            Self::Schedule { issuer, repository, git_ref, schedule } => {
                ("schedule", format!(" {issuer} {repository} {git_ref} {schedule}"), Priority::EVENT)
            }
            Self::PrefetchScheduled { issuer, repository, git_ref } => {
                ("prefetch-scheduled", format!(" {issuer} {repository} {git_ref}"), Priority::SCHEDULE)
            }
            Self::PrefetchInputs { repository, git_ref, commit, .. } => {
                ("prefetch-inputs", format!(" {repository} {git_ref} {commit}"), Priority::EVENT)
            }
            Self::FillHostStore { repository, run } => {
                ("fill-host-store", format!(" {repository} {run}"), Priority::EVENT)
            }
            Self::PrefetchRun { repository, run, attempt, .. } => {
                ("prefetch-run", format!(" {repository} {run} {attempt}"), Priority::EVENT)
            }
        };
        let work = self.json();
        let (subject, sequence) = self.subject().unzip();
        let key = format!("{kind}{what}");
        NewJob { kind: kind.to_owned(), work, key, subject, sequence, priority, due_at }
    }

    /// As it lies in the database.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same work, when its inputs have cost that much.
    pub(crate) fn having_spent(mut self, by_now: &Spent) -> Self {
        if let Self::PrefetchInputs { spent, .. } = &mut self {
            spent.clone_from(by_now);
        }
        self
    }

    /// Does a job of the service.
    ///
    /// # Errors
    /// Why it failed, for people. It is tried again.
    pub async fn perform(service: &Arc<Service>, job: &ClaimedJob) -> Result<Performed, String> {
        let work: Self = serde_json::from_str(&job.work)
            .map_err(|_| "this version of larderd does not know such jobs. Run a newer one".to_owned())?;
        match &work {
            Self::Prefetch { prefetch } => prefetch::by_hand(service, job, prefetch).await,
            Self::PrefetchRef { repository, id, git_ref, fallbacks, commit, .. } => {
                let refs = [std::slice::from_ref(git_ref), fallbacks].concat();
                let reason = Reason::Refs(&refs);
                let of = Of::Event { repository, id: *id };
                prefetch::of_manifests(service, job, of, reason, Some(commit)).await
            }
            Self::PrefetchScheduled { issuer, repository, git_ref } => {
                let reason = Reason::Refs(std::slice::from_ref(git_ref));
                prefetch::of_manifests(service, job, Of::Schedule { issuer, repository }, reason, None).await
            }
            Self::Schedule { issuer, repository, git_ref, schedule } => {
                prefetch::by_the_clock(service, issuer, repository, git_ref, schedule).await
            }
            Self::PrefetchInputs { repository, said, git_ref, commit, spent, .. } => {
                let pushed = Pushed { event: PushEvent { repository, said, git_ref }, commit };
                flake::prefetch_inputs(service, job, &pushed, spent).await
            }
            Self::FillHostStore { repository, run } => host::fill(service, repository, *run).await,
            Self::PrefetchRun { repository, id, run, .. } => {
                let of = Of::Event { repository, id: *id };
                prefetch::of_manifests(service, job, of, Reason::Run(*run), None).await
            }
            Self::Report { repository, sha } => {
                forge::report(service, repository, sha).await.map_err(|error| error.to_string())
            }
            _ => work.carry_out(service).await.map_err(|error| error.to_string()),
        }
    }

    async fn carry_out(&self, service: &Service) -> Result<Performed, MetadataError> {
        match self {
            Self::Tidy => return tidy::tidy(service).await,
            Self::AskForMissed => return forge::ask_for_missed(service).await,
            Self::ForgetRef { repository, id, git_ref, before } => {
                forge::forget(service, repository, *id, Some(git_ref), *before).await?;
            }
            Self::ForgetRepository { repository, id, before, .. } => {
                forge::forget(service, repository, *id, None, *before).await?;
            }
            // That they were stored has ended what would have forgotten.
            Self::KeepRef { .. } | Self::KeepRepository { .. } => {}
            Self::RenameRepository { from, to, id } => forge::rename(service, from, to, *id).await?,
            Self::SuspendRepository { repository, id, owner } => {
                forge::suspend(service, repository, *id, *owner).await?;
            }
            Self::Release { repository, tag, published, .. } => {
                forge::release(service, repository, tag, *published).await?;
            }
            Self::LookAgain => service.github.look_again(),
            Self::ConcludeRun { repository, id, run, attempt, conclusion } => {
                forge::conclude_run(service, repository, *id, (*run, *attempt), *conclusion).await?;
            }
            Self::Report { .. }
            | Self::Prefetch { .. }
            | Self::PrefetchRef { .. }
            | Self::PrefetchInputs { .. }
            | Self::FillHostStore { .. }
            | Self::PrefetchRun { .. }
            | Self::Schedule { .. }
            | Self::PrefetchScheduled { .. } => {}
        }
        Ok(Performed::Done)
    }
}
