//! What `deploy/nginx` promises, with real nginx.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{net::SocketAddr, path::Path};

use axum::{Router, http::StatusCode, response::IntoResponse as _};
use larder_tests::{
    client::Client,
    github::Job,
    nginx::Nginx,
    nix::{self, run},
    package::Package,
    world::World,
};
use reqwest::{Method, Response};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn ask(nginx: &Nginx, method: Method, page: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = reqwest::Client::new().request(method, format!("{}{page}", nginx.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// A session for the job that may push, through nginx.
async fn client(world: &World, nginx: &Nginx) -> Client {
    let id_token = world.github.id_token(&Job::default(), &world.url());
    Client::exchange(&nginx.url(), "main", &id_token).await.unwrap()
}

/// A replica that answers all requests so.
async fn replica_that_answers(status: StatusCode) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move || async move { (status, [("Retry-After", "7")], "a replica").into_response() };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    address
}

/// An address on which nobody listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_ranges_pass_as_they_are() {
    let world = World::new().await;
    let nginx = Nginx::start(&[world.address()]).await;
    let package = Package::noise("package", 3_000_000);
    client(&world, &nginx).await.push(&[&package]).await.unwrap();

    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    let page = format!("/main/{}", narinfo.url);
    let whole = ask(&nginx, Method::GET, &page, &[("Accept-Encoding", "gzip")]).await;
    assert_eq!(whole.content_length(), narinfo.file_size);
    let header = |name: &str| whole.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!((header("accept-ranges").as_deref(), header("content-encoding")), (Some("bytes"), None));
    let etag = header("etag").unwrap();
    assert!(!etag.starts_with("W/"), "{etag}");
    let whole = whole.bytes().await.unwrap();
    let rest = ask(&nginx, Method::GET, &page, &[("Range", "bytes=1000000-"), ("If-Range", &etag)]).await;
    assert_eq!(rest.status(), 206);
    assert_eq!(rest.bytes().await.unwrap(), whole.slice(1_000_000..));

    assert_eq!(nginx.over_tls("/main/nix-cache-info").await, "200 2");
}

/// Builds something new with the cache as Nix's substituter. `home` is what Nix remembers of caches.
async fn build(cache: &str, home: &Path) {
    let mut build = nix::command("nix-build", home);
    build.args(["--option", "substitute", "true", "--option", "substituters", cache, "--no-out-link", "-E"]);
    let built = run(build.arg(nix::derivation("built-here", &[], "echo built >$out"))).await;
    nix::delete(&[built.expect_success().trim().into()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_service_reads_are_absent_and_builds_go_on() {
    let mut world = World::new().await;
    let nginx = Nginx::start(&[world.address()]).await;
    let package = Package::noise("package", 1000);
    world.client().await.push(&[&package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    let cache = format!("{}/main", nginx.url());
    // One Nix that knows the cache, and one that does not.
    let (knows, knows_not) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    build(&cache, knows.path()).await;

    world.stop().await;
    for page in ["nix-cache-info", &format!("{}.narinfo", package.info.path.hash()), &narinfo.url] {
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let answer = ask(&nginx, method.clone(), &format!("/main/{page}"), &[]).await;
            assert_eq!(answer.status(), 404, "{method} {page}");
        }
    }
    let exchange = ask(&nginx, Method::POST, "/api/v1/token", &[]).await;
    assert_eq!(exchange.status(), 502);
    build(&cache, knows.path()).await;
    build(&cache, knows_not.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_cannot_answer_another_does() {
    let world = World::new().await;
    let package = Package::noise("package", 100_000);
    world.client().await.push(&[&package]).await.unwrap();
    let page = format!("/main/{}.narinfo", package.info.path.hash());
    let unready = replica_that_answers(StatusCode::SERVICE_UNAVAILABLE).await;
    let nginx = Nginx::start(&[dead().await, unready, world.address()]).await;
    for _ in 0..6 {
        assert_eq!(ask(&nginx, Method::GET, &page, &[]).await.status(), 200);
    }
    // A push finds the one that lives.
    let nginx = Nginx::start(&[dead().await, world.address()]).await;
    let another = Package::noise("another", 2_000_000);
    client(&world, &nginx).await.push(&[&another]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pushes_is_told_when_to_come_again() {
    let unready = replica_that_answers(StatusCode::SERVICE_UNAVAILABLE).await;
    let nginx = Nginx::start(&[unready]).await;
    let answer = ask(&nginx, Method::POST, "/api/v1/token", &[]).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    // So is a load balancer.
    assert_eq!(ask(&nginx, Method::GET, "/readyz", &[]).await.status(), 503);
    assert_eq!(ask(&nginx, Method::GET, "/main/nix-cache-info", &[]).await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_reaches_the_service_while_it_is_sent() {
    let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nginx = Nginx::start(&[replica.local_addr().unwrap()]).await;
    let mut sender = TcpStream::connect(nginx.url().trim_start_matches("http://")).await.unwrap();
    let head =
        "POST /api/v1/caches/main/pushes/1/frames HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n";
    sender.write_all(head.as_bytes()).await.unwrap();
    sender.write_all(b"the first frame").await.unwrap();
    let (mut taken, _) = replica.accept().await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"the first frame") {
        assert_ne!(taken.read_buf(&mut seen).await.unwrap(), 0);
    }
}
