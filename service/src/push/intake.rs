//! What the service brings itself: a push by the same steps as a client's, without the wire between.
//!
//! NARs come side by side, already cut. One task writes their frames, and has those verified by reading back whose
//! chunks are all on disk. What does not hold is left out when the push is committed.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use larder_protocol::{
    ChunkId, NarHash, StorePath, StorePathHash,
    api::{OpenPush, PathInfo, Permission, PushId},
    chunk::CutChunk,
    recipe::{Recipe, RecipeChunk},
    upload::FrameEntry,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{PushRequest, commit, open, recipes, upload::Upload};
use crate::{
    Service,
    audit::Who,
    caches::Cache,
    error::ApiError,
    metadata::FoundPush,
    trust::{Grant, GrantedTo, Rank},
};

/// So many bytes of frames are written at once.
const BATCH_BYTES: usize = 512 << 10;
/// How many batches of frames wait for the disk.
const QUEUED: usize = 4;
/// So many NARs, or so many bytes of them, are verified at once.
const VERIFIED_NARS: usize = 500;
const VERIFIED_BYTES: u64 = 256 << 20;

/// A part of a NAR, or its end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The next chunks.
    Chunks(Vec<CutChunk>),
    /// The last has come.
    End,
}

/// Why a NAR was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// Whoever cuts it gave up, and knows why.
    #[error("it ended too early")]
    Ended,
    /// The push cannot go on.
    #[error("{}", .0.message())]
    Push(ApiError),
}

impl From<ApiError> for IntakeError {
    fn from(error: ApiError) -> Self {
        Self::Push(error)
    }
}

/// What happens to a NAR once its chunks are on disk: nothing, or why it does not hold.
pub(crate) type Fate = oneshot::Receiver<Result<(), String>>;

/// What the writing task is to do.
enum Step {
    Frames(Vec<(FrameEntry, Bytes)>),
    Nar(Recipe, oneshot::Sender<Result<(), String>>),
}

/// A push of the service's own that is open.
pub(crate) struct Intake {
    request: Arc<PushRequest>,
    /// Paths whose NARs are to be brought.
    missing: HashSet<StorePathHash>,
    /// Paths that cannot be what they are said to be, and why.
    refused: HashMap<StorePathHash, String>,
    /// Chunks that are stored, or will be before what is sent from now on.
    accepted: Mutex<HashSet<ChunkId>>,
    steps: mpsc::Sender<Step>,
    writing: JoinHandle<Result<(), ApiError>>,
    owner: String,
    open: Open,
}

/// How opening one ended.
pub(crate) enum Opened {
    /// NARs are missing.
    Open(Box<Intake>),
    /// Everything was here, and is published now.
    Committed,
}

impl Intake {
    /// Opens a push for paths that come from `from`, and ends what an earlier attempt at the same left.
    pub(crate) async fn open(
        service: &Arc<Service>,
        cache: &Arc<Cache>,
        from: &str,
        paths: Vec<PathInfo>,
        roots: Vec<StorePath>,
    ) -> Result<Opened, ApiError> {
        let grant = Grant {
            cache: cache.name().clone(),
            permissions: vec![Permission::Push, Permission::Read],
            identity: GrantedTo::Prefetch { from: from.to_owned() },
            rank: Rank::PREFETCHED,
            isolated: None,
        };
        let who = Who::of(&grant.identity);
        let request = OpenPush { paths, roots, ..OpenPush::default() };
        let opened = open::open_own(service, cache, &grant, &who, &request).await?;
        if opened.committed.is_some() {
            return Ok(Opened::Committed);
        }
        let owner = grant.identity.owner();
        let push = find(service, cache, &opened.push, &owner).await?;
        let request = Arc::new(PushRequest {
            service: service.clone(),
            cache: cache.clone(),
            push,
            name: opened.push,
            who,
        });
        let (steps, taken) = mpsc::channel(QUEUED);
        let writing = tokio::spawn(write(request.clone(), taken));
        Ok(Opened::Open(Box::new(Self {
            open: Open(Some((service.clone(), opened.push))),
            owner,
            request,
            missing: opened.missing.into_iter().collect(),
            refused: opened
                .refused
                .into_iter()
                .map(|refused| (refused.path.hash(), refused.reason))
                .collect(),
            accepted: Mutex::default(),
            steps,
            writing,
        })))
    }

    /// Whether a path's NAR is to be brought.
    pub(crate) fn is_missing(&self, path: &StorePath) -> bool {
        self.missing.contains(&path.hash())
    }

    /// Paths that cannot be what they are said to be, and why. They are no part of the push.
    pub(crate) fn refused(&self) -> &HashMap<StorePathHash, String> {
        &self.refused
    }

    /// Says that the push lives, so that nobody takes it for abandoned. To be called now and then.
    pub(crate) async fn keep_alive(&self) -> Result<(), ApiError> {
        let PushRequest { service, cache, name, .. } = &*self.request;
        find(service, cache, name, &self.owner).await.map(drop)
    }

    /// Takes a NAR that comes in chunks. What becomes of it is known when the push is finished, or before.
    pub(crate) async fn take(
        &self,
        nar_hash: NarHash,
        nar_size: u64,
        mut cut: mpsc::Receiver<Cut>,
    ) -> Result<Fate, IntakeError> {
        let mut chunks = Vec::new();
        loop {
            match cut.recv().await {
                Some(Cut::Chunks(batch)) => {
                    chunks.extend(
                        batch.iter().map(|cut| RecipeChunk { id: cut.id, hashes: cut.hashes.clone() }),
                    );
                    self.store(batch).await?;
                }
                Some(Cut::End) => break,
                None => return Err(IntakeError::Ended),
            }
        }
        let (told, fate) = oneshot::channel();
        self.step(Step::Nar(Recipe { nar_hash, nar_size, chunks }, told)).await?;
        Ok(fate)
    }

    /// Stores chunks that are not stored yet.
    async fn store(&self, chunks: Vec<CutChunk>) -> Result<(), IntakeError> {
        let service = &self.request.service;
        let new = {
            let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            let mut seen = HashSet::new();
            let is_new = |cut: &CutChunk| !accepted.contains(&cut.id) && seen.insert(cut.id);
            chunks.into_iter().filter(is_new).collect::<Vec<_>>()
        };
        if new.is_empty() {
            return Ok(());
        }
        let names: Vec<ChunkId> = new.iter().map(|cut| cut.id).collect();
        let stored = self.request.stored_chunks(&names).await?;
        let missing: Vec<CutChunk> = new.into_iter().filter(|cut| !stored.contains_key(&cut.id)).collect();
        if !missing.is_empty() {
            let frames = service.workshop.encode(move |encoder| {
                let frame = |cut: CutChunk| {
                    let frame = encoder.encode(&cut.content, &cut.holes);
                    let entry = FrameEntry::of(cut.id, cut.content.len(), &frame)?;
                    Some((entry, Bytes::from(frame.bytes)))
                };
                missing.into_iter().map(frame).collect::<Option<Vec<_>>>()
            });
            let frames = frames.await?.ok_or_else(|| ApiError::internal("a frame is beyond its bounds"))?;
            self.step(Step::Frames(frames)).await?;
        }
        // Only now: what is sent behind it is written behind it.
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        Ok(())
    }

    async fn step(&self, step: Step) -> Result<(), ApiError> {
        let ended = |_| ApiError::internal("a prefetch's frames cannot be written any more");
        self.steps.send(step).await.map_err(ended)
    }

    /// Waits until everything that was taken is verified or refused. Before, nobody hears of the last NARs' fates.
    pub(crate) async fn settle(self) -> Result<Settled, ApiError> {
        let Self { request, steps, writing, open, .. } = self;
        drop(steps);
        writing.await.map_err(|_| ApiError::internal("a prefetch's writer panicked"))??;
        Ok(Settled { request, open })
    }
}

/// A push of the service's own to which nothing is added any more.
pub(crate) struct Settled {
    request: Arc<PushRequest>,
    open: Open,
}

impl Settled {
    /// Publishes the paths of the push, but those in `without`.
    pub(crate) async fn commit(mut self, without: &HashSet<StorePathHash>) -> Result<(), ApiError> {
        let PushRequest { service, push, .. } = &*self.request;
        service.metadata.unstage(push.id, without).await?;
        commit::commit_push(&self.request).await?;
        self.open.0 = None;
        Ok(())
    }
}

/// Gives a push up that nobody commits. What it stored is taken by a sweep, unless somebody needs it by then.
struct Open(Option<(Arc<Service>, PushId)>);

impl Drop for Open {
    fn drop(&mut self) {
        let Some((service, push)) = self.0.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            // If not now, then when it has been silent for long.
            if let Err(error) = service.metadata.give_up_push(&push, service.clock.now()).await {
                tracing::warn!(%error, "a prefetch's push could not be given up");
            }
        });
    }
}

/// The writing task: all frames go to one object after another, and NARs are verified when one is on disk, while the next
/// is written.
async fn write(request: Arc<PushRequest>, mut steps: mpsc::Receiver<Step>) -> Result<(), ApiError> {
    let mut upload = Upload::new(request.clone());
    // Several tasks may have made the same frame.
    let mut known: HashSet<ChunkId> = HashSet::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut waiting = Waiting::default();
    let mut verifying = JoinSet::new();
    while let Some(step) = steps.recv().await {
        match step {
            Step::Frames(frames) => {
                let new = frames.into_iter().filter(|(entry, _)| known.insert(entry.id));
                batch.extend(new.inspect(|(_, frame)| bytes += frame.len()));
            }
            Step::Nar(recipe, told) => waiting.add(recipe, told),
        }
        if bytes >= BATCH_BYTES || waiting.is_full() {
            bytes = 0;
            upload.append(mem::take(&mut batch)).await?;
            if waiting.is_full() {
                upload.end_object().await?;
            }
            if upload.is_durable() {
                end(&mut verifying).await?;
                verifying.spawn(mem::take(&mut waiting).verify(request.clone()));
            }
        }
    }
    upload.append(batch).await?;
    upload.end_object().await?;
    end(&mut verifying).await?;
    waiting.verify(request).await
}

/// Waits until what is being verified is.
async fn end(verifying: &mut JoinSet<Result<(), ApiError>>) -> Result<(), ApiError> {
    while let Some(verified) = verifying.join_next().await {
        verified.map_err(|_| ApiError::internal("a prefetch's verification panicked"))??;
    }
    Ok(())
}

/// NARs that wait for their chunks to be on disk.
#[derive(Default)]
struct Waiting {
    recipes: Vec<Recipe>,
    told: HashMap<NarHash, oneshot::Sender<Result<(), String>>>,
    bytes: u64,
}

impl Waiting {
    fn add(&mut self, recipe: Recipe, told: oneshot::Sender<Result<(), String>>) {
        self.bytes = self.bytes.saturating_add(recipe.nar_size);
        self.told.insert(recipe.nar_hash, told);
        self.recipes.push(recipe);
    }

    fn is_full(&self) -> bool {
        self.recipes.len() >= VERIFIED_NARS || self.bytes >= VERIFIED_BYTES
    }

    async fn verify(self, request: Arc<PushRequest>) -> Result<(), ApiError> {
        let Self { recipes, mut told, .. } = self;
        if recipes.is_empty() {
            return Ok(());
        }
        let answer = recipes::verify(&request, recipes).await?;
        for rejected in answer.rejected {
            if let Some(told) = told.remove(&rejected.nar_hash) {
                // Whoever wanted to know may be gone.
                let _ = told.send(Err(rejected.reason));
            }
        }
        for nar in answer.verified {
            if let Some(told) = told.remove(&nar) {
                let _ = told.send(Ok(()));
            }
        }
        Ok(())
    }
}

/// The push of that name.
async fn find(service: &Service, cache: &Cache, name: &PushId, owner: &str) -> Result<FoundPush, ApiError> {
    let found = service.metadata.find_push(cache.name(), name, owner, service.clock.now()).await?;
    found.ok_or_else(|| ApiError::internal("a push that was opened just now is not there"))
}
