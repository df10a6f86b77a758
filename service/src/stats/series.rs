//! Sizes over time, at equal distances: samples are the denser the newer they are.

/// The sizes (second, bytes) at the ends of so many equal stretches of time. `sizes` is in order, and not empty.
pub(super) fn evenly(sizes: &[(i64, u64)], count: u32) -> Vec<(i64, u64)> {
    let (Some((first, _)), Some((last, _))) = (sizes.first(), sizes.last()) else { return Vec::new() };
    let mut at = 0;
    (1..=i64::from(count))
        .map(|stretch| {
            let until = first + (last - first) * stretch / i64::from(count);
            while sizes.get(at + 1).is_some_and(|(time, _)| *time <= until) {
                at += 1;
            }
            (until, sizes[at].1)
        })
        .collect()
}
