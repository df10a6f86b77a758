//! How much GitHub lets one ask: its rate limits, as its answers tell them.
//!
//! <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>

use http::{HeaderMap, StatusCode};

/// What is waited, in seconds, when GitHub says "later" and not when: "at least one minute".
const AT_LEAST: i64 = 60;
/// The longest that is waited, whatever is said: limits are of an hour.
const AT_MOST: i64 = 2 * 60 * 60;

/// What an answer says of asking on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Nothing.
    None,
    /// This was answered, and there is nothing more before then.
    Spent { until: i64 },
    /// This was not answered. `None`: it is not said when it may be asked again.
    Refused { until: Option<i64> },
}

/// What an answer says, received `now`.
pub(super) fn read(status: StatusCode, headers: &HeaderMap, message: &str, now: i64) -> Limit {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let bounded = |until: i64| until.clamp(now.saturating_add(1), now.saturating_add(AT_MOST));
    let spent = number("x-ratelimit-remaining") == Some(0);
    let reset = number("x-ratelimit-reset").filter(|_| spent);
    if !matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return match reset {
            Some(reset) if reset > now => Limit::Spent { until: bounded(reset) },
            _ => Limit::None,
        };
    }
    let wait = number("retry-after").filter(|seconds| *seconds >= 0);
    if let Some(wait) = wait {
        return Limit::Refused { until: Some(bounded(now.saturating_add(wait))) };
    }
    if let Some(reset) = reset {
        return Limit::Refused { until: Some(bounded(reset)) };
    }
    // Else a 403 says that one may not.
    let limited = status == StatusCode::TOO_MANY_REQUESTS || message.contains("rate limit");
    if limited { Limit::Refused { until: None } } else { Limit::None }
}

/// How long to wait where nothing was said, after so many refusals in a row: "an exponentially increasing amount of time
/// between retries".
pub(super) fn unsaid(refusals: u32, now: i64) -> i64 {
    let wait = AT_LEAST << refusals.saturating_sub(1).min(10);
    now.saturating_add(wait.min(AT_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn limit(status: u16, headers: &[(&'static str, i64)], message: &str) -> Limit {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), (*value).into()));
        read(StatusCode::from_u16(status).unwrap(), &headers.collect(), message, NOW)
    }

    #[test]
    fn limits_are_read_as_github_documents_them() {
        let (left, reset) = ("x-ratelimit-remaining", "x-ratelimit-reset");
        assert_eq!(limit(200, &[(left, 12), (reset, NOW + 60)], ""), Limit::None);
        assert_eq!(limit(200, &[(left, 0), (reset, NOW + 60)], ""), Limit::Spent { until: NOW + 60 });
        assert_eq!(limit(200, &[(left, 0), (reset, NOW - 60)], ""), Limit::None);
        let refused = |until| Limit::Refused { until };
        assert_eq!(limit(403, &[(left, 0), (reset, NOW + 90)], ""), refused(Some(NOW + 90)));
        assert_eq!(
            limit(429, &[("retry-after", 30), (left, 0), (reset, NOW + 90)], ""),
            refused(Some(NOW + 30))
        );
        assert_eq!(limit(403, &[("retry-after", 0)], ""), refused(Some(NOW + 1)));
        assert_eq!(limit(403, &[("retry-after", i64::MAX)], ""), refused(Some(NOW + AT_MOST)));
        assert_eq!(limit(403, &[(left, 5)], "You have exceeded a secondary rate limit."), refused(None));
        assert_eq!(limit(429, &[], ""), refused(None));
        assert_eq!(limit(403, &[(left, 5)], "Resource not accessible by integration"), Limit::None);
        assert_eq!(limit(500, &[("retry-after", 30)], ""), Limit::None);
    }

    #[test]
    fn what_is_not_said_grows() {
        assert_eq!([1, 2, 3, 40].map(|times| unsaid(times, 0)), [60, 120, 240, AT_MOST]);
    }
}
