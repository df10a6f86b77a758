//! Who holds how much: of each repository, ref and pin, the bytes that its closures need, and those that nobody else's
//! do. Paths that only stay because they are recent are nobody's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use larder_protocol::{StorePathHash, api::CacheName};
use serde::Serialize;

use crate::{
    config::CacheConfig,
    metadata::{Metadata, MetadataError},
    retention,
};

/// Something that keeps closures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Holder {
    /// The cache.
    pub cache: String,
    /// `repository`, `ref` or `pin`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// How much something holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Who.
    #[serde(flatten)]
    pub holder: Holder,
    /// The bytes of frames that its closures need.
    pub all_bytes: u64,
    /// Those that nobody else's need: what goes if it goes.
    pub only_bytes: u64,
}

/// What the pins and refs of some caches hold, and repositories of several refs: the largest first, by what only they
/// hold. It looks at every path and chunk: in a large store that takes seconds, and some hundred bytes of memory for each
/// path.
///
/// # Errors
/// When the database fails.
pub async fn holders(
    metadata: &Metadata,
    caches: &[&CacheConfig],
    now: i64,
) -> Result<Vec<Held>, MetadataError> {
    let mut sets = Sets::default();
    let mut holders = Vec::new();
    // The repository of each ref.
    let mut repositories: BTreeMap<Holder, BTreeSet<u32>> = BTreeMap::new();
    for cache in caches {
        let graph = Graph::of(metadata, &cache.name).await?;
        let mut roots: BTreeMap<Holder, Vec<StorePathHash>> = BTreeMap::new();
        let of = |kind, name| Holder { cache: cache.name.to_string(), kind, name };
        let mut of_run = HashMap::new();
        let mut repository_of = BTreeMap::new();
        for run in retention::kept(metadata, &cache.name, &cache.retention, now).await? {
            let holder = of("ref", format!("{} {}", run.run.repository, run.run.git_ref));
            repository_of.insert(holder.clone(), of("repository", run.run.repository));
            of_run.insert(run.id, holder);
        }
        for (run, hash) in metadata.roots_of_runs(&cache.name).await? {
            if let Some(holder) = of_run.get(&run) {
                roots.entry(holder.clone()).or_default().push(hash);
            }
        }
        for pin in metadata.pins(&cache.name, now).await? {
            roots.entry(of("pin", pin.name.to_string())).or_default().push(pin.path.hash());
        }
        for (holder, roots) in roots {
            let number = u32::try_from(holders.len()).unwrap_or(u32::MAX);
            if let Some(repository) = repository_of.get(&holder) {
                repositories.entry(repository.clone()).or_default().insert(number);
            }
            holders.push((holder, BTreeSet::from([number])));
            graph.reach(&roots, |nar| sets.add(nar, number));
        }
    }
    holders.extend(repositories.into_iter().filter(|(_, refs)| refs.len() > 1));
    let bytes = metadata.held_bytes(&sets.of_nar).await?;
    Ok(sum_up(holders, &bytes, &sets))
}

fn sum_up(holders: Vec<(Holder, BTreeSet<u32>)>, bytes: &HashMap<Vec<u32>, u64>, sets: &Sets) -> Vec<Held> {
    let needed: Vec<(BTreeSet<u32>, u64)> = bytes
        .iter()
        .map(|(numbers, bytes)| {
            (numbers.iter().flat_map(|set| sets.members(*set)).copied().collect(), *bytes)
        })
        .collect();
    let mut held: Vec<Held> = holders
        .into_iter()
        .map(|(holder, own)| {
            let of = |counts: fn(&BTreeSet<u32>, &BTreeSet<u32>) -> bool| {
                needed.iter().filter(|(by, _)| counts(by, &own)).map(|(_, bytes)| bytes).sum()
            };
            let all_bytes = of(|by, own| !by.is_disjoint(own));
            Held { all_bytes, only_bytes: of(BTreeSet::is_subset), holder }
        })
        .collect();
    held.sort_by(|one, other| {
        (other.only_bytes, other.all_bytes, &one.holder).cmp(&(one.only_bytes, one.all_bytes, &other.holder))
    });
    held
}

/// What refers to what, in one cache.
#[derive(Default)]
struct Graph {
    numbers: HashMap<StorePathHash, usize>,
    nars: Vec<i64>,
    references: Vec<Vec<StorePathHash>>,
}

impl Graph {
    async fn of(metadata: &Metadata, cache: &CacheName) -> Result<Self, MetadataError> {
        let (mut graph, mut after) = (Self::default(), 0);
        loop {
            let paths = metadata.held_paths(cache, after).await?;
            let Some(last) = paths.last() else { return Ok(graph) };
            after = last.id;
            for path in paths {
                graph.numbers.insert(path.hash, graph.nars.len());
                graph.nars.push(path.nar);
                graph.references.push(path.references);
            }
        }
    }

    /// Sees the NAR of each path that these need, once.
    fn reach(&self, roots: &[StorePathHash], mut see: impl FnMut(i64)) {
        let mut seen = vec![false; self.nars.len()];
        let mut next: Vec<usize> = roots.iter().filter_map(|root| self.numbers.get(root).copied()).collect();
        while let Some(path) = next.pop() {
            if std::mem::replace(&mut seen[path], true) {
                continue;
            }
            see(self.nars[path]);
            next.extend(self.references[path].iter().filter_map(|hash| self.numbers.get(hash).copied()));
        }
    }
}

/// Sets of holders, each with a number: most NARs have one of a few.
#[derive(Default)]
struct Sets {
    members: Vec<Vec<u32>>,
    with: HashMap<(Option<u32>, u32), u32>,
    of_nar: HashMap<i64, u32>,
}

impl Sets {
    /// Adds a holder to those of a NAR. Holders come in the order of their numbers.
    fn add(&mut self, nar: i64, holder: u32) {
        let before = self.of_nar.get(&nar).copied();
        let mut members = before.map_or_else(Vec::new, |set| self.members(set).to_vec());
        if members.last() == Some(&holder) {
            return;
        }
        let next = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let set = *self.with.entry((before, holder)).or_insert(next);
        if set == next {
            members.push(holder);
            self.members.push(members);
        }
        self.of_nar.insert(nar, set);
    }

    fn members(&self, set: u32) -> &[u32] {
        self.members.get(set as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> StorePathHash {
        StorePathHash([number; 20])
    }

    /// Two refs and a pin: 1 needs 3, 2 needs 3 and 4, the pin needs 4.
    #[test]
    fn what_only_one_needs_is_told_from_what_several_do() {
        let mut graph = Graph::default();
        for (number, needs) in [(1, vec![3]), (2, vec![3, 4]), (3, vec![]), (4, vec![])] {
            graph.numbers.insert(hash(number), graph.nars.len());
            graph.nars.push(number.into());
            graph.references.push(needs.into_iter().map(hash).collect());
        }
        let mut sets = Sets::default();
        for (holder, root) in [(0, 1), (1, 2), (2, 4)] {
            graph.reach(&[hash(root), hash(9)], |nar| sets.add(nar, holder));
        }
        // Each NAR has a chunk of its own; one more is in NARs 1 and 4.
        let mut bytes = HashMap::new();
        for (nars, size) in
            [(vec![1], 1), (vec![2], 10), (vec![3], 100), (vec![4], 1000), (vec![1, 4], 10_000)]
        {
            let mut key: Vec<u32> = nars.iter().map(|nar| sets.of_nar[nar]).collect();
            key.sort_unstable();
            *bytes.entry(key).or_default() += size;
        }
        let of = |kind, name: &str| Holder { cache: "main".to_owned(), kind, name: name.to_owned() };
        let holders = vec![
            (of("ref", "a"), BTreeSet::from([0])),
            (of("ref", "b"), BTreeSet::from([1])),
            (of("pin", "c"), BTreeSet::from([2])),
            (of("repository", "r"), BTreeSet::from([0, 1])),
        ];
        let held = sum_up(holders, &bytes, &sets);
        let told: Vec<_> =
            held.iter().map(|held| (&*held.holder.name, held.all_bytes, held.only_bytes)).collect();
        assert_eq!(told, [("r", 11_111, 111), ("b", 11_110, 10), ("a", 10_101, 1), ("c", 11_000, 0)]);
    }
}
