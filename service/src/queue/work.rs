//! The kinds of work, and who does them.

use serde::{Deserialize, Serialize};

use super::{ClaimedJob, NewJob, Performed, Priority, tidy};
use crate::{
    Service,
    forge::Conclusion,
    identity::{GitRef, RepositoryName},
    metadata::MetadataError,
};

/// What a job does. Its JSON lies in the database: a kind may be added, but never change its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Forgets what is too old to be of use. One such job is always there.
    Tidy,
    /// A ref was deleted: forgets what its jobs reported before then.
    ForgetRef {
        /// The repository.
        repository: RepositoryName,
        /// The ref.
        git_ref: GitRef,
        /// When it was deleted, in seconds since 1970.
        before: i64,
    },
    /// A repository was deleted: forgets what its jobs reported before then.
    ForgetRepository {
        /// The repository.
        repository: RepositoryName,
        /// When it was deleted.
        before: i64,
    },
    /// An attempt at a run is over.
    ConcludeRun {
        /// The repository.
        repository: RepositoryName,
        /// The run.
        run: u64,
        /// The attempt.
        attempt: u64,
        /// How it ended.
        conclusion: Conclusion,
    },
}

impl Work {
    /// The job that does it.
    pub fn job(&self, due_at: i64) -> NewJob {
        let (kind, what, priority) = match self {
            Self::Tidy => ("tidy", String::new(), Priority::SCHEDULE),
            Self::ForgetRef { repository, git_ref, before } => {
                ("forget-ref", format!(" {repository} {git_ref} {before}"), Priority::EVENT)
            }
            Self::ForgetRepository { repository, before } => {
                ("forget-repository", format!(" {repository} {before}"), Priority::EVENT)
            }
            Self::ConcludeRun { repository, run, attempt, .. } => {
                ("conclude-run", format!(" {repository} {run} {attempt}"), Priority::EVENT)
            }
        };
        let work = serde_json::to_string(self).unwrap_or_default();
        NewJob { kind: kind.to_owned(), work, key: format!("{kind}{what}"), subject: None, priority, due_at }
    }

    /// Does a job of the service.
    ///
    /// # Errors
    /// Why it failed, for people. It is tried again.
    pub async fn perform(service: &Service, job: &ClaimedJob) -> Result<Performed, String> {
        let work: Self = serde_json::from_str(&job.work)
            .map_err(|_| "this version of larderd does not know such jobs. Run a newer one".to_owned())?;
        work.carry_out(service).await.map_err(|error| error.to_string())
    }

    async fn carry_out(&self, service: &Service) -> Result<Performed, MetadataError> {
        let metadata = &service.metadata;
        match self {
            Self::Tidy => return tidy::tidy(service).await,
            Self::ForgetRef { repository, git_ref, before } => {
                metadata.forget_manifests_of(repository, Some(git_ref), *before).await?;
            }
            Self::ForgetRepository { repository, before } => {
                metadata.forget_manifests_of(repository, None, *before).await?;
            }
            Self::ConcludeRun { repository, run, attempt, conclusion } => {
                metadata.conclude_run(repository, *run, *attempt, *conclusion).await?;
            }
        }
        Ok(Performed::Done)
    }
}
