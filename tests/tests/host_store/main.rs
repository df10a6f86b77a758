//! What protected refs publish is in the host's own store: by a real nix-daemon, which trusts the cache's key and not the
//! service.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod host;
mod killed;
mod standing;
mod takes;
mod troubles;
