//! `larder action`: the steps of the GitHub action.

use std::{ffi::OsString, path::Path};

use clap::{Args, Subcommand};

use super::Exit;
use crate::workflow::{self, environment::Variables};

/// The steps of the GitHub action.
#[derive(Debug, Args)]
pub struct ActionArgs {
    /// Which step.
    #[command(subcommand)]
    pub step: Step,
}

/// A step.
#[derive(Debug, Subcommand)]
pub enum Step {
    /// Start the agent beside the job, and have later steps read from the cache
    #[command(long_about = "\
Starts the agent beside the job, and has later steps read from the cache.

GitHub's runner calls this as the action's entry point. It reads the inputs (INPUT_*) and what the runner tells of \
the job (GITHUB_*, RUNNER_*, ACTIONS_ID_TOKEN_REQUEST_*) from the environment, starts a container beside its own \
that sees the machine's /nix, and writes NIX_CONFIG to $GITHUB_ENV. What goes wrong is said in the log and fails \
the job only where the input `strict` is true. action.yml describes the inputs.

Exit codes: 0 done or nothing to do, 1 failed and `strict` is true.")]
    Main,
    /// Push what the job built, say what was done, remove the agent
    #[command(long_about = "\
Pushes what the job built, says what was done, and removes the agent.

GitHub's runner calls this at the job's end, however the job went. It finds the agent that `larder action main` \
started, has it push, waits no longer than the input `time-limit` says, and writes the log, the job's summary and \
the outputs.

Exit codes: 0 done or nothing to do, 1 failed and `strict` is true.")]
    Post,
}

impl ActionArgs {
    pub(super) async fn run(self) -> Exit {
        let variables = Variables::of_process();
        let code = match self.step {
            Step::Main => workflow::main::run(&variables).await,
            Step::Post => workflow::post::run(&variables).await,
        };
        if code == 0 { Exit::Done } else { Exit::Failed }
    }
}

/// The arguments, where the program was called by another name. GitHub's runner starts the action's steps by a
/// program's name and gives all of them the same arguments, so that the name must tell the steps apart. With a
/// subcommand the name says nothing: the agent is started by whatever name this process's program has.
pub(super) fn by_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let subcommand = arguments.get(1).is_some_and(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
    let step = match name.filter(|_| !subcommand) {
        Some("larder-action-main") => "main",
        Some("larder-action-post") => "post",
        _ => return arguments,
    };
    arguments.splice(..1, ["larder", "action", step].map(OsString::from));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_called_by_the_programs_name() {
        let called = |arguments: &[&str]| by_name(arguments.iter().map(OsString::from).collect());
        assert_eq!(called(&["/bin/larder-action-main"]), ["larder", "action", "main"]);
        assert_eq!(called(&["larder-action-post", "--help"]), ["larder", "action", "post", "--help"]);
        for same in [["/bin/larder", "push"], ["/bin/larder-action-main", "agent"]] {
            assert_eq!(called(&same), same);
        }
        assert!(called(&[]).is_empty());
    }
}
