//! Manifests: what a job wanted of the store. Who the job is, its token says.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::StorePath;

/// The most paths that a manifest may have.
pub const MAX_MANIFEST_PATHS: usize = 50_000;

/// What a machine can build for, such as `x86_64-linux`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct System(String);

/// What is no system.
#[derive(Debug, thiserror::Error)]
#[error("that is no system. Write it as Nix does, for example x86_64-linux")]
pub struct InvalidSystem;

impl System {
    /// That of the machine that this was compiled for.
    pub fn of_this_machine() -> Self {
        Self(format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for System {
    type Err = InvalidSystem;

    fn from_str(text: &str) -> Result<Self, InvalidSystem> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidSystem) }
    }
}

impl TryFrom<String> for System {
    type Error = InvalidSystem;

    fn try_from(text: String) -> Result<Self, InvalidSystem> {
        text.parse()
    }
}

impl From<System> for String {
    fn from(system: System) -> Self {
        system.0
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a job wanted, as it reports it. A later report of the same job replaces an earlier one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportManifest {
    /// The system that it built for.
    pub system: System,
    /// The outputs that it built.
    pub built: Vec<StorePath>,
    /// What it took from caches.
    pub substituted: Vec<StorePath>,
}

/// What a job wanted, with who it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `owner/name`, as the job's token said it.
    pub repository: String,
    /// The ref that the workflow ran on.
    #[serde(rename = "ref")]
    pub git_ref: String,
    /// The commit.
    pub commit: String,
    /// The workflow's file.
    pub workflow: String,
    /// The run.
    pub run: u64,
    /// Which attempt at the run, from 1.
    pub attempt: u64,
    /// The job, as the number of its check run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    /// The system that it built for.
    pub system: String,
    /// When it was reported, in seconds since 1970.
    pub reported_at: i64,
    /// How the run ended, where the forge has said it: `success`, `failure`, `cancelled` or `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<String>,
    /// The outputs that it built, sorted.
    pub built: Vec<StorePath>,
    /// What it took from caches, sorted.
    pub substituted: Vec<StorePath>,
}

/// The manifests of a ref: of each workflow its newest run, with all its attempts and jobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifests {
    /// Newest first.
    pub manifests: Vec<Manifest>,
    /// Whether these are all.
    pub complete: bool,
}
