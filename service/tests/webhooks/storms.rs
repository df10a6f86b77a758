//! Much at once.

use std::collections::HashSet;

use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    github::{SIGNATURE, guid, sign},
    world::{FIRST, NOW, World, about_acme, taken},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_deliveries_at_once_none_is_lost() {
    let world = World::new().await;
    // As large as most are, and each of them twice.
    let deliveries: Vec<(String, Vec<u8>)> = (0..1000)
        .map(|number| {
            let payload = about_acme(
                json!({ "ref": format!("topic-{number}"), "ref_type": "branch", "x": "x".repeat(8000) }),
            );
            (guid(), payload.to_string().into_bytes())
        })
        .collect();
    let send = |(guid, body): &(String, Vec<u8>)| {
        let delivery = world.delivery_named(guid, "delete", body).header(SIGNATURE, sign(FIRST, body));
        async { taken(delivery.send().await.unwrap()).await["new"] == true }
    };
    let twice = deliveries.iter().chain(&deliveries).map(send);
    let new: Vec<bool> = stream::iter(twice).buffer_unordered(500).collect().await;
    assert_eq!(new.iter().filter(|new| **new).count(), 1000);

    let stored = world.service.metadata.deliveries(10_000).await.unwrap();
    let stored: HashSet<String> = stored.into_iter().map(|delivery| delivery.guid).collect();
    assert_eq!(stored, deliveries.into_iter().map(|(guid, _)| guid).collect());
    let followed = world.keys_of_jobs("forget-ref").await;
    let expected = (0..1000).map(|number| format!("forget-ref acme/flake refs/heads/topic-{number} {NOW}"));
    assert_eq!(followed.len(), 1000);
    assert_eq!(followed.into_iter().collect::<HashSet<_>>(), expected.collect());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_longer_than_github_sends_is_refused() {
    let world = World::new().await;
    let payload = |bytes: usize| {
        let mut payload = about_acme(json!({})).to_string();
        payload.push_str(&" ".repeat(bytes - payload.len()));
        payload.into_bytes()
    };
    let largest = payload(25 << 20);
    taken(world.delivery("ping", &largest).header(SIGNATURE, sign(FIRST, &largest)).send().await.unwrap())
        .await;
    let too_large = payload(26 << 20);
    for signature in [sign(FIRST, &too_large), "sha256=00".to_owned()] {
        let answer = world.delivery("ping", &too_large).header(SIGNATURE, &signature).send().await.unwrap();
        assert_eq!(answer.status(), if signature.len() > 10 { 413 } else { 403 });
    }
    // Without a length nobody knows what will come.
    let pieces = stream::iter([Ok::<_, std::io::Error>(largest)]);
    let delivery = world
        .delivery("ping", b"")
        .header(SIGNATURE, sign(FIRST, b""))
        .body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(delivery.send().await.unwrap().status(), 400);
    assert_eq!(world.stored().await, 1);
}

/// Room is for what has come, and not for what is announced: whoever sends nothing takes none from others.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_keep_nobody_waiting() {
    let world = World::new().await;
    let address = world.url.strip_prefix("http://").unwrap();
    let announced = [26_000_000, 256 << 10].into_iter().flat_map(|length| [length; 150]);
    let slow = join_all(announced.map(|length| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /webhooks/github HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
             X-Hub-Signature-256: {}\r\nExpect: 100-continue\r\n\r\n",
            sign(FIRST, b"")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // All of them are being read: they are told to go on.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"HTTP/1.1 100");
        stream
    }))
    .await;
    for bytes in [10, 1 << 20] {
        world.deliver("ping", &about_acme(json!({ "x": "x".repeat(bytes) }))).await;
    }
    drop(slow);
}

/// What has come in part holds room, until somebody else wants it.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stop_coming_give_way_to_others() {
    let world = World::new().await;
    let address = world.url.strip_prefix("http://").unwrap();
    let slow = join_all((0..4).map(|_| async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /webhooks/github HTTP/1.1\r\nHost: {address}\r\nContent-Length: 26000000\r\n\
             X-Hub-Signature-256: {}\r\n\r\n",
            sign(FIRST, b"")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // All of them together nearly as much as there is room for.
        let _ = stream.write_all(&vec![b'x'; (20 << 20) - (64 << 10)]).await;
        stream
    }))
    .await;
    for bytes in [10, 8 << 20] {
        world.deliver("ping", &about_acme(json!({ "x": "x".repeat(bytes) }))).await;
    }
    drop(slow);
}
