//! Deliveries that come late, as those do that were missed and asked for: what happened since stays as it is.

use larder_service::clock::to_date;
use larder_tests::{github::Job, package::Package};
use serde_json::{Value, json};

use super::{DAY, MAIN, Repository, TOPIC, runs};

const HOUR: i64 = 60 * 60;

fn pull(action: &str, at: i64) -> Value {
    let closed_at = (action == "closed").then(|| to_date(at));
    json!({
        "action": action, "number": 7,
        "pull_request": { "updated_at": to_date(at), "closed_at": closed_at, "base": { "ref": "main" } },
    })
}

fn branch(at: i64) -> Value {
    let repository = json!({
        "id": 610_214_307, "full_name": "acme/flake", "owner": { "id": 5_917_224 }, "pushed_at": to_date(at),
    });
    json!({ "ref": "topic", "ref_type": "branch", "repository": repository })
}

fn release(action: &str, published_at: i64) -> Value {
    json!({ "action": action, "release": { "tag_name": "v1", "published_at": to_date(published_at) } })
}

/// A repository whose pull request pushed, and what time that was.
async fn with_pull_request() -> (Repository, i64) {
    let acme = Repository::new().await;
    let own = acme.world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    own.push(&[&Package::noise("x", 1000)]).await.unwrap();
    let pushed_at = acme.now();
    acme.pass(HOUR).await;
    (acme, pushed_at)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reopened_stays_though_its_end_is_told_late() {
    let (acme, start) = with_pull_request().await;
    acme.event("pull_request", pull("reopened", start + 20)).await;
    acme.pass(HOUR).await;
    acme.event("pull_request", pull("closed", start + 10)).await;
    acme.pass(2 * DAY).await;
    assert!(acme.has_isolated().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_closed_goes_though_an_earlier_return_is_told_late() {
    let (acme, start) = with_pull_request().await;
    acme.push(TOPIC, 1, &Package::noise("x", 1000)).await;
    acme.push(MAIN, 2, &Package::noise("x", 1000)).await;
    let pushed_at = acme.now();
    acme.pass(HOUR).await;
    acme.event("pull_request", pull("closed", start + 20)).await;
    acme.event("delete", branch(pushed_at + 20)).await;
    acme.pass(HOUR).await;
    acme.event("pull_request", pull("reopened", start + 10)).await;
    acme.event("create", branch(pushed_at + 10)).await;
    acme.pass(2 * DAY).await;
    assert!(!acme.has_isolated().await);
    assert_eq!(acme.kept().await, runs(&[(MAIN, 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_that_was_used_since_keeps_its_cache() {
    let (acme, start) = with_pull_request().await;
    acme.world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    acme.event("pull_request", pull("closed", start + 10)).await;
    acme.pass(2 * DAY).await;
    assert!(acme.has_isolated().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_as_it_was_last_in_whatever_order_that_is_told() {
    let acme = Repository::new().await;
    acme.push("refs/tags/v1", 1, &Package::noise("x", 1000)).await;
    let start = acme.now();
    acme.pass(HOUR).await;
    acme.event("release", release("deleted", start + 10)).await;
    acme.pass(HOUR).await;
    acme.event("release", release("published", start + 10)).await;
    assert_eq!(acme.pins().await, []);
    // Another of the same tag.
    acme.event("release", release("published", start + 30)).await;
    assert_eq!(acme.pins().await.len(), 1);
    acme.event("release", release("deleted", start + 20)).await;
    assert_eq!(acme.pins().await.len(), 1);
    acme.event("release", release("deleted", start + 30)).await;
    assert_eq!(acme.pins().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repository_keeps_stays_though_an_earlier_end_is_told_late() {
    let acme = Repository::new().await;
    acme.push(MAIN, 1, &Package::noise("x", 1000)).await;
    let start = acme.now();
    acme.pass(HOUR).await;
    let told = |action: &str, id: u64, updated_at: i64| {
        let owner = json!({ "id": 5_917_224 });
        let repository =
            json!({ "id": id, "full_name": "acme/flake", "owner": owner, "updated_at": to_date(updated_at) });
        json!({ "action": action, "repository": repository })
    };
    // Another repository, which was called the same.
    acme.event("repository", told("deleted", 1, start + 5)).await;
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await, runs(&[(MAIN, 1)]));
    // This one was brought back.
    acme.event("repository", told("created", 610_214_307, start + 20)).await;
    acme.pass(HOUR).await;
    acme.event("repository", told("deleted", 610_214_307, start + 10)).await;
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await, runs(&[(MAIN, 1)]));
}
