//! `larderd mirror`: a cache as files, with the real programs and real Nix.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bucket;
mod killed;
mod reading;
mod refused;
mod scene;
mod stays;
mod swept;
