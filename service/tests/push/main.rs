//! A push by hand, step by step, over HTTP, and what readers see of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod audit;
mod content_address;
mod limits;
mod nar;
mod private;
mod races;
mod refused;
mod stands;
mod strangers;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
mod upstream;
mod whole;
mod world;
