//! What a push did.

use std::{collections::HashMap, time::Duration};

use larder_protocol::{
    StorePath, StorePathHash,
    api::{CacheName, CommittedPush, Divergence, OpenedPush, PathInfo, Replacement},
};
use serde::Serialize;

use super::send::Outcome;
use crate::store::{Closure, Skipped};

/// What a push did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PushReport {
    /// The cache that it went to: the one that was named, or a pull request's own beside it.
    pub cache: Option<CacheName>,
    /// The closure's paths, in its order.
    pub paths: Vec<PushedPath>,
    /// How many paths became visible.
    pub published: u64,
    /// Bytes of frames that were sent.
    pub sent_bytes: u64,
    /// The sum of the NARs' lengths of all paths.
    pub nar_bytes: u64,
    /// Paths that the cache has with another content and keeps as they were, or that an upstream has signed so.
    pub divergences: Vec<Divergence>,
    /// Paths that the cache had with another content, which this push has replaced.
    pub replacements: Vec<Replacement>,
    /// Paths that were not pushed.
    pub skipped: Vec<Skipped>,
    /// How long it took, in seconds.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// What became of one path.
#[derive(Debug, Clone, Serialize)]
pub struct PushedPath {
    /// The path.
    pub path: StorePath,
    /// Its NAR's length in bytes.
    pub nar_size: u64,
    /// What became of it.
    pub status: PathStatus,
    /// Bytes of frames that were sent for it first.
    pub sent_bytes: u64,
    /// Bytes of its NAR that needed no sending, since the service or this push had them.
    pub shared_bytes: u64,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathStatus {
    /// Its contents were sent, or what of them was missing.
    Pushed,
    /// The cache lacked it, but the service had its contents.
    Reused,
    /// The cache had it.
    Present,
    /// An upstream has it.
    Upstream,
    /// It was left out: see [`PushReport::skipped`].
    Skipped,
}

/// Counts what becomes of the paths, over all openings of a push.
pub(super) struct Tally {
    /// Whether the service has opened it.
    pub opened: bool,
    paths: Vec<PushedPath>,
    positions: HashMap<StorePathHash, usize>,
    skipped: Vec<Skipped>,
}

impl Tally {
    pub(super) fn new(closure: &Closure) -> Self {
        let pushed = |info: &PathInfo| PushedPath {
            path: info.path.clone(),
            nar_size: info.nar_size,
            status: PathStatus::Present,
            sent_bytes: 0,
            shared_bytes: info.nar_size,
        };
        Self {
            opened: false,
            paths: closure.paths.iter().map(pushed).collect(),
            positions: closure.paths.iter().enumerate().map(|(at, info)| (info.path.hash(), at)).collect(),
            skipped: Vec::new(),
        }
    }

    /// Notes what the service says it has.
    pub(super) fn note(&mut self, opened: &OpenedPush) {
        for (hashes, status) in [
            (&opened.missing, PathStatus::Pushed),
            (&opened.reused, PathStatus::Reused),
            (&opened.present, PathStatus::Present),
            (&opened.upstream, PathStatus::Upstream),
        ] {
            for path in hashes.iter().filter_map(|hash| self.positions.get(hash)) {
                // What this push sent when it was open before is not reused.
                if self.paths[*path].status != PathStatus::Pushed {
                    self.paths[*path].status = status;
                }
            }
        }
    }

    /// Notes what was sent for a path.
    pub(super) fn sent(&mut self, info: &PathInfo, outcome: &Outcome) {
        if let Some(path) = self.positions.get(&info.path.hash()) {
            let path = &mut self.paths[*path];
            path.sent_bytes += outcome.sent;
            path.shared_bytes = path.shared_bytes.saturating_sub(outcome.sent_content);
        }
    }

    pub(super) fn skip(&mut self, skipped: Skipped) {
        if let Some(path) = self.positions.get(&skipped.path.hash()) {
            self.paths[*path].status = PathStatus::Skipped;
        }
        self.skipped.push(skipped);
    }

    pub(super) fn report(self, committed: CommittedPush) -> PushReport {
        PushReport {
            cache: None,
            published: committed.published,
            sent_bytes: self.paths.iter().map(|path| path.sent_bytes).sum(),
            nar_bytes: self.paths.iter().map(|path| path.nar_size).sum(),
            divergences: committed.divergences,
            replacements: committed.replacements,
            skipped: self.skipped,
            elapsed: Duration::ZERO,
            paths: self.paths,
        }
    }
}
