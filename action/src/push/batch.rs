//! What is gathered before it is sent: chunks to ask about, frames for a body, recipes.

use std::{mem, time::Duration};

use bytes::Bytes;
use larder_protocol::{
    api::MAX_CHUNKS_ASKED,
    recipe::Recipe,
    upload::{self, FrameEntry},
};
use tokio::time::Instant;

use super::{pipeline::Encoding, window::Held};
use crate::service::Parts;

/// Chunks that the service is to be asked about.
#[derive(Default)]
pub(super) struct Question {
    chunks: Vec<Encoding>,
    bytes: usize,
    since: Option<Instant>,
}

impl Question {
    const CHUNKS: usize = 512;
    const BYTES: usize = 16 << 20;
    const LINGER: Duration = Duration::from_millis(50);

    pub(super) fn add(&mut self, chunk: Encoding) {
        self.bytes += chunk.chunk.content.len();
        self.chunks.push(chunk);
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What is to be asked now.
    pub(super) fn take(&mut self) -> Vec<Encoding> {
        let Self { mut chunks, .. } = mem::take(self);
        if chunks.len() > MAX_CHUNKS_ASKED {
            for later in chunks.split_off(MAX_CHUNKS_ASKED) {
                self.add(later);
            }
        }
        chunks
    }

    pub(super) fn is_full(&self, window: usize) -> bool {
        self.chunks.len() >= Self::CHUNKS || self.bytes >= Self::BYTES.min(window / 4)
    }

    /// When it should be asked even if it is not full.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + Self::LINGER)
    }
}

/// A body of frames.
#[derive(Default)]
pub(super) struct Body {
    pub frames: Vec<Frame>,
    bytes: u64,
    index: u64,
    since: Option<Instant>,
}

/// A frame, and for which NAR it is sent first.
pub(super) struct Frame {
    pub nar: usize,
    /// Which of the NAR's chunks it is of.
    pub number: usize,
    pub entry: FrameEntry,
    pub bytes: Bytes,
    #[expect(dead_code, reason = "given back to the window when the frame is dropped")]
    pub held: Held,
}

impl Body {
    /// What a body aims at, where it may be as large.
    pub(super) const BYTES: u64 = 16 << 20;
    const FRAMES: usize = 16_384;
    const INDEX: u64 = 4 << 20;
    const LINGER: Duration = Duration::from_millis(250);

    /// Adds a frame; gives it back where the body would become too large.
    pub(super) fn add(&mut self, frame: Frame, limit: u64) -> Option<Frame> {
        let index = 42 + 8 * frame.entry.holes.len() as u64;
        let len = frame.bytes.len() as u64;
        let full = 12 + self.index + index + self.bytes + len > limit
            || self.frames.len() >= Self::FRAMES
            || self.index + index > Self::INDEX;
        if full && !self.frames.is_empty() {
            return Some(frame);
        }
        self.index += index;
        self.bytes += len;
        self.frames.push(frame);
        self.since.get_or_insert_with(Instant::now);
        None
    }

    /// When it should be sent even if it is not full.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + Self::LINGER)
    }

    /// Puts the frames in the order in which their NARs are read: then the service reads what lies together.
    pub(super) fn sort(&mut self) {
        self.frames.sort_unstable_by_key(|frame| (frame.nar, frame.number));
    }

    /// As it is sent.
    pub(super) fn parts(&self) -> Parts {
        let entries: Vec<FrameEntry> = self.frames.iter().map(|frame| frame.entry.clone()).collect();
        let mut parts = Vec::with_capacity(1 + self.frames.len());
        parts.push(upload::encode_index(&entries).into());
        parts.extend(self.frames.iter().map(|frame| frame.bytes.clone()));
        Parts::of(parts)
    }

    /// Two bodies of half the size; the same one if it cannot be halved.
    pub(super) fn halve(mut self) -> Result<(Self, Self), Self> {
        if self.frames.len() < 2 {
            return Err(self);
        }
        let mut halves = (Self::default(), Self::default());
        let middle = self.frames.len() / 2;
        for (position, frame) in self.frames.drain(..).enumerate() {
            let half = if position < middle { &mut halves.0 } else { &mut halves.1 };
            // What fitted into one body fits into half of one.
            let _ = half.add(frame, u64::MAX);
        }
        Ok(halves)
    }
}

/// Recipes that are ready, each with its NAR's number.
#[derive(Default)]
pub(super) struct Recipes {
    pub nars: Vec<usize>,
    pub recipes: Vec<Recipe>,
    bytes: u64,
    since: Option<Instant>,
}

impl Recipes {
    const RECIPES: usize = 1000;
    const BYTES: u64 = 256 << 20;
    const LINGER: Duration = Duration::from_millis(50);

    pub(super) fn add(&mut self, nar: usize, recipe: Recipe) {
        self.bytes += recipe.nar_size;
        self.nars.push(nar);
        self.recipes.push(recipe);
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn is_full(&self) -> bool {
        self.recipes.len() >= Self::RECIPES || self.bytes >= Self::BYTES
    }

    /// When they should be sent even if there are few.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + Self::LINGER)
    }
}
