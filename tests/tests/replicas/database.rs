//! A database that is gone or silent: what is remembered is served, nobody waits for long, and all goes on by itself.

use std::time::Duration;

use larder_protocol::recipe;
use larder_tests::{
    client::Client,
    github::Job,
    package::{Package, upload_body},
};
use reqwest::{Method, RequestBuilder, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use super::scene::{Read, Site, read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nobody listens any more.
    Gone,
    /// Whoever asks is heard, and gets no answer.
    Silent,
}

/// Somebody who waits for a minute and no longer.
fn http() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap()
}

async fn status(url: &str) -> StatusCode {
    http().get(url).send().await.unwrap().status()
}

/// What pushing takes is refused for now, and it is said when to come again.
async fn assert_later(request: RequestBuilder) {
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
}

async fn without_the_database(how: How) {
    let mut site = Site::start(1).await;
    let url = site.replicas[0].url();
    let [known, unknown, later, never] =
        ["known", "unknown", "later", "never"].map(|name| Package::noise(name, 300_000));
    let client = site.client(&Job::default()).await;
    let token = client.token().to_owned();
    let client = Client::with_token(&url, "main", &token);
    client.push(&[&known]).await.unwrap();
    client.push(&[&unknown]).await.unwrap();
    let opened = client.open(&[&later]).await.unwrap();
    assert_eq!(read(&http(), &url, &known).await, Read::Right);
    let narinfo = |package: &Package| format!("{url}/main/{}.narinfo", package.info.path.hash());

    match how {
        How::Gone => site.servers.postgres.stop().await,
        How::Silent => site.servers.postgres.stall(),
    }
    let post = |page: &str| http().request(Method::POST, format!("{url}{page}")).bearer_auth(&token);
    let push = format!("/api/v1/caches/main/pushes/{}", opened.push);
    let open = json!({ "paths": [never.info], "roots": [never.info.path] });
    let id_token = site.github.id_token(&Job::default(), &site.nginx.url());
    tokio::join!(
        async { assert_eq!(status(&narinfo(&known)).await, StatusCode::OK) },
        async { assert_eq!(status(&narinfo(&unknown)).await, StatusCode::NOT_FOUND) },
        async { assert_eq!(status(&narinfo(&never)).await, StatusCode::NOT_FOUND) },
        async { assert_eq!(read(&http(), &url, &known).await, Read::Absent) },
        async { assert_eq!(status(&format!("{url}/readyz")).await, StatusCode::SERVICE_UNAVAILABLE) },
        async { assert_eq!(status(&format!("{url}/healthz")).await, StatusCode::OK) },
        async { assert_eq!(status(&format!("{url}/main/nix-cache-info")).await, StatusCode::OK) },
        assert_later(post("/api/v1/caches/main/pushes").json(&open)),
        assert_later(post(&format!("{push}/frames")).body(upload_body(&later.cut().1))),
        assert_later(post(&format!("{push}/recipes")).body(recipe::encode(&[later.cut().0]))),
        assert_later(post(&format!("{push}/commit"))),
        assert_later(post("/api/v1/token").json(&json!({ "id_token": id_token, "cache": "main" }))),
    );

    match how {
        How::Gone => site.servers.postgres.start_again().await,
        How::Silent => site.servers.postgres.resume(),
    }
    // Nobody has to restart anything.
    client.send(opened.push, &[&later]).await.unwrap();
    assert_eq!(client.commit(opened.push).await.unwrap().published, 1);
    assert_eq!(status(&format!("{url}/readyz")).await, StatusCode::OK);
    for package in [&known, &unknown, &later] {
        assert_eq!(read(&http(), &url, package).await, Read::Right);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_breaks_no_build_and_loses_nothing() {
    without_the_database(How::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_breaks_no_build_and_loses_nothing() {
    without_the_database(How::Silent).await;
}
