//! The inputs of a `flake.lock`, as store paths: Nix asks caches for them before it asks their hosts.
//!
//! A lock file is a stranger's list of URLs. What it leads to is fetched within bounds, from hosts that are listed, and
//! taken only if it is what the lock file says by `narHash`.

mod bounds;
mod fetch;
mod hosts;
mod internet;
mod job;
mod tree;
mod unpack;

pub use self::{
    bounds::Spent,
    fetch::{Fetched, Fetcher, InputError},
    hosts::NotThere,
    internet::Internet,
};
pub(crate) use self::{
    internet::is_public,
    job::{Pushed, prefetch_inputs},
};
