//! Mirroring: what a cache keeps, as files that Nix reads with no service at all.
//!
//! A mirror is a static binary cache: `nix-cache-info`, a narinfo for each path and its NAR below `nar/`, under the very
//! names and with the very bytes that the service serves. It is right at every moment, whenever the work is
//! interrupted: a narinfo is written after its NAR and after the narinfos of what it refers to, and removed before
//! those that it refers to and before its NAR. What is there is not written again ([`write`]). What is not chosen any
//! more goes ([`remove`]), but a NAR only by the next mirroring, since somebody may have read its narinfo just now.
//!
//! It reads the database and the objects beside a running service and writes nothing there. What is swept meanwhile is
//! left out, with all that refers to it.

mod listing;
mod marker;
mod plan;
mod refusal;
mod remove;
mod target;
mod write;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use larder_protocol::{PublicKey, SigningKey, StorePathHash, api::CacheName};
use serde::Serialize;

pub use self::target::{InvalidTarget, Lock, Target};
use self::{listing::Listing, plan::Plan};
use crate::{
    cache,
    config::CacheConfig,
    metadata::{Metadata, MetadataError},
    storage::{Storage, StorageError},
};

/// Nix asks the substituter with the lowest number first: a mirror just after the service, and before the public cache.
const AFTER_THE_SERVICE: u32 = 1;
/// How often it is looked again what is to be there.
const ATTEMPTS: u32 = 3;
/// The public cache's.
const PUBLIC_PRIORITY: u32 = 40;

/// A mirror cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Objects cannot be read, though they may be there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The target failed.
    #[error("{place}: {problem}")]
    Target {
        /// What was read, written or removed.
        place: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// What is there is no mirror, or one of another cache.
    #[error("{target} {problem}")]
    Refused {
        /// Where the mirror should be.
        target: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// Another process may write there, too.
    #[error(
        "the database does not answer any more, and another mirroring may begin. What is there is right; the next goes \
         on from here"
    )]
    NotAlone,
    /// Somebody told it to stop.
    #[error("stopped before it was done. What is there is right; the next mirroring goes on from here")]
    Stopped,
}

/// What a mirroring works with.
pub struct Mirroring<'a> {
    /// The database.
    pub metadata: &'a Metadata,
    /// Where the objects are.
    pub storage: &'a Storage,
    /// The cache.
    pub cache: &'a CacheConfig,
    /// The keys that sign its paths.
    pub keys: &'a [SigningKey],
    /// The same and all that ever did, as far as they are known.
    pub known_keys: &'a [PublicKey],
    /// Where the mirror is.
    pub target: &'a Target,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// How far it is, and whether it shall stop.
    pub state: &'a State,
}

/// How far a mirroring is, for whoever watches it.
#[derive(Debug, Default)]
pub struct State {
    /// Bytes of NARs that are there now and were not.
    pub done: AtomicU64,
    /// Bytes of NARs that are not there when it begins.
    pub total: AtomicU64,
    stop: AtomicBool,
}

impl State {
    /// Has it end in good order.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a mirroring did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct MirrorReport {
    /// The cache.
    pub cache: String,
    /// The mirror's URL.
    pub to: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Paths that the mirror has.
    pub paths: u64,
    /// Of these: new ones.
    pub added: u64,
    /// Of these: those whose narinfo is another now.
    pub changed: u64,
    /// Paths that it has no more.
    pub removed: u64,
    /// NARs that were written.
    pub nars_written: u64,
    /// Their bytes.
    pub nar_bytes_written: u64,
    /// NARs that were removed.
    pub nars_removed: u64,
    /// Their bytes.
    pub nar_bytes_removed: u64,
    /// NARs that nothing names any more, and that the next mirroring removes.
    pub nars_to_go: u64,
    /// Paths that are kept by the mirror alone: the cache has withdrawn them as damaged.
    pub kept_by_mirror: u64,
    /// Store paths that others refer to and that the cache leaves to its upstreams.
    pub at_upstreams: u64,
    /// What should be there and is not, without what merely refers to it.
    pub left_out: Vec<LeftOut>,
    /// How many paths are not there since they refer to those.
    pub referrers_left_out: u64,
}

/// A path that is not in the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its hash.
    pub path: String,
    /// Why.
    pub why: Why,
}

/// Why a path is not in the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A sweep took it while it was mirrored, or a push replaced it.
    Went,
    /// Its NAR cannot be read as it was verified.
    Damaged,
    /// The cache has withdrawn what it refers to as damaged.
    RefersToDamaged,
    /// It refers to what neither the cache nor an upstream has.
    RefersToAbsent,
    /// Paths refer to each other in a circle.
    Circle,
    /// It refers to a path that is left out.
    Refers,
}

impl Why {
    /// Whether something is wrong. What merely went is not.
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Damaged | Self::RefersToDamaged | Self::RefersToAbsent | Self::Circle)
    }

    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Went => {
                "it was replaced meanwhile, several times. Nothing was removed; the next run brings it"
            }
            Self::Damaged => "its NAR is damaged: larderd verify",
            Self::RefersToDamaged => "it refers to a path that was withdrawn as damaged: larderd verify",
            Self::RefersToAbsent => {
                "it refers to a path that the cache does not have, and there is no upstream"
            }
            Self::Circle => "it and what it refers to refer to each other",
            Self::Refers => "it refers to a path that is left out",
        }
    }
}

impl MirrorReport {
    /// Whether the mirror has all that it should have.
    pub fn is_right(&self) -> bool {
        !self.left_out.iter().any(|path| path.why.is_wrong())
    }

    /// Whether anything was written or removed.
    pub fn is_unchanged(&self) -> bool {
        self.added + self.changed + self.removed + self.nars_written + self.nars_removed == 0
    }
}

impl Mirroring<'_> {
    /// Makes the mirror one of the closures of these roots. Where something is swept or replaced meanwhile, it looks
    /// again what is to be there, and removes nothing before that is known. Whoever calls this holds the target's
    /// [`Lock`], if anything is to be written.
    ///
    /// # Errors
    /// When what is there is no mirror of the cache, or something fails. What is there is right also then.
    pub async fn mirror(&self, roots: &HashSet<StorePathHash>) -> Result<MirrorReport, MirrorError> {
        let mut listing = Listing::read(self.target).await?;
        marker::check(self, &listing).await?;
        let mut report = MirrorReport {
            cache: self.name().to_string(),
            to: self.target.to_string(),
            dry_run: self.dry_run,
            ..MirrorReport::default()
        };
        let mut named = HashSet::new();
        for attempt in 1.. {
            let plan = Plan::make(self, &listing, roots).await?;
            if plan.paths.is_empty() && !listing.narinfos.is_empty() {
                let held = listing.narinfos.len();
                return Err(self.target.refuse(format!(
                    "has {held} paths, and of {} nothing is kept: it is left as it is. If all of it shall go, empty \
                     it by hand",
                    self.name()
                )));
            }
            let total = self.state.done.load(Ordering::Relaxed) + plan.nar_bytes;
            self.state.total.store(total, Ordering::Relaxed);
            if !self.dry_run && attempt == 1 {
                self.target.tidy()?;
                marker::write(self).await?;
                let priority = (self.cache.priority + AFTER_THE_SERVICE).min(PUBLIC_PRIORITY);
                self.target.put_changed(target::CACHE_INFO, cache::info(priority)).await?;
            }
            let mut written = write::write(self, &listing, &plan).await?;
            written.named.extend(named);
            written.tell(&plan, &mut report);
            let is_settled = !report.left_out.iter().any(|path| path.why == Why::Went);
            if is_settled || self.dry_run {
                remove::remove(self, &listing, written, &mut report).await?;
                break;
            }
            if attempt == ATTEMPTS {
                break;
            }
            named = written.named;
            listing = Listing::read(self.target).await?;
        }
        Ok(report)
    }

    fn name(&self) -> &CacheName {
        &self.cache.name
    }
}
