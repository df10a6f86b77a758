//! The queue, as whoever stores jobs sees it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hands;
mod jobs;
mod leases;
mod world;
