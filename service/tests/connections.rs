//! Connections: how many there may be, and that a reader is never refused for want of one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::Arc};

use larder_service::{Service, clock::Clock, config::Config, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A service that takes so many connections.
async fn service(connections: u32) -> (Arc<Service>, SocketAddr, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut config = Config::in_dir(data.path());
    config.limits.max_connections = Some(connections);
    let service = Service::open(config, Clock::System).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(service.clone(), listener, std::future::pending()));
    (service, address, data)
}

struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes until it ends so, or until the connection is closed.
    async fn until(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(end.as_bytes()) && self.0.read(&mut byte).await.unwrap() > 0 {
            said.push(byte[0]);
        }
        String::from_utf8(said).unwrap()
    }

    async fn get(&mut self) -> String {
        self.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        self.until("ok\n").await
    }

    /// Begins a request that goes on until its body has come.
    async fn begin(&mut self) {
        self.send(
            "POST /api/v1/token HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        )
        .await;
        assert_eq!(self.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    }
}

#[tokio::test]
async fn the_one_that_was_idle_longest_makes_room() {
    let (_service, address, _data) = service(2).await;
    let mut first = Client::connect(address).await;
    assert!(first.get().await.starts_with("HTTP/1.1 200"));
    let mut second = Client::connect(address).await;
    assert!(second.get().await.starts_with("HTTP/1.1 200"));
    // From now on it is the second that has been idle longest.
    assert!(first.get().await.starts_with("HTTP/1.1 200"));

    let mut third = Client::connect(address).await;
    assert!(third.get().await.starts_with("HTTP/1.1 200"));
    assert_eq!(second.until("never").await, "", "closed");
    assert!(first.get().await.starts_with("HTTP/1.1 200"), "still open");
}

#[tokio::test]
async fn where_all_are_busy_whoever_comes_waits_and_is_served() {
    let (_service, address, _data) = service(2).await;
    let (mut first, mut second) = (Client::connect(address).await, Client::connect(address).await);
    first.begin().await;
    second.begin().await;
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut reader = Client::connect(address).await;
        reader.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        readers.push(reader);
    }
    // Its request is answered, and then it makes room.
    first.send("{}").await;
    let answer = first.until("never").await;
    assert!(answer.contains("HTTP/1.1 400") && answer.contains("missing field"), "{answer}");
    for mut reader in readers {
        assert!(reader.until("ok\n").await.starts_with("HTTP/1.1 200"));
    }
    second.send("{}").await;
    assert!(second.until("}").await.contains("HTTP/1.1 400"));
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let (service, address, _data) = service(2).await;
    // What the service does when it begins is done: none of it waits for the database when time goes by.
    assert!(Client::connect(address).await.get().await.starts_with("HTTP/1.1 200"));
    service.queue.idle().await.unwrap();
    let (mut first, mut second) = (Client::connect(address).await, Client::connect(address).await);
    // From here on time goes by as soon as nothing else happens.
    tokio::time::pause();
    let mut reader = Client::connect(address).await;
    let before = tokio::time::Instant::now();
    assert!(reader.get().await.starts_with("HTTP/1.1 200"));
    assert!(before.elapsed().as_secs() < 30, "long before they are closed anyway");
    assert_eq!(first.until("never").await, "", "closed");
    second.send("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(second.until("never").await.starts_with("HTTP/1.1 200"), "still open");
}

#[tokio::test]
async fn a_head_beyond_all_bounds_is_refused_and_holds_no_memory() {
    let (_service, address, _data) = service(2).await;
    let mut client = Client::connect(address).await;
    client.send("GET /main/nix-cache-info HTTP/1.1\r\nhost: x\r\n").await;
    let line = format!("x-pad: {}\r\n", "a".repeat(1000));
    // More than is ever read: writing fails once the other side has closed.
    for _ in 0..10_000 {
        if client.0.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
    panic!("ten megabytes of headers were taken");
}
