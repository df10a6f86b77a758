//! `repository`: it was deleted, or is called otherwise.

use super::{Event, Follows};
use crate::queue::Work;

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    Ok(match event.action {
        Some("deleted") => {
            vec![(Work::ForgetRepository { repository, before: event.now }, event.after_grace())]
        }
        _ => Vec::new(),
    })
}
