//! What a rebuild costs that changed store hashes and nothing else: nearly nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_tests::{
    github::Job,
    larder::{Push, Report},
    nix::{Nix, ScratchStore, build, closure, delete, derivation, run, unique},
    programs::repository,
    world::World,
};
use tokio::process::Command;

async fn push(world: &World, root: &Path) -> Report {
    let job = world.github.start_job(Job::default());
    Push::in_job(&world.url(), &job).args([root]).report().await
}

/// Both versions of Nix read all of these into empty stores.
async fn assert_read_back(world: &World, roots: &[PathBuf]) {
    let reader = world.reader().await;
    for nix in [Nix::Installed, Nix::V2_26] {
        let store = ScratchStore::new(nix);
        store.realise(&reader, roots).await.expect_success();
        for path in closure(roots).await {
            assert!(store.has(&path), "{nix:?} has no {}", path.display());
        }
        store.verify().await;
    }
}

/// The bytes of all objects.
fn stored(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            folder if folder.is_dir() => stored(&entry.path()),
            file => file.len(),
        })
        .sum()
}

fn objects(world: &World) -> u64 {
    stored(&world.data_dir().join("objects"))
}

/// A closure made of Debian's packages; another salt gives every path another hash.
async fn debian(salt: &str) -> PathBuf {
    let mut make = Command::new(repository().join("bench/closure"));
    make.args(["--salt", salt, "--depth", "1", "git", "curl"]);
    run(&mut make).await.expect_success().trim().into()
}

/// Python's library, compiled where it lies: each `.pyc` names its own store path.
async fn python() -> PathBuf {
    let script = "
        library=$(python3 -c \"import sysconfig; print(sysconfig.get_paths()['stdlib'])\")
        mkdir -p $out/lib/python3
        tar -C $library --exclude=__pycache__ -c . | tar -C $out/lib/python3 -x
        python3 -m compileall -q --invalidation-mode unchecked-hash $out/lib/python3
    ";
    build(&derivation("python", &[], script)).await.remove(0)
}

/// Pushes one, then the other, and tells which share of the first push's bytes the second sent, in percent.
async fn rebuilt(world: &World, first: &Path, second: &Path) -> f64 {
    let before = push(world, first).await;
    assert_eq!(before.statuses()["pushed"], before.paths.len(), "{:?}", before.statuses());
    let stored_before = objects(world);
    let after = push(world, second).await;
    assert_eq!(after.published, before.published);
    assert!(first != second);
    let grown = objects(world) - stored_before;
    // Recipes carry a name of 32 bytes for each chunk and as much for each hash.
    assert!(grown < stored_before / 20, "{stored_before} bytes were stored, {grown} came to them");
    after.sent_bytes as f64 * 100.0 / before.sent_bytes as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_with_other_hashes_sends_one_percent_at_most() {
    let world = World::new().await;
    let (first, second) = (debian(&unique("salt")).await, debian(&unique("salt")).await);
    let percent = rebuilt(&world, &first, &second).await;
    assert!(percent <= 1.0, "{percent} % was sent");
    let both = [first, second];
    assert_read_back(&world, &both).await;
    delete(&closure(&both).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_tree_with_other_hashes_sends_three_percent_at_most() {
    let world = World::new().await;
    let (first, second) = (python().await, python().await);
    let percent = rebuilt(&world, &first, &second).await;
    assert!(percent <= 3.0, "{percent} % was sent");
    let both = [first, second];
    assert_read_back(&world, &both).await;
    delete(&closure(&both).await).await;
}
