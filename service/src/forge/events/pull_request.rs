//! `pull_request`: one was opened, pushed to, or closed.

use super::{Event, Follows};

pub(super) fn follow(_event: &Event<'_>) -> Follows {
    Ok(Vec::new())
}
