//! The command line.

use clap::{Parser, Subcommand};

/// Pushes what Nix built to a Larder cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Push store paths and all that they need.
    Push,
}
