//! Writing NARs, and then the narinfos that name them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use larder_protocol::StorePathHash;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    LeftOut, MirrorError, MirrorReport, Mirroring, Why,
    listing::{Listing, nar_file, narinfo_file},
    plan::{Outcome, Plan, Planned, others, understand},
};
use crate::{
    cache::{NarFile, read_frames, render},
    metadata::StoredPath,
    storage::{Ingredient, Piece},
};

/// How many paths are looked at side by side.
const PATHS: usize = 32;
/// How many NARs are written side by side.
const NARS: usize = 6;
/// How many bytes go in one part of a long NAR: the fewest that S3 takes.
const PART: u64 = 5 << 20;
/// More than so many parts no bucket takes.
const MOST_PARTS: u64 = 9_000;
/// How many chunks of a recipe are looked up at once.
const CHUNKS: usize = 4096;
/// How often a path is begun anew that is replaced meanwhile.
const TRIES: usize = 3;

/// What was written, and what is known of the mirror by that.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Which paths it has now.
    pub there: HashSet<StorePathHash>,
    /// Their NARs.
    pub needed: HashSet<NarFile>,
    /// The NARs that narinfos named when this began, as far as they were read.
    pub named: HashSet<NarFile>,
    added: u64,
    changed: u64,
    nars: u64,
    nar_bytes: u64,
}

/// What becomes of a NAR that is to be written.
type Writing = Arc<OnceCell<bool>>;

struct Writer<'a> {
    mirroring: &'a Mirroring<'a>,
    listing: &'a Listing,
    plan: &'a Plan,
    nars: Mutex<HashMap<NarFile, Writing>>,
    lanes: Semaphore,
    written: Mutex<Written>,
}

/// Writes what is planned. If something fails, or somebody says stop, what is under way is ended in good order.
pub(super) async fn write(
    mirroring: &Mirroring<'_>,
    listing: &Listing,
    plan: &Plan,
) -> Result<Written, MirrorError> {
    let writer = Writer {
        mirroring,
        listing,
        plan,
        nars: Mutex::default(),
        lanes: Semaphore::new(NARS),
        written: Mutex::default(),
    };
    let mut failed = None;
    // Each comes behind what it refers to, so that whatever one waits for is done or under way.
    let mut paths =
        stream::iter(&plan.order).map(|place| writer.path(&plan.paths[*place])).buffer_unordered(PATHS);
    while let Some(done) = paths.next().await {
        if let Err(error) = done {
            mirroring.state.stop();
            // What fails first is the cause.
            failed.get_or_insert(error);
        }
    }
    drop(paths);
    match failed {
        Some(error) => Err(error),
        None => Ok(writer.written.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

impl Writer<'_> {
    /// Has a path be in the mirror, or says why not.
    async fn path(&self, path: &Planned) -> Result<(), MirrorError> {
        if path.outcome.get().is_some() {
            return Ok(());
        }
        let decided = match path.kept {
            Some(file) => self.keep(path, file).await,
            None => self.bring(path).await,
        };
        // Whoever waits for it must not wait for ever.
        let outcome = decided.as_ref().copied().unwrap_or(Outcome::LeftOut(Why::Went));
        let _ = path.outcome.set(outcome);
        decided.map(drop)
    }

    /// Whether all that a path refers to is there.
    async fn closed(&self, path: &Planned) -> bool {
        for reference in &path.references {
            if *self.plan.paths[*reference].outcome.wait().await != Outcome::There {
                return false;
            }
        }
        true
    }

    /// Leaves a path that only the mirror has.
    async fn keep(&self, path: &Planned, file: NarFile) -> Result<Outcome, MirrorError> {
        if !self.closed(path).await {
            return Ok(Outcome::LeftOut(Why::Refers));
        }
        self.note(|written| {
            written.there.insert(path.hash);
            written.needed.insert(file);
            written.named.insert(file);
        });
        Ok(Outcome::There)
    }

    async fn bring(&self, path: &Planned) -> Result<Outcome, MirrorError> {
        for _ in 0..TRIES {
            let Some(stored) = self.look_up(path).await? else { return Ok(Outcome::LeftOut(Why::Went)) };
            let file = file_of(&stored);
            let is_there = self.nar(&stored, file).await?;
            if !self.closed(path).await {
                return Ok(Outcome::LeftOut(Why::Refers));
            }
            // As it is now: it may have been swept or replaced while its NAR was written.
            let Some(now) = self.look_up(path).await? else { return Ok(Outcome::LeftOut(Why::Went)) };
            if file_of(&now) != file || (!is_there && now.nar.id != stored.nar.id) {
                continue;
            }
            if !is_there {
                return Ok(Outcome::LeftOut(Why::Damaged));
            }
            if !self.refers_as_planned(path, &now).await? {
                return Ok(Outcome::LeftOut(Why::Went));
            }
            self.narinfo(path, file, now).await?;
            return Ok(Outcome::There);
        }
        Ok(Outcome::LeftOut(Why::Went))
    }

    async fn look_up(&self, path: &Planned) -> Result<Option<StoredPath>, MirrorError> {
        if self.mirroring.state.is_stopped() {
            return Err(MirrorError::Stopped);
        }
        let Mirroring { metadata, .. } = self.mirroring;
        Ok(metadata.stored_paths(self.mirroring.name(), &[path.hash]).await?.pop())
    }

    /// Whether a path still refers to the same, and what was not in the cache when it was planned is not there now.
    async fn refers_as_planned(&self, path: &Planned, now: &StoredPath) -> Result<bool, MirrorError> {
        let planned = path.references.iter().map(|place| &self.plan.paths[*place].hash);
        let planned: HashSet<_> = planned.chain(&path.elsewhere).copied().collect();
        if others(&path.hash, &now.published.info.references).into_iter().collect::<HashSet<_>>() != planned {
            return Ok(false);
        }
        let Mirroring { metadata, .. } = self.mirroring;
        Ok(metadata.stored_paths(self.mirroring.name(), &path.elsewhere).await?.is_empty())
    }

    /// Writes a path's narinfo, unless it is there just so.
    async fn narinfo(&self, path: &Planned, file: NarFile, now: StoredPath) -> Result<(), MirrorError> {
        let text = render(self.mirroring.keys, now.published);
        let name = narinfo_file(&path.hash);
        let is_new = !self.listing.narinfos.contains(&path.hash);
        let old = if is_new { None } else { self.mirroring.target.get(&name).await? };
        let named = old.as_ref().and_then(|old| understand(&path.hash, old)).map(|(file, _)| file);
        let is_same = old.as_ref() == Some(&text);
        if !is_same && !self.mirroring.dry_run {
            self.mirroring.target.put(&name, text).await?;
        }
        self.note(|written| {
            written.there.insert(path.hash);
            written.needed.insert(file);
            written.named.extend(named);
            written.added += u64::from(is_new);
            written.changed += u64::from(!is_new && !is_same);
        });
        Ok(())
    }

    /// Has a NAR be there. `false` where it cannot be read as it was verified, or has gone.
    async fn nar(&self, stored: &StoredPath, file: NarFile) -> Result<bool, MirrorError> {
        if self.listing.has(&file, stored.nar.file_size) {
            return Ok(true);
        }
        // Paths may have the same NAR.
        let writing = {
            let mut nars = self.nars.lock().unwrap_or_else(PoisonError::into_inner);
            nars.entry(file).or_default().clone()
        };
        let written = writing.get_or_try_init(async || -> Result<bool, MirrorError> {
            let _lane = self.lanes.acquire().await;
            let is_there = self.mirroring.dry_run || self.write_nar(stored, file).await?;
            if is_there {
                self.note(|written| {
                    written.nars += 1;
                    written.nar_bytes += stored.nar.file_size;
                });
            }
            Ok(is_there)
        });
        let is_there = *written.await?;
        if !is_there {
            // It may be another the next time.
            self.nars.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
        }
        Ok(is_there)
    }

    async fn write_nar(&self, stored: &StoredPath, file: NarFile) -> Result<bool, MirrorError> {
        let (target, name) = (self.mirroring.target, nar_file(&file));
        let size = stored.nar.file_size;
        if size <= PART {
            let mut whole = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            let is_right = self.read_nar(stored, async |bytes| {
                whole.extend_from_slice(&bytes);
                Ok(())
            });
            if !is_right.await? {
                return Ok(false);
            }
            target.put(&name, whole.into()).await?;
            return Ok(true);
        }
        let part = usize::try_from(PART.max(size / MOST_PARTS)).unwrap_or(usize::MAX);
        let mut upload = target.begin(&name, part).await?;
        let is_right = self.read_nar(stored, async |bytes| {
            // One part is sent while the next is read.
            upload.wait_for_capacity(2).await.map_err(|source| target.failed(&name, source))?;
            upload.put(bytes);
            Ok(())
        });
        match is_right.await {
            Ok(true) => {
                target.finish(&name, upload).await?;
                Ok(true)
            }
            other => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, %name, "an upload that was given up could not be taken back");
                }
                other
            }
        }
    }

    /// Reads a NAR's frames in order and hands them on. `false` where they are not what was verified, or have gone.
    async fn read_nar(
        &self,
        stored: &StoredPath,
        mut take: impl AsyncFnMut(bytes::Bytes) -> Result<(), MirrorError>,
    ) -> Result<bool, MirrorError> {
        let Mirroring { metadata, storage, state, .. } = self.mirroring;
        let (mut digest, mut length) = (blake3::Hasher::new(), 0);
        for first in (0..).step_by(CHUNKS) {
            let recipe = metadata.recipe_part(&stored.nar, first..first + CHUNKS).await?;
            let recipe: Arc<[Ingredient]> = recipe.into();
            let mut pieces = storage.stream(recipe.clone());
            while let Some(Piece { frames, bytes }) = pieces.next().await {
                let piece = match bytes {
                    Ok(bytes) => Ok(Bytes::from(bytes)),
                    // They may have moved.
                    Err(_) => {
                        let place = first + frames.start;
                        read_frames(metadata, storage, &stored.nar, &recipe[frames], place).await
                    }
                };
                if state.is_stopped() {
                    return Err(MirrorError::Stopped);
                }
                let piece = match piece {
                    Ok(piece) => piece,
                    Err(error) if error.is_lost() => {
                        tracing::warn!(%error, path = %stored.published.info.path, "a NAR cannot be read");
                        return Ok(false);
                    }
                    Err(error) => return Err(error.into()),
                };
                digest.update(&piece);
                length += piece.len() as u64;
                state.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
                take(piece).await?;
            }
            if recipe.len() < CHUNKS {
                break;
            }
        }
        Ok(length == stored.nar.file_size && digest.finalize().as_bytes()[..20] == stored.nar.encoding.0)
    }

    fn note(&self, note: impl FnOnce(&mut Written)) {
        note(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn file_of(stored: &StoredPath) -> NarFile {
    NarFile { hash: stored.published.info.nar_hash, encoding: stored.nar.encoding }
}

impl Written {
    /// Adds it to what is to be said.
    pub fn tell(&self, plan: &Plan, report: &mut MirrorReport) {
        report.paths = self.there.len() as u64;
        report.added += self.added;
        report.changed += self.changed;
        report.nars_written += self.nars;
        report.nar_bytes_written += self.nar_bytes;
        report.left_out.clear();
        (report.kept_by_mirror, report.referrers_left_out) = (0, 0);
        let mut elsewhere: HashSet<StorePathHash> = HashSet::new();
        for path in &plan.paths {
            match path.outcome.get() {
                Some(Outcome::There) => {
                    report.kept_by_mirror += u64::from(path.kept.is_some());
                    elsewhere.extend(path.elsewhere.iter());
                }
                Some(Outcome::LeftOut(Why::Refers)) | None => report.referrers_left_out += 1,
                Some(Outcome::LeftOut(why)) => {
                    report.left_out.push(LeftOut { path: path.hash.to_string(), why: *why });
                }
            }
        }
        report.at_upstreams = elsewhere.len() as u64;
    }
}
