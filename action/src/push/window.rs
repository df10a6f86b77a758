//! The window: how many bytes of chunks and frames are in memory at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a chunk costs beside its content.
const OVERHEAD: usize = 512;

/// Counts the bytes in memory. Whoever reads more of the store waits for room.
pub(super) struct Window {
    state: Mutex<State>,
    room: Condvar,
}

struct State {
    free: usize,
    closed: bool,
}

/// The push is over: nothing more is to be read.
#[derive(Debug)]
pub(super) struct Closed;

impl Window {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: bytes, closed: false }), room: Condvar::new() })
    }

    /// Waits for room; on a blocking thread.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Held, Closed> {
        let bytes = bytes + OVERHEAD;
        let mut state = self.lock();
        while state.free < bytes && !state.closed {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        state.free -= bytes;
        drop(state);
        Ok(Held { window: Arc::clone(self), bytes })
    }

    /// Wakes who waits, to no avail.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: usize) {
        self.lock().free += bytes;
        self.room.notify_all();
    }
}

/// A part of the window; given back when dropped.
pub(super) struct Held {
    window: Arc<Window>,
    bytes: usize,
}

impl Held {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let kept = (bytes + OVERHEAD).min(self.bytes);
        let spare = self.bytes - kept;
        self.bytes = kept;
        if spare > 0 {
            self.window.give_back(spare);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.window.give_back(self.bytes);
    }
}
