//! Whether what is stored is still what was verified when it came, and mending what is not.
//!
//! | what | how it is looked at | what becomes of it |
//! |---|---|---|
//! | a chunk ([`frames`]) | its frame is read, decoded, and must have its name and its holes | its row is corrected by the object's index; else the chunk counts as missing, and what needs it is withdrawn |
//! | an object's index ([`frames`]) | it must say what the rows say | the object is written anew |
//! | a NAR ([`nars`]) | read back from its frames: structure, hash, size, encoding | derived columns are corrected; else it is withdrawn |
//! | recipes beside the objects ([`recipes`]) | they must say what the rows say | written anew |
//! | a push's record ([`records`]) | it must say what the rows say, and has a checksum | rows are corrected by it, or it is written anew |
//! | a path ([`paths`]) | its NAR, its references, what others have signed | it is withdrawn, or reported |
//! | files and rows ([`files`]) | each must have the other | reported |
//!
//! What a reader finds lost is verified soon after ([`suspect`]).
//!
//! *Withdrawn*: the path is absent for readers and missing for pushes, so that the next push brings it again. Where an
//! upstream has the same NAR, it is fetched from there ([`upstreams`]). Everything
//! is decided on the place that was read: what a sweep or a compaction moved or took meanwhile is looked up again.

mod files;
mod frames;
mod nars;
mod paths;
mod recipes;
mod records;
mod report;
mod run;
mod scope;
mod scrub;
mod suspect;
mod upstreams;
mod withdraw;

use std::{
    collections::HashSet,
    sync::{
        Mutex as Lock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Mutex;

pub use self::{
    report::{Finding, Outcome, VerifyReport},
    run::{ask, verify, verify_asked},
    scope::Scope,
    scrub::scrub_step,
};
pub(crate) use self::{run::run, scrub::run as run_scrub, suspect::suspect};
use crate::{metadata::MetadataError, push::verify::ReadBackError, storage::StorageError};

/// What verification holds in memory.
#[derive(Debug, Default)]
pub struct Verification {
    /// One at a time.
    verifying: Mutex<()>,
    /// Objects that were just found lost, and are looked at.
    suspected: Lock<HashSet<String>>,
    /// What was looked at and found since the service started.
    pub counts: Counts,
}

/// Counters, for whoever watches the service.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames that were read and checked.
    pub frames: AtomicU64,
    /// NARs that were read back.
    pub nars: AtomicU64,
    /// Paths whose references and signatures were looked at.
    pub paths: AtomicU64,
    /// Bytes that were read for both.
    pub bytes: AtomicU64,
    /// What was found damaged, missing or contradictory, in the order of [`Outcome::ALL`].
    pub findings: [AtomicU64; Outcome::ALL.len()],
    /// Paths that were withdrawn.
    pub withdrawn: AtomicU64,
    /// Rounds of the scrub that are over.
    pub rounds: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// A verification could not go on: this says nothing of what is stored.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Nothing at all is stored where objects should be.
    #[error(
        "of the objects that the database knows of none is in {0}, as far as was looked. Is its disk mounted, is it the right bucket? Nothing was changed"
    )]
    NoObjects(String),
    /// A thread ended.
    #[error("a worker panicked")]
    Panicked,
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl From<ReadBackError> for VerifyError {
    fn from(error: ReadBackError) -> Self {
        match error {
            ReadBackError::Storage(error) => Self::Storage(error),
            ReadBackError::Metadata(error) => Self::Metadata(error),
            ReadBackError::Panicked => Self::Panicked,
        }
    }
}
