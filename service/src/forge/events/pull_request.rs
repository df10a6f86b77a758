//! `pull_request`: one was opened, pushed to, or closed.
//!
//! Where it comes from is not looked at: what its jobs pushed, they pushed for the ref `refs/pull/<number>/merge` of the
//! repository that it goes to. So a fork's branch `main` is nobody's.

use serde::Deserialize;
use serde_json::Value;

use super::{Event, Follows, Unreadable, refs};
use crate::identity::GitRef;

#[derive(Debug, Deserialize)]
struct Payload {
    number: u64,
    #[serde(default)]
    pull_request: Option<PullRequest>,
}

#[derive(Debug, Deserialize)]
struct PullRequest {
    #[serde(default)]
    closed_at: Option<Value>,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let (Some(repository), Some(action)) = (event.repository, event.action) else { return Ok(Vec::new()) };
    if !["closed", "reopened"].contains(&action) {
        return Ok(Vec::new());
    }
    let Payload { number, pull_request } = event.read()?;
    let git_ref: GitRef = format!("refs/pull/{number}/merge").parse().map_err(|_| Unreadable)?;
    if action == "reopened" {
        return Ok(vec![refs::there(event, repository, git_ref)]);
    }
    let closed_at = pull_request.and_then(|pull_request| pull_request.closed_at);
    Ok(vec![refs::gone(event, repository, git_ref, refs::happened_at(event, closed_at.as_ref()))])
}
