//! What runs in a workflow, and the same commands by hand: reading the Nix store, pushing closures
//! to a Larder service.

pub mod cli;
pub mod credentials;
pub mod output;
pub mod progress;
pub mod push;
pub mod secret;
pub mod service;
pub mod store;
