//! A chart of a size over time, for a terminal.

use std::fmt::Write;

use super::series::evenly;
use crate::{clock::to_date, config::ByteSize};

const WIDTH: u32 = 64;
const HEIGHT: usize = 10;
/// An eighth more each.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws sizes (second, bytes), in their order, from the first to the last.
pub fn chart(sizes: &[(i64, u64)]) -> String {
    let (Some((first, _)), Some((last, _))) = (sizes.first(), sizes.last()) else { return String::new() };
    let columns: Vec<u64> = evenly(sizes, WIDTH).into_iter().map(|(_, size)| size).collect();
    let most = columns.iter().copied().max().unwrap_or_default();
    if most == 0 {
        return "nothing was stored yet when the last sample was taken\n".to_owned();
    }
    let mut text = String::new();
    for row in (0..HEIGHT).rev() {
        let label = match row {
            _ if row == HEIGHT - 1 => ByteSize::bytes(most).in_short(),
            _ if row == HEIGHT / 2 => ByteSize::bytes(most / 2).in_short(),
            0 => "0 B".to_owned(),
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{label:>10} │");
        let line: String = columns.iter().map(|size| block(*size, most, row)).collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let (from, to) = (to_date(*first), to_date(*last));
    let _ = writeln!(text, "{:>10} └{}", "", "─".repeat(WIDTH as usize));
    let _ = writeln!(text, "{:>12}{}{:>width$}", "", &from[..10], &to[..10], width = WIDTH as usize - 10);
    text
}

fn block(size: u64, most: u64, row: usize) -> char {
    let eighths = u128::from(size) * (8 * HEIGHT as u128) / u128::from(most);
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX);
    BLOCKS[eighths.saturating_sub(8 * row).min(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_there_is_no_chart() {
        assert_eq!(chart(&[(1_800_000_000, 0)]), "nothing was stored yet when the last sample was taken\n");
    }

    #[test]
    fn a_chart_rises_with_the_size() {
        let sizes: Vec<_> =
            (0..=64i64).map(|day| (1_800_000_000 + day * 86_400, day.cast_unsigned() * 1_000_000)).collect();
        let text = chart(&sizes);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 2, "{text}");
        assert!(lines[0].starts_with("   64.0 MB │") && lines[9].starts_with("       0 B │"), "{text}");
        assert!(lines[0].ends_with('█') && lines[0].contains("│     "), "{text}");
        let filled = |line: &str| line.chars().filter(|c| BLOCKS[1..].contains(c)).count();
        assert!(lines[..HEIGHT].is_sorted_by_key(|line| filled(line)), "{text}");
        assert_eq!(lines[11].split_whitespace().collect::<Vec<_>>(), ["2027-01-15", "2027-03-20"]);
    }

    #[test]
    fn a_single_sample_is_drawn() {
        assert!(chart(&[(0, 1000)]).contains("1.0 kB"));
        assert_eq!(chart(&[]), "");
    }
}
