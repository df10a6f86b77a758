//! Noting what is found, and taking from readers what is damaged.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use larder_protocol::{StorePath, api::CacheName};

use super::{Counts, Finding, Outcome, Scope, VerifyError, VerifyReport};
use crate::{
    Service,
    metadata::{FrameRow, Withdrawn},
    random::random_bytes,
    storage::Storage,
};

/// One verification: of what, what it found so far, and how far it is.
pub(super) struct Verifier<'a> {
    pub service: &'a Service,
    /// What is stored itself, without copies of it.
    pub storage: Storage,
    pub scope: Scope,
    report: Mutex<VerifyReport>,
    /// Bytes that were read.
    pub done: AtomicU64,
    /// Whether it is known that storage is there.
    storage_is_there: AtomicBool,
}

impl<'a> Verifier<'a> {
    pub fn new(service: &'a Service, scope: Scope) -> Self {
        Self {
            service,
            storage: service.storage.without_hot_tier(),
            scope,
            report: Mutex::default(),
            done: AtomicU64::new(0),
            storage_is_there: AtomicBool::new(false),
        }
    }

    pub fn report(&self) -> MutexGuard<'_, VerifyReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn into_report(self) -> VerifyReport {
        self.report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that were read.
    pub fn read(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.report().bytes += bytes;
        Counts::add(&self.service.verification.counts.bytes, bytes);
    }

    /// Notes something that is not as it should be.
    pub fn find(&self, what: &str, name: impl ToString, problem: impl ToString, outcome: Outcome) {
        let (name, problem) = (name.to_string(), problem.to_string());
        Counts::add(&self.service.verification.counts.findings[outcome as usize], 1);
        tracing::warn!(
            what,
            name,
            problem,
            outcome = outcome.as_str(),
            "what is stored is not as it should be"
        );
        self.report().add(Finding { what: what.to_owned(), name, problem, outcome });
    }

    /// Makes sure, before something is taken for lost since it is not there, that this is the storage of which the rows
    /// tell: a disk may not be mounted, or another bucket be named.
    pub async fn hold_storage(&self) -> Result<(), VerifyError> {
        if self.storage_is_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.storage.has_one_of(&self.service.metadata.some_objects().await?).await? {
            return Err(VerifyError::NoObjects(self.storage.place().to_owned()));
        }
        self.storage_is_there.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Withdraws a chunk whose frame was found damaged where its row says that it lies.
    pub async fn withdraw_chunk(&self, frame: &FrameRow, problem: &str) -> Result<(), VerifyError> {
        let (metadata, now) = (&self.service.metadata, self.service.clock.now());
        let new_name = larder_protocol::ChunkId(random_bytes().map_err(|_| VerifyError::Random)?);
        let Some(withdrawn) = metadata.withdraw_chunk(frame, new_name, now).await? else { return Ok(()) };
        let name = format!("{} in {} at {}", frame.name, frame.chunk.object, frame.chunk.frame_offset);
        if withdrawn.paths.is_empty() {
            self.find("chunk", name, format!("{problem}. No path needs it"), Outcome::Mended);
        } else {
            let paths = withdrawn.paths.len();
            self.find("chunk", name, format!("{problem}. {paths} paths need it"), Outcome::Withdrawn);
        }
        self.tell_readers(&withdrawn, problem);
        Ok(())
    }

    /// Withdraws a NAR whose frames are right, and which is not what its row says.
    pub async fn withdraw_nar(
        &self,
        nar: i64,
        name: impl ToString,
        problem: &str,
    ) -> Result<(), VerifyError> {
        let withdrawn = self.service.metadata.withdraw_nar(nar, self.service.clock.now()).await?;
        self.find("nar", name, problem, Outcome::Withdrawn);
        self.tell_readers(&withdrawn, problem);
        Ok(())
    }

    /// Withdraws a path whose row is not what was published.
    pub async fn withdraw_path(
        &self,
        path: i64,
        name: impl ToString,
        problem: &str,
    ) -> Result<(), VerifyError> {
        let withdrawn = self.service.metadata.withdraw_path(path, self.service.clock.now()).await?;
        self.find("path", name, problem, Outcome::Withdrawn);
        self.tell_readers(&withdrawn, problem);
        Ok(())
    }

    fn tell_readers(&self, withdrawn: &Withdrawn, problem: &str) {
        Counts::add(&self.service.verification.counts.withdrawn, withdrawn.paths.len() as u64);
        for (cache, path) in withdrawn.paths.iter().take(1000) {
            tracing::error!(%cache, %path, problem, "a path was withdrawn; the next push of it mends it");
        }
        self.forget(&withdrawn.paths);
    }

    /// Has readers forget what was rendered of these paths.
    pub fn forget(&self, paths: &[(CacheName, StorePath)]) {
        let mut of_caches: BTreeMap<&CacheName, Vec<&StorePath>> = BTreeMap::new();
        for (cache, path) in paths {
            of_caches.entry(cache).or_default().push(path);
        }
        for (name, paths) in of_caches {
            if let Some(cache) = self.service.caches.get(name) {
                self.service.reads.withdrawn(cache, paths.iter().map(|path| path.hash()));
            }
        }
    }
}
