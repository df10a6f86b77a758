//! `release`: one was published, or taken back.

use serde::Deserialize;

use super::{Event, Follows, Unreadable};
use crate::{identity::GitRef, queue::Work};

#[derive(Debug, Deserialize)]
struct Payload {
    release: Release,
}

#[derive(Debug, Deserialize)]
struct Release {
    tag_name: String,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    let published = match event.action {
        Some("published") => true,
        Some("deleted" | "unpublished") => false,
        _ => return Ok(Vec::new()),
    };
    let tag = event.read::<Payload>()?.release.tag_name;
    format!("refs/tags/{tag}").parse::<GitRef>().map_err(|_| Unreadable)?;
    Ok(vec![(Work::Release { repository, tag, published }, event.now)])
}
