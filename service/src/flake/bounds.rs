//! How much is read of what a stranger sends, and for how long.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use larder_protocol::StorePath;
use serde::{Deserialize, Serialize};

/// How many inputs of one lock file are asked of their hosts, and how many bytes these may send and unpack to together.
const MAX_ASKED: usize = 200;
const MAX_BYTES: u64 = 20_000_000_000;
/// How many of those bytes may be for nothing. What is tried again comes to nothing again.
const MAX_WASTED: u64 = 4_000_000_000;
/// How long all of it may take.
const MAX_TIME: Duration = Duration::from_secs(60 * 60);

/// What the inputs of one lock file have cost, also those that were not had, and however often it was tried. It lies in
/// the database, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// How many were asked of their hosts this time. It is begun anew: what is asked again is none besides.
    #[serde(skip)]
    pub asked: usize,
    /// How many bytes were downloaded, and written as NARs.
    pub bytes: u64,
    /// How many of them were of inputs that were not had.
    pub wasted: u64,
    /// How long that took.
    pub time: Duration,
    /// Those that were asked of their hosts and will never be had from there: they are not asked for again.
    pub wrong: BTreeSet<StorePath>,
}

impl Spent {
    /// Whether no more is fetched for the lock file.
    pub(super) fn is_over(&self) -> bool {
        self.asked >= MAX_ASKED
            || self.bytes >= MAX_BYTES
            || self.wasted >= MAX_WASTED
            || self.time >= MAX_TIME
    }

    /// How much time is left.
    pub(super) fn time_left(&self) -> Duration {
        MAX_TIME.saturating_sub(self.time)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_ends_it_and_bytes_for_nothing_earlier() {
        let spent = |asked, bytes, wasted, seconds| {
            let (time, wrong) = (Duration::from_secs(seconds), BTreeSet::new());
            Spent { asked, bytes, wasted, time, wrong }
        };
        assert!(!spent(199, 19_999_999_999, 3_999_999_999, 3599).is_over());
        for over in [
            spent(200, 0, 0, 0),
            spent(1, 20_000_000_000, 0, 0),
            spent(1, 4_000_000_000, 4_000_000_000, 0),
            spent(1, 0, 0, 3600),
        ] {
            assert!(over.is_over(), "{over:?}");
        }
    }
}
