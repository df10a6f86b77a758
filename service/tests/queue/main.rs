//! The queue, as whoever stores jobs sees it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hands;
mod jobs;
mod leases;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
mod world;
