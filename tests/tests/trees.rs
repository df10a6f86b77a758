//! Trees that are hard to cut or to store: from a real store, through `larder push`, and back into an empty
//! store of real Nix that wants signatures.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use larder_protocol::{NarHash, nar};
use larder_service::clock::Clock;
use larder_tests::{
    github::{GitHub, Job},
    larder::{Push, Report},
    larderd::Larderd,
    nix::{Nix, ScratchStore, run},
    package::{Node, Package, store_path},
    source_store::{SourceStore, path_of, tree},
    world::{Scene, World, reader},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

async fn push(world: &World, source: &SourceStore) -> Report {
    let job = world.github.start_job(Job::default());
    source.push(Push::in_job(&world.url(), &job)).report().await
}

/// The bytes that a folder's files take on the disk.
fn disk_usage(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() { disk_usage(&path) } else { metadata.blocks() * 512 }
        })
        .sum()
}

/// Links into all of these paths, as `buildEnv` makes them.
fn farm(leaves: &[Package], links: usize) -> Node {
    let link = |number: usize| {
        let leaf = leaves[number % leaves.len()].info.path.absolute();
        Node::Link(format!("{leaf}/share/item-{number}").into_bytes())
    };
    let folder = |first: usize| {
        Node::directory((first..first + 1000).map(|number| (format!("item-{number}"), link(number))))
    };
    Node::directory((0..links).step_by(1000).map(|first| (format!("part-{first}"), folder(first))))
}

fn leaves(count: usize) -> Vec<(Package, Node)> {
    (0..count).map(|number| tree("leaf", Node::File(format!("leaf {number}").into_bytes()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_of_40_000_links_into_300_paths() {
    let world = World::new().await;
    let mut trees = leaves(300);
    let below: Vec<Package> = trees.iter().map(|(package, _)| package.clone()).collect();
    let (package, node) = tree("farm", farm(&below, 40_000));
    trees.push((package.referring_to(&below), node));
    let source = SourceStore::new(trees).await;
    let report = push(&world, &source).await;
    assert_eq!(report.published, 301);
    // Its hashes take 40,000 times 32 bytes; zstd finds that they are 300.
    assert!(report.sent_bytes < 3_000_000, "{} bytes were sent", report.sent_bytes);
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
    assert_eq!(push(&world, &source).await.statuses(), [("present", 301)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_10_000_references() {
    let world = World::new().await;
    let mut trees = leaves(10_000);
    let below: Vec<Package> = trees.iter().map(|(package, _)| package.clone()).collect();
    let list: String = below.iter().map(|package| package.info.path.absolute() + "\n").collect();
    let (package, node) = tree("list", Node::File(list.into_bytes()));
    trees.push((package.referring_to(&below), node));
    let source = SourceStore::new(trees).await;
    let report = push(&world, &source).await;
    assert_eq!(report.published, 10_001);

    let root = &source.root().info;
    let narinfo = world.narinfo(&root.path).await.unwrap();
    assert_eq!(narinfo.references, root.references);
    // Nix asks for 10,000 narinfos and checks as many signatures.
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&world.reader().await, &[path_of(&root.path)]).await.expect_success();
    assert_eq!(fs::read(store.real_path(&path_of(&root.path))).unwrap(), {
        fs::read(source.real_path(&root.path)).unwrap()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn names_depths_and_kinds_of_files() {
    let world = World::new().await;
    let leaf = tree("leaf", Node::File(Vec::new()));
    let deep = (0..500).fold(Node::File(b"the bottom".to_vec()), |below, _| Node::directory([("d", below)]));
    let all_bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let (names, more_names) = all_bytes.split_at(200);
    let target = [leaf.0.info.path.absolute().as_bytes(), b"/\xff\xfe"].concat();
    let node = Node::directory([
        (b"deep".to_vec(), deep),
        (b"empty-directory".to_vec(), Node::Directory(Vec::new())),
        (b"empty-file".to_vec(), Node::File(Vec::new())),
        (b"program".to_vec(), Node::Program(b"#!/bin/sh\nexit 0\n".to_vec())),
        (b"empty-program".to_vec(), Node::Program(Vec::new())),
        (b"link".to_vec(), Node::Link(target)),
        (b"link-to-link".to_vec(), Node::Link(b"./link".to_vec())),
        (names.to_vec(), Node::File(b"a".to_vec())),
        (more_names.to_vec(), Node::File(b"b".to_vec())),
        (b"\xff\xfe not UTF-8".to_vec(), Node::directory([(b"\x80".to_vec(), Node::File(b"c".to_vec()))])),
        (b"new\nline".to_vec(), Node::File(b"d".to_vec())),
        (vec![b'n'; 255], Node::File(b"e".to_vec())),
        (b"...".to_vec(), Node::File(b"f".to_vec())),
        ("case".into(), Node::File(b"lower".to_vec())),
        ("CASE".into(), Node::File(b"upper".to_vec())),
    ]);
    let (package, node) = tree("odd", node);
    let source = SourceStore::new(vec![leaf.clone(), (package.referring_to([&leaf.0]), node)]).await;
    assert_eq!(push(&world, &source).await.published, 2);
    let reader = world.reader().await;
    source.assert_read_back(&reader, Nix::Installed).await;
    source.assert_read_back(&reader, Nix::V2_26).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_of_5_gb_needs_neither_memory_nor_disk() {
    const SIZE: u64 = 5_000_000_000;
    let dir = TempDir::new().unwrap();
    let store = ScratchStore::new(Nix::Installed);
    fs::create_dir_all(store.root().join("nix/store")).unwrap();
    let path = store_path("sparse");
    let file = store.real_path(&path_of(&path));
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let hashing = tokio::task::spawn_blocking({
        let file = file.clone();
        move || {
            let mut hasher = Sha256::new();
            let size = nar::dump(&file, |bytes| {
                hasher.update(bytes);
                Ok(())
            });
            (NarHash(hasher.finalize().into()), size.unwrap())
        }
    });
    let mut info = Package::with_nar(path, Vec::new()).info;
    (info.nar_hash, info.nar_size) = hashing.await.unwrap();
    store.register([&info]).await;

    let github = GitHub::start(Clock::System).await;
    let larderd = Larderd::start(dir.path(), github.issuer(), &Scene::default()).await;
    let job = github.start_job(Job::default());
    let push = Push::in_job(&larderd.url(), &job).from_store(store.root()).args([info.path.absolute()]);
    let (report, client_peak) = push.report_and_peak_memory().await;
    let service_peak = larderd.peak_memory();
    assert_eq!(report.published, 1);
    assert!(report.sent_bytes < 10_000, "{} bytes were sent", report.sent_bytes);
    assert!(service_peak < 150_000_000, "the service took {service_peak} bytes");
    assert!(client_peak < 250_000_000, "the client took {client_peak} bytes");
    assert!(file.metadata().unwrap().blocks() * 512 < 1_000_000);
    assert!(disk_usage(&dir.path().join("data")) < 20_000_000);

    // Real Nix reads it, checks hash and signature, and keeps nothing.
    let reader = reader(&larderd.url(), "main").await;
    let config = format!(
        "experimental-features = nix-command\ntrusted-public-keys = {}\n",
        reader.public_keys.join(" ")
    );
    let mut verify = store.command("nix", &config);
    verify.args(["store", "verify", "--store", &reader.substituters[0], &info.path.absolute()]);
    run(&mut verify).await.expect_success();
    assert!(larderd.peak_memory() < 150_000_000, "reading took {} bytes", larderd.peak_memory());
}
