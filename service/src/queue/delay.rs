//! How long a job that failed waits.

/// After the first failure, in seconds.
const FIRST: i64 = 10;
/// The longest, in seconds.
const LONGEST: i64 = 60 * 60;

/// Seconds until the next attempt: twice as many after each failure, a quarter more or less by chance, so that what
/// failed together does not come back together. `random` is any number.
pub(super) fn after(attempts: u32, random: u16) -> i64 {
    let doublings = attempts.saturating_sub(1).min(20);
    let delay = (FIRST << doublings).min(LONGEST);
    delay * 3 / 4 + delay * i64::from(random) / (2 * i64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_differ_by_chance() {
        assert_eq!((after(1, 0), after(1, u16::MAX / 2), after(1, u16::MAX)), (7, 9, 12));
        assert_eq!((after(2, 0), after(3, 0), after(9, 0)), (15, 30, 1920));
        for attempts in [10, 20, 1000, u32::MAX] {
            assert_eq!((after(attempts, 0), after(attempts, u16::MAX)), (2700, 4500));
        }
    }
}
