//! What is taken of a lock file can stand in a URL, and names no other place.

#![no_main]

use larder_protocol::flake_lock::{FlakeLock, Origin};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(lock) = FlakeLock::parse(text) else { return };
    for input in lock.inputs {
        assert_eq!(input.path.name(), "source");
        if let Some(Origin::GitHub(commit) | Origin::GitLab(commit)) = input.origin {
            for part in commit.owner.split('/').chain([&*commit.repository, &*commit.revision]) {
                assert!(!part.is_empty() && part != "." && part != "..");
                assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            }
        }
    }
});
