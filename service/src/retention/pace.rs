//! Giving way: what sweeps works a while, then rests twice as long.

use std::time::Duration;

use tokio::time::Instant;

/// How many times as long as the work each rest takes: so that a sweep has at most a third of the database's time.
const REST: u32 = 2;
/// The longest rest. A step that took longer waited for others itself.
const LONGEST: Duration = Duration::from_millis(500);

/// The pace of a sweep.
#[derive(Debug)]
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Rests after a step.
    pub(super) async fn rest(&mut self) {
        tokio::time::sleep((self.0.elapsed() * REST).min(LONGEST)).await;
        self.0 = Instant::now();
    }
}
