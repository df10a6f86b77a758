//! Bytes that are set aside. A disk that is full takes nothing of the database either, and a sweep has to write before it
//! frees anything: then they are let go, pushes are refused, and the sweep has room to work.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::budget::room;
use crate::{Service, storage::Room};

/// How many bytes: what some transactions of a sweep take, several times over. On a small disk, a small part of it.
const MOST: u64 = 16 << 20;
const PART: u64 = 32;
/// They are set aside where there is so many times more.
const AMPLE: u64 = 4;

fn file(service: &Service) -> PathBuf {
    service.config.data_dir.join("reserve")
}

/// Whether the reserve is let go, and nothing but sweeps should write.
pub(crate) fn is_spent(service: &Service) -> bool {
    service.retention.reserve_spent.load(Ordering::Relaxed)
}

/// Sets the reserve aside, unless it is there, where there is ample room.
pub(super) fn keep(service: &Service) {
    let file = file(service);
    // Where objects are in a bucket, the database is on a disk nevertheless.
    let database = || Room::of(&service.config.data_dir).ok();
    let Some(room) = room(service).or_else(database) else { return };
    let size = MOST.min(room.size / PART);
    if !file.exists() {
        if room.available < size * AMPLE {
            return;
        }
        if let Err(error) = set_aside(&file, size) {
            tracing::warn!(%error, "no reserve could be set aside for when the disk is full");
            drop(fs::remove_file(&file));
            return;
        }
    }
    if service.retention.reserve_spent.swap(false, Ordering::Relaxed) {
        tracing::info!("there is room again: pushes are taken");
    }
}

/// Lets the reserve go. `false` if there is none.
pub(super) fn spend(service: &Service) -> bool {
    let spent = fs::remove_file(file(service)).is_ok();
    if spent {
        tracing::error!(
            "the disk is full: no push is taken until a sweep has made room, or somebody. The reserve is let go for that"
        );
        service.retention.reserve_spent.store(true, Ordering::Relaxed);
    }
    spent
}

fn set_aside(file: &Path, size: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    match fallocate(&file, FallocateFlags::empty(), 0, size).map_err(io::Error::from) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let zeros = [0; 1 << 16];
            (0..size.div_ceil(zeros.len() as u64)).try_for_each(|_| file.write_all(&zeros))
        }
        done => done,
    }
}
