//! Taking one path from elsewhere than an upstream.

use std::{collections::HashSet, io::Read, sync::Arc};

use larder_protocol::api::PathInfo;

use super::{
    PrefetchError,
    cut::cut,
    decompress::{Compression, Window},
    fetch::{BringError, take},
};
use crate::{
    Service,
    caches::Cache,
    push::{Intake, Opened},
};

/// Brings one path into a cache. Its NAR is read on a thread of its own, where it may block, and is refused unless its
/// structure, its size, its hash and its content address are what `info` says. What it refers to must be in the cache,
/// or have been seen at an upstream. `from` is told to whoever asks where the path comes from.
///
/// # Errors
/// When the NAR cannot be read or does not hold, or the service fails.
#[allow(dead_code, reason = "the inputs of flakes will come by it")]
pub(crate) async fn take_nar(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    from: &str,
    info: PathInfo,
    nar: impl Read + Send + 'static,
) -> Result<(), PrefetchError> {
    let prefetching = &service.prefetching;
    let path = info.path.clone();
    let _flight = loop {
        let (flight, others) = prefetching.flights.begin(cache.name(), [path.hash()].into_iter());
        match others {
            None => break flight,
            Some(others) => others.landed().await,
        }
    };
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
    let cutting = cut(&info, move || Ok(nar)).map_err(crate::error::ApiError::internal)?;
    let fate = match take(&intake, &info, cutting).await {
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
