//! What a rebuild costs that changed store hashes and nothing else: nearly nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_tests::{
    front_proxy::{FrontProxy, Manner},
    larder::{Push, Report},
    nix::{Nix, ScratchStore, build, closure, delete, derivation, run, unique},
    programs::repository,
    world::World,
};
use tokio::process::Command;

/// Pushes, and tells how many bytes went over the line: frames, recipes, questions, all of it.
async fn push(world: &World, root: &Path) -> (Report, u64) {
    let proxy = FrontProxy::start(&world.url(), Manner::Plain).await;
    let token = world.client().await.token().to_owned();
    let report = Push::with_token(&proxy.url(), &token).args([root]).report().await;
    (report, proxy.body_bytes())
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
    let (before, sent_before) = push(world, first).await;
    assert_eq!(before.statuses(), [("pushed", before.paths.len())].into());
    let stored_before = objects(world);
    let (after, sent_after) = push(world, second).await;
    assert!(first != second);
    assert_eq!(after.published, before.published);
    // The recipes: a name of 32 bytes for each chunk, and each hash.
    let grown = objects(world) - stored_before;
    assert!(grown * 100 < stored_before, "{stored_before} bytes were stored, {grown} came to them");
    sent_after as f64 * 100.0 / sent_before as f64
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
