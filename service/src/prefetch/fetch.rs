//! Fetching what upstreams offer, many NARs side by side, and publishing it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use larder_protocol::{NarHash, StorePath, StorePathHash, api::PathInfo};
use tokio::{sync::mpsc, time::interval};

use super::{
    PrefetchError, Progress,
    cut::{self, CutError, Nar},
    decompress::Window,
    lanes::Lane,
    source::{Offer, Source},
    walk::Failed,
};
use crate::{
    Service,
    caches::Cache,
    error::ApiError,
    push::{Fate, Intake, IntakeError, Opened},
};

/// So many paths are published at once, or so many bytes of NARs.
const PART_PATHS: usize = 2000;
const PART_BYTES: u64 = 16 << 30;
/// How often a push is said to be alive.
const ALIVE_EVERY: Duration = Duration::from_secs(60);

/// What a prefetch needs while it fetches.
pub(super) struct Fetching<'a> {
    pub service: &'a Arc<Service>,
    pub cache: &'a Arc<Cache>,
    pub lane: &'a Lane,
    pub progress: &'a Progress,
}

impl Fetching<'_> {
    /// Fetches and publishes what is offered. What could not be had is noted in `failed`; each upstream's is fetched
    /// whatever becomes of the others'.
    pub(super) async fn fetch(&self, offers: Vec<Offer>, failed: &mut Failed) -> Result<(), PrefetchError> {
        let mut by_source: Vec<(Arc<Source>, Vec<Offer>)> = Vec::new();
        for offer in offers {
            match by_source.iter_mut().find(|(source, _)| Arc::ptr_eq(source, &offer.source)) {
                Some((_, offers)) => offers.push(offer),
                None => by_source.push((offer.source.clone(), vec![offer])),
            }
        }
        let all = by_source.into_iter().map(|(source, offers)| self.all_of(source, offers));
        let mut all: FuturesUnordered<_> = all.collect();
        let mut result = Ok(());
        while let Some((source, bad, ended)) = all.next().await {
            for (path, why) in bad {
                failed.entry(path).or_default().push((source.clone(), why));
            }
            result = result.and(ended);
        }
        result
    }

    /// Fetches all that one upstream offers, part by part.
    async fn all_of(
        &self,
        source: Arc<Source>,
        offers: Vec<Offer>,
    ) -> (Arc<Source>, HashMap<StorePathHash, String>, Result<(), PrefetchError>) {
        let mut bad = HashMap::new();
        for part in parts(offers, self.service.config.limits.max_push_bytes.get(), &mut bad) {
            if let Err(error) = self.part(&source, part, &mut bad).await {
                return (source, bad, Err(error));
            }
        }
        (source, bad, Ok(()))
    }

    async fn part(
        &self,
        source: &Source,
        offers: Vec<Offer>,
        bad: &mut HashMap<StorePathHash, String>,
    ) -> Result<(), PrefetchError> {
        let infos: Vec<PathInfo> = offers.iter().map(|offer| offer.info.clone()).collect();
        let tops = tops(&infos);
        let count = infos.len();
        let intake = match Intake::open(self.service, self.cache, source.url(), infos, tops).await? {
            Opened::Open(intake) => intake,
            Opened::Committed => {
                self.progress.published(count);
                return Ok(());
            }
        };
        let mut without: HashMap<StorePathHash, String> = intake.refused().clone();
        // Of one NAR that several paths have, one is fetched.
        let mut nars: HashMap<NarHash, Vec<&Offer>> = HashMap::new();
        for offer in offers.iter().filter(|offer| intake.is_missing(&offer.info.path)) {
            nars.entry(offer.info.nar_hash).or_default().push(offer);
        }
        let mut nars: Vec<Vec<&Offer>> = nars.into_values().collect();
        // The largest first: the longest should not come last.
        nars.sort_by_key(|offers| std::cmp::Reverse(offers.first().map(|offer| offer.info.nar_size)));
        let bringing = async {
            let mut coming = FuturesUnordered::new();
            for offers in nars {
                let Some(first) = offers.first().copied() else { continue };
                let intake = &intake;
                coming.push(async move { (offers, self.bring(intake, first).await) });
            }
            let mut fates: Vec<(Vec<&Offer>, Fate)> = Vec::new();
            while let Some((offers, brought)) = coming.next().await {
                let why = match brought {
                    Ok(Some(fate)) => {
                        fates.push((offers, fate));
                        continue;
                    }
                    Ok(None) => continue,
                    Err(BringError::Push(error)) => return Err(error),
                    Err(BringError::Nar(why)) => why,
                    Err(BringError::Window) => CutError::Window.to_string(),
                };
                without.extend(offers.iter().map(|offer| (offer.info.path.hash(), why.clone())));
            }
            Ok(fates)
        };
        // Side by side, since both may wait for the one writer.
        let alive = async {
            let mut due = interval(ALIVE_EVERY);
            loop {
                due.tick().await;
                if let Err(error) = intake.keep_alive().await {
                    return error;
                }
            }
        };
        let fates = tokio::select! {
            fates = bringing => fates?,
            gone = alive => return Err(gone.into()),
        };
        let settled = intake.settle().await?;
        for (offers, fate) in fates {
            let why = match fate.await {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(_) => "it was not verified".to_owned(),
            };
            without.extend(offers.iter().map(|offer| (offer.info.path.hash(), why.clone())));
        }
        for (path, why) in &without {
            let path = offers.iter().find(|offer| offer.info.path.hash() == *path);
            let path = path.map(|offer| offer.info.path.to_string()).unwrap_or_default();
            tracing::warn!(upstream = source.url(), path, why, "a NAR could not be fetched");
        }
        if without.len() < count {
            settled.commit(&without.keys().copied().collect::<HashSet<_>>()).await?;
            self.progress.published(count - without.len());
        }
        bad.extend(without);
        Ok(())
    }

    /// Brings one NAR; nothing if somebody else has brought it meanwhile.
    async fn bring(&self, intake: &Intake, offer: &Offer) -> Result<Option<Fate>, BringError> {
        let info = &offer.info;
        // Before anything is held that another prefetch may need.
        let _connection = loop {
            self.lane.turn().await;
            let connection = offer.source.connection().await.map_err(ApiError::internal)?;
            // It may have been somebody else's turn by then.
            if self.lane.is_first() {
                break connection;
            }
        };
        // A content address must be looked at, wherever the NAR is from.
        if info.ca.is_none() {
            let metadata = &self.service.metadata;
            let stored = metadata.stored_nars(&self.cache.namespaces(), &[info.nar_hash]).await;
            if !stored.map_err(ApiError::from)?.is_empty() {
                return Ok(None);
            }
        }
        let mut window = offer.likely_window();
        loop {
            match self.attempt(intake, offer, window).await {
                Err(BringError::Window) => match offer.larger_window(window) {
                    Some(larger) => window = larger,
                    None => return Err(BringError::Window),
                },
                other => return other.map(Some),
            }
        }
    }

    async fn attempt(&self, intake: &Intake, offer: &Offer, window: Window) -> Result<Fate, BringError> {
        let _room = self.service.prefetching.room(offer.compression, window, offer.info.nar_size).await;
        let coming = offer.fetch().await.map_err(BringError::Nar)?;
        let nar = Nar { coming, compression: offer.compression, window };
        let fate = take(self.service, intake, &offer.info, nar).await?;
        self.progress.fetched(offer.info.nar_size);
        Ok(fate)
    }
}

/// Why a NAR was not brought.
pub(super) enum BringError {
    /// Its window is too large for the memory that it was given.
    Window,
    /// The NAR, or its upstream, is at fault.
    Nar(String),
    /// The push is.
    Push(ApiError),
}

impl From<ApiError> for BringError {
    fn from(error: ApiError) -> Self {
        Self::Push(error)
    }
}

impl From<CutError> for BringError {
    fn from(error: CutError) -> Self {
        match error {
            CutError::Window => Self::Window,
            CutError::Service(error) => Self::Push(error),
            other => Self::Nar(other.to_string()),
        }
    }
}

/// Takes a NAR as it comes.
pub(super) async fn take(
    service: &Service,
    intake: &Intake,
    info: &PathInfo,
    nar: Nar,
) -> Result<Fate, BringError> {
    let (chunks, cut) = mpsc::channel(cut::QUEUED);
    let cutting = cut::cut(&service.workshop, info, nar, chunks);
    tokio::select! {
        taken = intake.take(info.nar_hash, info.nar_size, cut) => match taken {
            Ok(fate) => Ok(fate),
            Err(IntakeError::Push(error)) => Err(BringError::Push(error)),
            Err(IntakeError::Ended) => Err(BringError::Push(ApiError::internal("a NAR ended before its end"))),
        },
        Err(error) = cutting => Err(error.into()),
    }
}

/// Parts that are published one after the other, what is referred to first.
fn parts(offers: Vec<Offer>, max_bytes: u64, bad: &mut HashMap<StorePathHash, String>) -> Vec<Vec<Offer>> {
    let max_bytes = max_bytes.min(PART_BYTES);
    let mut sizes: HashMap<NarHash, u64> = HashMap::new();
    let mut parts: Vec<Vec<Offer>> = Vec::new();
    let mut bytes = 0u64;
    for offer in in_order(offers) {
        let info = &offer.info;
        if *sizes.entry(info.nar_hash).or_insert(info.nar_size) != info.nar_size {
            bad.insert(
                info.path.hash(),
                "another path has the same NAR hash and another NAR size".to_owned(),
            );
            continue;
        }
        bytes = bytes.saturating_add(info.nar_size);
        match parts.last_mut() {
            Some(part) if part.len() < PART_PATHS && bytes <= max_bytes => part.push(offer),
            _ => {
                bytes = info.nar_size;
                parts.push(vec![offer]);
            }
        }
    }
    parts
}

/// Each behind what it refers to.
fn in_order(offers: Vec<Offer>) -> Vec<Offer> {
    let places: HashMap<StorePathHash, usize> =
        offers.iter().enumerate().map(|(place, offer)| (offer.info.path.hash(), place)).collect();
    let mut order = Vec::with_capacity(offers.len());
    let mut begun = vec![false; offers.len()];
    for start in 0..offers.len() {
        // Each with how many of its references were gone through. Not by recursion: a closure may be deep.
        let mut stack = vec![(start, 0)];
        if std::mem::replace(&mut begun[start], true) {
            continue;
        }
        while let Some((place, done)) = stack.last_mut() {
            match offers[*place].info.references.get(*done) {
                Some(reference) => {
                    *done += 1;
                    if let Some(next) = places.get(&reference.hash())
                        && !std::mem::replace(&mut begun[*next], true)
                    {
                        stack.push((*next, 0));
                    }
                }
                None => {
                    order.push(*place);
                    stack.pop();
                }
            }
        }
    }
    let mut offers: Vec<Option<Offer>> = offers.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| offers[place].take()).collect()
}

/// The paths that none of the others refers to.
fn tops(infos: &[PathInfo]) -> Vec<StorePath> {
    let referred: HashSet<StorePathHash> = infos
        .iter()
        .flat_map(|info| info.references.iter().filter(|reference| **reference != info.path))
        .map(StorePath::hash)
        .collect();
    let top = |info: &&PathInfo| !referred.contains(&info.path.hash());
    infos.iter().filter(top).map(|info| info.path.clone()).collect()
}
