//! Refs that go and come back. What they keep goes after a grace; whoever comes back within it has lost nothing.

use super::Event;
use crate::{
    clock::from_date,
    identity::{GitRef, RepositoryName},
    queue::Work,
};

/// The whole name of a branch or a tag.
pub(super) fn named(kind: &str, name: &str) -> Option<GitRef> {
    let folder = match kind {
        "branch" => "heads",
        "tag" => "tags",
        _ => return None,
    };
    format!("refs/{folder}/{name}").parse().ok()
}

/// A ref is gone since then.
pub(super) fn gone(event: &Event<'_>, repository: &RepositoryName, git_ref: GitRef, at: i64) -> (Work, i64) {
    let (repository, id) = (repository.clone(), event.repository_id);
    (Work::ForgetRef { repository, id, git_ref, before: at }, event.after_grace())
}

/// A ref is there since then, again or for the first time: what was to be forgotten of it stays.
pub(super) fn there(
    event: &Event<'_>,
    repository: &RepositoryName,
    git_ref: GitRef,
    since: i64,
) -> (Work, i64) {
    (Work::KeepRef { repository: repository.clone(), git_ref, since }, event.now)
}

/// When something happened, where the payload says so: a delivery may come late, and what was done since is newer than
/// what it tells of.
pub(super) fn happened_at(event: &Event<'_>, said: Option<&serde_json::Value>) -> i64 {
    let said = said.and_then(|said| said.as_i64().or_else(|| from_date(said.as_str()?)));
    said.filter(|at| (0..event.now).contains(at)).unwrap_or(event.now)
}
