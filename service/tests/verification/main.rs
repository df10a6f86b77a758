//! What is damaged is found, reported, not served, and mended by the next push; and a lost database comes back.

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

mod backup;
mod damage;
mod database;
mod scrub;
