//! Finding store hashes in bytes, the way Nix's own scanner does (`libstore/references.cc`): looking at every
//! 32nd byte, so that most bytes are never looked at.

use std::collections::HashSet;

use super::HOLE;
use crate::{
    StorePathHash,
    base32::{digit_value, is_digit},
};

const STORE_PREFIX: &[u8] = b"/nix/store/";

/// Store hashes to look for.
pub(super) struct KnownHashes {
    digits: HashSet<[u8; HOLE]>,
    /// A bit for each beginning of three digits. Where digits run on for long (decimal numbers do),
    /// a look-up at each of them would take most of the time.
    beginnings: Vec<u64>,
}

impl KnownHashes {
    pub(super) fn new(hashes: impl IntoIterator<Item = StorePathHash>) -> Self {
        let digits: HashSet<_> = hashes.into_iter().map(|hash| hash.digits()).collect();
        let mut beginnings = vec![0; 32 * 32 * 32 / 64];
        for digits in &digits {
            let beginning = beginning(digits);
            beginnings[beginning / 64] |= 1 << (beginning % 64);
        }
        Self { digits, beginnings }
    }

    fn contains(&self, digits: &[u8; HOLE]) -> bool {
        let beginning = beginning(digits);
        self.beginnings[beginning / 64] >> (beginning % 64) & 1 == 1 && self.digits.contains(digits)
    }
}

fn beginning(digits: &[u8; HOLE]) -> usize {
    digits[..3].iter().fold(0, |value, digit| value << 5 | usize::from(digit_value(*digit) & 0x1f))
}

/// Finds store hashes in `bytes` from `from` on, zeroes each and reports its offset: those in `known`,
/// and those that follow `/nix/store/` (of which a part may stand in `before`, the bytes that went before
/// `bytes`). Returns up to where nothing more can be found, whatever bytes may follow.
pub(super) fn find_store_hashes(
    bytes: &mut [u8],
    from: usize,
    before: &[u8],
    known: &KnownHashes,
    mut report: impl FnMut(usize, StorePathHash),
) -> usize {
    let mut at = from;
    // Up to here, all bytes from `at` on are digits.
    let mut digits_end = at;
    while let Some(window) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HOLE>()) {
        let unseen = digits_end.saturating_sub(at);
        if let Some(last) = window[unseen..].iter().rposition(|byte| !is_digit(*byte)) {
            at += unseen + last + 1;
            continue;
        }
        digits_end = at + HOLE;
        if (known.contains(window) || follows_store_dir(bytes, at, before))
            && let Some(hash) = StorePathHash::from_digits(window)
        {
            bytes[at..digits_end].fill(0);
            report(at, hash);
            at = digits_end;
        } else {
            at += 1;
        }
    }
    at
}

fn follows_store_dir(bytes: &[u8], at: usize, before: &[u8]) -> bool {
    if let Some(start) = at.checked_sub(STORE_PREFIX.len()) {
        return &bytes[start..at] == STORE_PREFIX;
    }
    let (front, back) = STORE_PREFIX.split_at(STORE_PREFIX.len() - at);
    before.ends_with(front) && bytes[..at] == *back
}
