//! Walking a closure: what of it is here, what upstreams have of it, what nobody has.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use larder_protocol::{StorePath, StorePathHash};

use super::{
    PrefetchError,
    source::{Answer, Offer, Source},
};
use crate::{Service, caches::Cache, config::ByteSize};

/// The largest closure that is walked.
const MAX_CLOSURE: usize = 250_000;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// How many paths the closure has, as far as it is known.
    pub paths: usize,
    /// Visible paths from which all others that are here are reached: their rows.
    pub entries: Vec<(i64, StorePathHash)>,
    /// What is not here, and an upstream has.
    pub wanted: Vec<Offer>,
    /// What no upstream has, and why it does not count where one seemed to.
    pub lacking: Vec<Lacking>,
    /// What an upstream that did not answer may have, and what they said.
    pub unknown: Vec<Lacking>,
    /// Which upstreams did not answer for it.
    pub silent: Failed,
}

/// A path that cannot be had.
#[derive(Debug, Clone)]
pub(crate) struct Lacking {
    pub path: StorePath,
    /// For people; none where nobody said more than that it is not there.
    pub why: Option<String>,
}

/// From which upstream which path could not be fetched, and why.
pub(super) type Failed = HashMap<StorePathHash, Vec<(Arc<Source>, String)>>;

/// Walks the closure of `roots`. Upstreams are not asked for what has failed there.
pub(super) async fn walk(
    service: &Service,
    cache: &Cache,
    sources: &[Arc<Source>],
    roots: &[StorePath],
    failed: &Failed,
) -> Result<Walk, PrefetchError> {
    let max_wanted = service.config.limits.max_push_paths as usize;
    let max_nar_size = service.config.limits.max_nar_size;
    let mut walk = Walk::default();
    let mut seen: HashSet<StorePathHash> = HashSet::new();
    // Each with whether something that is here refers to it.
    let mut next: Vec<(StorePath, bool)> =
        roots.iter().filter(|path| seen.insert(path.hash())).map(|path| (path.clone(), false)).collect();
    let mut answers = FuturesUnordered::new();
    loop {
        if next.is_empty() {
            let Some(answer) = answers.next().await else { break };
            hear(answer, &mut walk, &mut seen, &mut next);
            // What else has come, before the database is asked.
            while let Some(Some(answer)) = answers.next().now_or_never() {
                hear(answer, &mut walk, &mut seen, &mut next);
            }
            if walk.wanted.len() > max_wanted {
                return Err(PrefetchError::TooLarge(max_wanted));
            }
            continue;
        }
        if seen.len() > MAX_CLOSURE {
            return Err(PrefetchError::TooLarge(MAX_CLOSURE));
        }
        let asked = mem::take(&mut next);
        let hashes: Vec<StorePathHash> = asked.iter().map(|(path, _)| path.hash()).collect();
        let visible = service.metadata.visible_paths(&cache.names(), &hashes).await?;
        for (path, reached) in asked {
            match visible.get(&path.hash()) {
                Some(there) if there.path == path => {
                    if !reached {
                        walk.entries.push((there.id, path.hash()));
                    }
                    for reference in there.references()? {
                        if seen.insert(reference.hash()) {
                            next.push((reference, true));
                        }
                    }
                }
                Some(there) => {
                    let why = Some(format!("the cache has that hash as {}", there.path));
                    walk.lacking.push(Lacking { path, why });
                }
                None => answers.push(ask(sources, path, failed, max_nar_size)),
            }
        }
    }
    walk.paths = seen.len();
    walk.leave_out_unfounded();
    Ok(walk)
}

impl Walk {
    /// Leaves out what refers, over any number of steps, to what cannot be had: what is visible is complete.
    fn leave_out_unfounded(&mut self) {
        if self.lacking.is_empty() && self.unknown.is_empty() {
            return;
        }
        let mut referrers: HashMap<StorePathHash, Vec<usize>> = HashMap::new();
        for (position, offer) in self.wanted.iter().enumerate() {
            for reference in &offer.info.references {
                referrers.entry(reference.hash()).or_default().push(position);
            }
        }
        let mut unfounded: HashMap<usize, bool> = HashMap::new();
        for (without, for_good) in [(&self.unknown, false), (&self.lacking, true)] {
            let mut next: Vec<StorePathHash> = without.iter().map(|lacking| lacking.path.hash()).collect();
            while let Some(hash) = next.pop() {
                for position in referrers.get(&hash).into_iter().flatten() {
                    if unfounded.insert(*position, for_good) != Some(for_good) {
                        next.push(self.wanted[*position].info.path.hash());
                    }
                }
            }
        }
        let wanted = mem::take(&mut self.wanted).into_iter().enumerate();
        for (position, offer) in wanted {
            let path = offer.info.path.clone();
            match unfounded.get(&position) {
                None => self.wanted.push(offer),
                // What it refers to says why.
                Some(true) => self.lacking.push(Lacking { path, why: None }),
                Some(false) => {
                    let why = Some("something that it refers to cannot be had".to_owned());
                    self.unknown.push(Lacking { path, why });
                }
            }
        }
    }
}

/// What the upstreams say of a path.
enum Heard {
    Has(Box<Offer>),
    Lacks(Lacking),
    Unknown(Lacking, Vec<(Arc<Source>, String)>),
}

/// Asks all upstreams at once. The first that has it is heard; that it is lacking, only when all have said so.
async fn ask(sources: &[Arc<Source>], path: StorePath, failed: &Failed, max_nar_size: ByteSize) -> Heard {
    let bad = failed.get(&path.hash()).map(Vec::as_slice).unwrap_or_default();
    let mut whys: Vec<String> = bad.iter().map(|(source, why)| format!("{}: {why}", source.url())).collect();
    let mut silent = Vec::new();
    let usable = sources.iter().filter(|source| !bad.iter().any(|(bad, _)| Arc::ptr_eq(bad, source)));
    let path_asked = &path;
    let asked = usable.map(|source| async move { (source, source.ask(path_asked).await) });
    let mut answers: FuturesUnordered<_> = asked.collect();
    while let Some((source, answer)) = answers.next().await {
        match answer {
            Answer::Has(offer) if offer.info.nar_size > max_nar_size.get() => {
                whys.push(format!("its NAR is larger than {max_nar_size} (limits.max_nar_size)"));
            }
            Answer::Has(offer) => return Heard::Has(offer),
            Answer::Lacks(None) => {}
            Answer::Lacks(Some(why)) => whys.push(format!("{}: {why}", source.url())),
            Answer::Silent(why) => {
                whys.push(format!("{}: {why}", source.url()));
                silent.push((source.clone(), why));
            }
        }
    }
    drop(answers);
    let lacking = Lacking { path, why: (!whys.is_empty()).then(|| whys.join("; ")) };
    match bad.is_empty() && silent.is_empty() {
        true => Heard::Lacks(lacking),
        false => Heard::Unknown(lacking, silent),
    }
}

fn hear(heard: Heard, walk: &mut Walk, seen: &mut HashSet<StorePathHash>, next: &mut Vec<(StorePath, bool)>) {
    match heard {
        Heard::Has(offer) => {
            for reference in &offer.info.references {
                if seen.insert(reference.hash()) {
                    next.push((reference.clone(), false));
                }
            }
            walk.wanted.push(*offer);
        }
        Heard::Lacks(lacking) => walk.lacking.push(lacking),
        Heard::Unknown(lacking, silent) => {
            walk.silent.entry(lacking.path.hash()).or_default().extend(silent);
            walk.unknown.push(lacking);
        }
    }
}
