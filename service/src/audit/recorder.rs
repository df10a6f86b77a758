//! Recording what need not wait for the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{Entry, Event, Who};
use crate::{
    clock::Clock,
    config::AuditConfig,
    error::ApiError,
    metadata::{Metadata, MetadataError},
};

/// How many entries may wait to be written.
const QUEUE: usize = 4096;
/// How many are written in one transaction.
const BATCH: usize = 500;
/// What the writer of the database has to itself between two batches.
const PAUSE: Duration = Duration::from_secs(1);
/// How often old rows are cleared away.
const THIN_EVERY: Duration = Duration::from_secs(60 * 60);
/// The same by the service's clock, in seconds.
const THIN_AFTER: i64 = 60 * 60;

/// Records entries, in the order in which they came, some time later.
#[derive(Debug, Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    clock: Clock,
    dropped: Arc<AtomicU64>,
    hurry: Arc<Hurry>,
}

/// How many wait for the writer, which then makes no pauses.
#[derive(Debug, Default)]
struct Hurry {
    waiting: AtomicU64,
    begun: Notify,
}

enum Message {
    Entry(Box<Entry>, i64),
    Flush(oneshot::Sender<()>),
}

impl Audit {
    /// Starts the task that writes.
    pub(crate) fn start(metadata: Metadata, clock: Clock, config: AuditConfig) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let audit = Self { queue, clock, dropped: Arc::default(), hurry: Arc::default() };
        let writer = Writer {
            metadata,
            clock: audit.clock.clone(),
            config,
            dropped: audit.dropped.clone(),
            hurry: audit.hurry.clone(),
            thinned_at: None,
        };
        tokio::spawn(writer.run(waiting));
        audit
    }

    /// Records an entry. Never waits: when too many wait already, it goes to the log alone.
    pub fn record(&self, entry: Entry) {
        entry.log();
        let message = Message::Entry(Box::new(entry), self.clock.now());
        if self.queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that somebody is refused, if it is for who he is or how often he came. The cache that is named need not
    /// be any of ours, so that it is left out.
    pub(crate) fn refused(&self, who: &Who, refusal: &ApiError) {
        if let Some(event) = Event::of_refusal(refusal) {
            self.record(Entry::of_service(who.clone(), event));
        }
    }

    /// Waits until all that was recorded is in the database.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        self.hurry.waiting.fetch_add(1, Ordering::SeqCst);
        self.hurry.begun.notify_one();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // An error says that the task has ended: nothing more is written then.
            let _ = written.await;
        }
        self.hurry.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Writer {
    metadata: Metadata,
    clock: Clock,
    config: AuditConfig,
    dropped: Arc<AtomicU64>,
    hurry: Arc<Hurry>,
    thinned_at: Option<i64>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(BATCH);
        let mut thin_at = Instant::now();
        loop {
            let received = tokio::select! {
                received = waiting.recv_many(&mut messages, BATCH) => received,
                () = tokio::time::sleep_until(thin_at) => {
                    self.thin().await;
                    thin_at = Instant::now() + THIN_EVERY;
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            let (mut entries, mut flushed) = (Vec::with_capacity(received), Vec::new());
            for message in messages.drain(..) {
                match message {
                    Message::Entry(entry, time) => entries.push((*entry, time)),
                    Message::Flush(done) => flushed.push(done),
                }
            }
            self.write(&entries).await;
            if self.thinned_at.is_none_or(|thinned| thinned + THIN_AFTER <= self.clock.now()) {
                self.thin().await;
            }
            for done in flushed {
                // Whoever waited may be gone.
                let _ = done.send(());
            }
            if self.hurry.waiting.load(Ordering::SeqCst) == 0 {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = self.hurry.begun.notified() => {}
                }
            }
        }
    }

    async fn write(&self, entries: &[(Entry, i64)]) {
        if let Err(error) = self.metadata.record_entries(entries).await {
            tracing::error!(%error, entries = entries.len(), "entries of the audit log could not be written");
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "too many refusals at once: some are in this log alone, not in the audit log"
            );
        }
    }

    async fn thin(&mut self) {
        let now = self.clock.now();
        self.thinned_at = Some(now);
        match self.thin_all(now).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "old rows of the audit log were cleared away"),
            Err(error) => tracing::error!(%error, "old rows of the audit log could not be cleared away"),
        }
    }

    /// In transactions of bounded size, so that nobody waits for long.
    async fn thin_all(&self, now: i64) -> Result<u64, MetadataError> {
        let before = now.saturating_sub(self.config.keep.seconds());
        let mut all = 0;
        loop {
            let rows = self.metadata.thin_audit(before, self.config.max_rows).await?;
            all += rows;
            if rows == 0 {
                return Ok(all);
            }
        }
    }
}
