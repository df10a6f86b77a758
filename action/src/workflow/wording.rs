//! Amounts as people read them.

use std::time::Duration;

/// A number of things, in the plural where there is not one.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// An amount of bytes in units of 1,024.
pub fn bytes(amount: u64) -> String {
    let (mut whole, mut tenths, mut unit) = (amount, 0, 0);
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} {}", UNITS[unit]) } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

/// A time span.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 30].map(bytes),
            ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
        );
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
        assert_eq!((count(1, "path"), count(0, "path")), ("1 path".into(), "0 paths".into()));
        assert_eq!(
            (span(Duration::from_millis(1250)), span(Duration::from_secs(61))),
            ("1.2 s".into(), "1 min 1 s".into())
        );
    }
}
