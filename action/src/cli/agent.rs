//! `larder agent`: the process beside a job. The action starts it; nobody else needs to.

use std::{
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::Exit;
use crate::{
    agent::{self, finish::finish, messages::MAX_LINE, push, run},
    output,
};

/// The process beside a job.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// What the agent's processes do. All of them speak lines of JSON.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run beside a job: note what the store has, start the relay, wait for orders
    #[command(long_about = "\
Runs beside a job, in the container that `larder action main` starts.

Reads one line from standard input (what to do, and the job's credentials), notes the newest path of the store below \
/nix, starts the relay, prints one line when it is ready, and waits for orders on /run/larder/agent.sock. It ends \
when its work is done, when the job's marker /run/larder-job/running vanishes, or when its lifetime is over.")]
    Run,
    /// Hand an order from standard input to the agent, and print its answers
    Finish,
    /// Push what standard input says; the agent calls this
    Push {
        /// What has the host's `nix` below it
        #[arg(long, default_value = "/")]
        root: PathBuf,
    },
}

impl AgentArgs {
    pub(super) async fn run(self) -> Exit {
        match self.command {
            AgentCommand::Run => ended(run::run(run::Places::of_container()).await),
            AgentCommand::Finish => {
                ended(finish(Path::new(agent::SOCKET), io::stdin(), tokio::io::stdout()).await)
            }
            AgentCommand::Push { root } => {
                let mut line = String::new();
                let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line);
                match read.map(|_| serde_json::from_str(&line)) {
                    Ok(Ok(work)) => {
                        push::run(&root, work).await;
                        Exit::Done
                    }
                    _ => ended(Err("what came by standard input cannot be read")),
                }
            }
        }
    }
}

fn ended(result: Result<(), impl std::fmt::Display>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::note(&format!("error: {error}"));
            Exit::Failed
        }
    }
}
