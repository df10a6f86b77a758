//! Each path is fetched once, however many want it: whoever comes second waits for the first.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use larder_protocol::{StorePathHash, api::CacheName};
use tokio::sync::watch;

type Key = (CacheName, StorePathHash);

/// The paths that are being fetched.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, watch::Receiver<()>>>);

/// Paths that nobody else fetches while this lives.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    cache: CacheName,
    paths: HashSet<StorePathHash>,
    /// Closed with this: whoever waits goes on.
    _landed: watch::Sender<()>,
}

/// A path's flight that somebody else began.
#[derive(Debug)]
pub(super) struct Others(watch::Receiver<()>);

impl Flights {
    /// Takes what of `paths` nobody is at, all at one moment, and tells of the first that somebody is at.
    pub(super) fn begin(
        self: &Arc<Self>,
        cache: &CacheName,
        paths: impl Iterator<Item = StorePathHash>,
    ) -> (Flight, Option<Others>) {
        let (landed, landing) = watch::channel(());
        let mut others = None;
        let mut taken = HashSet::new();
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            match flights.entry((cache.clone(), path)) {
                std::collections::hash_map::Entry::Occupied(taken) => {
                    others.get_or_insert_with(|| Others(taken.get().clone()));
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(landing.clone());
                    taken.insert(path);
                }
            }
        }
        drop(flights);
        (Flight { flights: self.clone(), cache: cache.clone(), paths: taken, _landed: landed }, others)
    }
}

impl Flight {
    /// Whether a path is this one's to fetch.
    pub(super) fn has(&self, path: StorePathHash) -> bool {
        self.paths.contains(&path)
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        for path in self.paths.drain() {
            flights.remove(&(self.cache.clone(), path));
        }
    }
}

impl Others {
    /// Waits until it has ended, one way or the other.
    pub(super) async fn landed(mut self) {
        // Nothing is ever sent: it ends when the sender does.
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_second_waits_for_the_first_and_no_longer() {
        let flights = Arc::new(Flights::default());
        let (main, other) = ("main".parse().unwrap(), "other".parse().unwrap());
        let path = |n| StorePathHash([n; 20]);
        let (first, none) = flights.begin(&main, [path(1), path(2)].into_iter());
        assert!(none.is_none() && first.has(path(1)) && first.has(path(2)));
        let (second, waits) = flights.begin(&main, [path(2), path(3)].into_iter());
        assert!(!second.has(path(2)) && second.has(path(3)));
        let (elsewhere, none) = flights.begin(&other, [path(2)].into_iter());
        assert!(none.is_none() && elsewhere.has(path(2)));
        let waiting = tokio::spawn(waits.unwrap().landed());
        drop(second);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        let (third, none) = flights.begin(&main, [path(1), path(2), path(3)].into_iter());
        assert!(none.is_none() && [1, 2, 3].into_iter().all(|n| third.has(path(n))));
    }
}
