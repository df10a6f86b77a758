//! The connections: how many there may be, and which go when there are more.
//!
//! Nobody is refused for want of a connection, since a reader that gets no answer fails a build. When there are as many
//! as there may be, the one that has been idle longest is closed for each that comes. HTTP lets either side do that at
//! any time, and clients send a request again whose connection had served before and was closed under it. Not so on one
//! that is new: it goes for want of room only when no request came on it for some seconds. Where none can be closed,
//! whoever comes waits until a request is answered.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// Files that are open for other reasons: the database, the log, upstreams.
const OTHER_FILES: u64 = 128;
/// More are of no use to one machine.
const ENOUGH: u64 = 32_768;
/// Fewer are of no use to anybody.
const LEAST: u64 = 16;
/// How long a new connection may be silent while others want its place.
const SPEAK_WITHIN: Duration = Duration::from_secs(3);

/// All connections.
pub(crate) struct Connections {
    slots: Arc<Semaphore>,
    limit: usize,
    idle: Arc<Idle>,
    /// Whether it was said that all are busy.
    complained: bool,
}

/// Those on which nothing is asked or answered.
#[derive(Default)]
struct Idle {
    line: Mutex<Line>,
    longer: Notify,
}

/// In both, the one that has been idle longest comes first.
#[derive(Default)]
struct Line {
    /// Which have answered before.
    rested: BTreeMap<u64, Arc<Notify>>,
    /// Which have not, and from when on they are closed for want of room.
    silent: BTreeMap<u64, (Instant, Arc<Notify>)>,
    next: u64,
}

/// One connection. It gives its slot back when it is dropped.
pub(crate) struct Connection {
    idle: Arc<Idle>,
    place: Mutex<Option<u64>>,
    leave: Arc<Notify>,
    _slot: OwnedSemaphorePermit,
}

/// A request that is being answered, until the last byte of its answer is handed on.
pub(crate) struct Busy(Arc<Connection>);

/// The answer to a request, which keeps its connection busy.
pub(crate) struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl Connections {
    /// At most `limit`; where that is not said, half as many as files may be open, since each may read one.
    pub(crate) fn new(limit: Option<u32>) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
        let limit = limit.map_or_else(|| (files / 2).clamp(LEAST, ENOUGH), u64::from);
        if limit > files {
            tracing::warn!(
                limit,
                files,
                "limits.max_connections is more than the limit on open files lets. Raise that one (ulimit -n, \
                 LimitNOFILE)"
            );
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(limit)), limit, idle: Arc::default(), complained: false }
    }

    /// A place for one more, once there is one.
    pub(crate) async fn admit(&mut self) -> Arc<Connection> {
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => {
                self.complained = false;
                slot
            }
            Err(_) => self.make_room().await,
        };
        let connection = Arc::new(Connection {
            idle: self.idle.clone(),
            place: Mutex::default(),
            leave: Arc::default(),
            _slot: slot,
        });
        connection.wait_for_first_request();
        connection
    }

    async fn make_room(&mut self) -> OwnedSemaphorePermit {
        let idle = self.idle.clone();
        loop {
            // Hears of whatever becomes idle from here on.
            let longer = idle.longer.notified();
            let silent_until = match idle.dismiss_one() {
                Dismissed::One => None,
                Dismissed::NoneBefore(until) => Some(until),
                Dismissed::None => {
                    self.complain();
                    None
                }
            };
            let another_can_go = async {
                match silent_until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                slot = self.slots.clone().acquire_owned() => match slot {
                    Ok(slot) => return slot,
                    // The semaphore is never closed.
                    Err(_) => std::future::pending().await,
                },
                () = longer => {}
                () = another_can_go => {}
            }
        }
    }

    fn complain(&mut self) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(
                limit = self.limit,
                "all connections are busy: whoever comes now waits. Raise limits.max_connections if that lasts"
            );
        }
    }
}

/// Whether an idle connection was told to go.
enum Dismissed {
    One,
    /// There is one that can be told so from then on.
    NoneBefore(Instant),
    None,
}

impl Idle {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the one that has been idle longest to go.
    fn dismiss_one(&self) -> Dismissed {
        let mut line = self.line();
        if let Some((_, leave)) = line.rested.pop_first() {
            leave.notify_one();
            return Dismissed::One;
        }
        let Some(silent) = line.silent.first_entry() else { return Dismissed::None };
        let (until, _) = silent.get();
        if *until > Instant::now() {
            return Dismissed::NoneBefore(*until);
        }
        silent.remove().1.notify_one();
        Dismissed::One
    }
}

impl Connection {
    /// Returns when the connection should be closed, as soon as nothing is asked or answered on it.
    pub(crate) async fn dismissed(&self) {
        self.leave.notified().await;
    }

    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.leave_line();
        Busy(self.clone())
    }

    fn wait_for_first_request(&self) {
        self.stand_in_line(|line, place, leave| {
            line.silent.insert(place, (Instant::now() + SPEAK_WITHIN, leave));
        });
    }

    fn rest(&self) {
        self.stand_in_line(|line, place, leave| {
            line.rested.insert(place, leave);
        });
        self.idle.longer.notify_waiters();
    }

    fn stand_in_line(&self, insert: impl FnOnce(&mut Line, u64, Arc<Notify>)) {
        let mut line = self.idle.line();
        let place = line.next;
        line.next += 1;
        insert(&mut line, place, self.leave.clone());
        *self.place() = Some(place);
    }

    fn leave_line(&self) {
        let mut line = self.idle.line();
        if let Some(place) = self.place().take() {
            line.rested.remove(&place);
            line.silent.remove(&place);
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<u64>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave_line();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

impl BusyBody {
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
