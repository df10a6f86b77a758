//! What follows from an event. A delivery grants nothing, and names nothing that it was not signed for: what it says
//! matters for the repository alone whose secret signed it.

mod delete;
mod installation;
mod pull_request;
mod push;
mod refs;
mod release;
mod repository;
mod workflow_run;

use serde::de::DeserializeOwned;

pub(super) use self::repository::former_name;
use super::{
    delivery::DeliveryOutcome,
    payload::{About, Envelope},
};
use crate::{
    config::WebhookRule,
    identity::RepositoryName,
    queue::{NewJob, Work},
};

/// An event, as a delivery tells of it.
struct Event<'a> {
    /// What happened, where the event says so.
    action: Option<&'a str>,
    /// The repository that it is about, if it is about one.
    repository: Option<&'a RepositoryName>,
    /// Its number, where the event says so.
    repository_id: Option<u64>,
    payload: &'a [u8],
    /// When it was received, in seconds since 1970.
    now: i64,
    /// The rule by one of whose secrets it was signed.
    rule: &'a WebhookRule,
}

/// What matters is not there.
struct Unreadable;

/// What follows from one: work, and when it may begin.
type Follows = Result<Vec<(Work, i64)>, Unreadable>;

/// What becomes of a delivery of this event, and the jobs that follow.
pub(super) fn decide(
    event: &str,
    envelope: &Envelope,
    about: &About,
    rule: &WebhookRule,
    payload: &[u8],
    now: i64,
) -> (DeliveryOutcome, Vec<NewJob>) {
    let Some(follow) = consequences(event) else {
        return (DeliveryOutcome::Ignored, Vec::new());
    };
    if !rule.acts_on(event) {
        return (DeliveryOutcome::Taken, Vec::new());
    }
    let repository = match about {
        About::Repository(repository) => Some(repository),
        About::Owner(_) | About::Nobody => None,
    };
    let (action, repository_id) = (envelope.action.as_deref(), envelope.repository_id());
    match follow(&Event { action, repository, repository_id, payload, now, rule }) {
        Ok(work) => {
            (DeliveryOutcome::Taken, work.into_iter().map(|(work, due_at)| work.job(due_at)).collect())
        }
        Err(Unreadable) => (DeliveryOutcome::Unreadable, Vec::new()),
    }
}

/// The events from which something follows, now or after an action that has not been seen yet.
fn consequences(event: &str) -> Option<fn(&Event<'_>) -> Follows> {
    Some(match event {
        "create" => delete::follow_create,
        "delete" => delete::follow,
        "installation" | "installation_repositories" => installation::follow,
        "ping" => |_| Ok(Vec::new()),
        "pull_request" => pull_request::follow,
        "push" => push::follow,
        "release" => release::follow,
        "repository" => repository::follow,
        "workflow_run" => workflow_run::follow,
        _ => return None,
    })
}

impl Event<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        serde_json::from_slice(self.payload).map_err(|_| Unreadable)
    }

    fn after_grace(&self) -> i64 {
        self.now.saturating_add(self.rule.grace.seconds())
    }
}
