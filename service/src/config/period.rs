//! Periods as people write them: `12h`, `400d`.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// A number of seconds, at least one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(i64);

/// What is no period.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a period. Write a whole number and h, d, w or y, for example 90d")]
pub struct InvalidPeriod(String);

const DAY: i64 = 24 * 60 * 60;
const UNITS: [(char, i64); 4] = [('h', 60 * 60), ('d', DAY), ('w', 7 * DAY), ('y', 365 * DAY)];

impl Period {
    /// So many days.
    pub const fn days(days: u32) -> Self {
        Self(days as i64 * DAY)
    }

    /// So many hours.
    pub const fn hours(hours: u32) -> Self {
        Self(hours as i64 * 60 * 60)
    }

    /// Its length.
    pub const fn seconds(self) -> i64 {
        self.0
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let period = UNITS.iter().find_map(|(unit, seconds)| {
            let number: u32 = text.strip_suffix(*unit)?.parse().ok()?;
            i64::from(number).checked_mul(*seconds).filter(|period| *period > 0)
        });
        period.map(Self).ok_or_else(|| InvalidPeriod(text.chars().take(100).collect()))
    }
}

impl TryFrom<String> for Period {
    type Error = InvalidPeriod;

    fn try_from(text: String) -> Result<Self, InvalidPeriod> {
        text.parse()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % DAY == 0 { write!(f, "{}d", self.0 / DAY) } else { write!(f, "{}h", self.0 / 3600) }
    }
}
