//! Finding store hashes in bytes, the way Nix's own scanner does (`libstore/references.cc`): looking at every
//! 32nd byte, so that most bytes are never looked at.

use std::collections::HashSet;

use super::HOLE;
use crate::{StorePathHash, base32::is_digit};

const STORE_PREFIX: &[u8] = b"/nix/store/";

/// Finds store hashes in `bytes` from `from` on, zeroes each and reports its offset: those in `known`,
/// and those that follow `/nix/store/` (of which a part may stand in `before`, the bytes that went before
/// `bytes`). Returns up to where nothing more can be found, whatever bytes may follow.
pub(super) fn find_store_hashes(
    bytes: &mut [u8],
    from: usize,
    before: &[u8],
    end: bool,
    known: &HashSet<StorePathHash>,
    mut report: impl FnMut(usize, StorePathHash),
) -> usize {
    let mut at = from;
    while at + HOLE <= bytes.len() {
        let window = &bytes[at..at + HOLE];
        if let Some(last) = window.iter().rposition(|byte| !is_digit(*byte)) {
            at += last + 1;
            continue;
        }
        match StorePathHash::from_digits(window) {
            Some(hash) if known.contains(&hash) || follows_store_dir(bytes, at, before) => {
                bytes[at..at + HOLE].fill(0);
                report(at, hash);
                at += HOLE;
            }
            _ => at += 1,
        }
    }
    if end { bytes.len() } else { at.min(bytes.len()) }
}

fn follows_store_dir(bytes: &[u8], at: usize, before: &[u8]) -> bool {
    if let Some(start) = at.checked_sub(STORE_PREFIX.len()) {
        return &bytes[start..at] == STORE_PREFIX;
    }
    let (front, back) = STORE_PREFIX.split_at(STORE_PREFIX.len() - at);
    before.ends_with(front) && bytes[..at] == *back
}
