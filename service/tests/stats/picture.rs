//! The size of a store over time as a picture, by hand: two curves, a limit, and some words.

use std::fmt::Write as _;

use larder_service::config::ByteSize;

const WIDTH: u64 = 720;
const HEIGHT: u64 = 260;
/// What is left free around the drawing: for labels.
const EDGE: u64 = 60;
const DAY: i64 = 24 * 3600;

/// Sizes (second, bytes) in their order: what counts of a budget, and the files that it lies in.
pub fn svg(title: &str, used: &[(i64, u64)], files: &[(i64, u64)], budget: u64) -> String {
    let (first, last) = (used[0].0, used[used.len() - 1].0);
    let most = files.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default().max(budget) * 23 / 20;
    let x = |time: i64| EDGE + (time - first).cast_unsigned() * WIDTH / (last - first).cast_unsigned();
    let y = |bytes: u64| EDGE + HEIGHT - bytes * HEIGHT / most;
    let line = |sizes: &[(i64, u64)]| {
        let points: Vec<_> =
            sizes.iter().map(|(time, bytes)| format!("{},{}", x(*time), y(*bytes))).collect();
        points.join(" ")
    };
    let (width, height) = (WIDTH + EDGE * 3 / 2, HEIGHT + 2 * EDGE);
    let (left, right, labels, bottom) = (EDGE, EDGE + WIDTH, EDGE - 6, y(0));
    let mut svg = String::new();
    let _ = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<title>{title}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="{left}" y="{above}" font-size="14">{title}</text>
"##,
        above = EDGE / 2,
    );
    let step = budget * 2 / 5;
    for bytes in (0..).map(|tick| tick * step).take_while(|bytes| *bytes <= most) {
        let (at, size) = (y(bytes), ByteSize::bytes(bytes).in_short());
        let _ = writeln!(svg, r##"<path d="M{left} {at}H{right}" stroke="#e5e5e5"/>"##);
        let _ = writeln!(svg, r##"<text x="{labels}" y="{at}" dy="4" text-anchor="end">{size}</text>"##);
    }
    for day in (0..=(last - first) / DAY).step_by(30) {
        let at = x(first + day * DAY);
        let _ = writeln!(svg, r##"<path d="M{at} {bottom}v5" stroke="#888"/>"##);
        let _ = writeln!(
            svg,
            r##"<text x="{at}" y="{bottom}" dy="20" text-anchor="middle">{}</text>"##,
            if day == 0 { "day 0".to_owned() } else { day.to_string() }
        );
    }
    let top_of = |sizes: &[(i64, u64)]| sizes.iter().map(|(_, bytes)| y(*bytes)).min().unwrap_or(bottom);
    let low_of = |sizes: &[(i64, u64)]| {
        let full = sizes.iter().skip(sizes.len() / 10);
        full.map(|(_, bytes)| y(*bytes)).max().unwrap_or(bottom)
    };
    let _ = write!(
        svg,
        r##"<polyline points="{files_line}" fill="none" stroke="#999"/>
<text x="{right}" y="{files_at}" text-anchor="end" fill="#777">files on the disk, the most of each day</text>
<path d="M{left} {limit}H{right}" stroke="#c33" stroke-dasharray="6 4"/>
<text x="{right}" y="{limit}" dy="-6" text-anchor="end" fill="#c33">max_size</text>
<polyline points="{used_line}" fill="none" stroke="#26a" stroke-width="1.5"/>
<text x="{right}" y="{used_at}" text-anchor="end" fill="#26a">what counts as used, the most of each day</text>
</svg>
"##,
        files_line = line(files),
        files_at = top_of(files) - 8,
        limit = y(budget),
        used_line = line(used),
        used_at = low_of(used) + 14,
    );
    svg
}
