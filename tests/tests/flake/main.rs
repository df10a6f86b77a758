//! Inputs of flakes: fetched from where they may be, and from nowhere else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod command;
mod eval;
mod hosts;
mod killed;
mod prefetch;
mod rules;
mod scene;
mod turns;
