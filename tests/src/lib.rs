//! What the end-to-end tests stand on: a stand-in for GitHub, real Nix, a service in the test's own
//! process.
//!
//! A scene that cannot be set fails its test on the spot, so this crate unwraps where the programs may not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "see above")]

pub mod archive_host;
pub mod bucket;
pub mod client;
pub mod cutting_proxy;
pub mod front_proxy;
pub mod garage;
pub mod github;
pub mod killing;
pub mod larder;
pub mod larderd;
pub mod nginx;
pub mod nix;
pub mod package;
pub mod postgres;
pub mod programs;
pub mod runner;
pub mod small_disk;
pub mod source_store;
#[path = "../../service/tests/test_servers/mod.rs"]
pub mod test_servers;
pub mod webhook;
pub mod world;
