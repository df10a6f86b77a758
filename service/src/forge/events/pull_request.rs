//! `pull_request`: one was opened, pushed to, or closed.
//!
//! Where it comes from is not looked at: what its jobs pushed, they pushed for the ref `refs/pull/<number>/merge` of the
//! repository that it goes to. So a fork's branch `main` is nobody's.

use serde::Deserialize;
use serde_json::Value;

use super::{Event, Follows, Unreadable, push::is_commit, refs};
use crate::{
    identity::{GitRef, RepositoryName},
    queue::Work,
};

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
    #[serde(default)]
    updated_at: Option<Value>,
    #[serde(default)]
    head: Option<Head>,
    #[serde(default)]
    base: Option<Base>,
}

#[derive(Debug, Deserialize)]
struct Head {
    sha: String,
}

/// Where it goes: a branch of the repository itself.
#[derive(Debug, Deserialize)]
struct Base {
    #[serde(rename = "ref")]
    branch: String,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let (Some(repository), Some(action)) = (event.repository, event.action) else { return Ok(Vec::new()) };
    if !["opened", "synchronize", "closed", "reopened"].contains(&action) {
        return Ok(Vec::new());
    }
    let Payload { number, pull_request } = event.read()?;
    let git_ref: GitRef = format!("refs/pull/{number}/merge").parse().map_err(|_| Unreadable)?;
    if action == "closed" {
        let closed_at = pull_request.and_then(|pull_request| pull_request.closed_at);
        return Ok(vec![refs::gone(
            event,
            repository,
            git_ref,
            refs::happened_at(event, closed_at.as_ref()),
        )]);
    }
    let updated_at = pull_request.as_ref().and_then(|pull_request| pull_request.updated_at.as_ref());
    let at = refs::happened_at(event, updated_at);
    let there = (action == "reopened").then(|| refs::there(event, repository, git_ref.clone(), at));
    let prefetch =
        pull_request.and_then(|pull_request| prefetch(event, repository, git_ref, pull_request, at));
    Ok(there.into_iter().chain(prefetch).collect())
}

/// What its jobs wanted last is prefetched, or else what those of the branch wanted that it goes to.
fn prefetch(
    event: &Event<'_>,
    repository: &RepositoryName,
    git_ref: GitRef,
    pull_request: PullRequest,
    pushed_at: i64,
) -> Option<(Work, i64)> {
    let PullRequest { head: Some(Head { sha: commit }), base: Some(base), .. } = pull_request else {
        return None;
    };
    if !event.rule.prefetch || !is_commit(&commit) {
        return None;
    }
    let fallbacks = refs::named("branch", &base.branch).into_iter().collect();
    let repository = repository.clone();
    let id = event.repository_id;
    Some((Work::PrefetchRef { repository, id, git_ref, fallbacks, commit, pushed_at }, event.now))
}
