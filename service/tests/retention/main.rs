//! What is kept and what goes, over HTTP, under a clock that the tests set.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../push/nar.rs"]
mod nar;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;

mod budget;
mod compaction;
mod garbage;
mod killed;
mod model;
mod moving;
mod pins;
mod races;
mod reads;
mod room;
mod roots;
mod transactions;
mod why;
#[allow(dead_code, reason = "other tests need more of it")]
mod world;
