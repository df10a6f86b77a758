//! Removing what is not to be there any more: paths before those that they refer to, and NARs last.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use larder_protocol::StorePathHash;

use super::{
    MirrorError, MirrorReport, Mirroring,
    listing::{Listing, nar_file, narinfo_file},
    plan::read_narinfo,
    write::Written,
};

/// How many files are asked for or removed side by side.
const AT_ONCE: usize = 32;

/// Removes the narinfos of all paths that are not to be there, and those NARs that nothing named when the mirroring
/// began.
pub(super) async fn remove(
    mirroring: &Mirroring<'_>,
    listing: &Listing,
    mut written: Written,
    report: &mut MirrorReport,
) -> Result<(), MirrorError> {
    let going: Vec<StorePathHash> =
        listing.narinfos.iter().filter(|hash| !written.there.contains(*hash)).copied().collect();
    let target = mirroring.target;
    let mut references: HashMap<StorePathHash, Vec<StorePathHash>> = HashMap::with_capacity(going.len());
    let mut reading = stream::iter(going)
        .map(|hash| async move { Ok::<_, MirrorError>((hash, read_narinfo(target, &hash).await?)) })
        .buffer_unordered(AT_ONCE);
    while let Some((hash, narinfo)) = reading.try_next().await? {
        // What cannot be read refers to nothing that anybody needs.
        let (file, refers_to) =
            narinfo.map_or((None, Vec::new()), |(file, refers_to)| (Some(file), refers_to));
        written.named.extend(file);
        references.insert(hash, refers_to);
    }
    report.removed = references.len() as u64;
    for wave in waves(references) {
        delete(mirroring, wave.iter().map(narinfo_file)).await?;
    }
    let unneeded = listing.nars.iter().filter(|(file, _)| !written.needed.contains(*file));
    let (to_go, now): (Vec<_>, Vec<_>) = unneeded.partition(|(file, _)| written.named.contains(*file));
    report.nars_to_go = to_go.len() as u64;
    report.nars_removed = now.len() as u64;
    report.nar_bytes_removed = now.iter().map(|(_, size)| **size).sum();
    delete(mirroring, now.into_iter().map(|(file, _)| nar_file(file))).await
}

async fn delete(mirroring: &Mirroring<'_>, names: impl Iterator<Item = String>) -> Result<(), MirrorError> {
    if mirroring.dry_run {
        return Ok(());
    }
    let delete = |name: String| async move {
        match mirroring.state.is_stopped() {
            true => Err(MirrorError::Stopped),
            false => mirroring.target.delete(&name).await,
        }
    };
    stream::iter(names).map(delete).buffer_unordered(AT_ONCE).try_collect().await
}

/// Paths in the order in which they can go: of each wave, only the waves before it refer to it. Those of a circle go last.
fn waves(mut references: HashMap<StorePathHash, Vec<StorePathHash>>) -> Vec<Vec<StorePathHash>> {
    let mut waves = Vec::new();
    while !references.is_empty() {
        let referred: HashSet<StorePathHash> = references.values().flatten().copied().collect();
        let mut wave: Vec<_> = references.keys().filter(|hash| !referred.contains(*hash)).copied().collect();
        if wave.is_empty() {
            wave = references.keys().copied().collect();
        }
        wave.iter().for_each(|hash| drop(references.remove(hash)));
        waves.push(wave);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_before_what_they_refer_to() {
        let hash = |number: u8| StorePathHash([number; 20]);
        let going = [(1, vec![2, 3]), (2, vec![3, 9]), (3, vec![]), (4, vec![5]), (5, vec![4])];
        let going =
            going.map(|(path, others): (u8, Vec<u8>)| (hash(path), others.into_iter().map(hash).collect()));
        let mut waves = waves(HashMap::from(going));
        // Those that refer to each other have no order.
        waves[3].sort();
        let expected = [vec![hash(1)], vec![hash(2)], vec![hash(3)], vec![hash(4), hash(5)]];
        assert_eq!(waves, expected);
    }
}
