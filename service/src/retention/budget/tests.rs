use super::*;

const GB: u64 = 1_000_000_000;

/// A store of `stored` on a disk of 100 GB that has so much left.
fn files(stored: u64, available: u64) -> Files {
    Files { stored, doomed: 0, room: Some(Room { available, size: 100 * GB }) }
}

/// All may go.
fn weight(used: u64, not_counted: u64) -> Weight {
    Weight { used, not_counted, by_worth: BTreeMap::from([(0, used)]), ..Weight::default() }
}

fn disk_goal(files: Files, weight: &Weight) -> Option<u64> {
    files.goal(&Retention::default(), None, None, weight).map(|goal| goal.goal)
}

#[test]
fn half_of_what_is_dead_within_objects_is_about_to_go() {
    assert_eq!(disk_goal(files(12 * GB, GB), &weight(10 * GB, 0)), None);
    assert_eq!(disk_goal(files(10 * GB, GB / 2), &weight(10 * GB, 0)), Some(17 * GB / 2));
    assert_eq!(disk_goal(files(12 * GB, GB / 2), &weight(10 * GB, 0)), Some(19 * GB / 2));
}

#[test]
fn what_a_pull_requests_cache_keeps_is_not_about_to_go() {
    let weight = weight(10 * GB, 4 * GB);
    assert_eq!(disk_goal(files(14 * GB, GB / 2), &weight), Some(17 * GB / 2));
    assert_eq!(disk_goal(files(16 * GB, GB / 2), &weight), Some(19 * GB / 2));
    assert_eq!(weight.cut(17 * GB / 2), Some(0));
}

#[test]
fn what_a_pull_requests_cache_keeps_is_no_part_of_max_size() {
    let goal = |used| {
        let max_size = Some(ByteSize::bytes(10 * GB));
        let goal = files(14 * GB, 50 * GB).goal(&Retention::default(), None, max_size, &weight(used, 4 * GB));
        goal.map(|goal| goal.goal)
    };
    assert_eq!((goal(9 * GB), goal(10 * GB)), (None, Some(9 * GB)));
}
