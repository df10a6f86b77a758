//! `delete`: a branch or a tag is gone. `create`: it is there, perhaps again.

use serde::Deserialize;
use serde_json::Value;

use super::{Event, Follows, Unreadable, refs};

#[derive(Debug, Deserialize)]
struct Payload {
    /// Without `refs/heads/`.
    #[serde(rename = "ref")]
    name: String,
    ref_type: String,
    #[serde(default)]
    repository: Option<Repository>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    /// When something was last pushed: the deletion is a push, and so is what made it.
    #[serde(default)]
    pushed_at: Option<Value>,
}

impl Payload {
    fn happened_at(&self, event: &Event<'_>) -> i64 {
        let pushed_at = self.repository.as_ref().and_then(|repository| repository.pushed_at.as_ref());
        refs::happened_at(event, pushed_at)
    }
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository else { return Ok(Vec::new()) };
    let payload: Payload = event.read()?;
    let git_ref = refs::named(&payload.ref_type, &payload.name).ok_or(Unreadable)?;
    Ok(vec![refs::gone(event, repository, git_ref, payload.happened_at(event))])
}

pub(super) fn follow_create(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository else { return Ok(Vec::new()) };
    let payload: Payload = event.read()?;
    // A repository is created too, by this event's own account.
    let git_ref = refs::named(&payload.ref_type, &payload.name);
    let since = payload.happened_at(event);
    Ok(git_ref.map(|git_ref| refs::there(event, repository, git_ref, since)).into_iter().collect())
}
