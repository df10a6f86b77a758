//! What is to be in the mirror, and in which order it is written.

use std::collections::{HashMap, HashSet};

use larder_protocol::{StorePath, StorePathHash, narinfo::NarInfo};
use tokio::sync::SetOnce;

use super::{MirrorError, Mirroring, Why, listing::Listing, target::Target};
use crate::{cache::NarFile, metadata::BATCH};

/// The closures of the roots.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Their paths.
    pub paths: Vec<Planned>,
    /// The same by their places in `paths`: each behind all that it refers to. Those of a circle are in it nowhere.
    pub order: Vec<usize>,
    /// Bytes of NARs that are not there yet.
    pub nar_bytes: u64,
}

/// A path that is to be in the mirror.
#[derive(Debug)]
pub(super) struct Planned {
    pub hash: StorePathHash,
    /// What it refers to, itself left out: places in [`Plan::paths`].
    pub references: Box<[usize]>,
    /// What it refers to and the cache leaves to its upstreams.
    pub elsewhere: Box<[StorePathHash]>,
    /// Present where the cache does not have it any more, since it is damaged there, and the mirror still has.
    pub kept: Option<NarFile>,
    /// What became of it.
    pub outcome: SetOnce<Outcome>,
}

/// What became of a planned path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The mirror has it, with all that it refers to.
    There,
    /// The mirror must not have it.
    LeftOut(Why),
}

/// A path that was found, before it is known what it can refer to.
struct Found {
    hash: StorePathHash,
    references: Vec<StorePathHash>,
    kept: Option<NarFile>,
}

/// A narinfo in the mirror, as far as it matters here; `None` where it is not one of larderd's.
pub(super) async fn read_narinfo(
    target: &Target,
    hash: &StorePathHash,
) -> Result<Option<(NarFile, Vec<StorePathHash>)>, MirrorError> {
    let found = target.get(&super::listing::narinfo_file(hash)).await?;
    Ok(found.and_then(|text| understand(hash, &text)))
}

/// The NAR of a narinfo and what it refers to, itself left out.
pub(super) fn understand(hash: &StorePathHash, text: &[u8]) -> Option<(NarFile, Vec<StorePathHash>)> {
    let info = NarInfo::parse(std::str::from_utf8(text).ok()?).ok()?;
    let file = NarFile::parse(info.url.strip_prefix("nar/")?)?;
    (info.path.hash() == *hash).then(|| (file, others(hash, &info.references)))
}

/// What a path refers to beside itself.
pub(super) fn others(hash: &StorePathHash, references: &[StorePath]) -> Vec<StorePathHash> {
    references.iter().map(StorePath::hash).filter(|reference| reference != hash).collect()
}

impl Plan {
    /// Walks the closures of the roots.
    pub async fn make(
        mirroring: &Mirroring<'_>,
        listing: &Listing,
        roots: &HashSet<StorePathHash>,
    ) -> Result<Self, MirrorError> {
        let mut found: Vec<Found> = Vec::new();
        let mut absent: HashSet<StorePathHash> = HashSet::new();
        let mut new_nars: HashMap<NarFile, u64> = HashMap::new();
        let mut seen = roots.clone();
        let mut next: Vec<StorePathHash> = roots.iter().copied().collect();
        while !next.is_empty() {
            let batch = next.split_off(next.len().saturating_sub(BATCH));
            let mut missing: HashSet<StorePathHash> = batch.iter().copied().collect();
            let first = found.len();
            for path in mirroring.metadata.stored_paths(mirroring.name(), &batch).await? {
                let info = &path.published.info;
                let file = NarFile { hash: info.nar_hash, encoding: path.nar.encoding };
                if !listing.has(&file, path.nar.file_size) {
                    new_nars.insert(file, path.nar.file_size);
                }
                let hash = info.path.hash();
                if missing.remove(&hash) {
                    found.push(Found { hash, references: others(&hash, &info.references), kept: None });
                }
            }
            // What a sweep took goes from the mirror, too. What was withdrawn as damaged is right there, and stays.
            let lost: Vec<_> = missing.iter().filter(|hash| roots.contains(*hash)).copied().collect();
            let withdrawn = mirroring.metadata.withdrawn_hashes(mirroring.name(), &lost).await?;
            for hash in missing {
                let stays =
                    listing.narinfos.contains(&hash) && (!roots.contains(&hash) || withdrawn.contains(&hash));
                match if stays { read_narinfo(mirroring.target, &hash).await? } else { None } {
                    Some((file, references)) if listing.nars.contains_key(&file) => {
                        found.push(Found { hash, references, kept: Some(file) });
                    }
                    _ => {
                        absent.insert(hash);
                    }
                }
            }
            next.extend(
                found[first..].iter().flat_map(|path| &path.references).filter(|hash| seen.insert(**hash)),
            );
        }
        drop(seen);
        let mut withdrawn = HashSet::new();
        for batch in absent.iter().copied().collect::<Vec<_>>().chunks(BATCH) {
            withdrawn.extend(mirroring.metadata.withdrawn_hashes(mirroring.name(), batch).await?);
        }
        let paths = link(found, &withdrawn, !mirroring.cache.upstreams.is_empty());
        Ok(Self { order: order(&paths), paths, nar_bytes: new_nars.values().sum() })
    }
}

/// Says of each path where in the plan it is what it refers to, and decides about those that refer to what is nowhere.
fn link(found: Vec<Found>, withdrawn: &HashSet<StorePathHash>, has_upstreams: bool) -> Vec<Planned> {
    let places: HashMap<StorePathHash, usize> =
        found.iter().enumerate().map(|(place, path)| (path.hash, place)).collect();
    let planned = |Found { hash, references, kept }| {
        let elsewhere: Box<[StorePathHash]> =
            references.iter().filter(|hash| !places.contains_key(*hash)).copied().collect();
        // What the mirror alone has stood there as it is.
        let problem = if kept.is_some() || elsewhere.is_empty() {
            None
        } else if elsewhere.iter().any(|hash| withdrawn.contains(hash)) {
            Some(Why::RefersToDamaged)
        } else {
            (!has_upstreams).then_some(Why::RefersToAbsent)
        };
        let references = references.iter().filter_map(|hash| places.get(hash).copied()).collect();
        let outcome = problem.map_or_else(SetOnce::new, |why| SetOnce::new_with(Some(Outcome::LeftOut(why))));
        Planned { hash, references, elsewhere, kept, outcome }
    };
    found.into_iter().map(planned).collect()
}

/// The places of paths, each behind those that it refers to. Whatever is in a circle, or refers to one, is left out.
fn order(paths: &[Planned]) -> Vec<usize> {
    let mut waits_for: Vec<usize> = paths.iter().map(|path| path.references.len()).collect();
    let mut referrers: Vec<Vec<usize>> = vec![Vec::new(); paths.len()];
    for (place, path) in paths.iter().enumerate() {
        path.references.iter().for_each(|reference| referrers[*reference].push(place));
    }
    let mut order: Vec<usize> = (0..paths.len()).filter(|place| waits_for[*place] == 0).collect();
    let mut done = 0;
    while let Some(place) = order.get(done).copied() {
        done += 1;
        for referrer in &referrers[place] {
            waits_for[*referrer] -= 1;
            if waits_for[*referrer] == 0 {
                order.push(*referrer);
            }
        }
    }
    for (path, _) in paths.iter().zip(&waits_for).filter(|(_, left)| **left > 0) {
        // What it refers to may have decided about it already.
        let _ = path.outcome.set(Outcome::LeftOut(Why::Circle));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> StorePathHash {
        StorePathHash([number; 20])
    }

    fn found(number: u8, references: &[u8]) -> Found {
        let references = references.iter().copied().map(hash).collect();
        Found { hash: hash(number), references, kept: None }
    }

    #[test]
    fn paths_come_behind_what_they_refer_to_and_circles_are_left_out() {
        let all = vec![found(1, &[2, 3]), found(2, &[3]), found(3, &[]), found(4, &[5]), found(5, &[4, 3])];
        let paths = link(all, &HashSet::new(), false);
        assert_eq!(order(&paths), [2, 1, 0]);
        let outcomes: Vec<_> = paths.iter().map(|path| path.outcome.get().copied()).collect();
        let circle = Some(Outcome::LeftOut(Why::Circle));
        assert_eq!(outcomes, [None, None, None, circle, circle]);
    }

    #[test]
    fn what_is_nowhere_decides_about_what_refers_to_it() {
        let all = || vec![found(1, &[2]), found(3, &[4])];
        let outcomes = |has_upstreams| {
            let paths = link(all(), &HashSet::from([hash(2)]), has_upstreams);
            paths.iter().map(|path| path.outcome.get().copied()).collect::<Vec<_>>()
        };
        let damaged = Some(Outcome::LeftOut(Why::RefersToDamaged));
        assert_eq!(outcomes(true), [damaged, None]);
        assert_eq!(outcomes(false), [damaged, Some(Outcome::LeftOut(Why::RefersToAbsent))]);
    }
}
