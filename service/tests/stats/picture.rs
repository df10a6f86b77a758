//! The size of a store over time as a picture, by hand: three lines and some words.

use std::fmt::Write as _;

use larder_service::{clock::to_date, config::ByteSize};

const WIDTH: u64 = 720;
const HEIGHT: u64 = 240;
/// What is left free around the drawing: for labels.
const EDGE: u64 = 60;

/// Sizes (second, bytes) in their order: what is held, below a budget, and the files that it lies in.
pub fn svg(held: &[(i64, u64)], files: &[(i64, u64)], budget: u64) -> String {
    let (first, last) = (held[0].0, held[held.len() - 1].0);
    let most = files.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default().max(budget) * 11 / 10;
    let x = |time: i64| EDGE + (time - first).cast_unsigned() * WIDTH / (last - first).cast_unsigned();
    let y = |bytes: u64| EDGE / 2 + HEIGHT - bytes * HEIGHT / most;
    let line = |sizes: &[(i64, u64)]| {
        let points: Vec<_> =
            sizes.iter().map(|(time, bytes)| format!("{},{}", x(*time), y(*bytes))).collect();
        points.join(" ")
    };
    let (width, height) = (WIDTH + 2 * EDGE, HEIGHT + EDGE + EDGE / 2);
    let (left, right, bottom) = (EDGE, EDGE + WIDTH, y(0));
    let short = |bytes| ByteSize::bytes(bytes).in_short();
    let mut svg = String::new();
    let _ = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>
<line x1="{left}" x2="{right}" y1="{limit}" y2="{limit}" stroke="#c33" stroke-dasharray="6 4"/>
<text x="{right}" y="{above}" text-anchor="end" fill="#c33">budget {budget}</text>
<polyline points="{files}" fill="none" stroke="#bbb" stroke-width="1"/>
<polyline points="{held}" fill="none" stroke="#26a" stroke-width="1.5"/>
<text x="{right}" y="{bottom}" dy="-28" text-anchor="end" fill="#26a">what is held</text>
<text x="{right}" y="{bottom}" dy="-12" text-anchor="end" fill="#888">the files that it lies in</text>
<text x="{labels}" y="{bottom}" text-anchor="end">0</text>
<text x="{labels}" y="{limit}" text-anchor="end">{budget}</text>
<text x="{left}" y="{below}">{from}</text>
<text x="{right}" y="{below}" text-anchor="end">{to}</text>
</svg>
"##,
        top = EDGE / 2,
        limit = y(budget),
        above = y(budget) - 6,
        budget = short(budget),
        files = line(files),
        held = line(held),
        labels = left - 6,
        below = bottom + 20,
        from = &to_date(first)[..10],
        to = &to_date(last)[..10],
    );
    svg
}
