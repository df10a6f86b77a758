//! Sizes and times, as people write and read them.

use std::time::Duration;

use larder_protocol::quantity;
pub(crate) use larder_protocol::quantity::show_size;

/// Reads a size in bytes: `90MB`, `64MiB`, `1000000`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let units: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("k", 1000),
        ("kb", 1000),
        ("m", 1_000_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
    ];
    read(text, &units).ok_or_else(|| "not a size; write it like 90MB or 64MiB".to_owned())
}

/// Reads a time: `90s`, `30m`, `2h`; a bare number is seconds.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let seconds = read(text, &[("", 1), ("s", 1), ("m", 60), ("min", 60), ("h", 3600)]);
    seconds
        .filter(|seconds| (1..=7 * 24 * 3600).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "not a time from 1 second to 7 days; write it like 90s, 30m or 2h".to_owned())
}

/// Reads a period: `12h`, `30d`, `4w`, `1y`.
pub(super) fn period(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let seconds = read(text, &[("h", 3600), ("d", DAY), ("w", 7 * DAY), ("y", 365 * DAY)]);
    seconds
        .filter(|seconds| (1..=100 * 365 * DAY).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "not a time from an hour to a century; write it like 12h, 30d, 4w or 1y".to_owned())
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a number of things: `1 path`, `12 paths`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    quantity::count(number as u64, thing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_times() {
        assert_eq!(size("90MB"), Ok(90_000_000));
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(time("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        for text in ["", "MB", "-1", "1.5GB", "99999999999999999999", "20000000000GB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(period("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(period("1y"), Ok(Duration::from_secs(365 * 24 * 3600)));
        for text in ["", "0d", "30", "d", "-1d", "101y", "99999999999999999999h"] {
            assert!(period(text).is_err(), "{text}");
        }
        for text in ["", "0", "1d", "8000000"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
