//! A service without a listener, a clock, and jobs that push.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use larder_protocol::{
    NarHash, StorePath,
    api::{CacheName, CommittedPush, OpenPush, OpenedPush, Permission, PinRequest, RecipesAnswer},
    chunk::{CutChunk, FrameEncoder},
    narinfo::NarInfo,
    recipe::{self, Recipe},
    upload::{FrameEntry, encode_index},
};
use larder_service::{
    Service,
    audit::{Entry, Event, Who},
    clock::Clock,
    config::Config,
    retention::{SweepReport, sweep},
    router,
    trust::{Grant, GrantedTo, Rank, SecretToken},
};
use tower::ServiceExt as _;

use crate::nar::{TestNar, decompress};
use crate::test_servers::{self, objects::Objects};

pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

pub struct World {
    pub service: Arc<Service>,
    pub time: Arc<AtomicI64>,
    pub data: Arc<tempfile::TempDir>,
    /// For `larderd` on the same data.
    pub environment: Vec<(String, String)>,
    change: fn(&mut Config),
}

/// Who pushes, a job or a person, to which cache.
#[derive(Clone)]
pub struct Pusher {
    token: String,
    cache: CacheName,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: fn(&mut Config)) -> Self {
        Self::over(tempfile::tempdir().unwrap(), change, 1_800_000_000).await
    }

    /// On what somebody left, at this time.
    pub async fn over(data: tempfile::TempDir, change: fn(&mut Config), now: i64) -> Self {
        let data = Arc::new(data);
        let time = Arc::new(AtomicI64::new(now));
        let service = open(&data, change, &time).await;
        Self { service, time, environment: test_servers::environment(data.path()).await, data, change }
    }

    /// Ends it, and leaves what is on disk.
    pub async fn end(self) -> tempfile::TempDir {
        self.service.metadata.close().await;
        drop(self.service);
        Arc::into_inner(self.data).unwrap()
    }

    /// As after `kill -9`: nothing is written that was not.
    pub async fn restart(&mut self) {
        self.service.metadata.close().await;
        self.service = open(&self.data, self.change, &self.time).await;
    }

    /// A service like this one on other data.
    pub async fn on(&self, data: tempfile::TempDir) -> Self {
        let data = Arc::new(data);
        let service = open(&data, self.change, &self.time).await;
        let environment = test_servers::environment(data.path()).await;
        Self { service, time: self.time.clone(), environment, data, change: self.change }
    }

    /// Another service on the same data, which remembers nothing.
    pub async fn beside(&self) -> Self {
        let service = open(&self.data, self.change, &self.time).await;
        let (data, environment) = (self.data.clone(), self.environment.clone());
        Self { service, time: self.time.clone(), environment, data, change: self.change }
    }

    pub fn now(&self) -> i64 {
        self.time.load(Ordering::SeqCst)
    }

    pub fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    /// A job of `acme/flake` on this branch, in this run.
    pub async fn job(&self, branch: &str, run: u64) -> Pusher {
        self.job_of_rank(branch, run, Rank::default()).await
    }

    pub async fn job_of_rank(&self, branch: &str, run: u64, rank: Rank) -> Pusher {
        self.claimed("acme/flake", 42, branch, run, rank).await
    }

    /// A job of any repository.
    pub async fn job_of(&self, repository: &str, repository_id: u64, branch: &str, run: u64) -> Pusher {
        self.claimed(repository, repository_id, branch, run, Rank::default()).await
    }

    async fn claimed(
        &self,
        repository: &str,
        repository_id: u64,
        branch: &str,
        run: u64,
        rank: Rank,
    ) -> Pusher {
        let claims = serde_json::json!({
            "kind": "job", "iss": "https://issuer", "repository": repository,
            "repository_id": repository_id.to_string(),
            "ref": format!("refs/heads/{branch}"), "sha": "0123", "event_name": "push",
            "workflow_ref": format!("{repository}/.github/workflows/ci.yml@refs/heads/{branch}"),
            "run_id": run.to_string(), "run_attempt": "1",
        });
        self.pusher("main", serde_json::from_value(claims).unwrap(), run, rank).await
    }

    pub async fn person(&self) -> Pusher {
        self.person_of("main").await
    }

    /// Somebody who pushes to another cache.
    pub async fn person_of(&self, cache: &str) -> Pusher {
        let anna = GrantedTo::Person { name: "anna".to_owned(), token: "1".to_owned() };
        self.pusher(cache, anna, 0, Rank::default()).await
    }

    async fn pusher(&self, cache: &str, identity: GrantedTo, number: u64, rank: Rank) -> Pusher {
        let token = SecretToken::generate("larder_t_").unwrap();
        let cache: CacheName = cache.parse().unwrap();
        let grant = Grant {
            cache: cache.clone(),
            permissions: vec![Permission::Push, Permission::Pin],
            identity,
            rank,
            isolated: None,
        };
        let entry = Entry::of_service(Who::default(), Event::TokenRevoked { name: String::new() });
        let name = format!("{number}-{}", token.hash().short());
        let until = i64::MAX;
        assert!(
            self.service
                .metadata
                .create_named_token(token.hash(), &grant, &name, self.now(), until, &entry)
                .await
                .unwrap()
        );
        Pusher { token: token.expose().to_owned(), cache }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        who: Option<&Pusher>,
        body: Vec<u8>,
    ) -> (StatusCode, Bytes) {
        let mut request =
            Request::builder().method(method).uri(path).header(header::CONTENT_LENGTH, body.len());
        if let Some(Pusher { token, .. }) = who {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer =
            router(self.service.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn post(&self, who: &Pusher, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        self.call(Method::POST, &format!("/api/v1/caches/{}/pushes{path}", who.cache), Some(who), body).await
    }

    /// Opens a push; the first path is its root.
    pub async fn open(&self, who: &Pusher, nars: &[&TestNar]) -> OpenedPush {
        let open = OpenPush {
            paths: nars.iter().map(|nar| nar.info.clone()).collect(),
            roots: vec![nars[0].info.path.clone()],
            built: Vec::new(),
            ..OpenPush::default()
        };
        let (status, body) = self.post(who, "", serde_json::to_vec(&open).unwrap()).await;
        assert_eq!(status, 200, "{body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    pub async fn missing(&self, who: &Pusher, push: &OpenedPush, nar: &TestNar) -> usize {
        let names: Vec<u8> = nar.chunks.iter().flat_map(|chunk| chunk.id.0).collect();
        let (status, bits) = self.post(who, &format!("/{}/missing-chunks", push.push), names).await;
        assert_eq!(status, 200, "{bits:?}");
        bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    pub async fn upload(&self, who: &Pusher, push: &OpenedPush, chunks: &[CutChunk]) -> StatusCode {
        let mut encoder = FrameEncoder::default();
        let (mut entries, mut frames) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let frame = encoder.encode(&chunk.content, &chunk.holes);
            entries.push(FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap());
            frames.extend(frame.bytes);
        }
        let body = [encode_index(&entries), frames].concat();
        self.post(who, &format!("/{}/frames", push.push), body).await.0
    }

    pub async fn send_recipes(
        &self,
        who: &Pusher,
        push: &OpenedPush,
        nars: &[&TestNar],
    ) -> Result<RecipesAnswer, StatusCode> {
        let recipes: Vec<Recipe> = nars.iter().map(|nar| nar.recipe()).collect();
        let (status, body) =
            self.post(who, &format!("/{}/recipes", push.push), recipe::encode(&recipes)).await;
        if status == 200 { Ok(serde_json::from_slice(&body).unwrap()) } else { Err(status) }
    }

    pub async fn commit(
        &self,
        who: &Pusher,
        push: &OpenedPush,
    ) -> Result<CommittedPush, (StatusCode, Bytes)> {
        let (status, body) = self.post(who, &format!("/{}/commit", push.push), Vec::new()).await;
        if status == 200 { Ok(serde_json::from_slice(&body).unwrap()) } else { Err((status, body)) }
    }

    /// Pushes what is missing of these; the first path is the root.
    pub async fn push(&self, who: &Pusher, nars: &[&TestNar]) {
        let opened = self.open(who, nars).await;
        if opened.committed.is_some() {
            return;
        }
        self.send(who, &opened, nars).await;
        self.commit(who, &opened).await.unwrap();
    }

    /// The same; whether there was room for it.
    pub async fn try_push(&self, who: &Pusher, nars: &[&TestNar]) -> bool {
        let open = OpenPush {
            paths: nars.iter().map(|nar| nar.info.clone()).collect(),
            roots: vec![nars[0].info.path.clone()],
            ..OpenPush::default()
        };
        let (status, body) = self.post(who, "", serde_json::to_vec(&open).unwrap()).await;
        if status != 200 {
            let text = String::from_utf8_lossy(&body);
            assert!(status == 507 && text.contains("max_size"), "{status} {text}");
            return false;
        }
        let opened: OpenedPush = serde_json::from_slice(&body).unwrap();
        if opened.committed.is_none() {
            self.send(who, &opened, nars).await;
            self.commit(who, &opened).await.unwrap();
        }
        true
    }

    /// Sends what a push misses.
    pub async fn send(&self, who: &Pusher, opened: &OpenedPush, nars: &[&TestNar]) {
        let missing: Vec<&TestNar> =
            nars.iter().copied().filter(|nar| opened.missing.contains(&nar.info.path.hash())).collect();
        for nar in &missing {
            assert_eq!(self.upload(who, opened, &nar.chunks).await, 200);
        }
        let answer = self.send_recipes(who, opened, &missing).await.unwrap();
        assert!(answer.rejected.is_empty(), "{:?}", answer.rejected);
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Bytes) {
        self.call(Method::GET, &format!("/main/{path}"), None, Vec::new()).await
    }

    pub async fn narinfo(&self, nar: &TestNar) -> Option<NarInfo> {
        let (status, body) = self.get(&format!("{}.narinfo", nar.info.path.hash())).await;
        match status {
            StatusCode::OK => Some(NarInfo::parse(std::str::from_utf8(&body).unwrap()).unwrap()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{status}"),
        }
    }

    /// Whether a path is there; if so, it must be right to the last byte. (Being asked is being read.)
    pub async fn has(&self, nar: &TestNar) -> bool {
        let Some(narinfo) = self.narinfo(nar).await else { return false };
        let (status, bytes) = self.get(&narinfo.url).await;
        assert_eq!(status, 200, "{} is seen and cannot be read", nar.info.path);
        assert!(decompress(&bytes) == nar.bytes, "{} is not what was pushed", nar.info.path);
        true
    }

    /// Which of these the database has, without anybody reading them.
    pub async fn visible(&self, nars: &[&TestNar]) -> Vec<bool> {
        self.visible_in("main", nars).await
    }

    /// The same of any cache.
    pub async fn visible_in(&self, cache: &str, nars: &[&TestNar]) -> Vec<bool> {
        let hashes: Vec<_> = nars.iter().map(|nar| nar.info.path.hash()).collect();
        let found = self.service.metadata.visible_paths(&[&cache.parse().unwrap()], &hashes).await.unwrap();
        hashes.iter().map(|hash| found.contains_key(hash)).collect()
    }

    pub async fn sweep(&self) -> SweepReport {
        sweep(&self.service).await.unwrap()
    }

    /// Sweeps until all that can go is gone: what nothing keeps is found by the first, taken by the second, and the files
    /// of what was left empty by the third. Takes a bit more than two days.
    pub async fn sweep_all(&self) {
        for _ in 0..3 {
            self.sweep().await;
            self.pass(DAY + 1);
        }
        self.sweep().await;
    }

    pub async fn pin(
        &self,
        who: &Pusher,
        name: &str,
        path: &StorePath,
        lifetime: Option<u64>,
        keep: u32,
    ) -> StatusCode {
        let request = PinRequest { path: path.clone(), lifetime, keep };
        let body = serde_json::to_vec(&request).unwrap();
        self.call(Method::PUT, &format!("/api/v1/caches/main/pins/{name}"), Some(who), body).await.0
    }

    /// How many objects there are, unfinished ones too.
    pub async fn count_objects(&self) -> usize {
        self.objects().sizes().await.len()
    }

    /// What lies in its storage.
    pub fn objects(&self) -> Objects {
        Objects::of(self.data.path())
    }

    /// Its database, to be looked at.
    pub async fn database(&self) -> sqlx::AnyConnection {
        test_servers::connect(self.data.path()).await
    }

    /// After all sweeps nothing is left but what these need: no other NAR or chunk, nothing half written, and no file that
    /// is doomed.
    pub async fn assert_nothing_else(&self, nars: &[&TestNar]) {
        let counts: (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM nars), (SELECT count(*) FROM chunks), (SELECT count(*) FROM objects
                 WHERE state = 'writing' OR doomed_at IS NOT NULL OR NOT EXISTS (
                     SELECT 1 FROM chunks WHERE object = objects.id UNION ALL
                     SELECT 1 FROM nars WHERE recipe_object = objects.id UNION ALL
                     SELECT 1 FROM pushes WHERE record = objects.id))",
        )
        .fetch_one(&mut self.database().await)
        .await
        .unwrap();
        let needed: BTreeSet<NarHash> = nars.iter().map(|nar| nar.info.nar_hash).collect();
        let chunks: BTreeSet<[u8; 32]> =
            nars.iter().flat_map(|nar| nar.chunks.iter().map(|chunk| chunk.id.0)).collect();
        let number = |length: usize| i64::try_from(length).unwrap();
        assert_eq!(
            counts,
            (number(needed.len()), number(chunks.len()), 0),
            "NARs, chunks, objects of no use"
        );
        self.assert_storage_fits().await;
    }

    /// Rows and storage say the same: no object is without a row, no row that is not doomed without its object, and what
    /// lies in an object lies within it.
    pub async fn assert_storage_fits(&self) {
        let rows: Vec<(String, i64, i64, Option<i64>)> = sqlx::query_as(
            "SELECT key, size, CASE WHEN state = 'stored' AND doomed_at IS NULL THEN 1 ELSE 0 END,
                 (SELECT max(frame_offset + frame_len) FROM chunks WHERE object = objects.id) FROM objects",
        )
        .fetch_all(&mut self.database().await)
        .await
        .unwrap();
        let mut files = self.objects().sizes().await;
        for (key, size, stays, end) in rows {
            let file = files.remove(&key).map(|length| i64::try_from(length).unwrap());
            if stays != 0 {
                assert_eq!(file, Some(size), "{key} is not as its row says");
            }
            assert!(end.is_none() || file >= end, "what lies in {key} is not there");
            files.retain(|file, _| !file.starts_with(&format!("{key}#")));
        }
        assert!(files.is_empty(), "{files:?} have no row");
    }
}

async fn open(data: &tempfile::TempDir, change: fn(&mut Config), time: &Arc<AtomicI64>) -> Arc<Service> {
    let mut config = Config::in_dir(data.path());
    test_servers::place(&mut config, data.path()).await;
    config.caches[0].upstreams.clear();
    change(&mut config);
    Service::open(config, Clock::Set(time.clone())).await.unwrap()
}
