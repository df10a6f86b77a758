//! Which objects are worth rewriting, and which of them together.

use std::collections::BTreeMap;

use crate::metadata::{Namespace, ObjectId, UsedObject};

/// How large objects are to become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// So much goes into one object.
    pub full: u64,
    /// What is smaller is merged.
    pub small: u64,
}

/// With its index and one more frame an object of frames stays below 32 MiB.
pub(super) const FRAMES: Sizes = Sizes { full: 28 << 20, small: 4 << 20 };
/// Recipes are held in memory while they are merged, and take several times as much there.
pub(super) const RECIPES: Sizes = Sizes { full: 4 << 20, small: 1 << 20 };
/// An object is rewritten when half of it and so much is dead.
const DEAD_BYTES: u64 = 1 << 20;
/// Small objects are merged once there are so many.
const MERGED: usize = 8;
/// So many objects at most go into new ones together.
const TOGETHER: usize = 1000;
/// Small objects are merged with others as large as all those before them, or while they have less than this together.
/// So what is merged grows by half at least, and no byte is copied again and again.
const FREELY: u64 = 256 << 10;

/// Objects of one namespace whose live frames go into new ones together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub namespace: Namespace,
    pub objects: Vec<ObjectId>,
    /// What they have,
    pub size: u64,
    /// and how much of it is to be copied.
    pub live: u64,
}

/// Chooses among objects, at most so many bytes to be copied: mostly dead ones first, then small ones.
pub(super) fn choose(objects: &[UsedObject], sizes: Sizes, most: u64) -> Vec<Group> {
    let mut dead: BTreeMap<i64, Vec<UsedObject>> = BTreeMap::new();
    let mut small: BTreeMap<i64, Vec<UsedObject>> = BTreeMap::new();
    for object in objects {
        // Pull requests' own caches go as a whole.
        let Some(namespace @ Namespace(0..)) = object.namespace else { continue };
        if is_mostly_dead(object) {
            dead.entry(namespace.0).or_default().push(*object);
        } else if object.size < sizes.small {
            small.entry(namespace.0).or_default().push(*object);
        }
    }
    let mut groups = Vec::new();
    for (namespace, mut objects) in dead {
        objects.sort_by_key(|object| std::cmp::Reverse(object.size.saturating_sub(object.live)));
        groups.extend(packed(Namespace(namespace), &objects, sizes, |_, _| true));
    }
    for (namespace, mut objects) in small {
        objects.sort_by_key(|object| object.live);
        let merged = packed(Namespace(namespace), &objects, sizes, |group, object| {
            object.live <= group.live.max(FREELY)
        });
        groups.extend(merged.into_iter().filter(|group| group.objects.len() >= MERGED));
    }
    let mut left = most;
    groups.retain(|group| {
        let fits = group.live <= left;
        left = left.saturating_sub(group.live);
        fits
    });
    groups
}

/// Whether an object may be chosen.
pub(super) fn is_worth_a_look(object: &UsedObject, sizes: Sizes) -> bool {
    object.size < sizes.small || is_mostly_dead(object)
}

fn is_mostly_dead(object: &UsedObject) -> bool {
    let dead = object.size.saturating_sub(object.live);
    dead >= DEAD_BYTES && dead >= object.live
}

/// Puts objects into groups one after the other, each as large as an object may be.
fn packed(
    namespace: Namespace,
    objects: &[UsedObject],
    sizes: Sizes,
    joins: impl Fn(&Group, &UsedObject) -> bool,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for object in objects {
        match groups.last_mut() {
            Some(group)
                if group.objects.len() < TOGETHER
                    && group.live + object.live <= sizes.full
                    && joins(group, object) =>
            {
                group.objects.push(object.id);
                group.size += object.size;
                group.live += object.live;
            }
            _ => groups.push(Group {
                namespace,
                objects: vec![object.id],
                size: object.size,
                live: object.live,
            }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn object(id: i64, namespace: i64, size: u64, live: u64) -> UsedObject {
        UsedObject { id: ObjectId(id), namespace: Some(Namespace(namespace)), size, live }
    }

    fn ids(groups: &[Group]) -> Vec<Vec<i64>> {
        groups.iter().map(|group| group.objects.iter().map(|object| object.0).collect()).collect()
    }

    #[test]
    fn what_is_mostly_dead_goes_together_as_far_as_it_fits() {
        let objects = [
            object(1, 0, 28 * MIB, 14 * MIB),
            object(2, 0, 28 * MIB, 15 * MIB),
            object(3, 0, 28 * MIB, 2 * MIB),
            object(4, 0, 28 * MIB, 13 * MIB),
            object(5, 0, 3 * MIB, MIB),
        ];
        assert_eq!(ids(&choose(&objects, FRAMES, u64::MAX)), [vec![3, 4], vec![1, 5]]);
    }

    #[test]
    fn namespaces_never_mix_and_pull_requests_caches_are_left_alone() {
        let dead = |id, namespace| object(id, namespace, 20 * MIB, MIB);
        let mut objects = vec![dead(1, 0), dead(2, 7), dead(3, -7), dead(4, 0), dead(5, 7)];
        objects.push(UsedObject { namespace: None, ..dead(6, 0) });
        objects.extend((10..40).map(|id| object(id, id % 3 - 1, 1000, 1000)));
        let groups = choose(&objects, FRAMES, u64::MAX);
        for group in &groups {
            assert!(group.namespace.0 >= 0);
            let of = |id: &ObjectId| objects.iter().find(|object| object.id == *id).unwrap().namespace;
            assert!(group.objects.iter().all(|id| of(id) == Some(group.namespace)), "{group:?}");
        }
        assert_eq!(groups.len(), 4);
    }

    #[test]
    fn a_few_small_objects_wait_for_more() {
        let few: Vec<_> = (1..8).map(|id| object(id, 0, 1000, 900)).collect();
        assert!(choose(&few, FRAMES, u64::MAX).is_empty());
        let many: Vec<_> = (1..9).map(|id| object(id, 0, 1000, 900)).collect();
        assert_eq!(ids(&choose(&many, FRAMES, u64::MAX)), [(1..9).collect::<Vec<_>>()]);
    }

    #[test]
    fn a_small_object_is_not_copied_for_the_sake_of_tiny_ones() {
        let mut objects: Vec<_> = (1..9).map(|id| object(id, 0, 1000, 1000)).collect();
        objects.push(object(9, 0, 3 * MIB, 3 * MIB));
        assert_eq!(ids(&choose(&objects, FRAMES, u64::MAX)), [(1..9).collect::<Vec<_>>()]);
    }

    #[test]
    fn no_more_is_copied_than_is_allowed() {
        let objects: Vec<_> = (1..100).map(|id| object(id, 0, 28 * MIB, 10 * MIB)).collect();
        let groups = choose(&objects, FRAMES, 100 * MIB);
        assert_eq!(groups.iter().map(|group| group.live).sum::<u64>(), 100 * MIB);
    }

    /// A push of 100 kB an hour, for two years, looked at every six hours.
    #[test]
    fn small_objects_that_come_one_by_one_stay_few_and_are_copied_seldom() {
        let mut objects: Vec<UsedObject> = Vec::new();
        let (mut next, mut came, mut copied) = (1, 0, 0);
        for _ in 0..2 * 365 * 4 {
            for _ in 0..6 {
                objects.push(object(next, 0, 100_000, 100_000));
                (next, came) = (next + 1, came + 100_000);
            }
            for group in choose(&objects, FRAMES, u64::MAX) {
                objects.retain(|object| !group.objects.contains(&object.id));
                objects.push(object(next, 0, group.live, group.live));
                (next, copied) = (next + 1, copied + group.live);
            }
        }
        assert!(objects.len() < 600, "{}", objects.len());
        assert!(copied < came * 3, "{copied} of {came}");
    }
}
