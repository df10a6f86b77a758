//! `larder push`, as people and scripts run it.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use larder_protocol::StorePath;
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::{
    github::StartedJob,
    nix::{Output, run},
    programs::program,
};

/// What `larder push --json` prints.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// Every path of the closure.
    pub paths: Vec<ReportedPath>,
    /// How many paths became visible.
    pub published: u64,
    /// Bytes of frames that were sent.
    pub sent_bytes: u64,
    /// Bytes of all NARs.
    pub nar_bytes: u64,
    /// What was left out.
    pub skipped: Vec<serde_json::Value>,
}

/// What became of a path.
#[derive(Debug, Deserialize)]
pub struct ReportedPath {
    /// The path.
    pub path: StorePath,
    /// What became of it.
    pub status: String,
    /// Bytes of frames that were sent for it.
    pub sent_bytes: u64,
}

impl Report {
    /// How many paths there are of each status.
    pub fn statuses(&self) -> BTreeMap<&str, usize> {
        let mut counted = BTreeMap::new();
        for path in &self.paths {
            *counted.entry(path.status.as_str()).or_default() += 1;
        }
        counted
    }
}

/// `larder push` to the cache `main` of a service, with nothing of the test's own environment.
pub struct Push {
    command: Command,
}

impl Push {
    fn new(service: &str) -> Self {
        let mut command = Command::new(program("larder"));
        command.env_clear().arg("push").args(["--service", service]);
        Self { command }
    }

    /// As a step of a workflow.
    pub fn in_job(service: &str, job: &StartedJob) -> Self {
        let mut push = Self::new(service);
        push.command
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", &job.request_url)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", &job.request_token);
        push
    }

    /// As somebody with a token.
    pub fn with_token(service: &str, token: &str) -> Self {
        let mut push = Self::new(service);
        push.command.env("LARDER_TOKEN", token);
        push
    }

    /// As somebody who has nothing to show.
    pub fn without_credentials(service: &str) -> Self {
        Self::new(service)
    }

    /// From a store of its own.
    pub fn from_store(mut self, root: &Path) -> Self {
        self.command.arg("--store").arg(root);
        self
    }

    /// More arguments: options, and the paths.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// The command, for a test that runs it in its own way.
    pub fn command(self) -> Command {
        self.command
    }

    /// Runs it.
    pub async fn run(mut self) -> Output {
        run(&mut self.command).await
    }

    /// Runs it, and takes what it did; everything must have become visible.
    pub async fn report(self) -> Report {
        parse(self.args(["--json"]).run().await)
    }

    /// The same, and the most memory that it had, in bytes.
    pub async fn report_and_peak_memory(self) -> (Report, u64) {
        let push = self.args(["--json"]).command;
        let push = push.as_std();
        let peak = NamedTempFile::new().unwrap();
        // Only who waited for a process is told its peak.
        let mut measured = Command::new("python3");
        measured.args(["-c", MEASURE]).arg(peak.path()).arg(push.get_program()).args(push.get_args());
        measured.env_clear();
        for (name, value) in push.get_envs() {
            if let Some(value) = value {
                measured.env(name, value);
            }
        }
        measured.env("PATH", "/usr/bin:/bin");
        let report = parse(run(&mut measured).await);
        let kilobytes: u64 = std::fs::read_to_string(peak.path()).unwrap().trim().parse().unwrap();
        (report, kilobytes * 1024)
    }
}

const MEASURE: &str = "\
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], 'w') as peak:
    peak.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
";

#[track_caller]
fn parse(output: Output) -> Report {
    let json = output.expect_success();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}
