//! Clients that go away, and clients that come together.
use std::task::Poll;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use larder_service::{config::size::ByteSize, router};
use reqwest::StatusCode;
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use crate::{
    nar::{TestNar, path},
    world::{World, upload_body},
};

/// Polls a future as often as `polls`, then once more, then drops it, ended or not.
pub async fn cut_off(future: impl Future, mut polls: u8) {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Pending if polls > 0 => {
            polls -= 1;
            Poll::Pending
        }
        _ => Poll::Ready(()),
    })
    .await;
}

/// Readers that were told of a path's absence hear of it, in whatever moment the client of its push goes away.
#[tokio::test]
async fn a_path_is_seen_whenever_the_committing_client_goes_away() {
    let world = World::new().await;
    for polls in 0..12u8 {
        let nar = TestNar::new(path(polls, "x"), &[polls], &[]);
        let opened = world.open(&[&nar]).await;
        world.upload(&opened, &nar.chunks).await;
        world.send_recipes(&opened, &[&nar]).await;
        assert_eq!(world.narinfo(&nar).await, None);
        let commit = Request::post(format!("/api/v1/caches/main/pushes/{}/commit", opened.push))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::empty())
            .unwrap();
        cut_off(router(world.service.clone()).oneshot(commit), polls).await;
        assert!(world.open(&[&nar]).await.committed.is_some());
        assert!(world.narinfo(&nar).await.is_some(), "after {polls} polls");
    }
    world.end().await;
}

/// Memory for frames under way is bounded: an upload for which there is no room is not even read.
#[tokio::test]
async fn uploads_wait_for_room_in_the_window() {
    let world = World::with(|config| config.limits.upload_window = ByteSize::mebibytes(8)).await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let opened = world.open(&[&nar]).await;
    let body = Bytes::from(upload_body(&nar.chunks));
    // Each tells when its body is read, and goes on when it is told to.
    let begin = || {
        let (reading, is_read) = oneshot::channel();
        let (go_on, told) = oneshot::channel::<()>();
        let body = body.clone();
        let stream = stream::once(async move {
            let _ = reading.send(());
            let _ = told.await;
            Ok::<_, std::io::Error>(body)
        });
        let request = Request::post(format!("/api/v1/caches/main/pushes/{}/frames", opened.push))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::from_stream(stream))
            .unwrap();
        (tokio::spawn(router(world.service.clone()).oneshot(request)), is_read, go_on)
    };
    let mut uploads = Vec::new();
    for _ in 0..4 {
        let (upload, is_read, go_on) = begin();
        is_read.await.unwrap();
        uploads.push((upload, go_on));
    }
    let (fifth, mut is_read, go_on) = begin();
    for _ in 0..10 {
        assert_eq!(world.narinfo(&nar).await, None);
    }
    assert!(is_read.try_recv().is_err(), "it is read though the window is full");
    uploads.push((fifth, go_on));
    for (upload, go_on) in uploads {
        go_on.send(()).unwrap();
        assert_eq!(upload.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    world.end().await;
}
