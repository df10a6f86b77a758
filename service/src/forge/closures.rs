//! Closures, and how one differs from another.

use std::collections::{BTreeMap, HashMap};

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use crate::metadata::{Metadata, MetadataError};

/// As many paths of a closure are looked at.
const MOST_PATHS: usize = 200_000;

/// The paths of a closure, with the sizes of their NARs.
pub(super) struct Closure {
    pub(super) paths: HashMap<StorePath, u64>,
    /// It has more paths than are looked at.
    pub(super) cut: bool,
}

impl Closure {
    /// What these roots need, as far as these caches have it.
    pub(super) async fn of(
        metadata: &Metadata,
        caches: &[&CacheName],
        roots: &[StorePathHash],
    ) -> Result<Self, MetadataError> {
        let mut seen: HashMap<StorePathHash, ()> = roots.iter().map(|root| (*root, ())).collect();
        let mut closure = Self { paths: HashMap::new(), cut: false };
        let mut next = roots.to_vec();
        while !next.is_empty() {
            let found = metadata.visible_paths(caches, &next).await?;
            next.clear();
            for path in found.into_values() {
                for reference in path.references()?.iter().map(StorePath::hash) {
                    if seen.insert(reference, ()).is_none() {
                        next.push(reference);
                    }
                }
                closure.paths.insert(path.path, path.nar_size);
            }
            if seen.len() > MOST_PATHS {
                closure.cut = true;
                break;
            }
        }
        Ok(closure)
    }

    pub(super) fn size(&self) -> u64 {
        self.paths.values().sum()
    }
}

/// How the paths of one name, whatever its version, differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The name without version.
    pub(super) name: String,
    /// How many paths there were, and are.
    pub(super) paths: (usize, usize),
    /// Their sizes.
    pub(super) bytes: (u64, u64),
}

impl Change {
    /// By how many bytes.
    pub(super) fn difference(&self) -> i128 {
        i128::from(self.bytes.1) - i128::from(self.bytes.0)
    }
}

/// The names whose paths differ, those first that differ most.
pub(super) fn compare(before: &Closure, after: &Closure) -> Vec<Change> {
    let mut changes: BTreeMap<&str, Change> = BTreeMap::new();
    for (closure, is_after) in [(before, false), (after, true)] {
        for (path, size) in &closure.paths {
            let name = without_version(path.name());
            let new = || Change { name: name.to_owned(), paths: (0, 0), bytes: (0, 0) };
            let change = changes.entry(name).or_insert_with(new);
            let (paths, bytes) = match is_after {
                false => (&mut change.paths.0, &mut change.bytes.0),
                true => (&mut change.paths.1, &mut change.bytes.1),
            };
            *paths += 1;
            *bytes += size;
        }
    }
    let mut changes: Vec<Change> = changes.into_values().filter(|change| change.difference() != 0).collect();
    changes.sort_by_key(|change| std::cmp::Reverse(change.difference().unsigned_abs()));
    changes
}

/// The name up to the first dash that no letter follows, as Nix takes names and versions apart.
fn without_version(name: &str) -> &str {
    let bytes = name.as_bytes();
    let dash = (1..bytes.len().saturating_sub(1))
        .find(|at| bytes[*at] == b'-' && !bytes[at + 1].is_ascii_alphabetic());
    dash.map_or(name, |at| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closure(paths: &[(u8, &str, u64)]) -> Closure {
        let path = |seed: u8, name: &str| StorePath::new(StorePathHash([seed; 20]), name).unwrap();
        Closure {
            paths: paths.iter().map(|(seed, name, size)| (path(*seed, name), *size)).collect(),
            cut: false,
        }
    }

    #[test]
    fn what_differs_most_comes_first() {
        let before = closure(&[(1, "glibc-2.39", 100), (2, "old-tool", 7), (3, "same-1", 5)]);
        let after = closure(&[
            (4, "glibc-2.40", 90),
            (5, "new-lib-3.1-dev", 500),
            (6, "same-2", 5),
            (7, "same-2-bin", 1),
        ]);
        let changes: Vec<(String, i128)> = compare(&before, &after)
            .into_iter()
            .map(|change| (change.name.clone(), change.difference()))
            .collect();
        let named = |name: &str, by| (name.to_owned(), by);
        assert_eq!(
            changes,
            [named("new-lib", 500), named("glibc", -10), named("old-tool", -7), named("same", 1)]
        );
        assert_eq!(
            ["x", "a-", "-1", "python3.12-x-1.0"].map(without_version),
            ["x", "a-", "-1", "python3.12-x"]
        );
    }
}
