//! Deliveries that come while all else goes on.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use larder_protocol::{
    api::{OpenPush, OpenedPush},
    chunk::FrameEncoder,
    prefetch::PrefetchState,
    upload::{FrameEntry, encode_index},
};
use larder_service::{config::cache::CheckedUpstream, retention::sweep};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    sync::{Semaphore, oneshot},
    task::{spawn_blocking, yield_now},
};

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

/// How many threads there are for what blocks.
const THREADS: usize = 8;
/// Of so many small objects a sweep makes one.
const MERGED: u8 = 8;

fn nar(seed: u8, length: usize) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), length, &[]), &[])
}

/// An object that whoever opens it waits for, until this is dropped.
struct Stuck(PathBuf);

impl Stuck {
    fn new(file: PathBuf) -> Self {
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self(file)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        drop(File::options().read(true).write(true).open(&self.0));
        drop(fs::remove_file(&self.0));
    }
}

/// Begins to push a NAR, and sends all of its frames but for the last byte, which it tells.
async fn begin_push(world: &World, nar: &TestNar) -> (TcpStream, u8) {
    let pushes = format!("{}/api/v1/caches/main/pushes", world.url);
    let (paths, roots) = (vec![nar.info.clone()], vec![nar.info.path.clone()]);
    let open = OpenPush { paths, roots, ..OpenPush::default() };
    let opened = world.client.post(&pushes).bearer_auth(&world.token).json(&open).send().await.unwrap();
    let push = opened.json::<OpenedPush>().await.unwrap().push;
    let (mut encoder, mut entries, mut frames) = (FrameEncoder::default(), Vec::new(), Vec::new());
    for chunk in &nar.chunks {
        let frame = encoder.encode(&chunk.content, &chunk.holes);
        entries.push(FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap());
        frames.extend(frame.bytes);
    }
    let body = [encode_index(&entries), frames].concat();
    let host = world.url.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /api/v1/caches/main/pushes/{push}/frames HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        world.token,
        body.len()
    );
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let (last, rest) = body.split_last().unwrap();
    stream.write_all(rest).await.unwrap();
    (stream, *last)
}

async fn scene() {
    let upstream = UpstreamCache::start().await;
    let long = Duration::from_secs(600);
    let world = World::new(&[CheckedUpstream { timeout: long, ..upstream.configured() }]).await;
    for seed in 1..=MERGED {
        let small = nar(seed, 20_000 + 1000 * usize::from(seed));
        upstream.has(&small, "none");
        world.complete(&[&small]).await;
    }

    // A prefetch, while its NAR comes.
    let (wanted, gate) = (nar(50, 100_000), Arc::new(Semaphore::new(0)));
    upstream.has(&wanted, "xz");
    upstream.nar(&wanted, |bytes| Reply::Gated(gate.clone(), bytes));
    let prefetch = world.begin(&[&wanted.info.path]).await;
    while !upstream.asked().contains(&nar_file(&wanted)) {
        yield_now().await;
    }
    // A push, while it is written what it sent.
    let writing = "SELECT count(*) FROM objects WHERE state = 'writing'";
    assert_eq!(world.value::<i64>(writing).await, 0);
    let (mut pushing, last) = begin_push(&world, &nar(51, 2_000_000)).await;
    while world.value::<i64>(writing).await == 0 {
        yield_now().await;
    }
    // A sweep, which reads the smallest object first.
    let smallest =
        "SELECT key FROM objects WHERE key LIKE 'frames/%' AND state = 'stored' ORDER BY size LIMIT 1";
    let stuck = Stuck::new(world.object_file(&world.value::<String>(smallest).await));
    let service = world.service.clone();
    let sweeping = tokio::spawn(async move { sweep(&service).await });
    while world.value::<i64>("SELECT count(*) FROM sweeps WHERE started_at IS NOT NULL").await == 0 {
        yield_now().await;
    }
    // And whatever else there is to wait for.
    let busy: Vec<oneshot::Sender<()>> = (0..2 * THREADS)
        .map(|_| {
            let (end, ended) = oneshot::channel();
            spawn_blocking(move || ended.blocking_recv());
            end
        })
        .collect();

    // As long as most are, and as long as few are.
    for length in [5000, 5000, 5000, 1_000_000] {
        let repository = json!({ "id": 42, "full_name": "acme/flake" });
        world.deliver("ping", &json!({ "repository": repository, "x": "x".repeat(length) })).await;
    }

    assert!(!sweeping.is_finished());
    assert_eq!(world.tell(&prefetch.id).await.state, PrefetchState::Running);
    assert_eq!(world.value::<i64>(writing).await, 1);
    drop((busy, stuck));
    sweeping.await.unwrap().unwrap();
    pushing.write_all(&[last]).await.unwrap();
    let mut answer = String::new();
    pushing.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    gate.add_permits(1);
    world.pass(0).await;
    assert_eq!(world.tell(&prefetch.id).await.state, PrefetchState::Complete);
    world.end().await;
}

/// A delivery waits for nothing that these hold while they wait themselves.
#[test]
fn deliveries_are_taken_while_a_push_a_prefetch_and_a_sweep_stand_still() {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.enable_all().worker_threads(2).max_blocking_threads(THREADS).build().unwrap();
    runtime.block_on(scene());
}
