//! `release`: one was published.

use super::{Event, Follows};

pub(super) fn follow(_event: &Event<'_>) -> Follows {
    Ok(Vec::new())
}
