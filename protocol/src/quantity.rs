//! Sizes and numbers, as both programs write them for people.

/// Writes a size: `34.5 MB`.
pub fn show_size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
    let (mut amount, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if amount < 999.95 {
            break;
        }
        amount /= 1000.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

/// Writes a number of things: `1 path`, `12 paths`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_sizes() {
        assert_eq!(show_size(999), "999 B");
        assert_eq!(show_size(34_510_000), "34.5 MB");
        assert_eq!(show_size(999_999), "1.0 MB");
        assert_eq!(show_size(5_000_000_000), "5.0 GB");
    }

    #[test]
    fn writes_numbers_of_things() {
        assert_eq!(count(0, "path"), "0 paths");
        assert_eq!(count(1, "path"), "1 path");
        assert_eq!(count(12, "path"), "12 paths");
    }
}
