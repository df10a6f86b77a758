//! `installation`: somebody installed the App, or took it away.

use super::{Event, Follows};

pub(super) fn follow(_event: &Event<'_>) -> Follows {
    Ok(Vec::new())
}
