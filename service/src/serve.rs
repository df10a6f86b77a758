//! The service on a listener: connections, their limits, and the end.

use std::{io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware::AddExtension};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer as _, ServiceExt as _};

use crate::{
    Service,
    client::Peer,
    connections::{BusyBody, Connection, Connections},
    queue, replicas, retention, router, stats, trust,
};

/// A connection on which no whole request head arrives for so long is closed, idle ones too: one that sends a byte
/// now and then must not hold it for ever.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// A reader that takes nothing of its answer for so long is cut off, so that it does not hold the frames that wait
/// for it for ever: as long as Nix itself waits for a download that stands still. In milliseconds.
const TAKE_WITHIN: u32 = 5 * 60 * 1000;
/// What a connection may hold of what came and is not read yet; hyper's own bound is six times as much, which many
/// uploads side by side fill.
const BUFFER: usize = 64 << 10;
/// What requests have to finish once the service is told to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(30);
/// When no connection can be accepted, most likely for want of file descriptors, others must end first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then lets requests finish for at most 30 seconds, and closes the database.
///
/// HTTP/1.1 alone: TLS, and with it HTTP/2, is what a proxy in front is for.
pub async fn serve(service: Arc<Service>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let router = router(service.clone());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(BUFFER);
    let mut connections = Connections::new(service.config.limits.max_connections);
    let (stop, serving) = (CancellationToken::new(), TaskTracker::new());
    let background = [
        tokio::spawn(replicas::lead(service.clone())),
        tokio::spawn(replicas::say_keys(service.clone())),
        tokio::spawn(replicas::share_paces(service.clone())),
        tokio::spawn(retention::run(service.clone())),
        tokio::spawn(stats::run(service.clone())),
    ];
    let workers = queue::start(&service).await;

    // Requests do not wait for it, nor does the end.
    let resolving = tokio::spawn({
        let service = service.clone();
        async move { trust::resolve_names(&service).await }
    });
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut shutdown => break,
        };
        match stream {
            Ok((stream, peer)) => {
                let place = tokio::select! {
                    place = connections.admit() => place,
                    () = &mut shutdown => break,
                };
                let router = Extension(Peer(peer)).layer(router.clone());
                serving.spawn(serve_connection(http.clone(), stream, router, place, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }

    drop(listener);
    resolving.abort();
    tracing::info!(connections = serving.len(), "stopping");
    stop.cancel();
    serving.close();
    if tokio::time::timeout(FINISH_WITHIN, serving.wait()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut off");
    }
    // Whatever it is doing goes on at the next start.
    background.iter().for_each(tokio::task::JoinHandle::abort);
    // With what was read, and when.
    if let Err(error) = stats::take_sample(&service).await {
        tracing::error!(%error, "what was read lately could not be noted");
    }
    workers.end().await;
    service.audit.flush().await;
    service.metadata.close().await;
}

/// Serves one connection until either side closes it, or it is told to go: then a request that has begun is answered.
async fn serve_connection(
    http: http1::Builder,
    stream: TcpStream,
    router: AddExtension<Router, Peer>,
    place: Arc<Connection>,
    stop: CancellationToken,
) {
    let connection = place.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let busy = connection.begin();
        let answer = router.clone().oneshot(request);
        async { answer.await.map(|response| response.map(|body| BusyBody::new(body, busy))) }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = stop.cancelled() => {}, () = place.dismissed() => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are written whole: to wait for more would only delay them.
                if stream.set_nodelay(true).is_ok() && set_tcp_user_timeout(&stream, TAKE_WITHIN).is_ok() {
                    return Ok((stream, peer.ip()));
                }
            }
            // The one who connected is gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}
