//! The command line: a variant for each subcommand, a module for each variant.

mod action;
mod agent;
mod bars;
mod pin;
mod prefetch;
mod push;
pub(crate) mod quantity;
mod verify;
mod why;

use std::{env, io, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::output;

/// Pushes what Nix built to a Larder cache.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about = "Pushes what Nix built to a Larder cache",
    after_help = "\
Examples:
  nix build && larder push ./result --service https://cache.example.org
  larder push --help
  larder pin web ./result --service https://cache.example.org
  larder prefetch --wait ./result --service https://cache.example.org
  larder why ./result --service https://cache.example.org
  larder completions bash > /etc/bash_completion.d/larder

The environment:
  LARDER_SERVICE  the service's URL
  LARDER_CACHE    the cache's name
  LARDER_TOKEN    a token, made by `larderd token create`
  LARDER_LOG      what to log to standard error, such as `info` or `larder_action=debug`

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 denied, 4 some paths were skipped, 5 what was to be
verified does not hold."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Push store paths and all that they need
    Push(Box<push::PushArgs>),
    /// Keep a path under a name, from which hosts can update themselves
    Pin(Box<pin::PinArgs>),
    /// Have the cache fetch paths and all that they need from its upstreams
    Prefetch(prefetch::PrefetchArgs),
    /// Say who brought a path into a cache
    Why(why::WhyArgs),
    /// Check a statement about a path, by keys that are known here
    Verify(verify::VerifyArgs),
    /// The steps of the GitHub action
    Action(action::ActionArgs),
    /// The process beside a job, which the action starts
    #[command(hide = true)]
    Agent(agent::AgentArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// How a command ended, as a script sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// It failed.
    Failed,
    /// What was asked for makes no sense.
    Usage,
    /// The service denies it.
    Denied,
    /// Some paths were skipped, the others are in the cache.
    Skipped,
    /// What was to be verified does not hold.
    Wrong,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Denied => 3,
            Exit::Skipped => 4,
            Exit::Wrong => 5,
        })
    }
}

/// Runs the command of this process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse_from(action::by_name(env::args_os().collect()));
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .fmt_fields(output::log_fields())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start threads: {error}"));
            return Exit::Failed.into();
        }
    };
    runtime.block_on(cli.command.run()).into()
}

impl Command {
    async fn run(self) -> Exit {
        match self {
            Self::Push(args) => args.run().await,
            Self::Pin(args) => args.run().await,
            Self::Prefetch(args) => args.run().await,
            Self::Why(args) => args.run().await,
            Self::Verify(args) => args.run().await,
            Self::Action(args) => args.run().await,
            Self::Agent(args) => args.run().await,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "larder", &mut script);
                output::raw(String::from_utf8_lossy(&script).trim_end());
                Exit::Done
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }
}
