//! Releases side by side: what a client of the first one sends is taken, what a service of it answers is understood, and who
//! speaks another version is told which of the two to update.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod first_client;
mod other_service;
mod recorded;
