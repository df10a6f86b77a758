//! Objects on their way to another storage.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::{MigrationError, State};
use crate::{
    metadata::{Metadata, ObjectRow},
    storage::{Storage, StorageError, noted_by},
};

/// How many objects are copied at once; each takes up to 20 MiB of memory.
const AT_ONCE: usize = 4;
/// When no more than so many bytes came while all else was copied, whoever would write may wait for them.
const FEW: u64 = 256 << 20;
/// How many lost objects are listed.
const LISTED: usize = 100;

/// The objects that rows name, on their way. Where both storages are one, they are there.
pub(super) struct Objects<'a> {
    metadata: &'a Metadata,
    source: &'a Storage,
    target: &'a Storage,
    state: &'a State,
    /// What lies in the target, by its key, with its length.
    there: HashMap<String, u64>,
    /// What was copied by this process.
    pub copied: HashMap<String, u64>,
    /// What the last pass did not find.
    pub lost: Vec<String>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(
        metadata: &'a Metadata,
        source: &'a Storage,
        target: &'a Storage,
        state: &'a State,
    ) -> Self {
        let (there, copied) = (HashMap::new(), HashMap::new());
        Self { metadata, source, target, state, there, copied, lost: Vec::new() }
    }

    fn stay(&self) -> bool {
        self.source.place() == self.target.place()
    }

    /// Copies them while more may come, until few do.
    pub(super) async fn copy_meanwhile(&mut self) -> Result<(), MigrationError> {
        if self.stay() {
            return Ok(());
        }
        self.look().await?;
        let mut before = u64::MAX;
        loop {
            let came = self.copy().await?;
            // Where pushes are faster than this, it would never end.
            if came <= FEW || came >= before {
                return Ok(());
            }
            before = came;
        }
    }

    /// Looks what an earlier attempt has copied, and gives up what that one had half sent.
    async fn look(&mut self) -> Result<(), MigrationError> {
        let found: Vec<(String, u64)> = self.target.list("").try_collect().await?;
        let mut notes = Vec::new();
        for (key, size) in found {
            match noted_by(&key).map(str::to_owned) {
                Some(object) => notes.push((key, object)),
                None => drop(self.there.insert(key, size)),
            }
        }
        let named = self.named().await?;
        if !named.is_empty() && !self.source.has_one_of(&self.metadata.some_objects().await?).await? {
            return Err(MigrationError::NoObjects(self.source.place().to_owned()));
        }
        let sizes: HashMap<&str, u64> =
            named.iter().map(|object| (object.key.as_str(), object.size)).collect();
        let mut keys = self.there.keys().chain(notes.iter().map(|(_, object)| object)).peekable();
        if keys.peek().is_some() && !keys.any(|key| sizes.contains_key(key.as_str())) {
            return Err(MigrationError::OthersObjects(self.target.place().to_owned()));
        }
        for (note, object) in notes {
            // The note of an upload may be left though the object is there, whole.
            let size = self.there.get(&object);
            if size.is_some() && size == sizes.get(object.as_str()) {
                self.target.delete(&note).await?;
            } else {
                self.target.delete(&object).await?;
                self.there.remove(&object);
            }
        }
        Ok(())
    }

    /// What rows name. Keys alone: some hundred bytes for each 32 MiB, or for each push.
    async fn named(&self) -> Result<Vec<ObjectRow>, MigrationError> {
        let mut named: Vec<ObjectRow> = Vec::new();
        loop {
            let more = self.metadata.objects_after(named.last().map_or(0, |object| object.id.0)).await?;
            if more.is_empty() {
                return Ok(named);
            }
            named.extend(more);
        }
    }

    /// Copies what is not there. Tells how many bytes that were.
    pub(super) async fn copy(&mut self) -> Result<u64, MigrationError> {
        if self.stay() {
            return Ok(0);
        }
        let named = self.named().await?;
        let (there, absent): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|object| self.there.get(&object.key) == Some(&object.size));
        let bytes = |objects: &[ObjectRow]| objects.iter().map(|object| object.size).sum::<u64>();
        let (done, to_do) = (bytes(&there), bytes(&absent));
        self.state.done.store(done, Ordering::Relaxed);
        self.state.total.store(done + to_do, Ordering::Relaxed);
        let (source, target, state) = (self.source, self.target, self.state);
        let copies: Vec<_> =
            absent.into_iter().map(|object| copy(source, target, state, object).boxed()).collect();
        let mut copies = stream::iter(copies).buffer_unordered(AT_ONCE);
        self.lost.clear();
        while let Some((ObjectRow { key, size, .. }, is_copied)) = copies.try_next().await? {
            if is_copied {
                self.there.insert(key.clone(), size);
                self.copied.insert(key, size);
            } else if self.lost.len() < LISTED {
                self.lost.push(key);
            }
        }
        Ok(to_do)
    }

    /// Removes what a sweep took while it was copied. What cannot be removed does no harm.
    pub(super) async fn remove_leftovers(&mut self) {
        let Ok(named) = self.named().await else { return };
        let named: HashSet<String> = named.into_iter().map(|object| object.key).collect();
        let gone: Vec<String> = self.copied.keys().filter(|key| !named.contains(*key)).cloned().collect();
        for key in gone {
            if let Err(error) = self.target.delete(&key).await {
                tracing::warn!(%error, key, "what a sweep took meanwhile could not be removed");
            }
            self.copied.remove(&key);
        }
    }
}

/// Copies one. Whether it was there.
async fn copy(
    source: &Storage,
    target: &Storage,
    state: &State,
    object: ObjectRow,
) -> Result<(ObjectRow, bool), StorageError> {
    // What is not there a sweep took meanwhile; or it was lost before, as `larderd verify` tells.
    let is_copied = target.copy_from(source, &object.key, object.size).await?;
    if is_copied {
        state.done.fetch_add(object.size, Ordering::Relaxed);
    }
    Ok((object, is_copied))
}
