//! Sending the NARs that an open push misses: this task asks, uploads and has NARs verified, several
//! requests side by side, while threads read the store and make frames.

use std::{collections::HashMap, mem, path::PathBuf};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use larder_protocol::{
    ChunkId, NarHash, StorePath, StorePathHash,
    api::{PushId, RecipesAnswer, UploadAnswer},
    chunk::MAX_CHUNK,
    recipe::{Recipe, RecipeChunk},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep_until},
};

use super::{
    PushError, PushOptions,
    batch::{Body, Frame, Question, Recipes},
    pipeline::{Encoding, Gone, Made, Pipeline, Reading},
};
use crate::{
    progress::{Event, Progress},
    service::{Service, ServiceError},
};

/// How many questions are open at a time.
const QUESTIONS: usize = 4;
/// How many requests to verify run side by side.
const VERIFICATIONS: usize = 2;
/// So many chunks keep two encoders busy for longer than a question's round trip takes.
const ENOUGH_TO_ENCODE: usize = 64;
/// Below this a window has no room for a chunk that is read, one that is encoded, and a body.
const SMALLEST_WINDOW: usize = 8 << 20;
/// The smallest body limit with which a push works: a chunk, its frame's overhead and its index.
const SMALLEST_BODY: u64 = 2 << 20;

/// A NAR to send.
pub(super) struct Wanted {
    /// One of the paths that have it.
    pub path: StorePath,
    pub nar_hash: NarHash,
    pub nar_size: u64,
    pub files: PathBuf,
    pub references: Vec<StorePathHash>,
}

/// What became of a NAR.
#[derive(Default)]
pub(super) struct Outcome {
    /// Bytes of frames that were sent for it first.
    pub sent: u64,
    /// The bytes of its content that those frames hold.
    pub sent_content: u64,
    /// Why it cannot be pushed, as a sentence.
    pub failure: Option<String>,
}

/// Sends what of `wanted` the service lacks, until it has verified all of it, and tells what became of
/// each, in their order.
pub(super) async fn send(
    service: &Service<'_>,
    push: PushId,
    max_body: u64,
    wanted: Vec<Wanted>,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>, PushError> {
    let limit = max_body.min(options.max_body.unwrap_or(u64::MAX));
    if limit < SMALLEST_BODY {
        return Err(PushError::SmallBodies(limit));
    }
    let window = options.window.max(SMALLEST_WINDOW);
    let (made, from_threads) = unbounded_channel();
    let mut sending = Sending {
        service,
        push,
        progress,
        window,
        streams: options.streams.max(1),
        body_limit: limit.min(Body::BYTES).min((window / 4) as u64).max(SMALLEST_BODY),
        unread: wanted.len(),
        unverified: wanted.len(),
        nars: wanted.into_iter().map(Nar::new).collect(),
        chunks: HashMap::new(),
        pipeline: Pipeline::start(window, options.level, &made),
        encoding: 0,
        question: Question::default(),
        body: Body::default(),
        bodies: Vec::new(),
        ready: Recipes::default(),
        questions: 0,
        uploads: 0,
        verifications: 0,
        requests: FuturesUnordered::new(),
    };
    drop(made);
    sending.run(from_threads).await?;
    Ok(sending.nars.into_iter().map(|nar| nar.outcome).collect())
}

/// A NAR on its way.
struct Nar {
    wanted: Wanted,
    /// Its chunks so far.
    chunks: Vec<RecipeChunk>,
    /// How many of them are not durable yet.
    waiting: usize,
    read: bool,
    /// Whether it was read a second time.
    again: bool,
    outcome: Outcome,
}

impl Nar {
    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            chunks: Vec::new(),
            waiting: 0,
            read: false,
            again: false,
            outcome: Outcome::default(),
        }
    }
}

/// What is known of a chunk.
enum Chunk {
    /// It is on its way; these NARs wait for it, one as often as it has it.
    Underway(Vec<usize>),
    /// The service has it.
    Durable,
}

/// An answer of the service.
enum Answer {
    Asked(Vec<Encoding>, Result<Vec<bool>, ServiceError>),
    Uploaded(Body, Result<UploadAnswer, ServiceError>),
    Verified(Vec<usize>, Result<RecipesAnswer, ServiceError>),
}

struct Sending<'a> {
    service: &'a Service<'a>,
    push: PushId,
    progress: &'a dyn Progress,
    window: usize,
    streams: usize,
    body_limit: u64,
    /// NARs not read to their end.
    unread: usize,
    /// NARs neither verified nor given up.
    unverified: usize,
    nars: Vec<Nar>,
    chunks: HashMap<ChunkId, Chunk>,
    pipeline: Pipeline,
    /// Chunks that the threads make frames of.
    encoding: usize,
    question: Question,
    body: Body,
    /// Bodies that are full.
    bodies: Vec<Body>,
    ready: Recipes,
    questions: usize,
    uploads: usize,
    verifications: usize,
    requests: FuturesUnordered<BoxFuture<'a, Answer>>,
}

impl Sending<'_> {
    async fn run(&mut self, mut from_threads: UnboundedReceiver<Made>) -> Result<(), PushError> {
        // The largest first: verifying a NAR is one step, and the longest should not come last.
        let mut order: Vec<usize> = (0..self.nars.len()).collect();
        order.sort_by_key(|nar| std::cmp::Reverse(self.nars[*nar].wanted.nar_size));
        for nar in order {
            self.start_reading(nar)?;
        }
        while self.unverified > 0 {
            self.start_requests();
            let due = self.due();
            tokio::select! {
                made = from_threads.recv() => match made {
                    Some(made) => {
                        self.take(made)?;
                        // What else is there already, before requests are looked at again.
                        while let Ok(made) = from_threads.try_recv() {
                            self.take(made)?;
                        }
                    }
                    None => return Err(PushError::Internal("the threads are gone".to_owned())),
                },
                Some(answer) = self.requests.next() => self.hear(answer)?,
                reason = self.pipeline.broken() => return Err(PushError::Internal(reason)),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        Ok(())
    }

    /// Takes what a thread made.
    fn take(&mut self, made: Made) -> Result<(), PushError> {
        match made {
            Made::Chunk { nar, chunk, held } => {
                self.progress.event(&Event::Read(chunk.content.len() as u64));
                let state = &mut self.nars[nar];
                state.chunks.push(RecipeChunk { id: chunk.id, hashes: chunk.hashes.clone() });
                match self.chunks.get_mut(&chunk.id) {
                    Some(Chunk::Durable) => {}
                    Some(Chunk::Underway(waiting)) => {
                        state.waiting += 1;
                        waiting.push(nar);
                    }
                    None => {
                        state.waiting += 1;
                        self.chunks.insert(chunk.id, Chunk::Underway(vec![nar]));
                        let number = state.chunks.len();
                        self.question.add(Encoding { nar, number, chunk, held });
                        if self.question.is_full(self.window) {
                            self.ask();
                        }
                    }
                }
            }
            Made::Read { nar, result } => self.finish_reading(nar, result),
            Made::Frame { nar, number, entry, frame, held } => {
                self.encoding -= 1;
                self.add_to_body(Frame { nar, number, entry, bytes: frame, held });
            }
            Made::NoFrame { id } => {
                return Err(PushError::Internal(format!("the frame of chunk {id} is beyond its bounds")));
            }
        }
        Ok(())
    }

    fn start_reading(&mut self, nar: usize) -> Result<(), PushError> {
        let wanted = &self.nars[nar].wanted;
        let work = Reading { nar, files: wanted.files.clone(), references: wanted.references.clone() };
        self.pipeline.read(work).map_err(internal)
    }

    fn finish_reading(&mut self, nar: usize, result: Result<u64, String>) {
        self.unread -= 1;
        let state = &mut self.nars[nar];
        let failure = match result {
            Ok(size) if size == state.wanted.nar_size => {
                state.read = true;
                return self.check_ready(nar);
            }
            Ok(size) => format!(
                "its NAR has {size} bytes where Nix's database says {}; `nix-store --verify-path {}` tells more",
                state.wanted.nar_size,
                state.wanted.path.absolute()
            ),
            Err(reason) => reason,
        };
        self.give_up(nar, failure);
    }

    fn give_up(&mut self, nar: usize, failure: String) {
        self.unverified -= 1;
        self.nars[nar].outcome.failure = Some(failure);
        self.nars[nar].chunks = Vec::new();
    }

    fn add_to_body(&mut self, frame: Frame) {
        if let Some(frame) = self.body.add(frame, self.body_limit) {
            self.bodies.push(mem::take(&mut self.body));
            // An empty body takes any frame.
            let _ = self.body.add(frame, self.body_limit);
        }
    }

    /// Sends the NAR's recipe on if the service has all of its chunks.
    fn check_ready(&mut self, nar: usize) {
        let state = &mut self.nars[nar];
        if state.read && state.waiting == 0 && state.outcome.failure.is_none() {
            let recipe = Recipe {
                nar_hash: state.wanted.nar_hash,
                nar_size: state.wanted.nar_size,
                chunks: mem::take(&mut state.chunks),
            };
            self.ready.add(nar, recipe);
        }
    }

    fn mark_durable(&mut self, id: ChunkId) {
        if let Some(Chunk::Underway(waiting)) = self.chunks.insert(id, Chunk::Durable) {
            for nar in waiting {
                self.nars[nar].waiting -= 1;
                if self.nars[nar].waiting == 0 {
                    self.check_ready(nar);
                }
            }
        }
    }

    /// When what was gathered should be sent though it is little.
    fn due(&self) -> Option<Instant> {
        let question =
            self.question.due().filter(|_| self.questions < QUESTIONS && self.encoders_lack_work());
        let body = self.body.due().filter(|_| self.uploads < self.streams);
        let ready = self.ready.due().filter(|_| self.verifications < VERIFICATIONS);
        [question, body, ready].into_iter().flatten().min()
    }

    /// Whether the answer to a small question is worth its round trip: while much is still to be encoded, a larger
    /// one comes in time.
    fn encoders_lack_work(&self) -> bool {
        self.encoding < ENOUGH_TO_ENCODE
    }

    /// Starts the requests that are full, or due, or have nothing more to wait for.
    fn start_requests(&mut self) {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if self.unread == 0 || (is_due(self.question.due()) && self.encoders_lack_work()) {
            self.ask();
        }
        let no_more_chunks = self.unread == 0 && self.questions == 0 && self.question.is_empty();
        let no_more_frames = no_more_chunks && self.encoding == 0;
        while self.uploads < self.streams {
            let body = match self.bodies.pop() {
                Some(body) => body,
                None if self.body.frames.is_empty() => break,
                None if no_more_frames || is_due(self.body.due()) => mem::take(&mut self.body),
                None => break,
            };
            self.upload(body);
        }
        let no_more_recipes = no_more_frames && self.uploads == 0;
        if self.verifications < VERIFICATIONS
            && !self.ready.nars.is_empty()
            && (self.ready.is_full() || no_more_recipes || is_due(self.ready.due()))
        {
            self.verify();
        }
    }

    fn ask(&mut self) {
        if self.questions >= QUESTIONS || self.question.is_empty() {
            return;
        }
        self.questions += 1;
        let chunks = self.question.take();
        let (service, push) = (self.service, self.push);
        let names: Vec<ChunkId> = chunks.iter().map(|encoding| encoding.chunk.id).collect();
        let request = async move { Answer::Asked(chunks, service.missing_chunks(push, &names).await) };
        self.requests.push(request.boxed());
    }

    fn upload(&mut self, mut body: Body) {
        self.uploads += 1;
        body.sort();
        let (service, push) = (self.service, self.push);
        let request = async move {
            let parts = body.parts();
            Answer::Uploaded(body, service.upload(push, parts).await)
        };
        self.requests.push(request.boxed());
    }

    fn verify(&mut self) {
        self.verifications += 1;
        let Recipes { nars, recipes, .. } = mem::take(&mut self.ready);
        let (service, push) = (self.service, self.push);
        let request = async move { Answer::Verified(nars, service.send_recipes(push, recipes).await) };
        self.requests.push(request.boxed());
    }

    /// Takes an answer of the service.
    fn hear(&mut self, answer: Answer) -> Result<(), PushError> {
        match answer {
            Answer::Asked(chunks, missing) => {
                self.questions -= 1;
                for (encoding, missing) in chunks.into_iter().zip(missing?) {
                    if missing {
                        self.encoding += 1;
                        self.pipeline.encode(encoding).map_err(internal)?;
                    } else {
                        self.mark_durable(encoding.chunk.id);
                    }
                }
            }
            Answer::Uploaded(body, Ok(_)) => {
                self.uploads -= 1;
                for frame in body.frames {
                    let outcome = &mut self.nars[frame.nar].outcome;
                    outcome.sent += u64::from(frame.entry.frame_len);
                    outcome.sent_content += u64::from(frame.entry.content_len);
                    self.progress.event(&Event::Sent(frame.entry.frame_len.into()));
                    self.mark_durable(frame.entry.id);
                }
            }
            Answer::Uploaded(body, Err(error)) if error.is_too_large() => {
                self.uploads -= 1;
                let (one, other) = body.halve().map_err(|_| error)?;
                self.body_limit = (self.body_limit / 2).max(2 * MAX_CHUNK as u64);
                self.bodies.extend([one, other]);
            }
            Answer::Uploaded(_, Err(error)) => return Err(error.into()),
            Answer::Verified(nars, answer) => {
                self.verifications -= 1;
                self.hear_verdict(&nars, answer?)?;
            }
        }
        Ok(())
    }

    fn hear_verdict(&mut self, nars: &[usize], answer: RecipesAnswer) -> Result<(), PushError> {
        let by_hash: HashMap<NarHash, usize> =
            nars.iter().map(|nar| (self.nars[*nar].wanted.nar_hash, *nar)).collect();
        let mut unmentioned = nars.len();
        for hash in answer.verified {
            let Some(nar) = by_hash.get(&hash) else { continue };
            let Wanted { path, nar_size, .. } = &self.nars[*nar].wanted;
            self.progress.event(&Event::Verified { path, nar_size: *nar_size });
            self.unverified -= 1;
            unmentioned -= 1;
        }
        for rejected in answer.rejected {
            let Some(nar) = by_hash.get(&rejected.nar_hash).copied() else { continue };
            unmentioned -= 1;
            if rejected.missing_chunks.is_empty() {
                self.give_up(nar, rejected.reason);
            } else {
                self.send_again(nar, &rejected.missing_chunks)?;
            }
        }
        if unmentioned == 0 {
            Ok(())
        } else {
            Err(PushError::Internal("the service did not say whether what was sent holds".to_owned()))
        }
    }

    /// Reads a NAR again, since the service lacks chunks of which it said that it had them.
    fn send_again(&mut self, nar: usize, missing: &[ChunkId]) -> Result<(), PushError> {
        let state = &mut self.nars[nar];
        if state.again {
            return Err(PushError::ChunksVanish { path: state.wanted.path.absolute() });
        }
        state.again = true;
        state.read = false;
        for id in missing {
            if matches!(self.chunks.get(id), Some(Chunk::Durable)) {
                self.chunks.remove(id);
            }
        }
        self.unread += 1;
        self.start_reading(nar)
    }
}

fn internal(_gone: Gone) -> PushError {
    PushError::Internal("the threads are gone".to_owned())
}
