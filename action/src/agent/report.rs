//! What a job's push did: for the log, the summary and the outputs.

use std::{collections::HashSet, time::Duration};

use larder_protocol::{
    StorePath,
    api::{CacheName, Divergence},
};
use serde::{Deserialize, Serialize};

use crate::{
    push::{PathStatus, PushReport},
    relay::RelayUse,
};

/// What a job's push did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The cache that was pushed to, where it is a pull request's own.
    pub isolated: Option<CacheName>,
    /// How many paths the job wanted to push: what it built, or what the workflow names.
    pub roots: usize,
    /// The paths that are new to the cache, or were left out, or are roots.
    pub paths: Vec<Row>,
    /// How many paths became visible.
    pub published: u64,
    /// How many of the closure's paths the cache had.
    pub present: usize,
    /// How many of the closure's paths an upstream has.
    pub upstream: usize,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// The sum of the NARs' lengths of what is new to the cache.
    pub nar_bytes: u64,
    /// What was not pushed, and why.
    pub left_out: Vec<LeftOut>,
    /// Paths that the cache has with another content, and keeps as they were.
    pub divergences: Vec<StorePath>,
    /// Paths that an upstream has signed with another content.
    pub refused: Vec<StorePath>,
    /// Paths that the cache had with another content, which this job's replaced.
    pub replaced: Vec<StorePath>,
    /// How long it took.
    pub elapsed: Duration,
    /// What Nix read through the relay.
    pub relay: Option<RelayUse>,
}

/// A path of the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The path.
    pub path: StorePath,
    /// Its NAR's length in bytes.
    pub nar_size: u64,
    /// Bytes that were sent for it.
    pub sent_bytes: u64,
    /// Bytes of its NAR that needed no sending.
    pub shared_bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was sent, or what of it was missing.
    Pushed,
    /// The cache lacked it, but the service had its contents.
    Reused,
    /// The cache had it.
    Present,
    /// An upstream has it.
    Upstream,
    /// It was left out.
    LeftOut,
}

/// A path that was not pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The path.
    pub path: StorePath,
    /// Why, as a sentence.
    pub reason: String,
}

impl Report {
    /// What a push did, of which `roots` are what the job wanted and `left_out` never got as far.
    pub fn of(push: PushReport, roots: &[StorePath], mut left_out: Vec<LeftOut>) -> Self {
        let count = |status| push.paths.iter().filter(|path| path.status == status).count();
        let (present, upstream) = (count(PathStatus::Present), count(PathStatus::Upstream));
        let is_new = |status| matches!(status, PathStatus::Pushed | PathStatus::Reused);
        let nar_bytes = push.paths.iter().filter(|path| is_new(path.status)).map(|path| path.nar_size).sum();
        let wanted: HashSet<_> = roots.iter().collect();
        let had = |status| matches!(status, PathStatus::Present | PathStatus::Upstream);
        let rows = push.paths.iter().filter(|path| !had(path.status) || wanted.contains(&path.path));
        let paths = rows
            .map(|path| Row {
                path: path.path.clone(),
                nar_size: path.nar_size,
                sent_bytes: path.sent_bytes,
                shared_bytes: path.shared_bytes,
                outcome: match path.status {
                    PathStatus::Pushed => Outcome::Pushed,
                    PathStatus::Reused => Outcome::Reused,
                    PathStatus::Present => Outcome::Present,
                    PathStatus::Upstream => Outcome::Upstream,
                    PathStatus::Skipped => Outcome::LeftOut,
                },
            })
            .collect();
        left_out.extend(
            push.skipped.into_iter().map(|skipped| LeftOut { path: skipped.path, reason: skipped.reason }),
        );
        let (refused, divergences): (Vec<_>, Vec<_>) =
            push.divergences.into_iter().partition(|divergence| divergence.upstream.is_some());
        let path = |divergence: Divergence| divergence.path;
        Self {
            isolated: push.cache.filter(|cache| cache.isolation().is_some()),
            roots: roots.len(),
            paths,
            published: push.published,
            present,
            upstream,
            sent_bytes: push.sent_bytes,
            nar_bytes,
            left_out,
            divergences: divergences.into_iter().map(path).collect(),
            refused: refused.into_iter().map(path).collect(),
            replaced: push.replacements.into_iter().map(|replacement| replacement.path).collect(),
            elapsed: push.elapsed,
            relay: None,
        }
    }
}
