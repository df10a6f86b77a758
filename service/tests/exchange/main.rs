//! The exchange of ID tokens as an attacker sees it: through the service's own front door, with a real issuer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod audit;
mod forge;
mod issuer;
mod issuers;
mod keys;
mod limits;
mod names;
mod pushes;
mod rules;
mod sessions;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../test_servers/mod.rs"]
mod test_servers;
mod tokens;
mod world;
