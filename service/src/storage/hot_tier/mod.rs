//! The hot tier: copies of a bucket's objects in a bounded folder, of those that were written lately and those that are read
//! often.
//!
//! An object never changes, so a copy is right for as long as there is one. All that is known of copies is the folder: a
//! copy's time of modification is when it was used last, and the oldest go first. Whatever fails here is no failure: the
//! object is in the bucket.

mod copy;

use std::{
    collections::HashMap,
    fs::{self, File},
    io, mem,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, path::Path as Key};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking};

use self::copy::Draft;
use super::{Run, StorageError};
use crate::config::HotTierConfig;

/// Of so many objects that are not here is known how much was read of them.
const REMEMBERED: usize = 10_000;
/// So many bytes of an object are fetched at once.
const PIECE: u64 = 4 << 20;

/// The folder, and what is counted of it.
#[derive(Debug)]
pub struct HotTier {
    folder: PathBuf,
    limit: u64,
    /// The bytes of all copies, or about as many: two that make the same copy at once both add it.
    held: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// How many bytes were read from the bucket of objects that are not here.
    missed: Mutex<HashMap<Key, u64>>,
    /// One object is fetched at a time: readers go first.
    fetching: Arc<Semaphore>,
    /// One at a time makes room.
    making_room: Mutex<()>,
}

impl HotTier {
    /// Opens the folder, with what an earlier service left in it.
    pub(super) fn open(config: &HotTierConfig) -> Result<Arc<Self>, StorageError> {
        let tier = Self {
            folder: config.folder.clone(),
            limit: config.max_size.get(),
            held: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            missed: Mutex::default(),
            fetching: Arc::new(Semaphore::new(1)),
            making_room: Mutex::default(),
        };
        let opened = fs::DirBuilder::new().recursive(true).mode(0o700).create(&tier.folder);
        opened
            .and_then(|()| tempfile::tempfile_in(&tier.folder))
            .and_then(|_| tier.keep_to(tier.limit))
            .map_err(|source| StorageError::Folder { path: tier.folder.display().to_string(), source })?;
        Ok(Arc::new(tier))
    }

    /// How many bytes there are.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// How often something was read that was here, and that was not.
    pub fn reads(&self) -> [(&'static str, u64); 2] {
        [("hit", self.hits.load(Relaxed)), ("miss", self.misses.load(Relaxed))]
    }

    /// Where an object's copy is.
    fn place(&self, key: &str) -> PathBuf {
        self.folder.join(copy::name(key))
    }

    /// Whether an object is here that is to be read.
    pub(super) async fn has(&self, key: &str) -> bool {
        let copy = self.place(key);
        let is_here = spawn_blocking(move || copy.exists()).await.unwrap_or(false);
        self.misses.fetch_add(u64::from(!is_here), Relaxed);
        is_here
    }

    /// Reads those of some runs that are here.
    pub(super) async fn read(
        self: &Arc<Self>,
        runs: Vec<Run>,
    ) -> Result<Vec<(Run, Option<Bytes>)>, StorageError> {
        let tier = self.clone();
        let read = move || {
            let read = |run: Run| {
                let found = tier.read_one(&run);
                (if found.is_some() { &tier.hits } else { &tier.misses }).fetch_add(1, Relaxed);
                (run, found)
            };
            runs.into_iter().map(read).collect()
        };
        Ok(spawn_blocking(read).await?)
    }

    fn read_one(&self, run: &Run) -> Option<Bytes> {
        let mut copy = File::open(self.place(&run.object)).ok()?;
        match copy::read(&mut copy, &run.object, &run.range) {
            Ok(bytes) => {
                let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                // Where this fails the copy goes earlier.
                let _ = futimens(&copy, &Timestamps { last_access: now, last_modification: now });
                Some(bytes.into())
            }
            Err(error) => {
                tracing::warn!(%error, object = %run.object, "a copy in the hot tier is damaged; it is dropped");
                self.forget(&run.object);
                None
            }
        }
    }

    /// Drops the copy of an object that is deleted.
    pub(super) async fn deleted(self: &Arc<Self>, key: &str) {
        let (tier, key) = (self.clone(), key.to_owned());
        drop(spawn_blocking(move || tier.forget(&key)).await);
    }

    fn forget(&self, key: &str) {
        let copy = self.place(key);
        let length = fs::metadata(&copy).map_or(0, |about| about.len());
        if fs::remove_file(&copy).is_ok() {
            let _ = self.held.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(length)));
        }
    }

    /// Notes that some bytes of an object of this size were read from the bucket. Once that is more than the whole object has,
    /// it would have been better to have it here: then it is fetched, beside all else.
    pub(super) fn missed(self: &Arc<Self>, store: &Arc<dyn ObjectStore>, key: &Key, bytes: u64, size: u64) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() >= REMEMBERED {
            missed.clear();
        }
        let so_far = missed.entry(key.clone()).or_default();
        *so_far += bytes;
        if *so_far <= size || size > self.limit {
            return;
        }
        let Ok(alone) = self.fetching.clone().try_acquire_owned() else { return };
        missed.remove(key);
        let (tier, store, key) = (self.clone(), store.clone(), key.clone());
        tokio::spawn(async move {
            let _alone = alone;
            if let Err(error) = tier.fetch(&*store, &key, size).await {
                tracing::debug!(%error, object = %key, "an object could not be fetched into the hot tier");
            }
        });
    }

    async fn fetch(
        self: &Arc<Self>,
        store: &dyn ObjectStore,
        key: &Key,
        size: u64,
    ) -> Result<(), StorageError> {
        let mut copying = Copying::new(self.clone(), key);
        let mut at = 0;
        while at < size {
            let piece = store.get_range(key, at..size.min(at + PIECE)).await?;
            at += PIECE;
            copying.write(piece.into()).await;
        }
        copying.finish().await;
        Ok(())
    }

    /// Drops what was used least lately until no more than `limit` is left, with some room for what comes.
    fn keep_to(&self, limit: u64) -> io::Result<()> {
        let _alone = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // What somebody else has put there stays; what is listed may have gone meanwhile.
            let Some(about) = entry.metadata().ok().filter(|_| copy::is_one(&entry.file_name())) else {
                continue;
            };
            files.push((about.modified()?, entry.path(), about.len()));
        }
        let mut held: u64 = files.iter().map(|(_, _, length)| length).sum();
        if held > limit {
            files.sort();
            for (_, file, length) in files {
                if held <= limit / 10 * 9 {
                    break;
                }
                // Whoever reads it just now reads on.
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                held -= length;
            }
        }
        self.held.store(held, Relaxed);
        Ok(())
    }

    fn failed(&self, error: &io::Error) {
        tracing::warn!(%error, folder = %self.folder.display(), "the hot tier cannot keep a copy of an object");
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            // The disk has less room than was thought: what is newer is worth more.
            self.make_room(self.held() / 10 * 9);
        }
    }

    fn make_room(&self, limit: u64) {
        if let Err(error) = self.keep_to(limit) {
            tracing::warn!(%error, folder = %self.folder.display(), "the hot tier cannot be kept small");
        }
    }
}

/// A copy that is being made while its object is. Dropped before it is finished, it leaves nothing.
pub(super) struct Copying {
    tier: Arc<HotTier>,
    key: String,
    stage: Stage,
}

enum Stage {
    New,
    Begun(Draft),
    Failed,
}

impl Copying {
    pub fn new(tier: Arc<HotTier>, key: &Key) -> Self {
        Self { tier, key: key.to_string(), stage: Stage::New }
    }

    /// Adds the object's next bytes.
    pub async fn write(&mut self, payload: PutPayload) {
        let begun = match mem::replace(&mut self.stage, Stage::Failed) {
            Stage::New => None,
            Stage::Begun(draft) => Some(draft),
            Stage::Failed => return,
        };
        let (tier, key) = (self.tier.clone(), self.key.clone());
        let written = spawn_blocking(move || {
            let write = || {
                let mut draft = begun.map_or_else(|| Draft::begin(&tier.folder, &key), Ok)?;
                payload.iter().try_for_each(|bytes| draft.write(bytes))?;
                Ok(draft)
            };
            write().inspect_err(|error| tier.failed(error))
        });
        if let Ok(Ok(draft)) = written.await {
            self.stage = Stage::Begun(draft);
        }
    }

    /// Makes the copy one that is read, once its object is whole.
    pub async fn finish(mut self) {
        let Stage::Begun(draft) = mem::replace(&mut self.stage, Stage::Failed) else { return };
        let (tier, key) = (self.tier.clone(), self.key.clone());
        let finished = spawn_blocking(move || match draft.finish(&tier.place(&key)) {
            Ok(length) => {
                if tier.held.fetch_add(length, Relaxed) + length > tier.limit {
                    tier.make_room(tier.limit);
                }
            }
            Err(error) => tier.failed(&error),
        });
        drop(finished.await);
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let Stage::Begun(draft) = mem::replace(&mut self.stage, Stage::Failed) else { return };
        // Its file is deleted: not by a thread on which others wait.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(draft));
        }
    }
}
