//! The time, passed in so that tests can set it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system.
    #[default]
    System,
    /// A test.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place where the system is asked")]
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            Self::Set(seconds) => seconds.load(Ordering::SeqCst),
        }
    }
}

/// A second since 1970 as a date, such as `2026-09-22T12:00:00Z`.
pub fn to_date(seconds: i64) -> String {
    let date = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// The second since 1970 that such a date names.
pub fn from_date(date: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(date).ok().map(|date| date.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_written() {
        assert_eq!(to_date(1_790_078_400), "2026-09-22T12:00:00Z");
        assert_eq!(from_date("2026-09-22T14:00:00+02:00"), Some(1_790_078_400));
        for second in [0, 1_790_078_400, 4_102_444_800] {
            assert_eq!(from_date(&to_date(second)), Some(second));
        }
        assert_eq!(from_date("tomorrow"), None);
    }
}
