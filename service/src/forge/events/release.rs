//! `release`: one was published, or taken back.

use serde::Deserialize;
use serde_json::Value;

use super::{Event, Follows, Unreadable, refs};
use crate::{identity::GitRef, queue::Work};

#[derive(Debug, Deserialize)]
struct Payload {
    release: Release,
}

#[derive(Debug, Deserialize)]
struct Release {
    tag_name: String,
    /// When it was published, also of one that is there no more.
    #[serde(default)]
    published_at: Option<Value>,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    let published = match event.action {
        Some("published") => true,
        Some("deleted" | "unpublished") => false,
        _ => return Ok(Vec::new()),
    };
    let Release { tag_name: tag, published_at } = event.read::<Payload>()?.release;
    format!("refs/tags/{tag}").parse::<GitRef>().map_err(|_| Unreadable)?;
    let at = refs::happened_at(event, published_at.as_ref());
    Ok(vec![(Work::Release { repository, tag, published, at }, event.now)])
}
