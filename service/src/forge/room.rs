//! Room in memory for deliveries. Whose a body is shows only when it has come whole; until then it may be a stranger's.
//! So it takes room as it comes, and not as it is announced; and when there is no more, of those that are still coming
//! the one that began first gives way. GitHub's come within a second or so: who sends slowly keeps nobody out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// What all bodies hold at once, in KiB: three of the longest.
const ROOM_KIB: u32 = 80 << 10;
/// As much of it those may hold that are still coming, before any of them gives way. What has come is stored soon.
const COMING_KIB: u32 = ROOM_KIB / 2;
/// How long a body waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// There is no room.
#[derive(Debug)]
pub(super) struct Full;

/// The room for all bodies.
pub(super) struct Room {
    /// One permit for each KiB.
    free: Arc<Semaphore>,
    coming: Mutex<Coming>,
}

/// The bodies that are still coming and hold something.
#[derive(Default)]
struct Coming {
    /// The one that began first comes first: how many KiB it holds, and what tells it to give way.
    bodies: BTreeMap<u64, (u32, Arc<Notify>)>,
    next: u64,
}

/// The place of a body that is still coming.
pub(super) struct Place<'a> {
    room: &'a Room,
    number: u64,
    /// Nothing before anything has come.
    held: Option<OwnedSemaphorePermit>,
    give_way: Arc<Notify>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(ROOM_KIB as usize)), coming: Mutex::default() }
    }

    /// A place for a body that begins to come. It holds nothing yet.
    pub(super) fn enter(&self) -> Place<'_> {
        let mut coming = self.coming();
        coming.next += 1;
        Place { room: self, number: coming.next, held: None, give_way: Arc::default() }
    }

    /// Tells as many bodies to give way as hold so much. An error if it is this one's turn to give way.
    fn make_room(&self, kib: u32, number: u64) -> Result<(), Full> {
        let mut coming = self.coming();
        if coming.bodies.values().map(|(kib, _)| kib).sum::<u32>() <= COMING_KIB {
            return Ok(());
        }
        let mut made = 0;
        while made < kib {
            let Some((first, (held, give_way))) = coming.bodies.pop_first() else { break };
            if first == number {
                return Err(Full);
            }
            give_way.notify_one();
            made += held;
        }
        Ok(())
    }

    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// What tells that the body is to give way to others.
    pub(super) fn give_way(&self) -> Arc<Notify> {
        self.give_way.clone()
    }

    /// Waits until there is room for so many bytes of the body in all.
    pub(super) async fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let whole = u32::try_from(bytes.div_ceil(1024)).map_err(|_| Full)?;
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = whole.saturating_sub(u32::try_from(held).map_err(|_| Full)?);
        if more == 0 {
            return Ok(());
        }
        let free = self.room.free.clone();
        let taken = match free.clone().try_acquire_many_owned(more) {
            Ok(taken) => taken,
            Err(_) => {
                self.room.make_room(more, self.number)?;
                let taken = timeout(PATIENCE, free.acquire_many_owned(more)).await;
                taken.map_err(|_| Full)?.map_err(|_| Full)?
            }
        };
        match &mut self.held {
            Some(held) => held.merge(taken),
            None => self.held = Some(taken),
        }
        self.room.coming().bodies.insert(self.number, (whole, self.give_way.clone()));
        Ok(())
    }

    /// The body has come whole: it gives way to nobody any more, and holds its room until this is dropped.
    pub(super) fn whole(mut self) -> Option<OwnedSemaphorePermit> {
        self.held.take()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.coming().bodies.remove(&self.number);
    }
}
