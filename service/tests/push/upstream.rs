//! What an upstream has signed, and what somebody pushes in its place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Path, response::IntoResponse as _, routing::get};
use http::{StatusCode, header::LOCATION};
use larder_protocol::{
    SigningKey,
    api::{Permission, Upstream},
    narinfo::NarInfo,
};
use larder_service::{
    config::{CacheConfig, Config, cache::CheckedUpstream},
    metadata::{DivergenceFilter, Outcome},
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    nar::{TestNar, path},
    private::{Pusher, token},
    world::World,
};

/// A binary cache that tells what it is told to.
pub(crate) struct UpstreamCache {
    pub(crate) key: SigningKey,
    pub(crate) url: String,
    answers: Arc<Mutex<HashMap<String, (StatusCode, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    served: JoinHandle<()>,
}

impl UpstreamCache {
    pub(crate) async fn start() -> Self {
        let answers: Arc<Mutex<HashMap<String, (StatusCode, String)>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (told, noted) = (answers.clone(), asked.clone());
        let answer = async move |Path(file): Path<String>| {
            noted.lock().unwrap().push(file.clone());
            match told.lock().unwrap().get(&file).cloned() {
                None => StatusCode::NOT_FOUND.into_response(),
                Some((status, to)) if status.is_redirection() => (status, [(LOCATION, to)]).into_response(),
                Some(answer) => answer.into_response(),
            }
        };
        let router = Router::new().route("/{file}", get(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { key: SigningKey::generate("upstream-1").unwrap(), url, answers, asked, served }
    }

    pub(crate) fn has(&self, nar: &TestNar, key: &SigningKey) {
        let mut narinfo = NarInfo {
            path: nar.info.path.clone(),
            url: "nar/x.nar.xz".into(),
            compression: None,
            file_hash: None,
            file_size: None,
            nar_hash: nar.info.nar_hash,
            nar_size: nar.info.nar_size,
            references: nar.info.references.clone(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
        };
        narinfo.signatures.push(key.sign(&narinfo.fingerprint()));
        self.says(nar, StatusCode::OK, &narinfo.to_string());
    }

    fn says(&self, nar: &TestNar, status: StatusCode, text: &str) {
        let file = format!("{}.narinfo", nar.info.path.hash());
        self.answers.lock().unwrap().insert(file, (status, text.to_owned()));
    }

    pub(crate) fn asked(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().unwrap()).len()
    }

    async fn world(&self, check: bool) -> World {
        let upstream = Upstream { url: self.url.clone(), public_keys: vec![self.key.public_key()] };
        World::with(|config: &mut Config| {
            config.caches[0].upstreams = vec![CheckedUpstream { check, ..CheckedUpstream::new(upstream) }];
        })
        .await
    }
}

impl Drop for UpstreamCache {
    fn drop(&mut self) {
        self.served.abort();
    }
}

#[tokio::test]
async fn what_differs_from_what_an_upstream_has_signed_is_refused() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(true).await;
    let right = TestNar::new(path(1, "libc"), b"right", &[]);
    upstream.has(&right, &upstream.key);
    let wrong = TestNar::new(path(1, "libc"), b"wrong", &[]);
    let user = TestNar::new(path(2, "user"), b"user", &[&wrong.info.path]);
    let opened = world.open(&[&wrong, &user]).await;
    assert_eq!(
        (&opened.missing[..], &opened.upstream[..]),
        (&[user.info.path.hash()][..], &[wrong.info.path.hash()][..])
    );
    world.upload(&opened, &user.chunks).await;
    world.send_recipes(&opened, &[&user]).await;
    let committed: larder_protocol::api::CommittedPush = world.commit(&opened).await.json().await.unwrap();
    assert_eq!(committed.published, 1);
    let [divergence] = &committed.divergences[..] else { panic!("{committed:?}") };
    assert_eq!((divergence.kept, divergence.pushed), (right.info.nar_hash, wrong.info.nar_hash));
    assert_eq!(divergence.upstream.as_ref(), Some(&upstream.url));
    assert_eq!(world.narinfo(&wrong).await, None);

    let filter = DivergenceFilter { limit: 10, ..DivergenceFilter::default() };
    let noted = world.service.metadata.divergences(&filter).await.unwrap().pop().unwrap();
    assert_eq!((noted.outcome, noted.upstream.as_ref()), (Outcome::Refused, Some(&upstream.url)));
    assert!(noted.brought_by.is_some() && noted.before_by.is_none());

    // References are a part of what is signed.
    let referring = TestNar::new(path(1, "libc"), b"right", &[&path(3, "more")]);
    let opened = world.open(&[&referring]).await;
    assert_eq!(opened.committed.unwrap().divergences.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn what_an_upstream_has_just_so_need_not_be_pushed_whoever_signed_it_here() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(true).await;
    let nar = TestNar::new(path(1, "libc"), b"right", &[]);
    upstream.has(&nar, &upstream.key);
    let opened = world.open(&[&nar]).await;
    assert_eq!(opened.upstream, [nar.info.path.hash()]);
    assert!(opened.committed.unwrap().divergences.is_empty());
    world.end().await;
}

/// What has no valid signature of the upstream is nothing that a reader would take from it.
#[tokio::test]
async fn what_an_upstream_did_not_sign_is_in_nobodys_way() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(true).await;
    let other = TestNar::new(path(1, "libc"), b"other", &[]);
    let nar = TestNar::new(path(1, "libc"), b"ours", &[]);
    upstream.has(&other, &SigningKey::generate("upstream-1").unwrap());
    assert_eq!(world.push(&[&nar]).await.published, 1);
    for (seed, text) in [(2, "no narinfo"), (3, "")] {
        let nar = TestNar::new(path(seed, "x"), &[seed], &[]);
        upstream.says(&nar, StatusCode::OK, text);
        assert_eq!(world.push(&[&nar]).await.published, 1);
    }
    world.end().await;
}

#[tokio::test]
async fn answers_are_remembered_also_that_it_has_nothing() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(true).await;
    let absent = TestNar::new(path(1, "x"), b"x", &[]);
    let present = TestNar::new(path(2, "y"), b"y", &[]);
    upstream.has(&present, &upstream.key);
    world.open(&[&absent, &present]).await;
    assert_eq!(upstream.asked(), 2);
    let opened = world.open(&[&absent, &present]).await;
    assert_eq!((upstream.asked(), opened.upstream.len()), (0, 1));
    // It is the contents that are remembered.
    let other = TestNar::new(path(2, "y"), b"other", &[]);
    assert_eq!(world.open(&[&other]).await.committed.unwrap().divergences.len(), 1);
    assert_eq!(upstream.asked(), 0);
    world.end().await;
}

/// Whoever has an upstream's old key must not have the last word once another key is trusted.
#[tokio::test]
async fn what_is_remembered_counts_for_the_keys_that_it_was_asked_by() {
    let upstream = UpstreamCache::start().await;
    let new = SigningKey::generate("upstream-2").unwrap();
    let trusting = |key: &SigningKey| {
        let asked = Upstream { url: upstream.url.clone(), public_keys: vec![key.public_key()] };
        vec![CheckedUpstream::new(asked)]
    };
    let world = World::with(|config| {
        config.caches[0].upstreams = trusting(&upstream.key);
        let name = "later".parse().unwrap();
        config.caches.push(CacheConfig { name, upstreams: trusting(&new), ..CacheConfig::default() });
    })
    .await;
    let token = token(&world, "later", "later", &[Permission::Push, Permission::Read]).await;
    let later = Pusher { world: &world, cache: "later", token };
    let by_old = TestNar::new(path(1, "x"), b"x", &[]);
    let by_new = TestNar::new(path(2, "y"), b"y", &[]);
    upstream.has(&by_old, &upstream.key);
    upstream.has(&by_new, &new);
    assert_eq!(world.open(&[&by_old, &by_new]).await.upstream, [by_old.info.path.hash()]);
    upstream.asked();

    assert_eq!(later.open(&by_old).await.missing, [by_old.info.path.hash()]);
    assert_eq!(later.open(&by_new).await.upstream, [by_new.info.path.hash()]);
    assert_eq!(upstream.asked(), 2);
    // Nor is what the old key has signed a reference that counts.
    let user = TestNar::new(path(3, "user"), b"user", &[&by_old.info.path]);
    let opened = later.open(&user).await;
    later.upload(&opened, &user).await;
    later.recipes(&opened, &user).await;
    assert_eq!(later.commit(&opened).await.status(), 422);
    world.end().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_holds_up_no_push_and_that_is_on_record() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(true).await;
    let nars: Vec<TestNar> = (1..20).map(|seed| TestNar::new(path(seed, "x"), &[seed], &[])).collect();
    for nar in &nars {
        upstream.says(nar, StatusCode::INTERNAL_SERVER_ERROR, "");
    }
    let all: Vec<&TestNar> = nars.iter().collect();
    assert_eq!(world.push(&all).await.published, 19);
    let asked = upstream.asked();
    assert!((1..=19).contains(&asked), "{asked}");
    let unasked = world.service.metadata.unasked(Some(&"main".parse().unwrap())).await.unwrap();
    assert_eq!(unasked, 19);
    // It is not asked again at once.
    assert_eq!(world.push(&[&TestNar::new(path(30, "y"), b"y", &[])]).await.published, 1);
    assert_eq!(upstream.asked(), 0);
    world.end().await;
}

#[tokio::test]
async fn an_upstream_sends_whoever_asks_about_a_push_nowhere_but_within_itself() {
    let (upstream, elsewhere) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let world = upstream.world(true).await;
    let [here, away] = [1, 2].map(|seed| TestNar::new(path(seed, "x"), &[seed], &[]));
    let file = |nar: &TestNar| format!("{}.narinfo", nar.info.path.hash());
    for nar in [&here, &away] {
        upstream.has(nar, &upstream.key);
        elsewhere.has(nar, &upstream.key);
    }
    let moved = upstream.answers.lock().unwrap().remove(&file(&here)).unwrap();
    upstream.answers.lock().unwrap().insert("moved".to_owned(), moved);
    upstream.says(&here, StatusCode::FOUND, "/moved");
    upstream.says(&away, StatusCode::FOUND, &format!("{}/{}", elsewhere.url, file(&away)));
    let opened = world.open(&[&here, &away]).await;
    assert_eq!((opened.upstream, opened.missing), (vec![here.info.path.hash()], vec![away.info.path.hash()]));
    assert_eq!(elsewhere.asked(), 0);
    world.end().await;
}

/// The configuration may say that an upstream hears of nothing but what it has signed itself.
#[tokio::test]
async fn an_upstream_can_be_asked_only_about_what_carries_its_signature() {
    let upstream = UpstreamCache::start().await;
    let world = upstream.world(false).await;
    let ours = TestNar::new(path(1, "x"), b"x", &[]);
    let mut theirs = TestNar::new(path(2, "y"), b"y", &[]);
    upstream.has(&theirs, &upstream.key);
    let text = larder_protocol::signature::fingerprint(
        &theirs.info.path,
        &theirs.info.nar_hash,
        theirs.info.nar_size,
        &[],
    );
    theirs.info.signatures.push(upstream.key.sign(&text));
    let opened = world.open(&[&ours, &theirs]).await;
    assert_eq!((opened.upstream, upstream.asked()), (vec![theirs.info.path.hash()], 1));
    world.end().await;
}
