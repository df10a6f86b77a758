//! What is counted, and what it says.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../push/nar.rs"]
mod nar;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../retention/world.rs"]
mod world;

mod command;
mod metrics;
mod picture;
mod samples;
mod year;

use nar::{TestNar, contents, path};

/// A path of two chunks or so, which share nothing with others'.
fn package(seed: u8, references: &[&TestNar]) -> TestNar {
    let references: Vec<_> = references.iter().map(|nar| &nar.info.path).collect();
    TestNar::new(path(seed, "x"), &contents(seed.into(), 60_000, &[]), &references)
}
