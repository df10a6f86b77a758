//! A trust rule: a sentence of the configuration that turns claims into permissions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use larder_protocol::api::Permission;

use super::{
    Alternatives, BoundName, Pattern, PullRequest, Rank, RefPattern, RepositoryPattern, TrustedName,
    WorkflowPattern,
};
use crate::{
    config::IssuerUrl,
    identity::{Claims, EventName, IssuerKind, OwnerName, RepositoryName, TokenClaims},
};

/// One rule. All that it says must fit.
#[derive(Debug, Clone)]
pub struct TrustRule {
    /// Whose tokens it is about.
    pub issuer: IssuerUrl,
    /// What these tokens say.
    pub kind: IssuerKind,
    /// What it grants.
    pub permissions: BTreeSet<Permission>,
    /// The repositories, without case.
    pub repository: Option<Alternatives<RepositoryPattern>>,
    /// The repositories' numbers.
    pub repository_id: Option<Alternatives<u64>>,
    /// The repositories' owners, without case.
    pub repository_owner: Option<Alternatives<OwnerName>>,
    /// The owners' numbers.
    pub repository_owner_id: Option<Alternatives<u64>>,
    /// The refs, with case.
    pub git_ref: Option<Alternatives<RefPattern>>,
    /// Whether the ref must be protected.
    pub ref_protected: bool,
    /// The events. Not asked about where the issuer knows none.
    pub events: BTreeSet<EventName>,
    /// The job's deployment environment.
    pub environment: Option<Alternatives<Pattern>>,
    /// The workflow's name.
    pub workflow: Option<Alternatives<Pattern>>,
    /// The reusable workflow that the job is in.
    pub job_workflow_ref: Option<Alternatives<WorkflowPattern>>,
    /// `github-hosted` or `self-hosted`.
    pub runner_environment: Option<Alternatives<Pattern>>,
    /// Other claims, by name.
    pub claims: BTreeMap<String, Alternatives<Pattern>>,
    /// Whether what is not known to be public may push to a cache that everybody reads.
    pub publish: bool,
    /// Whether each pull request gets a cache of its own, and this one stays as it is.
    pub isolate: bool,
    /// How much what is pushed by it counts.
    pub rank: Rank,
}

impl TrustRule {
    /// Whether it names the one that holds the token: only then may a denial speak of it.
    pub(super) fn is_about(&self, claims: &TokenClaims) -> bool {
        if self.issuer.as_str() != claims.issuer() {
            return false;
        }
        let Some(job) = claims.job() else {
            let subject = claims.text("sub").unwrap_or_default();
            return self
                .claims
                .get("sub")
                .is_some_and(|wanted| wanted.iter().any(|sub| sub.matches(subject)));
        };
        // Names where it has some, else numbers.
        let named = self.repository.is_some() || self.repository_owner.is_some();
        let is = |wanted: &Option<Alternatives<u64>>, found: Option<u64>| {
            wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|id| Some(*id) == found))
        };
        self.repository.as_ref().is_none_or(|wanted| wanted.iter().any(|it| it.matches(&job.repository)))
            && self.repository_owner.as_ref().is_none_or(|wanted| {
                // What the token says of the owner, and whose the repository is by its name: the same, of a forge.
                let owners = [job.repository_owner.as_deref().unwrap_or_default(), job.repository.owner()];
                wanted
                    .iter()
                    .any(|wanted| owners.iter().all(|owner| RepositoryName::same(wanted.as_str(), owner)))
            })
            && (named
                || (self.repository_id.is_some() || self.repository_owner_id.is_some())
                    && is(&self.repository_id, Some(job.repository_id))
                    && is(&self.repository_owner_id, job.repository_owner_id))
    }

    /// Whether it names a repository, or its owner, or has numbers alone: whether those are the repository's is left to
    /// the caller.
    pub(super) fn may_name(&self, repository: &RepositoryName) -> bool {
        let named = self.repository.is_some() || self.repository_owner.is_some();
        (named || self.repository_id.is_some() || self.repository_owner_id.is_some())
            && self.repository.as_ref().is_none_or(|wanted| wanted.iter().any(|it| it.matches(repository)))
            && self.repository_owner.as_ref().is_none_or(|wanted| {
                wanted.iter().any(|wanted| RepositoryName::same(wanted.as_str(), repository.owner()))
            })
    }

    /// What does not fit, each as half a sentence with what the rule wants, what the token says, and a remedy
    /// where there is one. `public` is whether everybody may read the cache, `bound` is what is known of the token's
    /// names there.
    pub(super) fn mismatches(&self, claims: &TokenClaims, public: bool, bound: &[BoundName]) -> Vec<String> {
        let mut mismatches = Vec::new();
        if let Some(job) = claims.job() {
            self.mismatches_of_job(job, &mut mismatches);
            if let Some(name) = self.name_of(&job.repository) {
                let known = bound.iter().find(|bound| bound.name == name);
                if known.is_some_and(|known| known.unbound_at.is_some()) {
                    mismatches.push(format!(
                        "the token is older than the `larderd rules unbind {name}` of whoever runs the service. A new \
                         one can bind the name"
                    ));
                } else if known.is_some_and(|known| {
                    known.suspended.is_some() || Some(known.numbers) != name.numbers_in(job)
                }) {
                    mismatches.push(format!(
                        "{name} is not what it was when it was first trusted: it was transferred, or made again. \
                         Whoever runs the service can accept that by `larderd rules confirm {name}`"
                    ));
                }
            }
        }
        for (name, wanted) in &self.claims {
            want(&mut mismatches, name, Some(wanted), claims.text(name), Pattern::matches);
        }
        let is_public = claims.job().is_some_and(Claims::is_public);
        if public && !self.publish && !is_public && self.permissions.contains(&Permission::Push) {
            let visibility = claims.job().and_then(|job| job.repository_visibility.as_deref());
            let problem = match visibility {
                Some(_) => "the repository is not public",
                None => "the token does not say that the repository is public",
            };
            mismatches.push(format!(
                "{problem} while everybody can read the cache: the rule must say publish = true if that is meant"
            ));
        }
        mismatches
    }

    fn mismatches_of_job(&self, job: &Claims, mismatches: &mut Vec<String>) {
        for (name, wanted, found) in [
            ("repository_id", &self.repository_id, Some(job.repository_id)),
            ("repository_owner_id", &self.repository_owner_id, job.repository_owner_id),
        ] {
            if let Some(wanted) = wanted
                && !wanted.iter().any(|id| Some(*id) == found)
            {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                // The numbers that it wants may be those of other repositories.
                mismatches.push(format!(
                    "it wants another {name} than the token's, {found}: another repository has this name now"
                ));
            }
        }
        if let Some(wanted) = &self.git_ref
            && !wanted.iter().any(|pattern| pattern.matches(&job.git_ref))
        {
            mismatches.push(format!("it wants ref {wanted}, and the token says {}", job.git_ref));
        }
        if self.ref_protected && !job.ref_protected {
            mismatches.push(format!("it wants a protected ref, and {} is not protected", job.git_ref));
        }
        if !self.events.contains(&job.event_name) {
            mismatches.push(format!(
                "it wants one of the events {}, and the token says {}",
                self.event_names(),
                job.event_name
            ));
        }
        let text = Pattern::matches;
        want(mismatches, "environment", self.environment.as_ref(), job.environment.as_deref(), text);
        want(mismatches, "workflow", self.workflow.as_ref(), job.workflow.as_deref(), text);
        let (wanted, found) = (self.job_workflow_ref.as_ref(), job.job_workflow_ref.as_deref());
        want(mismatches, "job_workflow_ref", wanted, found, WorkflowPattern::matches);
        let (wanted, found) = (self.runner_environment.as_ref(), job.runner_environment.as_deref());
        want(mismatches, "runner_environment", wanted, found, text);
        if self.isolate && PullRequest::of(job).is_none() {
            mismatches.push(format!(
                "it is for pull requests, whose ref is refs/pull/<number>/merge, and the token says {}",
                job.git_ref
            ));
        }
    }

    /// The names whose numbers are to be known before the rule grants anything, as far as they are written out.
    pub fn names(&self) -> BTreeSet<TrustedName> {
        let mut names = BTreeSet::new();
        for pattern in self.repository.iter().flat_map(Alternatives::iter) {
            match pattern.literal() {
                Some(repository) if self.repository_id.is_none() => {
                    names.insert(TrustedName::repository(&repository));
                }
                _ if self.repository_owner_id.is_none() => {
                    names.extend(pattern.owner().parse().as_ref().map(TrustedName::owner));
                }
                _ => {}
            }
        }
        if self.repository.is_none() && self.repository_owner_id.is_none() {
            names.extend(self.repository_owner.iter().flat_map(Alternatives::iter).map(TrustedName::owner));
        }
        names
    }

    /// Whether the rule may trust something by that name.
    pub fn trusts(&self, name: &TrustedName) -> bool {
        let TrustedName::Owner(owner) = name else { return self.names().contains(name) };
        let patterned = self.repository_owner_id.is_none()
            && owner.parse().is_ok_and(|owner| {
                let mut patterns = self.repository.iter().flat_map(Alternatives::iter);
                patterns.any(|pattern| pattern.literal().is_none() && pattern.can_be_of(&owner))
            });
        patterned || self.names().contains(name)
    }

    /// The name by which the rule trusts this repository's jobs: its own where the rule writes that out, else its
    /// owner's; `None` where the configuration says the number itself.
    pub(crate) fn name_of(&self, repository: &RepositoryName) -> Option<TrustedName> {
        let written_out = self
            .repository
            .iter()
            .flat_map(Alternatives::iter)
            .any(|pattern| pattern.literal().is_some_and(|literal| literal.is(repository)));
        let [repository, owner] = TrustedName::of(repository);
        let named = self.repository.is_some() || self.repository_owner.is_some();
        if written_out && self.repository_id.is_none() {
            Some(repository)
        } else if named && self.repository_owner_id.is_none() {
            Some(owner)
        } else {
            None
        }
    }

    fn event_names(&self) -> String {
        self.events.iter().map(EventName::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// What tokens say may be anybody's text: it is shown on one line, and not all of it.
fn want<P: fmt::Display>(
    mismatches: &mut Vec<String>,
    name: &str,
    wanted: Option<&Alternatives<P>>,
    found: Option<&str>,
    matches: impl Fn(&P, &str) -> bool,
) {
    let Some(wanted) = wanted else { return };
    if found.is_some_and(|found| wanted.iter().any(|pattern| matches(pattern, found))) {
        return;
    }
    let found =
        found.map_or("none".to_owned(), |found| format!("{:?}", found.chars().take(200).collect::<String>()));
    mismatches.push(format!("it wants {name} {wanted}, and the token says {found}"));
}

/// As a sentence, for whoever runs the service.
impl fmt::Display for TrustRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut who = Vec::new();
        who.extend(self.repository.as_ref().map(ToString::to_string));
        who.extend(self.repository_owner.as_ref().map(|owner| format!("repositories of {owner}")));
        if who.is_empty() {
            who.push(if self.kind == IssuerKind::Oidc { "whoever" } else { "any repository" }.to_owned());
        }
        write!(f, "{}", who.join(", of the "))?;
        if let Some(id) = &self.repository_id {
            write!(f, " (only if its number is {id})")?;
        }
        if let Some(id) = &self.repository_owner_id {
            write!(f, " (only if its owner's number is {id})")?;
        }
        if let Some(git_ref) = &self.git_ref {
            write!(f, " on {git_ref}")?;
        }
        if self.ref_protected {
            write!(f, ", protected refs alone")?;
        }
        if !self.events.is_empty() {
            write!(f, ", at {}", self.event_names())?;
        }
        for (name, wanted) in [
            ("environment", &self.environment),
            ("workflow", &self.workflow),
            ("runner_environment", &self.runner_environment),
        ] {
            if let Some(wanted) = wanted {
                write!(f, ", with {name} {wanted}")?;
            }
        }
        if let Some(wanted) = &self.job_workflow_ref {
            write!(f, ", with job_workflow_ref {wanted}")?;
        }
        for (name, wanted) in &self.claims {
            write!(f, ", with {name} {wanted}")?;
        }
        if self.permissions != default_permissions() {
            let names: Vec<String> = self.permissions.iter().map(ToString::to_string).collect();
            write!(f, ", to {} alone", names.join(", "))?;
        }
        if self.publish {
            write!(f, ", even though it may not be public")?;
        }
        if self.isolate {
            write!(f, ", into a cache of each pull request's own")?;
        }
        if self.rank != Rank::default() {
            write!(f, ", with rank {}", self.rank)?;
        }
        Ok(())
    }
}

/// What a rule grants unless it says otherwise.
pub(crate) fn default_permissions() -> BTreeSet<Permission> {
    BTreeSet::from([Permission::Push, Permission::Read])
}
