//! A disk that is soon full.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system of its own, so small that it is soon full. Making one needs root.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// An empty one of so many megabytes.
    pub fn new(megabytes: u32) -> Self {
        let disk = Self(TempDir::new().unwrap());
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "larder-test"]).arg(disk.path());
        assert!(mount.status().unwrap().success());
        disk
    }

    /// Makes it larger.
    pub fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-o", &size]).arg(self.path());
        assert!(mount.status().unwrap().success());
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The files of objects, parts of unfinished ones too.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.path().join("data/objects")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for piece in [1 << 16, 1 << 12, 1] {
            let zeros = vec![0; piece];
            loop {
                match filler.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Takes away what filled it.
    pub fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
