//! Leaves a service alone for some seconds when it keeps failing, so that builds do not wait for it.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// So many failures in a row open it.
const FAILURES: u32 = 3;
/// So long it then stays open. After that one request at a time tries again.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts failures.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// Whether the service may be asked at `now`. After a pause the first who asks is let through, and the
    /// others wait for what it finds, or for another pause.
    pub(super) fn permits(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.until {
            Some(until) if now < until => false,
            Some(_) => {
                state.until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    /// The service answered.
    pub(super) fn succeeded(&self) {
        *self.state() = State::default();
    }

    /// The service failed at `now`.
    pub(super) fn failed(&self, now: Instant) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.until = Some(now + PAUSE);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_keeps_failing_is_left_alone_for_a_while() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(breaker.permits(start));
            breaker.failed(start);
        }
        assert!(!breaker.permits(start + PAUSE / 2));
        let later = start + PAUSE;
        assert!(breaker.permits(later), "one may try again");
        assert!(!breaker.permits(later), "the others wait for it");
        breaker.failed(later);
        assert!(!breaker.permits(later + PAUSE / 2));
        assert!(breaker.permits(later + PAUSE));
        breaker.succeeded();
        assert!(breaker.permits(later + PAUSE) && breaker.permits(later + PAUSE));
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            breaker.failed(now);
            breaker.succeeded();
        }
        assert!(breaker.permits(now));
    }
}
