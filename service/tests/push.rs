//! A push by hand, step by step, over HTTP, and what readers see of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{io::Read as _, path::Path, sync::Arc, task::Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{
        CommittedPush, ErrorAnswer, OpenPush, OpenedPush, PathInfo, RecipesAnswer, UploadAnswer, is_missing,
    },
    chunk::{CutChunk, Cutter, FrameEncoder},
    narinfo::NarInfo,
    recipe::{self, Recipe, RecipeChunk},
    upload::{FrameEntry, encode_index},
};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, size::ByteSize},
    router, serve,
    trust::people,
};
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower::ServiceExt as _;

/// A service in this process, and a client with a token.
struct World {
    url: String,
    token: String,
    client: reqwest::Client,
    service: Arc<Service>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(data.path());
        change(&mut config);
        let service = Service::open(config, Clock::System).await.unwrap();
        let main = "main".parse().unwrap();
        let token =
            people::create_token(&service.metadata, &service.clock, "test", &main, 3600).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(service.clone(), listener, async {
            let _ = stopped.await;
        }));
        let token = token.expose().to_owned();
        Self { url, token, client: reqwest::Client::new(), service, stop, served, _data: data }
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> reqwest::Response {
        let url = format!("{}/api/v1/caches/main/pushes{path}", self.url);
        self.client.post(url).bearer_auth(&self.token).body(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}/main/{path}", self.url)).send().await.unwrap()
    }

    async fn open(&self, nars: &[&TestNar]) -> OpenedPush {
        let open = OpenPush {
            paths: nars.iter().map(|nar| nar.info.clone()).collect(),
            roots: nars.iter().map(|nar| nar.info.path.clone()).collect(),
        };
        let answer = self.post("", serde_json::to_vec(&open).unwrap()).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn upload(&self, push: &OpenedPush, chunks: &[CutChunk]) -> UploadAnswer {
        let answer = self.post(&format!("/{}/frames", push.push), upload_body(chunks)).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn send_recipes(&self, push: &OpenedPush, nars: &[&TestNar]) -> RecipesAnswer {
        let recipes: Vec<Recipe> = nars.iter().map(|nar| nar.recipe()).collect();
        let answer = self.post(&format!("/{}/recipes", push.push), recipe::encode(&recipes)).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn commit(&self, push: &OpenedPush) -> reqwest::Response {
        self.post(&format!("/{}/commit", push.push), Vec::new()).await
    }

    /// Pushes paths that are missing, and commits.
    async fn push(&self, nars: &[&TestNar]) -> CommittedPush {
        let opened = self.open(nars).await;
        for nar in nars {
            self.upload(&opened, &nar.chunks).await;
        }
        assert!(self.send_recipes(&opened, nars).await.rejected.is_empty());
        self.commit(&opened).await.json().await.unwrap()
    }

    async fn narinfo(&self, nar: &TestNar) -> Option<NarInfo> {
        let answer = self.get(&format!("{}.narinfo", nar.info.path.hash())).await;
        match answer.status() {
            StatusCode::OK => Some(NarInfo::parse(&answer.text().await.unwrap()).unwrap()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{status}"),
        }
    }

    async fn end(self) {
        drop(self.stop);
        self.served.await.unwrap();
    }
}

fn upload_body(chunks: &[CutChunk]) -> Vec<u8> {
    let mut encoder = FrameEncoder::default();
    let (mut entries, mut frames) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let frame = encoder.encode(&chunk.content, &chunk.holes);
        entries.push(FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap());
        frames.extend(frame.bytes);
    }
    [encode_index(&entries), frames].concat()
}

/// A path with one file.
struct TestNar {
    info: PathInfo,
    bytes: Vec<u8>,
    chunks: Vec<CutChunk>,
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new(StorePathHash([seed; 20]), name).unwrap()
}

impl TestNar {
    fn new(path: StorePath, contents: &[u8], references: &[&StorePath]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, contents).unwrap();
        Self::dump(path, &file, references)
    }

    fn dump(path: StorePath, file: &Path, references: &[&StorePath]) -> Self {
        let mut bytes = Vec::new();
        let write = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        larder_protocol::nar::dump(file, write).unwrap();
        let mut references: Vec<StorePath> = references.iter().copied().cloned().collect();
        references.sort();
        let mut chunks = Vec::new();
        let mut cutter = Cutter::new(references.iter().map(StorePath::hash));
        let mut take = |chunk| {
            chunks.push(chunk);
            Ok::<_, ()>(())
        };
        cutter.feed(&bytes, &mut take).unwrap();
        cutter.finish(&mut take).unwrap();
        let info = PathInfo {
            path,
            nar_hash: NarHash(Sha256::digest(&bytes).into()),
            nar_size: bytes.len() as u64,
            references,
            deriver: None,
            ca: None,
            signatures: Vec::new(),
        };
        Self { info, bytes, chunks }
    }

    fn recipe(&self) -> Recipe {
        let chunk = |chunk: &CutChunk| RecipeChunk { id: chunk.id, hashes: chunk.hashes.clone() };
        Recipe {
            nar_hash: self.info.nar_hash,
            nar_size: self.info.nar_size,
            chunks: self.chunks.iter().map(chunk).collect(),
        }
    }
}

/// Bytes that do not compress, with store paths among them.
fn contents(seed: u64, length: usize, mentions: &[&StorePath]) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 100);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
        if bytes.len() % 40_000 < 8 {
            for mention in mentions {
                bytes.extend(mention.absolute().bytes());
            }
        }
    }
    bytes
}

fn decompress(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap();
    out
}

#[tokio::test]
async fn what_is_pushed_is_read_back() {
    let world = World::new().await;
    let library = TestNar::new(path(1, "library"), &contents(1, 700_000, &[]), &[]);
    let library_path = library.info.path.clone();
    let program = TestNar::new(path(2, "program"), &contents(2, 900_000, &[&library_path]), &[&library_path]);

    let opened = world.open(&[&program, &library]).await;
    assert_eq!(opened.missing.len(), 2);
    assert!(opened.committed.is_none());

    let asked: Vec<u8> = program.chunks.iter().flat_map(|chunk| chunk.id.0).collect();
    let question = format!("/{}/missing-chunks", opened.push);
    let bits = world.post(&question, asked.clone()).await.bytes().await.unwrap();
    assert!((0..program.chunks.len()).all(|position| is_missing(&bits, position) == Some(true)));

    let stored = world.upload(&opened, &program.chunks).await;
    assert_eq!(stored.stored, program.chunks.len() as u64);
    assert_eq!(world.upload(&opened, &program.chunks).await.present, program.chunks.len() as u64);
    let bits = world.post(&question, asked).await.bytes().await.unwrap();
    assert!((0..program.chunks.len()).all(|position| is_missing(&bits, position) == Some(false)));

    let rejected = world.send_recipes(&opened, &[&library]).await.rejected;
    assert_eq!(rejected[0].missing_chunks.len(), library.chunks.len());
    let unfinished = world.commit(&opened).await;
    assert_eq!(unfinished.status(), 422);

    world.upload(&opened, &library.chunks).await;
    let answer = world.send_recipes(&opened, &[&library, &program]).await;
    assert_eq!((answer.verified.len(), answer.rejected.len()), (2, 0));
    assert_eq!(world.narinfo(&program).await, None, "nothing is visible before the commit");

    let committed: CommittedPush = world.commit(&opened).await.json().await.unwrap();
    assert_eq!(committed.published, 2);
    let again: CommittedPush = world.commit(&opened).await.json().await.unwrap();
    assert_eq!(again, committed, "a commit can be repeated");

    for nar in [&library, &program] {
        let narinfo = world.narinfo(nar).await.unwrap();
        assert_eq!(narinfo.references, nar.info.references);
        assert_eq!(narinfo.signatures, committed.signatures[&nar.info.path]);
        let key = world.service.caches.named("main").unwrap().public_keys().remove(0);
        assert!(key.verifies(&narinfo.fingerprint(), &narinfo.signatures[0]));

        let answer = world.get(&narinfo.url).await;
        assert_eq!(answer.headers()["accept-ranges"], "bytes");
        let etag = answer.headers()["etag"].clone();
        assert_eq!(answer.content_length(), narinfo.file_size);
        let whole = answer.bytes().await.unwrap();
        assert_eq!(decompress(&whole), nar.bytes);

        let url = format!("{}/main/{}", world.url, narinfo.url);
        for start in [0, 1, 17, 70_000, whole.len() - 1] {
            let answer =
                world.client.get(&url).header("range", format!("bytes={start}-")).send().await.unwrap();
            assert_eq!(answer.status(), 206);
            assert_eq!(answer.headers()["etag"], etag);
            assert_eq!(answer.bytes().await.unwrap(), whole[start..]);
        }
        let some = world.client.get(&url).header("range", "bytes=99990-100010").send().await.unwrap();
        assert_eq!(some.headers()["content-range"], format!("bytes 99990-100010/{}", whole.len()).as_str());
        assert_eq!(some.bytes().await.unwrap(), whole[99_990..100_011]);
        let beyond = format!("bytes={}-", whole.len());
        let beyond = world.client.get(&url).header("range", beyond).send().await.unwrap();
        assert_eq!(beyond.status(), 416);
        let head = world.client.head(&url).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], whole.len().to_string().as_str());

        let other = StorePathHash([7; 20]);
        let url = format!("{}/main/nar/{}-{other}.nar.zst", world.url, nar.info.nar_hash.base32());
        let answer = world.client.get(&url).send().await.unwrap();
        assert!(answer.headers().get("accept-ranges").is_none());
        assert_eq!(answer.bytes().await.unwrap(), whole);
        let range = world.client.get(&url).header("range", "bytes=5-").send().await.unwrap();
        assert_eq!(range.status(), 404, "a range of other bytes must not be added to");
    }
    world.end().await;
}

#[tokio::test]
async fn a_rebuild_with_new_store_hashes_sends_no_chunk() {
    let world = World::new().await;
    let (old, new) = (path(1, "library"), path(9, "library"));
    let first = TestNar::new(path(2, "program"), &contents(3, 2_000_000, &[&old]), &[&old]);
    let second = TestNar::new(path(3, "program"), &contents(3, 2_000_000, &[&new]), &[&new]);
    let libraries = [old, new].map(|path| TestNar::new(path, b"library", &[]));
    world.push(&[&first, &libraries[0]]).await;

    let opened = world.open(&[&second, &libraries[1]]).await;
    assert_eq!(opened.missing, [second.info.path.hash()]);
    assert_eq!(opened.reused, [libraries[1].info.path.hash()]);
    assert!(world.send_recipes(&opened, &[&second]).await.rejected.is_empty());
    assert_eq!(world.commit(&opened).await.status(), 200);
    let url = world.narinfo(&second).await.unwrap().url;
    assert_eq!(decompress(&world.get(&url).await.bytes().await.unwrap()), second.bytes);
    world.end().await;
}

#[tokio::test]
async fn what_is_there_takes_one_round_trip() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    world.push(&[&nar]).await;
    let opened = world.open(&[&nar]).await;
    assert_eq!(opened.present, [nar.info.path.hash()]);
    assert!(opened.committed.is_some());
    world.end().await;
}

#[tokio::test]
async fn a_missing_reference_is_named() {
    let world = World::new().await;
    let (a, b) = (path(5, "absent-a"), path(6, "absent-b"));
    let nar = TestNar::new(path(1, "x"), b"x", &[&a, &b]);
    let opened = world.open(&[&nar]).await;
    world.upload(&opened, &nar.chunks).await;
    world.send_recipes(&opened, &[&nar]).await;
    let answer = world.commit(&opened).await;
    assert_eq!(answer.status(), 422);
    let error: ErrorAnswer = answer.json().await.unwrap();
    assert_eq!(error.missing_references, [a, b]);
    assert_eq!(world.narinfo(&nar).await, None);
    world.end().await;
}

#[tokio::test]
async fn the_first_to_bring_a_path_keeps_it() {
    let world = World::new().await;
    let first = TestNar::new(path(1, "x"), b"first", &[]);
    let second = TestNar::new(path(1, "x"), b"second", &[]);
    let other = TestNar::new(path(2, "y"), b"other", &[]);
    // Both are opened before either is committed.
    let (one, two) = (world.open(&[&first]).await, world.open(&[&second, &other]).await);
    world.upload(&one, &first.chunks).await;
    world.send_recipes(&one, &[&first]).await;
    world.upload(&two, &[&second.chunks[..], &other.chunks[..]].concat()).await;
    assert!(world.send_recipes(&two, &[&second, &other]).await.rejected.is_empty());
    world.commit(&one).await;
    let two: CommittedPush = world.commit(&two).await.json().await.unwrap();
    assert_eq!(two.published, 1);
    assert_eq!(two.divergences.len(), 1);
    assert_eq!(two.divergences[0].kept, first.info.nar_hash);
    assert_eq!(world.narinfo(&first).await.unwrap().nar_hash, first.info.nar_hash);
    assert!(world.narinfo(&other).await.is_some());

    let late = world.open(&[&second]).await.committed.unwrap();
    assert_eq!(late.divergences[0].pushed, second.info.nar_hash);
    world.end().await;
}

#[tokio::test]
async fn what_does_not_hold_is_refused() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), &contents(4, 300_000, &[]), &[]);
    let opened = world.open(&[&nar]).await;
    let frames = format!("/{}/frames", opened.push);

    let mut body = upload_body(&nar.chunks);
    *body.last_mut().unwrap() ^= 1;
    assert_eq!(world.post(&frames, body).await.status(), 422);
    let body = upload_body(&nar.chunks);
    assert_eq!(world.post(&frames, body[..body.len() - 1].to_vec()).await.status(), 400);
    assert_eq!(world.post(&frames, [body, vec![0]].concat()).await.status(), 400);

    world.upload(&opened, &nar.chunks).await;
    let mut swapped = nar.recipe();
    swapped.chunks.reverse();
    let recipes = format!("/{}/recipes", opened.push);
    let answer: RecipesAnswer = world.post(&recipes, recipe::encode(&[swapped])).await.json().await.unwrap();
    assert_eq!(answer.rejected.len(), 1);
    let mut grown = nar.recipe();
    grown.nar_size += 1;
    let answer: RecipesAnswer = world.post(&recipes, recipe::encode(&[grown])).await.json().await.unwrap();
    assert!(answer.rejected[0].reason.contains("size"));
    assert_eq!(world.commit(&opened).await.status(), 422);
    world.end().await;
}

#[tokio::test]
async fn a_push_belongs_to_who_opened_it() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let opened = world.open(&[&nar]).await;
    let main = "main".parse().unwrap();
    let other = people::create_token(&world.service.metadata, &world.service.clock, "other", &main, 60)
        .await
        .unwrap();
    let url = format!("{}/api/v1/caches/main/pushes/{}/commit", world.url, opened.push);
    let answer = world.client.post(&url).bearer_auth(other.expose()).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(world.client.post(&url).send().await.unwrap().status(), 401);
    world.end().await;
}

/// A NAR that is here already must not be published with a size that is not its own: no reader could take it.
#[tokio::test]
async fn a_stored_nar_is_not_published_with_another_size() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let mut liar = TestNar::new(path(2, "y"), b"x", &[]);
    liar.info.nar_size += 8;
    // Before the NAR is here, and after.
    let early = world.open(&[&liar]).await;
    world.push(&[&nar]).await;
    assert_eq!(world.commit(&early).await.status(), 422);
    let late = world.open(&[&liar]).await;
    assert_eq!((late.missing.len(), late.reused.len()), (1, 0));
    for push in [&early, &late] {
        assert_eq!(world.send_recipes(push, &[&liar]).await.rejected.len(), 1);
        assert_eq!(world.commit(push).await.status(), 422);
    }
    assert_eq!(world.narinfo(&liar).await, None);
    world.end().await;
}

/// Nix takes a path of another name for none.
#[tokio::test]
async fn a_reference_with_the_name_of_no_path_is_missing() {
    let world = World::new().await;
    let wrong = path(1, "other-name");
    let library = TestNar::new(path(1, "library"), b"library", &[]);
    let program = TestNar::new(path(2, "program"), b"program", &[&wrong]);
    let chunks = [&library.chunks[..], &program.chunks[..]].concat();
    for push in [world.open(&[&library, &program]).await, {
        world.push(&[&library]).await;
        world.open(&[&library, &program]).await
    }] {
        world.upload(&push, &chunks).await;
        world.send_recipes(&push, &[&library, &program]).await;
        let answer = world.commit(&push).await;
        assert_eq!(answer.status(), 422);
        assert_eq!(
            answer.json::<ErrorAnswer>().await.unwrap().missing_references,
            std::slice::from_ref(&wrong)
        );
    }
    assert_eq!(world.narinfo(&program).await, None);
    world.end().await;
}

/// Polls a future as often as `polls`, then once more, then drops it, ended or not.
async fn cut_off(future: impl Future, mut polls: u8) {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Pending if polls > 0 => {
            polls -= 1;
            Poll::Pending
        }
        _ => Poll::Ready(()),
    })
    .await;
}

/// Readers that were told of a path's absence hear of it, in whatever moment the client of its push goes away.
#[tokio::test]
async fn a_path_is_seen_whenever_the_committing_client_goes_away() {
    let world = World::new().await;
    for polls in 0..12u8 {
        let nar = TestNar::new(path(polls, "x"), &[polls], &[]);
        let opened = world.open(&[&nar]).await;
        world.upload(&opened, &nar.chunks).await;
        world.send_recipes(&opened, &[&nar]).await;
        assert_eq!(world.narinfo(&nar).await, None);
        let commit = Request::post(format!("/api/v1/caches/main/pushes/{}/commit", opened.push))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::empty())
            .unwrap();
        cut_off(router(world.service.clone()).oneshot(commit), polls).await;
        assert!(world.open(&[&nar]).await.committed.is_some());
        assert!(world.narinfo(&nar).await.is_some(), "after {polls} polls");
    }
    world.end().await;
}

/// Memory for frames under way is bounded: an upload for which there is no room is not even read.
#[tokio::test]
async fn uploads_wait_for_room_in_the_window() {
    let world = World::with(|config| config.limits.upload_window = ByteSize::mebibytes(8)).await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let opened = world.open(&[&nar]).await;
    let body = Bytes::from(upload_body(&nar.chunks));
    // Each tells when its body is read, and goes on when it is told to.
    let begin = || {
        let (reading, is_read) = oneshot::channel();
        let (go_on, told) = oneshot::channel::<()>();
        let body = body.clone();
        let stream = stream::once(async move {
            let _ = reading.send(());
            let _ = told.await;
            Ok::<_, std::io::Error>(body)
        });
        let request = Request::post(format!("/api/v1/caches/main/pushes/{}/frames", opened.push))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::from_stream(stream))
            .unwrap();
        (tokio::spawn(router(world.service.clone()).oneshot(request)), is_read, go_on)
    };
    let mut uploads = Vec::new();
    for _ in 0..4 {
        let (upload, is_read, go_on) = begin();
        is_read.await.unwrap();
        uploads.push((upload, go_on));
    }
    let (fifth, mut is_read, go_on) = begin();
    for _ in 0..10 {
        assert_eq!(world.narinfo(&nar).await, None);
    }
    assert!(is_read.try_recv().is_err(), "it is read though the window is full");
    uploads.push((fifth, go_on));
    for (upload, go_on) in uploads {
        go_on.send(()).unwrap();
        assert_eq!(upload.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    world.end().await;
}
