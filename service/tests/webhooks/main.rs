//! Webhooks as GitHub sends them and as an attacker would: through the service's own front door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
mod consequences;
mod front_door;
mod github;
mod manifests;
mod silent_api;
mod storms;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
mod world;
