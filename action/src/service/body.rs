//! A request's body, in parts: it is made once, can be sent again, and tells how much of it is gone.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// How much is handed to the connection at a time: what is gone is known to this.
const PIECE: usize = 256 << 10;

/// A body in memory. Cloning it copies nothing.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    parts: Vec<Bytes>,
    len: u64,
}

impl Parts {
    /// A body of these parts.
    pub fn of(parts: Vec<Bytes>) -> Self {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts, len }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The body for one try, and the count of its bytes that are gone.
    pub(super) fn start(&self) -> (Sending, Arc<AtomicU64>) {
        let gone = Arc::new(AtomicU64::new(0));
        let parts = self.parts.iter().filter(|part| !part.is_empty()).cloned().collect();
        (Sending { parts, left: self.len, gone: Arc::clone(&gone) }, gone)
    }
}

/// A body on its way.
pub(super) struct Sending {
    parts: VecDeque<Bytes>,
    left: u64,
    gone: Arc<AtomicU64>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.front_mut() else { return Poll::Ready(None) };
        let piece = part.split_to(part.len().min(PIECE));
        if part.is_empty() {
            self.parts.pop_front();
        }
        let len = piece.len() as u64;
        self.left -= len;
        self.gone.fetch_add(len, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
