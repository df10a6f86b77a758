//! How much is read of what a stranger sends, and for how long.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// What bounds the unpacking of one archive.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// How many bytes it may unpack to, with what a tar file has beside files.
    pub unpacked: u64,
    /// Until when.
    pub until: Instant,
    /// Whether whoever wanted it has gone.
    pub gone: Arc<AtomicBool>,
}

/// Says that whoever wanted something has gone, when it is dropped.
pub(super) struct Wanted(pub Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads within bounds.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
    bounds: Bounds,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R, bounds: Bounds) -> Self {
        Self { inner, left: bounds.unpacked, bounds }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bounds.gone.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is not wanted any more"));
        }
        if Instant::now() >= self.bounds.until {
            return Err(io::Error::other("unpacking it takes too long"));
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than {} bytes ([prefetch] max_unpacked)",
                self.bounds.unpacked
            ))
        })?;
        Ok(read)
    }
}
