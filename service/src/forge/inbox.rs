//! Taking deliveries in. Whatever the load, each is answered within a second: those that come together are stored in
//! one transaction.

use std::{thread, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    delivery::NewDelivery,
    room::{Full, Place, Room},
};
use crate::{clock::Clock, error::ApiError, metadata::Metadata, push::BodyReader, queue::Queue};

/// The longest body: GitHub sends none that is longer.
pub(super) const MAX_BODY: usize = 25 << 20;
/// How long a body may take to come: GitHub itself gives up after ten seconds.
const WITHIN: Duration = Duration::from_secs(10);
const COME_AGAIN: Duration = Duration::from_secs(5);
/// How many are stored in one transaction, and wait for the one before.
const BATCH: usize = 200;

/// Where deliveries come in.
pub struct Inbox {
    room: Room,
    deliveries: mpsc::Sender<Waiting>,
}

/// A delivery, and who waits to hear whether it is new; nothing is heard if it could not be stored.
struct Waiting {
    delivery: NewDelivery,
    _room: Option<OwnedSemaphorePermit>,
    stored: oneshot::Sender<bool>,
}

impl Inbox {
    /// Opens the inbox. What it takes is stored until it is dropped.
    pub(crate) fn open(metadata: Metadata, clock: Clock, queue: Queue) -> Self {
        let (deliveries, waiting) = mpsc::channel(BATCH);
        tokio::spawn(store(metadata, clock, queue, waiting));
        Self { room: Room::new(), deliveries }
    }

    /// Reads a body, as long as there is room for it.
    pub(super) async fn hold(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
        let announced = headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let Some(announced) = announced else {
            drain(body).await;
            return Err(ApiError::bad_request("the request has no Content-Length"));
        };
        if announced > MAX_BODY {
            drain(body).await;
            return Err(ApiError::too_large(format!("a delivery has at most {MAX_BODY} bytes")));
        }
        let mut place = self.room.enter();
        let give_way = place.give_way();
        let body = tokio::select! {
            body = read(BodyReader::new(body, announced as u64, WITHIN), &mut place) => body?,
            () = give_way.notified() => return Err(busy()),
        };
        Ok((body, place.whole()))
    }

    /// Stores a delivery with what follows from it. Whether it is new.
    pub(super) async fn store(
        &self,
        delivery: NewDelivery,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<bool, ApiError> {
        let (stored, answer) = oneshot::channel();
        let waiting = Waiting { delivery, _room: room, stored };
        self.deliveries.send(waiting).await.map_err(|_| busy())?;
        answer.await.map_err(|_| busy())
    }
}

async fn read(mut body: BodyReader, place: &mut Place<'_>) -> Result<Bytes, ApiError> {
    while body.more().await? {
        place.grow(body.buffered().len()).await.map_err(|Full| busy())?;
    }
    body.rest().await
}

/// Works on a thread of its own: those for what blocks may all be waiting for a disk. There are as many as there is room
/// for long bodies.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (done, result) = oneshot::channel();
    let thread = thread::Builder::new().name("delivery".to_owned());
    // Who sent it may be gone.
    thread.spawn(move || drop(done.send(work()))).map_err(ApiError::internal)?;
    result.await.map_err(|_| ApiError::internal("a delivery's check panicked"))
}

/// Reads what a refused sender still sends, so that it lives to read why.
pub(super) async fn drain(body: Body) {
    BodyReader::new(body, 0, Duration::ZERO).drain().await;
}

fn busy() -> ApiError {
    ApiError::unavailable("the delivery could not be stored. Have GitHub deliver it again", COME_AGAIN)
}

async fn store(metadata: Metadata, clock: Clock, queue: Queue, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let deliveries: Vec<&NewDelivery> = batch.iter().map(|waiting: &Waiting| &waiting.delivery).collect();
        match metadata.store_deliveries(&deliveries, clock.now()).await {
            Ok(new) => {
                for (waiting, new) in batch.drain(..).zip(new) {
                    // Who sent it may be gone.
                    let _ = waiting.stored.send(new);
                }
                queue.wake();
            }
            Err(error) => {
                tracing::error!(%error, deliveries = batch.len(), "deliveries could not be stored");
                batch.clear();
            }
        }
    }
}
