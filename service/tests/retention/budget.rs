//! What goes when there is too little room, and what does not.

use larder_service::{
    config::{ByteSize, Config},
    retention::{BudgetReport, is_crowded, plan_room},
};

use crate::{
    nar::{TestNar, contents, path},
    roots::nar,
    world::{HOUR, World},
};

/// Room for five paths of 60 kB, of which 270 kB are left when there are more.
fn five(config: &mut Config) {
    config.retention.max_size = Some(ByteSize::bytes(300_000));
}

fn budget(report: &[BudgetReport]) -> &BudgetReport {
    let [budget] = report else { panic!("{report:?}") };
    budget
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_first_and_what_others_need_stays() {
    let world = World::with(five).await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    let tops: Vec<TestNar> = (2..8).map(|seed| nar(seed, &[&base])).collect();
    for top in &tops {
        world.push(&anna, &[top, &base]).await;
        world.pass(HOUR);
    }
    // One is the root of two pushes.
    world.push(&anna, &[&tops[5], &base]).await;
    // The oldest is read, which is a use.
    assert!(world.has(&tops[0]).await);
    let report = world.sweep().await;
    let budget = budget(&report.budgets);
    assert!(budget.before > 420_000 && budget.used <= 270_000 && budget.is_met(), "{budget:?}");
    assert_eq!((budget.held > 0, budget.holders.len()), (true, 0), "{budget:?}");
    let all: Vec<&TestNar> = tops.iter().chain([&base]).collect();
    assert_eq!(world.visible(&all).await, [true, false, false, false, true, true, true]);
    for there in [0, 4, 5] {
        assert!(world.has(&tops[there]).await);
    }
    assert!(world.narinfo(&tops[1]).await.is_none());
    // Now there is room, and nothing more goes.
    world.pass(HOUR + 1);
    let report = world.sweep().await;
    assert_eq!((report.caches[0].deleted, report.objects > 0), (0, true), "{report:?}");
}

#[tokio::test]
async fn a_sweep_begins_when_95_percent_are_used_however_little_came_last() {
    let world = World::with(five).await;
    let anna = world.person().await;
    let of = |seed: u8, length| TestNar::new(path(seed, "x"), &contents(seed.into(), length, &[]), &[]);
    let nars: Vec<TestNar> = (1..5u8).map(|seed| of(seed, 60_000)).chain([of(5, 38_000)]).collect();
    for nar in &nars {
        world.push(&anna, &[nar]).await;
        world.pass(1);
    }
    let report = world.sweep().await;
    let used = budget(&report.budgets).used;
    assert!((270_000..285_000).contains(&used) && report.caches[0].deleted == 0, "{report:?}");
    assert!(!is_crowded(&world.service).await.unwrap(), "nothing is full");
    world.push(&anna, &[&of(6, 11_000)]).await;
    assert!(is_crowded(&world.service).await.unwrap(), "it is nearly full");
    let report = world.sweep().await;
    assert!(
        budget(&report.budgets).before > 285_000 && budget(&report.budgets).used <= 270_000,
        "{report:?}"
    );
}

/// The cache's own limit; what others hold is not its matter, and what it lets go is not theirs.
#[tokio::test]
async fn a_caches_own_limit_takes_from_that_cache_alone() {
    let world = World::with(|config| {
        let mut other = config.caches[0].clone();
        other.name = "other".parse().unwrap();
        config.caches.push(other);
        config.caches[0].max_size = Some(ByteSize::bytes(300_000));
    })
    .await;
    let (anna, elsewhere) = (world.person().await, world.person_of("other").await);
    let nars: Vec<TestNar> = (1..8).map(|seed| nar(seed, &[])).collect();
    for nar in &nars {
        world.push(&anna, &[nar]).await;
        world.push(&elsewhere, &[nar]).await;
        world.pass(HOUR);
    }
    assert_eq!(world.pin(&anna, "web", &nars[0].info.path, None, 1).await, 204);
    let report = world.sweep().await;
    let budget = budget(&report.budgets);
    assert_eq!((budget.cache.as_deref(), budget.limit), (Some("main"), 300_000));
    assert!(budget.before > 420_000 && budget.used <= 270_000 && budget.is_met(), "{budget:?}");
    let all: Vec<&TestNar> = nars.iter().collect();
    assert_eq!(world.visible(&all).await, [true, false, false, false, true, true, true]);
    assert_eq!(world.visible_in("other", &all).await, [true; 7]);
    for there in [0, 4, 6] {
        assert!(world.has(&nars[there]).await);
    }
    assert_eq!((report.nars, report.chunks), (0, 0), "the other cache needs them still: {report:?}");
}

#[tokio::test]
async fn a_chunk_counts_once_however_many_have_it() {
    let world = World::with(|config| config.retention.max_size = Some(ByteSize::bytes(1_500_000))).await;
    let anna = world.person().await;
    let of = |seed: u8, length| TestNar::new(path(seed, "x"), &contents(7, length, &[]), &[]);
    let nars: Vec<TestNar> = (1..5u8).map(|seed| of(seed, 1_000_000 + usize::from(seed))).collect();
    for nar in &nars {
        world.push(&anna, &[nar]).await;
        world.pass(HOUR);
    }
    let report = world.sweep().await;
    let budget = budget(&report.budgets);
    assert!((1_000_000..1_500_000).contains(&budget.used), "{budget:?}");
    assert_eq!(world.visible(&nars.iter().collect::<Vec<_>>()).await, [true; 4]);
    // What only the first has is little, and all that goes with it.
    let other = TestNar::new(path(9, "x"), &contents(8, 480_000, &[]), &[]);
    world.push(&anna, &[&other]).await;
    world.sweep().await;
    assert!(world.has(&other).await);
}

#[tokio::test]
async fn what_nothing_keeps_goes_before_what_something_keeps_whatever_its_grace() {
    let world = World::with(|config| {
        five(config);
        config.caches[0].retention.keep_days = 1;
    })
    .await;
    let anna = world.person().await;
    let old: Vec<TestNar> = (1..4).map(|seed| nar(seed, &[])).collect();
    for old in &old {
        world.push(&anna, &[old]).await;
        world.pass(HOUR);
        world.sweep().await;
    }
    world.pass(22 * HOUR);
    // They are dead from now on, by and by, and none for as long as its grace.
    world.sweep().await;
    world.pass(2 * HOUR);
    world.sweep().await;
    let new: Vec<TestNar> = (4..7).map(|seed| nar(seed, &[])).collect();
    for new in &new {
        world.push(&anna, &[new]).await;
    }
    world.sweep().await;
    let all: Vec<&TestNar> = old.iter().chain(&new).collect();
    assert_eq!(world.visible(&all).await, [false, false, true, true, true, true]);
}

/// A run of main and one of a branch, a pin, and what a person pushed.
async fn all_kinds(world: &World) -> [TestNar; 6] {
    let anna = world.person().await;
    let nars = [1, 2, 3, 4, 5, 6].map(|seed| nar(seed, &[]));
    world.push(&world.job("main", 1).await, &[&nars[0]]).await;
    world.push(&world.job("main", 2).await, &[&nars[1]]).await;
    world.push(&world.job("topic", 3).await, &[&nars[2]]).await;
    world.push(&anna, &[&nars[3]]).await;
    assert_eq!(world.pin(&anna, "web", &nars[3].info.path, None, 1).await, 204);
    world.pass(HOUR);
    world.push(&anna, &[&nars[4]]).await;
    let open = world.open(&world.job("main", 4).await, &[&nars[5], &nars[4]]).await;
    assert_eq!(open.missing.len(), 1);
    nars
}

#[tokio::test]
async fn the_newest_run_of_a_branch_goes_last_and_what_is_held_never() {
    for (kilobytes, left, met) in [
        (400, [true, true, true, true, true], true),
        (300, [false, true, true, true, true], true),
        (210, [false, true, false, true, true], true),
        (100, [false, true, false, true, true], false),
    ] {
        let mut world = World::new().await;
        let nars = all_kinds(&world).await;
        let service = std::sync::Arc::get_mut(&mut world.service);
        service.unwrap().config.retention.max_size = Some(ByteSize::bytes(kilobytes * 1000));
        let planned =
            plan_room(&world.service.metadata, &world.service.config, None, world.now()).await.unwrap();
        let report = world.sweep().await;
        let budget = budget(&report.budgets);
        assert_eq!(budget.is_met(), met, "{kilobytes}: {budget:?}");
        let seen = world.visible(&nars[..5].iter().collect::<Vec<_>>()).await;
        assert_eq!(seen, left, "{kilobytes}: {budget:?}");
        // What was foretold is what happened.
        assert_eq!((planned.len(), planned[0].is_enough), (1, met));
        // Where there is room enough, a sweep does not look closely.
        assert!(planned[0].budget.used == budget.before || kilobytes == 400, "{planned:?} {budget:?}");
        let mut going: Vec<_> = planned[0].paths.iter().map(|path| path.path.clone()).collect();
        going.sort();
        let gone =
            nars[..5].iter().zip(left).filter(|(_, there)| !there).map(|(nar, _)| nar.info.path.clone());
        assert_eq!(going, gone.collect::<Vec<_>>(), "{kilobytes}");
        let holders: Vec<_> = budget.holders.iter().map(|holder| holder.kind.as_str()).collect();
        if met {
            assert!(holders.is_empty(), "{budget:?}");
        } else {
            let mut sorted = holders.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, ["pin", "push", "run"], "{budget:?}");
            assert!(budget.holders.iter().all(|holder| holder.bytes >= 60_000), "{budget:?}");
            let run = budget.holders.iter().find(|holder| holder.kind == "run").unwrap();
            assert_eq!(run.which, "run 2 of acme/flake, refs/heads/main, .github/workflows/ci.yml");
            assert_eq!(planned[0].budget.holders, budget.holders);
        }
    }
}

#[tokio::test]
async fn a_sweep_that_is_killed_while_it_makes_room_breaks_nothing() {
    for polls in (1..600).step_by(37) {
        let mut world = World::with(five).await;
        let anna = world.person().await;
        let base = nar(1, &[]);
        let tops: Vec<TestNar> = (2..7).map(|seed| nar(seed, &[&base])).collect();
        for top in &tops {
            world.push(&anna, &[top, &base]).await;
            world.pass(HOUR);
        }
        let done = crate::races::cut_off(larder_service::retention::sweep(&world.service), polls).await;
        world.restart().await;
        for top in &tops {
            if world.visible(&[top]).await == [true] {
                assert!(world.has(&base).await, "{polls}");
                assert!(world.has(top).await, "{polls}");
            }
        }
        assert!(world.has(&tops[4]).await);
        world.sweep().await;
        world.pass(HOUR + 1);
        let report = world.sweep().await;
        assert!(report.budgets[0].used <= 270_000, "{polls}: {report:?}");
        if done {
            break;
        }
    }
}

#[tokio::test]
async fn what_comes_while_a_sweep_weighs_makes_the_next_one_begin_before_its_time() {
    for polls in (1..600).step_by(23) {
        let world = World::with(five).await;
        let anna = world.person().await;
        let nars: Vec<TestNar> = (1..6).map(|seed| nar(seed, &[])).collect();
        for nar in &nars[..4] {
            world.push(&anna, &[nar]).await;
        }
        let sweep = async { larder_service::retention::sweep(&world.service).await.unwrap() };
        let mut swept = None;
        let noting = async { swept = Some(sweep.await) };
        let (while_it_ran, ()) = crate::races::meanwhile(noting, polls, world.push(&anna, &[&nars[4]])).await;
        let report = swept.unwrap();
        let seen = budget(&report.budgets).before > 285_000;
        assert!(seen || is_crowded(&world.service).await.unwrap(), "{polls}: {report:?}");
        if !while_it_ran {
            break;
        }
    }
}
