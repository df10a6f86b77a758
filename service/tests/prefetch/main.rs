//! What will be needed is here before anyone asks: upstreams of all kinds, through the service's own front door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod by_hand;
mod ends;
mod events;
mod expanded;
mod flights;
#[path = "../webhooks/github.rs"]
mod github;
mod meanwhile;
mod mended;
#[allow(dead_code, reason = "shared with the tests of pushes")]
#[path = "../push/nar.rs"]
mod nar;
mod pace;
mod proxy;
mod room;
mod swept;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
mod turns;
mod upstream;
mod upstreams;
mod world;
