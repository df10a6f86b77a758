//! `installation`, `installation_repositories`: somebody installed the App, took it away, or changed where it reaches.
//! It grants nothing: what is remembered of it is asked for anew.

use super::{Event, Follows};
use crate::queue::Work;

pub(super) fn follow(event: &Event<'_>) -> Follows {
    Ok(vec![(Work::LookAgain, event.now)])
}
