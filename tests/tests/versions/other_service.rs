//! `larder` and a service of another release: the one of today, whose answers a proxy tells in another way.

use larder_tests::{
    front_proxy::{FrontProxy, Manner},
    github::Job,
    larder::Push,
    nix::{Output, run},
    package::{Node, noise},
    programs::program,
    source_store::{SourceStore, tree},
    world::{Scene, World},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::recorded::{FIRST, as_first};

type Retell = fn(&str, &mut StatusCode, &mut Value);

/// A service with a proxy in front that is taken for it.
async fn behind(retell: Retell) -> (World, FrontProxy) {
    let world = World::with(Scene::saying("permissions = [\"push\", \"pin\"]")).await;
    let proxy = FrontProxy::start(&world.url(), Manner::Retells(retell)).await;
    (world, proxy)
}

async fn source() -> SourceStore {
    let leaf = tree("leaf", Node::File(noise(100_000)));
    let link = Node::Link(leaf.0.info.path.absolute().into_bytes());
    let (package, node) = tree("top", link);
    let top = (package.referring_to([&leaf.0]), node);
    SourceStore::new([leaf, top]).await
}

/// As a person with a token of the service's own.
async fn push(world: &World, proxy: &FrontProxy, source: &SourceStore) -> Push {
    source.push(Push::with_token(&proxy.url(), world.client().await.token()))
}

#[track_caller]
fn assert_says(output: &Output, said: &[&str]) {
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    for words in said {
        assert!(output.stderr.contains(words), "{words:?} is not in {output:?}");
    }
    assert!(!output.stderr.contains("internal error"), "{output:?}");
}

/// What the first release would have told.
fn first(page: &str, _: &mut StatusCode, said: &mut Value) {
    let end = page.rsplit('/').next().unwrap();
    let asked = |asks: &str| asks.rsplit('/').next() == Some(end);
    if let Some(recorded) = FIRST.iter().find(|exchange| asked(&exchange.asks) && exchange.is_told.is_some())
    {
        as_first(said, recorded.is_told.as_ref().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_first_release_is_pushed_to() {
    let (world, proxy) = behind(first).await;
    let source = source().await;
    let report = push(&world, &proxy, &source).await.report().await;
    assert_eq!(report.published, 2);
    assert!(world.narinfo(&source.root().info.path).await.is_some());
    let again = push(&world, &proxy, &source).await.report().await;
    assert_eq!((again.published, again.statuses()), (0, [("present", 2)].into()));
}

/// What a later release may tell besides, wherever keys are no names of paths.
fn later(_: &str, _: &mut StatusCode, said: &mut Value) {
    add_keys(said);
}

fn add_keys(said: &mut Value) {
    match said {
        Value::Object(keys) => {
            keys.iter_mut().filter(|(key, _)| *key != "signatures").for_each(|(_, value)| add_keys(value));
            if let Some(Value::Array(permissions)) = keys.get_mut("permissions") {
                permissions.push("mirror".into());
            }
            keys.insert("of_a_later_release".to_owned(), json!({ "more": [1] }));
        }
        Value::Array(values) => values.iter_mut().for_each(add_keys),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_service_tells_besides_is_passed_over() {
    let (world, proxy) = behind(later).await;
    let source = source().await;
    assert_eq!(push(&world, &proxy, &source).await.report().await.published, 2);
    assert!(world.narinfo(&source.root().info.path).await.is_some());
}

/// A refusal of a kind that only a later release knows.
fn refuses(page: &str, status: &mut StatusCode, said: &mut Value) {
    if page.ends_with("/pushes") {
        *status = StatusCode::FORBIDDEN;
        *said = json!({ "error": "moon-is-full", "message": "not while the moon is full", "until": 7 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_services_refusals_are_told_in_its_own_words() {
    let (world, proxy) = behind(refuses).await;
    let refused = push(&world, &proxy, &source().await).await.run().await;
    assert_says(&refused, &["opening the push was refused: not while the moon is full"]);
}

/// One that speaks version 2 at pages of its own, and describes its caches as every version does.
fn second(page: &str, status: &mut StatusCode, said: &mut Value) {
    match page {
        "/api/v1/caches/main" => *said = json!({ "api": 2, "cache": { "name": "main" } }),
        _ => {
            *status = StatusCode::NOT_FOUND;
            *said = json!({ "error": "not-found", "message": "there is no such page" });
        }
    }
}

/// What a job gets of a service that speaks this version.
fn granted(api: u32) -> Value {
    let cache = json!({
        "api": api, "name": "main", "url": "http://127.0.0.1/main", "store_dir": "/nix/store", "priority": 30,
        "public_keys": [], "upstreams": [],
    });
    json!({ "token": "larder_s_", "expires_in": 900, "permissions": ["push"], "cache": cache })
}

/// One that speaks version 2 at the pages of version 1.
fn second_at_the_same_pages(page: &str, status: &mut StatusCode, said: &mut Value) {
    if page == "/api/v1/token" {
        (*status, *said) = (StatusCode::OK, granted(2));
    }
}

/// One from before the first.
fn none(page: &str, status: &mut StatusCode, said: &mut Value) {
    if page == "/api/v1/token" {
        (*status, *said) = (StatusCode::OK, granted(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_speaks_another_version_is_told_which_to_update_and_sent_nothing() {
    let source = source().await;
    let client = "the service speaks version 2 of the API, and larder ";
    let cases: [(Retell, &[&str]); 3] = [
        (second, &[client, "speaks 1: update the client"]),
        (second_at_the_same_pages, &[client, "speaks 1: update the client"]),
        (none, &["the service speaks version 0 of the API", "speaks 1: update the service"]),
    ];
    for (retell, said) in cases {
        let (world, proxy) = behind(retell).await;
        let started = world.github.start_job(Job::default());
        let job = source.push(Push::in_job(&proxy.url(), &started)).run().await;
        assert_says(&job, said);
        assert!(
            proxy.requests().iter().all(|request| !request.contains("/pushes")),
            "{:?}",
            proxy.requests()
        );
        assert!(world.narinfo(&source.root().info.path).await.is_none());
    }
    // A person exchanges nothing: opening the push is the first that is asked.
    let (world, proxy) = behind(second).await;
    let person = push(&world, &proxy, &source).await.run().await;
    assert_says(&person, &[client, "speaks 1: update the client"]);
}

/// An older service that has no prefetches yet.
fn without_prefetches(page: &str, status: &mut StatusCode, said: &mut Value) {
    if page.ends_with("/prefetches") {
        *status = StatusCode::NOT_FOUND;
        let message = "there is no such page in version 1 of the API, as this larderd speaks it. If the client is newer, \
                       update larderd";
        *said = json!({ "error": "not-found", "message": message });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_service_cannot_do_is_said_with_its_remedy() {
    let (world, proxy) = behind(without_prefetches).await;
    let mut command = Command::new(program("larder"));
    command.env_clear().env("LARDER_TOKEN", world.client().await.token());
    command.args(["prefetch", "--service", &proxy.url(), "/nix/store/00000000000000000000000000000000-x"]);
    assert_says(&run(&mut command).await, &["there is no such page", "update larderd"]);
}
