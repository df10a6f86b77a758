//! What follows from an event. A delivery grants nothing, and names nothing that it was not signed for: what it says
//! matters for the repository alone whose secret signed it.

use serde::de::DeserializeOwned;

use super::{
    delivery::DeliveryOutcome,
    payload::{About, Delete, Envelope, WorkflowRun},
};
use crate::queue::{NewJob, Work};

/// Events from which something follows, now or after an action that has not been seen yet.
const KNOWN: [&str; 4] = ["delete", "ping", "repository", "workflow_run"];
/// How long what a branch needed is kept after it was deleted, in seconds: it may come back.
const GRACE: i64 = 24 * 60 * 60;

/// What becomes of a delivery of this event, and the jobs that follow.
pub(super) fn decide(
    event: &str,
    envelope: &Envelope,
    about: &About,
    payload: &[u8],
    now: i64,
) -> (DeliveryOutcome, Vec<NewJob>) {
    if !KNOWN.contains(&event) {
        return (DeliveryOutcome::Ignored, Vec::new());
    }
    match follow(event, envelope.action.as_deref(), about, payload, now) {
        Ok(work) => {
            (DeliveryOutcome::Taken, work.into_iter().map(|(work, due_at)| work.job(due_at)).collect())
        }
        Err(Unreadable) => (DeliveryOutcome::Unreadable, Vec::new()),
    }
}

/// What matters is not there.
struct Unreadable;

fn follow(
    event: &str,
    action: Option<&str>,
    about: &About,
    payload: &[u8],
    now: i64,
) -> Result<Option<(Work, i64)>, Unreadable> {
    let About::Repository(repository) = about else { return Ok(None) };
    let repository = repository.clone();
    let after_grace = now.saturating_add(GRACE);
    Ok(match (event, action) {
        ("delete", _) => {
            let delete: Delete = read(payload)?;
            let git_ref = delete.git_ref().ok_or(Unreadable)?;
            Some((Work::ForgetRef { repository, git_ref, before: now }, after_grace))
        }
        ("repository", Some("deleted")) => {
            Some((Work::ForgetRepository { repository, before: now }, after_grace))
        }
        ("workflow_run", Some("completed")) => {
            let run = read::<WorkflowRun>(payload)?.workflow_run;
            // GitHub's own examples have one that is completed without having been concluded.
            run.conclusion.map(|conclusion| {
                (Work::ConcludeRun { repository, run: run.id, attempt: run.run_attempt, conclusion }, now)
            })
        }
        _ => None,
    })
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(payload).map_err(|_| Unreadable)
}
