//! Pull requests' own caches, from outside.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod command;
mod disk;
mod end;
mod killed;
mod limits;
mod parent;
mod room;
mod scene;
