//! Larder's service: takes pushes, stores them deduplicated, signs them, serves them.

pub mod clock;
pub mod metadata;
