//! What this crate promises, seen from outside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bytes;
mod chunks;
mod content_address;
mod flake_lock;
mod frames;
mod mutations;
mod names;
mod nar;
mod narinfo;
mod nix;
mod trees;
mod upload;
