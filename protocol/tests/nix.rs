//! What real Nix does, asked on the spot: these tests run `nix-store` and `nix`, and fail without them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod trees;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use larder_protocol::nar::{NarChecker, dump};

/// Runs a program to its end and returns what it printed.
fn run(program: &str, configure: impl FnOnce(&mut Command)) -> Vec<u8> {
    let mut command = Command::new(program);
    configure(&mut command);
    let output = command.output().unwrap_or_else(|error| panic!("{program} (Debian: nix-bin): {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn dumped(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    let len = dump(path, |bytes| {
        nar.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(len, nar.len() as u64);
    nar
}

#[track_caller]
fn assert_dumps_as_nix_does(path: &Path) {
    let ours = dumped(path);
    let nix = run("nix-store", |nix| {
        nix.arg("--dump").arg(path);
    });
    assert!(ours == nix, "{} is dumped in another way than by Nix", path.display());
    let mut checker = NarChecker::default();
    checker.feed(&ours).unwrap();
    checker.finish().unwrap();
}

#[test]
fn dumps_a_tree_as_nix_does() {
    let scratch = tempfile::tempdir().unwrap();
    trees::make_tree(scratch.path());
    assert_dumps_as_nix_does(scratch.path());
}

#[test]
fn dumps_single_files_as_nix_does() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("it");
    // Around the padding, and around the pieces in which files are read.
    for len in [0, 1, 7, 8, 9, (256 << 10) - 113, (256 << 10) - 112, 256 << 10, (256 << 10) + 1, 3_000_000] {
        fs::write(&path, vec![7; len]).unwrap();
        assert_dumps_as_nix_does(&path);
    }
    fs::remove_file(&path).unwrap();
    symlink("a target", &path).unwrap();
    assert_dumps_as_nix_does(&path);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_dumps_as_nix_does(&path);
}
