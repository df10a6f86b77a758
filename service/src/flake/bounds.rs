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

impl Bounds {
    /// Fails when nobody waits for it any more, or its time is over.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is not wanted any more"));
        }
        if Instant::now() >= self.until {
            return Err(io::Error::other("unpacking it takes too long"));
        }
        Ok(())
    }

    /// That it unpacks to more than it may.
    pub(super) fn too_much(&self) -> io::Error {
        io::Error::other(format!("it unpacks to more than {} bytes ([prefetch] max_unpacked)", self.unpacked))
    }
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
        self.bounds.check()?;
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| self.bounds.too_much())?;
        Ok(read)
    }
}
