//! What runs in a workflow, and the same commands by hand: reading the Nix store, pushing closures
//! to a Larder service.

pub mod agent;
pub mod cli;
pub mod credentials;
pub mod docker;
pub mod nix_conf;
pub mod output;
pub mod progress;
pub mod push;
mod random;
pub mod relay;
pub mod secret;
pub mod service;
pub mod statement;
pub mod store;
pub mod workflow;
