//! Who of several fetches an input, and when.

use std::sync::{Arc, Mutex};

use axum::{Router, extract, http::StatusCode, routing::get};
use larder_protocol::{
    SigningKey, StorePath,
    prefetch::{Prefetch, PrefetchState},
};
use larder_service::trust::people;
use larder_tests::archive_host::{Page, nar_hash, tarball};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::scene::{ARCHIVE, FILES, Scene, lib, lock, paths};

/// Waits until a host is asked for a URL, and tells of all that hosts were asked for.
async fn asked_for(scene: &Scene, url: &str) -> Vec<String> {
    let mut asked = Vec::new();
    while !asked.iter().any(|one| one == url) {
        asked.extend(scene.hosts.take_urls());
        tokio::task::yield_now().await;
    }
    asked
}

/// A tarball that no host has, whose path comes before that of the input that is there.
fn another() -> (String, serde_json::Value) {
    let path_of = |input: &serde_json::Value| paths(&lock(&[("it", input.clone())])).remove(0);
    (0..)
        .map(|number| {
            let url = format!("https://github.com/another-{number}");
            let hash = nar_hash(&[("number", &url)]);
            (url.clone(), json!({ "type": "tarball", "url": url, "narHash": hash }))
        })
        .find(|(_, input)| path_of(input) < path_of(&lib()))
        .unwrap()
}

#[tokio::test]
async fn an_input_that_two_pushes_need_is_fetched_once() {
    let scene = Scene::with_rule("ref = [\"refs/heads/main\", \"refs/heads/next\"]", &[]).await;
    let gate = Arc::new(Semaphore::new(0));
    scene.hosts.put(ARCHIVE, Page::Gated(gate.clone(), tarball("lib-0123", &FILES)));
    let lib_alone = lock(&[("lib", lib())]);
    scene.push_bytes("main", lib_alone.to_string().as_bytes()).await;
    let mut asked = asked_for(&scene, ARCHIVE).await;
    // The second comes as far as where it would ask, too.
    let (url, another) = another();
    let both = lock(&[("another", another), ("lib", lib())]);
    scene.push_bytes("next", both.to_string().as_bytes()).await;
    asked.extend(asked_for(&scene, &url).await);
    gate.add_permits(10);
    scene.service.queue.idle().await.unwrap();
    asked.extend(scene.hosts.take_urls());
    assert_eq!(asked, [ARCHIVE, &url]);
    assert!(scene.narinfo(&paths(&lib_alone)[0]).await.is_some());
    assert_eq!(scene.left().await, [""; 0]);
}

/// An upstream that has nothing, and says so of one path only once a permit is added.
struct Upstream {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
}

impl Upstream {
    async fn start(gated: &StorePath) -> Self {
        let (asked, gate) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Semaphore::new(0)));
        let (hears, waits) = (asked.clone(), gate.clone());
        let gated = format!("{}.narinfo", gated.hash());
        let answer = move |extract::Path(file): extract::Path<String>| async move {
            hears.lock().unwrap().push(file.clone());
            if file == gated {
                waits.acquire().await.unwrap().forget();
            }
            StatusCode::NOT_FOUND
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/{*file}", get(answer))).await },
        );
        Self { url, asked, gate }
    }

    async fn asked_for(&self, path: &StorePath) {
        let file = format!("{}.narinfo", path.hash());
        while !self.asked.lock().unwrap().contains(&file) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn while_somebody_waits_no_input_is_fetched_from_its_host() {
    let path = |digit: &str| format!("{}-x", digit.repeat(32)).parse::<StorePath>().unwrap();
    let waited_for = path("0");
    let upstream = Upstream::start(&waited_for).await;
    let key = SigningKey::generate("upstream-1").unwrap().public_key().to_string();
    let scene = Scene::new(&[(&upstream.url, &key)]).await;
    let main = "main".parse().unwrap();
    let new = people::NewToken::pushing("anna", &main, 3600);
    let token = people::create_token(&scene.service.metadata, &scene.service.clock, new).await.unwrap();
    let client = reqwest::Client::new();
    let prefetches = format!("{}/api/v1/prefetches", scene.url);
    let begin = async |path: &StorePath| -> Prefetch {
        let asked = client.post(&prefetches).bearer_auth(token.expose());
        let asked = asked.json(&json!({ "cache": "main", "paths": [path] })).send().await.unwrap();
        asked.json().await.unwrap()
    };
    let end = async |begun: Prefetch| loop {
        let page = format!("{prefetches}/{}", begun.id);
        let told = client.get(page).bearer_auth(token.expose()).send().await.unwrap();
        let told: Prefetch = told.json().await.unwrap();
        if told.state.has_ended() {
            assert_eq!(told.state, PrefetchState::Incomplete, "{told:?}");
            break;
        }
    };
    let waiting = begin(&waited_for).await;
    upstream.asked_for(&waited_for).await;
    let lock = lock(&[("lib", lib())]);
    let lib = paths(&lock).remove(0);
    scene.push_bytes("main", lock.to_string().as_bytes()).await;
    upstream.asked_for(&lib).await;
    // What would be fetched now would have been asked for before all of this is done.
    for digit in ["1", "2", "3"] {
        end(begin(&path(digit)).await).await;
    }
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
    upstream.gate.add_permits(10);
    end(waiting).await;
    scene.service.queue.idle().await.unwrap();
    assert_eq!(scene.hosts.take_urls(), [ARCHIVE]);
    assert!(scene.narinfo(&lib).await.is_some());
    assert_eq!(scene.left().await, [""; 0]);
}
