//! Several replicas on PostgreSQL and S3, behind nginx: what dies, stands still and comes back, and what holds meanwhile.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod database;
mod lead;
mod load;
mod paces;
mod scene;
mod spread;
mod troubles;
