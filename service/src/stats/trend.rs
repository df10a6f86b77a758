//! What samples say of where the size goes.

use std::fmt;

use serde::Serialize;

use super::series::evenly;

const DAY: i64 = 24 * 60 * 60;
const WEEK: f64 = 7.0 * DAY as f64;
/// Over less time than this nothing is said.
const ENOUGH: i64 = 3 * DAY;
/// Over so many points of time is looked.
const POINTS: u32 = 200;
/// A store is steady whose size changes by less than this within a week, of its size.
const STEADY: f64 = 0.02;

/// How the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There is nothing to tell yet.
    TooEarly,
    /// It stays as it is.
    Steady,
    /// It grows.
    Growing,
    /// It becomes smaller.
    Shrinking,
}

/// Where the size goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// How the store does.
    pub state: State,
    /// By how many bytes it grows in a week; none while it is too early to say.
    pub per_week: Option<f64>,
    /// How many days until the budget is used up, if it goes on like this. None without a budget, or where it never is.
    pub days_until_full: Option<f64>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooEarly => "too early to say: it takes three days of samples",
            Self::Steady => "steady",
            Self::Growing => "growing",
            Self::Shrinking => "shrinking",
        })
    }
}

/// The line of least squares through sizes (second, bytes), in their order; sweeps make them go up and down.
#[expect(clippy::cast_precision_loss, reason = "for a trend")]
pub fn trend(sizes: &[(i64, u64)], budget: Option<u64>) -> Trend {
    let nothing = Trend { state: State::TooEarly, per_week: None, days_until_full: None };
    let (Some((first, _)), Some((last, size))) = (sizes.first(), sizes.last()) else { return nothing };
    if last - first < ENOUGH {
        return nothing;
    }
    // Otherwise the last day would count for most.
    let sizes = evenly(sizes, POINTS);
    let count = sizes.len() as f64;
    let times = || sizes.iter().map(|(time, _)| (time - first) as f64);
    let bytes = || sizes.iter().map(|(_, bytes)| *bytes as f64);
    let (mean_time, mean) = (times().sum::<f64>() / count, bytes().sum::<f64>() / count);
    let spread = times().map(|time| (time - mean_time).powi(2)).sum::<f64>();
    let together = times().zip(bytes()).map(|(time, bytes)| (time - mean_time) * (bytes - mean)).sum::<f64>();
    let per_week = together / spread * WEEK;
    let state = if per_week.abs() <= STEADY * mean {
        State::Steady
    } else if per_week > 0.0 {
        State::Growing
    } else {
        State::Shrinking
    };
    let left = budget.map(|budget| budget.saturating_sub(*size) as f64);
    let days = left.filter(|_| state == State::Growing).map(|left| left / per_week * 7.0);
    Trend { state, per_week: Some(per_week), days_until_full: days }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(size: impl Fn(i64) -> i64) -> Vec<(i64, u64)> {
        (0..28).map(|day| (1_800_000_000 + day * DAY, size(day).cast_unsigned())).collect()
    }

    #[test]
    fn growth_is_told_by_the_week_and_when_the_budget_is_used_up() {
        let grows = trend(&days(|day| 1000 + 10 * day), Some(1270 + 100));
        assert_eq!(grows.state, State::Growing);
        assert!((68.0..72.0).contains(&grows.per_week.unwrap_or_default()), "{grows:?}");
        assert_eq!(grows.days_until_full.map(f64::round), Some(10.0));
        assert_eq!(trend(&days(|day| 1000 + 10 * day), None).days_until_full, None);
        assert_eq!(trend(&days(|day| 1000 - 10 * day), Some(5000)).state, State::Shrinking);
        assert_eq!(trend(&days(|day| 1000 - 10 * day), Some(5000)).days_until_full, None);
    }

    #[test]
    fn what_goes_up_and_down_with_every_sweep_is_steady() {
        let steady = trend(&days(|day| 1000 + 50 * (day % 4)), Some(1100));
        assert_eq!((steady.state, steady.days_until_full), (State::Steady, None));
        assert_eq!(trend(&days(|_| 0), None).state, State::Steady);
    }

    /// The newest samples are the densest.
    #[test]
    fn a_day_counts_as_much_as_any_other() {
        let mut sizes = days(|day| 1000 + 10 * day);
        let last = sizes[27];
        sizes.extend((1..288).map(|minutes| (last.0 + 300 * minutes, last.1)));
        let per_week = trend(&sizes, None).per_week.unwrap_or_default();
        assert!((65.0..75.0).contains(&per_week), "{per_week}");
    }

    #[test]
    fn of_two_days_nothing_is_said() {
        assert_eq!(trend(&days(|day| 10 * day)[..3], Some(1)).state, State::TooEarly);
        assert_eq!(trend(&[], None).state, State::TooEarly);
    }
}
