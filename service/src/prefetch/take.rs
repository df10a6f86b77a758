//! Taking one path from elsewhere than an upstream.

use std::{collections::HashSet, fs::File, sync::Arc};

use futures_util::StreamExt as _;
use larder_protocol::{StorePathHash, api::PathInfo};

use tokio_util::io::ReaderStream;

use super::{
    Flight, Lane, PrefetchError, Prefetching,
    cut::Nar,
    decompress::{Compression, Window},
    fetch::{BringError, take},
    source::PIECE,
};
use crate::{
    Service,
    caches::Cache,
    push::{Intake, Opened},
    queue::Priority,
};

impl Prefetching {
    /// Begins what steps back, and has others step back, as a prefetch of that priority does.
    pub(crate) fn enter(&self, priority: Priority) -> Lane {
        self.lanes.enter(priority)
    }

    /// Waits until nobody else brings a path into a cache.
    pub(crate) async fn alone(&self, cache: &Cache, path: StorePathHash, lane: &Lane) -> Flight {
        loop {
            match self.flights.begin(cache.name(), [path].into_iter()) {
                (flight, None) => return flight,
                (_, Some(others)) => lane.aside(others.landed()).await,
            }
        }
    }
}

/// Brings one path into a cache, which nobody else does meanwhile: that is its `flight`. Its NAR is refused unless its
/// structure, its size, its hash and its content address are what `info` says. What it refers to must be in the cache,
/// or have been seen at an upstream. `from` is told to whoever asks where the path comes from.
///
/// # Errors
/// When the NAR cannot be read or does not hold, or the service fails.
pub(crate) async fn take_nar(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    from: &str,
    info: PathInfo,
    nar: File,
    flight: Flight,
) -> Result<(), PrefetchError> {
    let prefetching = &service.prefetching;
    let path = info.path.clone();
    let _flight = flight;
    if service.metadata.visible_paths(&cache.names(), &[path.hash()]).await?.contains_key(&path.hash()) {
        return Ok(());
    }
    let _room = prefetching.room(Compression::None, Window::Usual, info.nar_size).await;
    let intake = match Intake::open(service, cache, from, vec![info.clone()], vec![path.clone()]).await? {
        Opened::Open(intake) => intake,
        Opened::Committed => return Ok(()),
    };
    let wrong = |why: &str| PrefetchError::Wrong(format!("{path}, from {from}: {why}"));
    if let Some(why) = intake.refused().get(&path.hash()) {
        return Err(wrong(why));
    }
    let coming = ReaderStream::with_capacity(tokio::fs::File::from_std(nar), PIECE).boxed();
    let nar = Nar { coming, compression: Compression::None, window: Window::Usual };
    let fate = match take(service, &intake, &info, nar).await {
        Ok(fate) => fate,
        Err(BringError::Push(error)) => return Err(error.into()),
        Err(BringError::Nar(why)) => return Err(wrong(&why)),
        Err(BringError::Window) => return Err(wrong("it cannot be read")),
    };
    let settled = intake.settle().await?;
    match fate.await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(wrong(&why)),
        Err(_) => return Err(wrong("it was not verified")),
    }
    settled.commit(&HashSet::new()).await?;
    Ok(())
}
