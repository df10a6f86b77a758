//! A private cache, and those who may push there and not read.

use larder_protocol::{
    ChunkId,
    api::{
        CacheInfo, CacheName, CommittedPush, ErrorAnswer, OpenPush, OpenedPush, Permission, RecipesAnswer,
        UploadAnswer,
    },
    recipe,
};
use larder_service::{
    Service,
    clock::Clock,
    config::{ByteSize, CacheConfig, Config},
    retention::sweep,
    trust::{
        Rank,
        people::{self, NewToken},
    },
};
use reqwest::{RequestBuilder, header};

use crate::{
    nar::{TestNar, contents, path},
    world::{World, upload_body},
};

/// A world whose `main` is private, with one path in it, beside the public cache `open`.
pub(crate) async fn world() -> (World, TestNar) {
    let world = World::with(|config| {
        config.caches[0].public = false;
        let open = CacheConfig { name: "open".parse().unwrap(), ..CacheConfig::default() };
        config.caches.push(open);
    })
    .await;
    let nar = TestNar::new(path(1, "secret"), &b"what only some may see ".repeat(9000), &[]);
    world.push(&[&nar]).await;
    (world, nar)
}

pub(crate) async fn token(world: &World, name: &str, cache: &str, permissions: &[Permission]) -> String {
    let cache: CacheName = cache.parse().unwrap();
    let new = NewToken {
        name,
        cache: &cache,
        permissions: permissions.to_vec(),
        rank: Rank::default(),
        lifetime: 600,
    };
    let token = people::create_token(&world.service.metadata, &world.service.clock, new).await.unwrap();
    token.expose().to_owned()
}

/// All of an answer that could tell something.
pub(crate) async fn all(request: RequestBuilder) -> (u16, Vec<(String, String)>, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer.headers().iter().filter(|(name, _)| **name != header::DATE);
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort();
    (status, headers, answer.text().await.unwrap())
}

#[tokio::test]
async fn who_may_read_reads_by_bearer_or_as_nix_does_and_no_proxy_keeps_it() {
    let (world, nar) = world().await;
    let reader = token(&world, "reader", "main", &[Permission::Read]).await;
    let by_bearer = |page: String| world.client.get(page).bearer_auth(&reader);
    let as_nix = |page: String| world.client.get(page).basic_auth("whoever", Some(&reader));
    for ask in [&by_bearer as &dyn Fn(String) -> RequestBuilder, &as_nix] {
        let info = ask(format!("{}/main/nix-cache-info", world.url)).send().await.unwrap();
        assert_eq!(
            (info.status().as_u16(), &info.headers()[header::CACHE_CONTROL]),
            (200, &"private".parse().unwrap())
        );
        let page = format!("{}/main/{}.narinfo", world.url, nar.info.path.hash());
        let narinfo = ask(page).send().await.unwrap();
        assert_eq!(narinfo.headers()[header::CACHE_CONTROL], "private");
        let narinfo = larder_protocol::narinfo::NarInfo::parse(&narinfo.text().await.unwrap()).unwrap();
        let file = ask(format!("{}/main/{}", world.url, narinfo.url)).send().await.unwrap();
        assert_eq!(
            (file.status().as_u16(), &file.headers()[header::CACHE_CONTROL]),
            (200, &"private".parse().unwrap())
        );
        let about = ask(format!("{}/api/v1/caches/main", world.url)).send().await.unwrap();
        assert!(!about.json::<CacheInfo>().await.unwrap().public);
        // What netrc has for the host is sent to a public cache, too, and does no harm there.
        let public = ask(format!("{}/open/nix-cache-info", world.url)).send().await.unwrap();
        assert_eq!((public.status().as_u16(), public.headers().get(header::CACHE_CONTROL)), (200, None));
    }
    // Reading is not pushing.
    let pushes = format!("{}/api/v1/caches/main/pushes", world.url);
    assert_eq!(all(world.client.post(pushes).bearer_auth(&reader).body("{}")).await.0, 403);
    world.end().await;
}

/// Somebody with a token of the test's, who pushes.
pub(crate) struct Pusher<'a> {
    pub(crate) world: &'a World,
    pub(crate) cache: &'a str,
    pub(crate) token: String,
}

impl Pusher<'_> {
    async fn post(&self, page: &str, body: Vec<u8>) -> reqwest::Response {
        let url = format!("{}/api/v1/caches/{}/pushes{page}", self.world.url, self.cache);
        self.world.client.post(url).bearer_auth(&self.token).body(body).send().await.unwrap()
    }

    pub(crate) async fn open(&self, nar: &TestNar) -> OpenedPush {
        let open = OpenPush {
            paths: vec![nar.info.clone()],
            roots: vec![nar.info.path.clone()],
            built: Vec::new(),
            replace: Vec::new(),
        };
        self.post("", serde_json::to_vec(&open).unwrap()).await.json().await.unwrap()
    }

    async fn missing(&self, push: &OpenedPush, nar: &TestNar) -> Vec<bool> {
        let names: Vec<ChunkId> = nar.chunks.iter().map(|chunk| chunk.id).collect();
        let body = names.iter().flat_map(|name| name.0).collect();
        let bits = self.post(&format!("/{}/missing-chunks", push.push), body).await.bytes().await.unwrap();
        (0..names.len()).map(|at| larder_protocol::api::is_missing(&bits, at).unwrap()).collect()
    }

    pub(crate) async fn upload(&self, push: &OpenedPush, nar: &TestNar) -> UploadAnswer {
        let body = upload_body(&nar.chunks);
        self.post(&format!("/{}/frames", push.push), body).await.json().await.unwrap()
    }

    pub(crate) async fn recipes(&self, push: &OpenedPush, nar: &TestNar) -> RecipesAnswer {
        let body = recipe::encode(&[nar.recipe()]);
        self.post(&format!("/{}/recipes", push.push), body).await.json().await.unwrap()
    }

    pub(crate) async fn push(&self, nar: &TestNar) {
        let opened = self.open(nar).await;
        self.upload(&opened, nar).await;
        self.recipes(&opened, nar).await;
        assert_eq!(self.commit(&opened).await.status(), 200);
    }

    pub(crate) async fn commit(&self, push: &OpenedPush) -> reqwest::Response {
        self.post(&format!("/{}/commit", push.push), Vec::new()).await
    }
}

/// The same requests about a path that is there and about one that is not are answered alike, all the way.
#[tokio::test]
async fn a_pusher_who_may_not_read_it_is_told_of_no_path_and_no_chunk() {
    let (world, there) = world().await;
    let token = token(&world, "push-only", "main", &[Permission::Push]).await;
    let pusher = Pusher { world: &world, cache: "main", token };
    let new = TestNar::new(path(2, "new"), &b"what only this one has ".repeat(9000), &[]);
    // The path that is there, with another content: a divergence that nobody else may hear of.
    let other = TestNar::new(path(1, "secret"), b"something else", &[]);
    for nar in [&there, &new, &other] {
        let opened = pusher.open(nar).await;
        assert_eq!(opened.missing, [nar.info.path.hash()]);
        assert!(opened.present.is_empty() && opened.reused.is_empty() && opened.committed.is_none());
        assert!(pusher.missing(&opened, nar).await.iter().all(|missing| *missing));
        // Neither a recipe nor a commit finds what others have sent.
        let refused = pusher.recipes(&opened, nar).await;
        assert_eq!((refused.verified.len(), refused.rejected.len()), (0, 1));
        assert_eq!(refused.rejected[0].missing_chunks.len(), nar.chunks.len());
        assert_eq!(pusher.commit(&opened).await.status(), 422);

        let sent = pusher.upload(&opened, nar).await;
        assert_eq!((sent.stored, sent.present), (nar.chunks.len() as u64, 0));
        // What it has sent itself it may know, and go on from there.
        assert!(pusher.missing(&opened, nar).await.iter().all(|missing| !missing));
        assert_eq!(pusher.recipes(&opened, nar).await.verified, [nar.info.nar_hash]);
        let committed: CommittedPush = pusher.commit(&opened).await.json().await.unwrap();
        assert_eq!(committed, CommittedPush { published: 1, ..CommittedPush::default() });
    }
    // A reference is no question either: to a path that is there, and to one that is not.
    for reference in [path(1, "secret"), path(9, "absent")] {
        let nar = TestNar::new(path(3, "refers"), b"to another", &[&reference]);
        let opened = pusher.open(&nar).await;
        pusher.upload(&opened, &nar).await;
        pusher.recipes(&opened, &nar).await;
        let refused = pusher.commit(&opened).await;
        assert_eq!(refused.status(), 422);
        let refused: larder_protocol::api::ErrorAnswer = refused.json().await.unwrap();
        assert_eq!(refused.missing_references, [reference]);
    }
    world.end().await;
}

/// What others have sent counts for none of its paths, so that a refusal counts alike whatever is there.
#[tokio::test]
async fn a_pusher_who_may_not_read_it_is_told_of_no_nar() {
    let (world, there) = world().await;
    let token = token(&world, "push-only", "main", &[Permission::Push]).await;
    let pusher = Pusher { world: &world, cache: "main", token };
    let mut guess = there.info.clone();
    guess.path = path(5, "guess");
    let absent = TestNar::new(path(5, "guess"), b"what nobody has", &[]).info;
    let junk = TestNar::new(path(6, "junk"), b"what nobody has either", &[]).info;
    let mut said = Vec::new();
    for guess in [guess, absent] {
        let open = OpenPush {
            roots: vec![guess.path.clone()],
            paths: vec![guess, junk.clone()],
            ..OpenPush::default()
        };
        let opened: OpenedPush =
            pusher.post("", serde_json::to_vec(&open).unwrap()).await.json().await.unwrap();
        let refused = pusher.commit(&opened).await;
        said.push((refused.status().as_u16(), refused.text().await.unwrap()));
    }
    assert_eq!(said[0], said[1]);
    assert!(said[0].0 == 422 && said[0].1.contains("2 paths of this push"), "{said:?}");
    world.end().await;
}

#[tokio::test]
async fn a_pusher_who_may_not_read_it_is_not_told_how_full_it_is() {
    let world = World::with(|config| {
        config.caches[0].public = false;
        config.caches[0].max_size = Some(ByteSize::bytes(300_000));
    })
    .await;
    let mut large = TestNar::new(path(1, "large"), b"said to be large", &[]).info;
    large.nar_size = 2_000_000;
    let open = OpenPush { roots: vec![large.path.clone()], paths: vec![large], ..OpenPush::default() };
    let open = serde_json::to_vec(&open).unwrap();
    let blind = token(&world, "push-only", "main", &[Permission::Push]).await;
    for (token, sees) in [(blind, false), (world.token.clone(), true)] {
        let refused = Pusher { world: &world, cache: "main", token }.post("", open.clone()).await;
        assert_eq!(refused.status(), 507);
        let refused: ErrorAnswer = refused.json().await.unwrap();
        assert!(refused.message.contains("2.0 MB of NARs"), "{}", refused.message);
        for told in ["300.0 kB", "500.0 kB", "hold 0 B"] {
            assert_eq!(refused.message.contains(told), sees, "{}", refused.message);
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_pusher_who_may_not_read_it_does_not_learn_how_full_it_is_by_asking_for_less() {
    let world = World::with(|config| {
        config.caches[0].public = false;
        config.caches[0].max_size = Some(ByteSize::bytes(300_000));
    })
    .await;
    let blind = token(&world, "push-only", "main", &[Permission::Push]).await;
    let sees = token(&world, "all", "main", &[Permission::Push, Permission::Read, Permission::Pin]).await;
    let asks = async |token: &str, size: u64| {
        let mut info = TestNar::new(path(1, "large"), b"said to be large", &[]).info;
        info.nar_size = size;
        let open = OpenPush { roots: vec![info.path.clone()], paths: vec![info], ..OpenPush::default() };
        let pusher = Pusher { world: &world, cache: "main", token: token.to_owned() };
        pusher.post("", serde_json::to_vec(&open).unwrap()).await.status().as_u16()
    };
    let hold = async |seed: u8, length: usize| {
        let nar = TestNar::new(path(seed, "held"), &contents(seed.into(), length, &[]), &[]);
        Pusher { world: &world, cache: "main", token: sees.clone() }.push(&nar).await;
        let pin = format!("{}/api/v1/caches/main/pins/held-{seed}", world.url);
        let body = serde_json::json!({ "path": nar.info.path });
        assert_eq!(world.client.put(pin).bearer_auth(&sees).json(&body).send().await.unwrap().status(), 204);
        sweep(&world.service).await.unwrap();
    };
    let answers = async || {
        let mut answers = Vec::new();
        for size in [1000, 100_000, 1_100_000, 1_300_000] {
            answers.push((asks(&blind, size).await, asks(&sees, size).await));
        }
        answers
    };
    assert_eq!(answers().await, [(200, 200), (200, 200), (200, 200), (507, 507)]);
    hold(2, 290_000).await;
    assert_eq!(answers().await, [(200, 200), (200, 507), (200, 507), (507, 507)]);
    // What is over the limit already is told whatever the size.
    hold(3, 30_000).await;
    assert_eq!(answers().await, [(507, 507); 4]);
    world.end().await;
}

#[tokio::test]
async fn nothing_is_shared_with_it_or_out_of_it() {
    let (world, secret) = world().await;
    let token = token(&world, "open", "open", &[Permission::Push, Permission::Read]).await;
    let outside = Pusher { world: &world, cache: "open", token };
    let opened = outside.open(&secret).await;
    assert!(opened.reused.is_empty() && opened.present.is_empty());
    assert!(outside.missing(&opened, &secret).await.iter().all(|missing| *missing));
    // And the other way round.
    let public = TestNar::new(path(4, "public"), &b"known to everybody ".repeat(9000), &[]);
    outside.push(&public).await;
    let inside = Pusher { world: &world, cache: "main", token: world.token.clone() };
    let opened = inside.open(&public).await;
    assert!(
        opened.reused.is_empty() && inside.missing(&opened, &public).await.iter().all(|missing| *missing)
    );
    world.end().await;
}

#[tokio::test]
async fn a_cache_keeps_its_chunks_and_its_kind() {
    let data = tempfile::tempdir().unwrap();
    let cache =
        |name: &str, public| CacheConfig { name: name.parse().unwrap(), public, ..CacheConfig::default() };
    let open = async |caches: Vec<CacheConfig>| {
        let config = Config { caches, ..Config::in_dir(data.path()) };
        Service::open(config, Clock::System).await.map_err(|error| error.to_string())
    };
    let number = |service: &Service, name: &str| service.caches.named(name).unwrap().namespace().0;
    let service = open(vec![cache("a", false), cache("b", true), cache("c", false)]).await.unwrap();
    let (a, c) = (number(&service, "a"), number(&service, "c"));
    assert!(a > 0 && c > 0 && a != c && number(&service, "b") == 0);
    service.metadata.close().await;
    // In another order, with a new one before, and one gone.
    let service = open(vec![cache("d", false), cache("c", false)]).await.unwrap();
    assert_eq!(number(&service, "c"), c);
    assert!(![a, c, 0].contains(&number(&service, "d")));
    service.metadata.close().await;
    // As long as nothing was pushed, it may become what it was meant to be.
    let service = open(vec![cache("b", false)]).await.unwrap();
    assert!(number(&service, "b") > 0);
    service.metadata.close().await;

    let (world, nar) = world().await;
    assert_eq!(nar.info.path.name(), "secret");
    for (cache, public) in [("main", true), ("open", false)] {
        let settled = world.service.metadata.settle_namespace(&cache.parse().unwrap(), public).await.unwrap();
        // Nothing was ever pushed to the other.
        assert_eq!(
            settled == larder_service::metadata::Settled::WasOtherwise,
            cache == "main",
            "{settled:?}"
        );
    }
    world.end().await;
}
