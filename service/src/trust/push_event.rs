//! Which rules a push is by that a forge's event tells of. An event says less than a token, so that what it leaves open
//! is taken for said on the default branch alone.

use larder_protocol::api::Permission;
use serde::{Deserialize, Serialize};

use super::{Alternatives, BoundName, TrustRule, TrustRules};
use crate::identity::{GitRef, IssuerKind, RepositoryName};

/// The event by which GitHub tells of a push.
const PUSH: &str = "push";

/// A push, as an event of GitHub's tells of it.
#[derive(Debug, Clone, Copy)]
pub struct PushEvent<'a> {
    /// The repository.
    pub repository: &'a RepositoryName,
    /// What the event says of it.
    pub said: &'a SaidOfRepository,
    /// The ref.
    pub git_ref: &'a GitRef,
}

/// What an event says of its repository besides its name. It lies in the database, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaidOfRepository {
    /// Its number.
    pub id: Option<u64>,
    /// Its owner's number.
    pub owner: Option<u64>,
    /// Whether everybody can read it, as far as the event says so.
    pub public: bool,
    /// Its default branch.
    pub default_branch: Option<GitRef>,
}

impl TrustRules {
    /// The rules by which such a push's jobs may push here, and not to caches of their own, as far as an event can tell;
    /// what is known of the names that they trust it by is left to [`PushEvent::is_of`].
    pub fn that_fit<'a>(&'a self, event: &'a PushEvent<'a>) -> impl Iterator<Item = &'a TrustRule> {
        self.iter().filter(|rule| rule.fits(event, self.public))
    }
}

impl TrustRule {
    /// `public` is whether everybody may read the cache.
    fn fits(&self, event: &PushEvent<'_>, public: bool) -> bool {
        let is = |wanted: &Option<Alternatives<u64>>, found: Option<u64>| {
            wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|id| Some(*id) == found))
        };
        self.kind == IssuerKind::GitHub
            && self.permissions.contains(&Permission::Push)
            && !self.isolate
            && self.may_name(event.repository)
            && is(&self.repository_id, event.said.id)
            && is(&self.repository_owner_id, event.said.owner)
            && self.git_ref.as_ref().is_none_or(|refs| refs.iter().any(|it| it.matches(event.git_ref)))
            && (!self.wants_more_than_an_event_says()
                || event.said.default_branch.as_ref() == Some(event.git_ref))
            && (!public || event.said.public || self.publish)
    }

    /// Whether only a token can say that the rule fits.
    fn wants_more_than_an_event_says(&self) -> bool {
        self.ref_protected
            || !self.events.iter().any(|event| event.as_str() == PUSH)
            || self.environment.is_some()
            || self.workflow.is_some()
            || self.job_workflow_ref.is_some()
            || self.runner_environment.is_some()
            || !self.claims.is_empty()
    }
}

impl PushEvent<'_> {
    /// Whether it is of what these names are bound to, as far as it says so.
    pub fn is_of(&self, bound: &[BoundName]) -> bool {
        let differs = |known: u64, said: Option<u64>| said.is_some_and(|said| said != known);
        bound.iter().filter(|bound| bound.unbound_at.is_none()).all(|bound| {
            bound.suspended.is_none()
                && !differs(bound.numbers.owner, self.said.owner)
                && !bound.numbers.repository.is_some_and(|known| differs(known, self.said.id))
        })
    }
}
