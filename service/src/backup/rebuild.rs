//! Making a database anew from what is written beside the objects: the indexes of the frames, the recipes, and the pushes'
//! records.
//!
//! Every NAR is read back before it is served, since what it is sent as is not written anywhere; so what is damaged does
//! not come back, and the next push brings it. Each namespace has its own folders, and nothing is taken from one into
//! another. Pull requests' caches do not come back; sweeps take their files.

use std::collections::{BTreeMap, HashSet};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use larder_protocol::{
    ChunkId, NarHash,
    recipe::{self, Recipe},
    upload::FrameEntry,
};

use super::{BackupError, fresh::Fresh};
use crate::{
    config::Config,
    metadata::{Metadata, Namespace, ObjectId, VerifiedNar},
    push::{
        PushRecord, RECORDS, Workshop,
        verify::{ReadBack, ReadBackError},
    },
    storage::{Ingredient, Run, Storage},
};

/// No longer object of recipes or records is read.
const LONGEST: u64 = 1 << 30;
/// How many NARs are read back at a time.
const PARALLEL: usize = 2;
/// How many unreadable objects are listed.
const LISTED: usize = 100;

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RebuildReport {
    /// Objects of frames.
    pub objects: u64,
    /// Chunks that something needs.
    pub chunks: u64,
    /// NARs, each read back.
    pub nars: u64,
    /// NARs that are damaged, or of which a chunk is missing.
    pub nars_lost: u64,
    /// Pushes.
    pub pushes: u64,
    /// Visible paths.
    pub paths: u64,
    /// Paths whose NAR did not come back.
    pub paths_lost: u64,
    /// Objects that cannot be read, the first hundred of them.
    pub unreadable: Vec<String>,
}

/// Rebuilds the database. Whoever calls this holds the data directory's lock.
///
/// # Errors
/// When a database is in use already, or database or storage fail. Then there is none.
pub async fn rebuild(config: &Config, now: i64) -> Result<RebuildReport, BackupError> {
    let storage = Storage::open(config)?;
    let workshop = Workshop::new(&config.limits).map_err(crate::StartError::from)?;
    let fresh = Fresh::begin(config).await?;
    let mut rebuilding = Rebuilding {
        metadata: &fresh.metadata,
        storage: &storage,
        workshop: &workshop,
        now,
        report: RebuildReport::default(),
    };
    match rebuilding.run().await {
        Ok(()) => {
            let report = rebuilding.report;
            fresh.finish().await?;
            Ok(report)
        }
        Err(error) => {
            fresh.abandon().await;
            Err(error)
        }
    }
}

struct Rebuilding<'a> {
    metadata: &'a Metadata,
    storage: &'a Storage,
    workshop: &'a Workshop,
    now: i64,
    report: RebuildReport,
}

/// The namespace that a key's folder is of; none where it is nobody's or a pull request's.
fn namespace_of(key: &str) -> Option<Namespace> {
    let number: i64 = key.split('/').nth(1)?.parse().ok()?;
    (number >= 0).then_some(Namespace(number))
}

impl Rebuilding<'_> {
    async fn run(&mut self) -> Result<(), BackupError> {
        let mut highest = 0;
        for (key, size) in self.list("frames").await? {
            highest = highest.max(namespace_of(&key).map_or(0, |namespace| namespace.0));
            self.object(&key, size).await?;
        }
        for (key, size) in self.list("recipes").await? {
            self.recipes(&key, size).await?;
        }
        self.report.chunks = self.metadata.forget_unused_chunks().await?;
        self.records(highest).await
    }

    /// The objects of a folder. Keys alone: some hundred bytes for each 32 MiB, or for each push.
    async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, BackupError> {
        Ok(self.storage.list(folder).try_collect().await?)
    }

    fn unreadable(&mut self, key: &str, why: impl std::fmt::Display) {
        if self.report.unreadable.len() < LISTED {
            self.report.unreadable.push(format!("{key}: {why}"));
        }
    }

    /// Notes an object of frames by its index.
    async fn object(&mut self, key: &str, size: u64) -> Result<(), BackupError> {
        let Some(namespace) = namespace_of(key) else {
            // Nothing will lie in it: a sweep takes it.
            self.metadata.add_object(key, size, self.now).await?;
            return Ok(());
        };
        let index = match self.storage.index(key, size).await {
            Ok(Ok(index)) => index,
            Ok(Err(why)) => {
                self.unreadable(key, why);
                return Ok(());
            }
            Err(error) if error.is_lost() => {
                self.unreadable(key, error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let object = self.metadata.add_object(key, size, self.now).await?;
        self.metadata.add_frames(object, namespace, &index).await?;
        self.report.objects += 1;
        Ok(())
    }

    /// Reads back the NARs of an object of recipes, and notes those that are right.
    async fn recipes(&mut self, key: &str, size: u64) -> Result<(), BackupError> {
        let Some(namespace) = namespace_of(key) else {
            self.metadata.add_object(key, size, self.now).await?;
            return Ok(());
        };
        let recipes = match self.storage.get(key, LONGEST).await {
            Ok(bytes) => recipe::decode(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.is_lost() => Err(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let recipes = match recipes {
            Ok(recipes) => recipes,
            Err(why) => {
                self.unreadable(key, why);
                return Ok(());
            }
        };
        let object = self.metadata.add_object(key, size, self.now).await?;
        let hashes: Vec<NarHash> = recipes.iter().map(|recipe| recipe.nar_hash).collect();
        let known = self.metadata.stored_nars(&[namespace], &hashes).await?;
        let recipes: Vec<Recipe> =
            recipes.into_iter().filter(|recipe| !known.contains_key(&recipe.nar_hash)).collect();
        let checks: Vec<_> = recipes.iter().map(|recipe| self.read_back(namespace, recipe).boxed()).collect();
        let checked: Vec<Option<VerifiedNar>> =
            stream::iter(checks).buffer_unordered(PARALLEL).try_collect().await?;
        for nar in checked {
            match nar {
                Some(nar) if self.note(namespace, object, &nar).await? => self.report.nars += 1,
                Some(_) => {}
                None => self.report.nars_lost += 1,
            }
        }
        Ok(())
    }

    /// Notes a NAR, unless the same object has it twice.
    async fn note(
        &self,
        namespace: Namespace,
        object: ObjectId,
        nar: &VerifiedNar,
    ) -> Result<bool, BackupError> {
        if !self.metadata.stored_nars(&[namespace], &[nar.hash]).await?.is_empty() {
            return Ok(false);
        }
        self.metadata.add_nar(namespace, object, nar).await?;
        Ok(true)
    }

    async fn read_back(
        &self,
        namespace: Namespace,
        recipe: &Recipe,
    ) -> Result<Option<VerifiedNar>, BackupError> {
        let names: HashSet<ChunkId> = recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let names: Vec<ChunkId> = names.into_iter().collect();
        let stored = self.metadata.chunks_named(namespace, &names).await?;
        let ingredients = recipe.chunks.iter().map(|chunk| {
            let place = stored.get(&chunk.id)?;
            (place.holes.len() == chunk.hashes.len())
                .then(|| (place.clone(), chunk.hashes.clone().into_boxed_slice()))
        });
        let Some(ingredients) = ingredients.collect::<Option<Vec<Ingredient>>>() else { return Ok(None) };
        let reading = ReadBack { metadata: self.metadata, storage: self.storage, workshop: self.workshop };
        match reading.nar(&ingredients).await {
            Ok(Ok(nar)) if nar.hash == recipe.nar_hash => Ok(Some(nar.verified(ingredients))),
            Err(ReadBackError::Storage(error)) if !error.is_lost() => Err(error.into()),
            Err(ReadBackError::Metadata(error)) => Err(error.into()),
            _ => {
                self.forget_damaged(recipe, &ingredients).await?;
                Ok(None)
            }
        }
    }

    /// Forgets those chunks of a NAR that are not what their names say, so that the next push brings them.
    async fn forget_damaged(&self, recipe: &Recipe, ingredients: &[Ingredient]) -> Result<(), BackupError> {
        for (chunk, (place, _)) in recipe.chunks.iter().zip(ingredients) {
            let range = place.frame_offset..place.frame_offset + u64::from(place.frame_len);
            let read = self.storage.read(vec![Run { object: place.object.clone(), range }]).await;
            let entry = FrameEntry {
                id: chunk.id,
                frame_len: place.frame_len,
                content_len: place.content_len,
                holes: place.holes.to_vec(),
            };
            let is_right = match read {
                Ok(frame) => {
                    let check = self.workshop.work(move |decoder| decoder.check(&entry, &frame).is_ok());
                    check.await.unwrap_or(true)
                }
                Err(error) if error.is_lost() => false,
                Err(error) => return Err(error.into()),
            };
            if !is_right {
                self.metadata.forget_chunk(place.id).await?;
            }
        }
        Ok(())
    }

    /// Publishes again what pushes published, in the order of their commits, so that what was replaced stays replaced.
    async fn records(&mut self, highest: i64) -> Result<(), BackupError> {
        let mut order = BTreeMap::new();
        let mut of_caches = BTreeMap::new();
        for (key, size) in self.list(RECORDS).await? {
            match self.record(&key).await? {
                Ok(record) => {
                    of_caches.entry(record.cache.clone()).or_insert(record.namespace);
                    order.insert((record.committed_at, record.row, key.clone()), size);
                }
                Err(why) => self.unreadable(&key, why),
            }
        }
        self.metadata.restore_namespaces(&of_caches, highest).await?;
        for ((_, _, key), size) in order {
            let Ok(record) = self.record(&key).await? else { continue };
            let object = self.metadata.add_object(&key, size, self.now).await?;
            if of_caches.get(&record.cache) != Some(&record.namespace) {
                self.unreadable(&key, "its cache has its chunks elsewhere");
                continue;
            }
            if let Some(restored) = self.metadata.restore_push(&record, object, self.now).await? {
                self.report.pushes += 1;
                self.report.paths_lost += record.paths.len() as u64 - restored;
            }
        }
        self.report.paths = self.metadata.count_visible_paths().await?;
        Ok(())
    }

    async fn record(&self, key: &str) -> Result<Result<PushRecord, String>, BackupError> {
        let bytes = match self.storage.get(key, LONGEST).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_lost() => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let record = PushRecord::decode(&bytes).map_err(|error| error.to_string());
        Ok(record.and_then(|record| match namespace_of(key) {
            Some(namespace) if namespace.0 == record.namespace => Ok(record),
            _ => Err("it is of another folder".to_owned()),
        }))
    }
}
