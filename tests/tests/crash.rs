//! What is left when somebody dies: nothing that was acknowledged is lost, nothing half is seen.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{convert::Infallible, path::PathBuf, time::Duration};

use larder_protocol::{ChunkId, api::PushId};
use larder_service::clock::Clock;
use larder_tests::{
    client::Client,
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{Nix, ScratchStore},
    package::{Frame, Package, upload_body},
    world::{Scene, World, reader},
};
use reqwest::Body;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// The service as a process, and GitHub.
struct Machine {
    larderd: Larderd,
    github: GitHub,
    _dir: TempDir,
}

impl Machine {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let github = GitHub::start(Clock::System).await;
        let larderd = Larderd::start(dir.path(), github.issuer(), &Scene::default()).await;
        Self { larderd, github, _dir: dir }
    }

    async fn client(&self) -> Client {
        let token = self.github.id_token(&Job::default(), &self.larderd.url());
        Client::exchange(&self.larderd.url(), "main", &token).await.unwrap()
    }

    async fn is_visible(&self, package: &Package) -> bool {
        let page = format!("{}/main/{}.narinfo", self.larderd.url(), package.info.path.hash());
        reqwest::get(page).await.unwrap().status().is_success()
    }

    /// Real Nix reads a path whole.
    async fn assert_readable(&self, packages: &[&Package]) {
        let paths: Vec<PathBuf> = packages.iter().map(|p| p.info.path.absolute().into()).collect();
        let store = ScratchStore::new(Nix::Installed);
        store.copy_from(&reader(&self.larderd.url(), "main").await, &paths).await.expect_success();
        store.verify().await;
    }
}

fn names(frames: &[Frame]) -> Vec<ChunkId> {
    frames.iter().map(|frame| frame.entry.id).collect()
}

/// A body that is sent up to `end` and then neither goes on nor ends, until the sender is dropped; then it
/// breaks off.
fn stalling(bytes: &[u8], end: usize) -> (Body, mpsc::Sender<Infallible>) {
    let first = bytes[..end].to_vec();
    let (hold, mut held) = mpsc::channel::<Infallible>(1);
    let pieces = futures_util::stream::once(async move { Ok(first) });
    let broken = futures_util::stream::once(async move {
        held.recv().await;
        Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    });
    (Body::wrap_stream(futures_util::StreamExt::chain(pieces, broken)), hold)
}

/// Waits until the service has so many of these chunks.
async fn until_stored(client: &Client, push: PushId, chunks: &[ChunkId], count: usize) -> usize {
    for _ in 0..500 {
        let stored = client.missing(push, chunks).await.unwrap().iter().filter(|missing| !**missing).count();
        if stored >= count {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("fewer than {count} chunks were stored within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_while_it_uploads_leaves_what_arrived_and_nothing_visible() {
    let world = World::new().await;
    let package = Package::noise("large", 4_000_000);
    let (_, frames) = package.cut();
    let body = upload_body(&frames);
    let client = world.client().await;
    let push = client.open(&[&package]).await.unwrap().push;
    let (half, hold) = stalling(&body, body.len() / 2);
    let dying = tokio::spawn({
        let client = client.clone();
        async move { client.upload(push, half).await }
    });
    drop(hold);
    dying.await.expect_err("the upload was answered though it broke off");
    let stored = until_stored(&client, push, &names(&frames), frames.len() / 2 - 6).await;
    assert!(stored < frames.len());
    assert!(world.narinfo(&package.info.path).await.is_none());

    // Another attempt of the job sends the rest alone.
    let again = world.exchange(&Job { run_attempt: 2, ..Job::default() }).await.unwrap();
    let push = again.open(&[&package]).await.unwrap().push;
    let missing = again.missing(push, &names(&frames)).await.unwrap();
    let rest: Vec<&Frame> =
        frames.iter().zip(&missing).filter_map(|(frame, missing)| missing.then_some(frame)).collect();
    assert_eq!(rest.len(), frames.len() - stored);
    again.upload(push, upload_body(rest)).await.unwrap();
    again.push(&[&package]).await.unwrap();
    assert!(world.narinfo(&package.info.path).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_uploading_loses_nothing_that_was_acknowledged() {
    let mut machine = Machine::start().await;
    let package = Package::noise("large", 6_000_000);
    let (recipe, frames) = package.cut();
    let (first, rest) = frames.split_at(frames.len() / 3);
    let client = machine.client().await;
    let push = client.open(&[&package]).await.unwrap().push;
    client.upload(push, upload_body(first)).await.unwrap();
    let body = upload_body(rest);
    let (half, hold) = stalling(&body, body.len() / 2);
    let dying = tokio::spawn({
        let client = client.clone();
        async move { client.upload(push, half).await }
    });
    machine.larderd.kill_and_restart().await;
    drop(hold);
    dying.await.expect_err("an upload was answered by a service that was dead");
    assert!(!machine.is_visible(&package).await);

    // The session and the push outlive the process.
    assert!(!client.missing(push, &names(first)).await.unwrap().contains(&true));
    let missing = client.missing(push, &names(rest)).await.unwrap();
    let lost: Vec<&Frame> =
        rest.iter().zip(missing).filter_map(|(frame, missing)| missing.then_some(frame)).collect();
    client.upload(push, upload_body(lost)).await.unwrap();
    let answer = client.recipes(push, larder_protocol::recipe::encode(&[recipe])).await.unwrap();
    assert!(answer.rejected.is_empty(), "{answer:?}");
    machine.larderd.kill_and_restart().await;
    client.commit(push).await.unwrap();
    machine.larderd.kill_and_restart().await;
    machine.assert_readable(&[&package]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_leaves_a_push_whole_or_unseen() {
    let mut machine = Machine::start().await;
    let mut published = Vec::new();
    for round in 0..12u64 {
        let leaf = Package::noise("leaf", 200_000);
        let top = Package::noise("top", 700_000).referring_to([&leaf]);
        let client = machine.client().await;
        let pushing = tokio::spawn({
            let (leaf, top) = (leaf.clone(), top.clone());
            async move { client.push(&[&leaf, &top]).await }
        });
        // Some moment or other of the push, which takes some tens of milliseconds.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        machine.larderd.kill_and_restart().await;
        let acknowledged = matches!(pushing.await, Ok(Ok(_)));
        let (leaf_seen, top_seen) = (machine.is_visible(&leaf).await, machine.is_visible(&top).await);
        assert_eq!(leaf_seen, top_seen, "half of a push is seen");
        assert!(top_seen || !acknowledged, "an acknowledged push is lost");
        if !top_seen {
            machine.client().await.push(&[&leaf, &top]).await.unwrap();
        }
        published.extend([leaf, top]);
    }
    machine.assert_readable(&published.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_push_the_same_at_once_both_succeed() {
    let world = World::new().await;
    let shared = Package::noise("shared", 2_000_000);
    let packages: Vec<Package> =
        (0..6).map(|n| Package::noise(&format!("own-{n}"), 100_000).referring_to([&shared])).collect();
    let pushes = packages.iter().enumerate().map(|(n, own)| {
        let (world, shared) = (&world, &shared);
        async move {
            let job = Job { check_run_id: n as u64, ..Job::default() };
            let client = world.exchange(&job).await.unwrap();
            client.push(&[shared, own]).await.unwrap()
        }
    });
    let committed = futures_util::future::join_all(pushes).await;
    let published: u64 = committed.iter().map(|committed| committed.published).sum();
    assert_eq!(published, 7, "{committed:?}");
    for package in packages.iter().chain([&shared]) {
        let narinfo = world.narinfo(&package.info.path).await.unwrap();
        let nar = world.get(&narinfo.url).await.bytes().await.unwrap();
        assert_eq!(zstd::decode_all(&nar[..]).unwrap(), package.nar);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_contents_for_one_path_the_first_stays() {
    let world = World::new().await;
    let first = Package::noise("tool", 10_000);
    let mut second = Package::noise("tool", 10_000);
    second.info.path = first.info.path.clone();
    let other = Package::noise("other", 1000).referring_to([&second]);
    let client = world.client().await;
    client.push(&[&first]).await.unwrap();
    let committed = client.push(&[&second, &other]).await.unwrap();
    assert_eq!(committed.divergences.len(), 1, "{committed:?}");
    assert_eq!(committed.divergences[0].kept, first.info.nar_hash);
    assert_eq!(committed.divergences[0].pushed, second.info.nar_hash);
    assert_eq!(world.narinfo(&first.info.path).await.unwrap().nar_hash, first.info.nar_hash);
    assert!(world.narinfo(&other.info.path).await.is_some());
}
