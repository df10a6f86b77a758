//! `push`: commits came to a ref, or the ref is new or gone.

use super::{Event, Follows};

pub(super) fn follow(_event: &Event<'_>) -> Follows {
    Ok(Vec::new())
}
