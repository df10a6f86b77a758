//! Random pushes, reads, pins, drops, budgets, sweeps and restarts, against what should be kept by all that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::Method;
use larder_service::{
    config::{ByteSize, Config, Period},
    retention::sweep,
};
use proptest::prelude::*;

use crate::{
    nar::TestNar,
    roots::nar,
    world::{DAY, HOUR, World},
};

/// What each path refers to.
const REFERENCES: [&[usize]; 7] = [&[], &[], &[0], &[0, 1], &[2, 3], &[1], &[4, 5]];
const BRANCHES: [&str; 2] = ["main", "topic"];
const KEEP_DAYS: i64 = 2;
const IDLE_DAYS: i64 = 5;

#[derive(Debug, Clone)]
enum Step {
    Push {
        path: usize,
        branch: usize,
    },
    Read(usize),
    Pin {
        name: u8,
        path: usize,
        days: Option<u8>,
    },
    Unpin(u8),
    Drop(usize),
    /// From now on there may be so many kilobytes; none: as many as one likes. A path takes 60.
    Budget(Option<u64>),
    Sweep,
    KilledSweep(u32),
    Restart,
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let path = 0..REFERENCES.len();
    prop_oneof![
        3 => (path.clone(), 0..BRANCHES.len()).prop_map(|(path, branch)| Step::Push { path, branch }),
        1 => path.clone().prop_map(Step::Read),
        1 => (0..2u8, path, proptest::option::of(1..4u8)).prop_map(|(name, path, days)| Step::Pin { name, path, days }),
        1 => (0..2u8).prop_map(Step::Unpin),
        1 => (0..BRANCHES.len()).prop_map(Step::Drop),
        2 => proptest::option::weighted(0.7, 100..400u64).prop_map(Step::Budget),
        3 => Just(Step::Sweep),
        1 => (1..300u32).prop_map(Step::KilledSweep),
        1 => Just(Step::Restart),
        3 => (1..60u8).prop_map(Step::Pass),
    ]
}

/// What should be kept.
#[derive(Debug, Default)]
struct Model {
    /// Of each branch: when its runs pushed, and what; the latest last. None: it went for want of room.
    runs: BTreeMap<usize, Vec<(i64, Option<usize>)>>,
    /// When what was pushed, by which branch, or read.
    recent: Vec<(i64, usize, Option<usize>)>,
    pins: BTreeMap<u8, (usize, Option<i64>)>,
}

impl Model {
    fn kept(&self, now: i64) -> BTreeSet<usize> {
        let mut kept = BTreeSet::new();
        for (branch, runs) in &self.runs {
            let idle = runs.last().is_none_or(|(pushed, _)| pushed + IDLE_DAYS * DAY <= now);
            let keep = match branch {
                0 => 2,
                _ if idle => 0,
                _ => 1,
            };
            runs.iter()
                .rev()
                .take(keep)
                .filter_map(|(_, path)| *path)
                .for_each(|path| close(path, &mut kept));
        }
        let since = now - KEEP_DAYS * DAY;
        self.recent
            .iter()
            .filter(|(time, ..)| *time > since)
            .for_each(|(_, path, _)| close(*path, &mut kept));
        self.close_pins(now, &mut kept);
        kept
    }

    fn close_pins(&self, now: i64, closure: &mut BTreeSet<usize>) {
        let lives = |ends: &Option<i64>| ends.is_none_or(|ends| ends > now);
        self.pins.values().filter(|(_, ends)| lives(ends)).for_each(|(path, _)| close(*path, closure));
    }

    /// What never goes for want of room: what main's newest run pushed, and pins.
    fn held(&self, now: i64) -> BTreeSet<usize> {
        let mut held = BTreeSet::new();
        self.newest(0).into_iter().for_each(|path| close(path, &mut held));
        self.close_pins(now, &mut held);
        held
    }

    /// What a branch's newest run pushed.
    fn newest(&self, branch: usize) -> Option<usize> {
        self.runs.get(&branch).and_then(|runs| runs.last()).and_then(|(_, path)| *path)
    }

    fn push(&mut self, now: i64, path: usize, branch: usize) {
        self.runs.entry(branch).or_default().push((now, Some(path)));
        self.recent.push((now, path, Some(branch)));
    }

    fn drop_branch(&mut self, branch: usize) {
        self.runs.remove(&branch);
        self.recent.retain(|(_, _, of)| *of != Some(branch));
    }

    /// Forgets what would keep that which went for want of room. Whoever brings it again keeps it anew.
    fn forget_all_but(&mut self, there: &BTreeSet<usize>) {
        for (_, path) in self.runs.values_mut().flatten() {
            *path = path.filter(|path| there.contains(path));
        }
        self.recent.retain(|(_, path, _)| there.contains(path));
    }
}

/// A path and all that it needs.
fn close(path: usize, closure: &mut BTreeSet<usize>) {
    closure.insert(path);
    REFERENCES[path].iter().for_each(|reference| close(*reference, closure));
}

fn rules(config: &mut Config) {
    let rules = &mut config.caches[0].retention;
    rules.keep_days = u32::try_from(KEEP_DAYS).unwrap();
    rules.keep_runs_main = 2;
    rules.keep_runs = 1;
    rules.idle_refs = Period::days(5);
    rules.grace = Period::hours(6);
}

fn universe() -> Vec<TestNar> {
    let mut nars: Vec<TestNar> = Vec::new();
    for (seed, references) in (1..).zip(REFERENCES) {
        let next = nar(seed, &references.iter().map(|reference| &nars[*reference]).collect::<Vec<_>>());
        nars.push(next);
    }
    nars
}

async fn visible(world: &World, nars: &[TestNar]) -> BTreeSet<usize> {
    let seen = world.visible(&nars.iter().collect::<Vec<_>>()).await;
    (0..nars.len()).filter(|path| seen[*path]).collect()
}

/// What should be kept is there, and what is there is whole, to the last byte, also for a service that knows nothing yet.
async fn check(world: &World, nars: &[TestNar], model: &Model) {
    let seen = visible(world, nars).await;
    let kept = model.kept(world.now());
    assert!(seen.is_superset(&kept), "kept {kept:?}, there {seen:?}");
    let fresh = world.beside().await;
    for (path, nar) in nars.iter().enumerate() {
        if seen.contains(&path) {
            assert!(fresh.has(nar).await);
            assert!(REFERENCES[path].iter().all(|reference| seen.contains(reference)), "{path} of {seen:?}");
        } else {
            assert!(world.narinfo(nar).await.is_none(), "{path} is gone and still told of");
        }
    }
    fresh.service.metadata.close().await;
}

fn set_budget(world: &mut World, kilobytes: Option<u64>) {
    let service = Arc::get_mut(&mut world.service).unwrap();
    service.config.retention.max_size = kilobytes.map(|kilobytes| ByteSize::bytes(kilobytes * 1000));
}

/// Sweeps, and looks whether what goes for want of room goes in the right order, and no more than has to.
async fn sweep_within(world: &World, nars: &[TestNar], model: &Model) {
    let (now, before) = (world.now(), visible(world, nars).await);
    let report = world.sweep().await;
    let [budget] = &report.budgets[..] else { return };
    let (after, held) = (visible(world, nars).await, model.held(now));
    let nearly = budget.limit - budget.limit / 20;
    if budget.before <= nearly {
        assert!(model.kept(now).is_subset(&after), "there was room: {budget:?}, {after:?}");
    } else {
        let has_room = budget.used <= budget.limit - budget.limit / 10;
        assert!(has_room || after.is_subset(&held), "{budget:?}, {after:?}, held {held:?}");
    }
    if let Some(newest) = model.newest(1).filter(|path| before.contains(path) && !after.contains(path)) {
        let kept = model.kept(now);
        assert!(!kept.contains(&newest) || after.is_subset(&held), "the newest of topic did not go last");
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::with(rules).await;
    let nars = universe();
    let anna = world.person().await;
    // What is kept for certain, and what may be kept at most: they differ once something went for want of room.
    let mut models = [Model::default(), Model::default()];
    let (mut next_run, mut budget) = (1, None);
    for step in steps {
        let now = world.now();
        match step {
            Step::Push { path, branch } => {
                let mut closure = BTreeSet::new();
                close(path, &mut closure);
                let named: Vec<&TestNar> = closure.iter().rev().map(|path| &nars[*path]).collect();
                let job = world.job(BRANCHES[branch], next_run).await;
                next_run += 1;
                if world.try_push(&job, &named).await {
                    models.iter_mut().for_each(|model| model.push(now, path, branch));
                } else {
                    assert!(budget.is_some(), "refused for want of room");
                }
            }
            Step::Read(path) => {
                if world.narinfo(&nars[path]).await.is_some() {
                    world.service.retention.reads.flush(&world.service).await.unwrap();
                    // It may have been read within the hour, and is noted so.
                    models.iter_mut().for_each(|model| model.recent.push((now - HOUR, path, None)));
                }
            }
            Step::Pin { name, path, days } => {
                let lifetime = days.map(|days| u64::from(days) * 24 * 3600);
                let status = world.pin(&anna, &name.to_string(), &nars[path].info.path, lifetime, 1).await;
                if status == 204 {
                    let ends = lifetime.map(|lifetime| now + i64::try_from(lifetime).unwrap());
                    for model in &mut models {
                        model.pins.insert(name, (path, ends));
                    }
                }
            }
            Step::Unpin(name) => {
                let url = format!("/api/v1/caches/main/pins/{name}");
                world.call(Method::DELETE, &url, Some(&anna), Vec::new()).await;
                for model in &mut models {
                    model.pins.remove(&name);
                }
            }
            Step::Drop(branch) => {
                let git_ref = format!("refs/heads/{}", BRANCHES[branch]);
                let metadata = &world.service.metadata;
                let main = "main".parse().unwrap();
                metadata
                    .drop_roots(&main, "acme/flake", Some(&git_ref), &Default::default(), now)
                    .await
                    .unwrap();
                models.iter_mut().for_each(|model| model.drop_branch(branch));
            }
            Step::Budget(kilobytes) => {
                budget = kilobytes;
                set_budget(&mut world, budget);
            }
            Step::Sweep => sweep_within(&world, &nars, &models[0]).await,
            Step::KilledSweep(polls) => {
                crate::races::cut_off(sweep(&world.service), polls).await;
                world.restart().await;
                set_budget(&mut world, budget);
            }
            Step::Restart => {
                world.restart().await;
                set_budget(&mut world, budget);
            }
            Step::Pass(hours) => world.pass(i64::from(hours) * HOUR),
        }
        if budget.is_some() {
            let (there, held) = (visible(&world, &nars).await, models[0].held(world.now()));
            assert!(held.is_subset(&there), "held {held:?}, there {there:?}");
            models[0].forget_all_but(&there);
        }
        check(&world, &nars, &models[0]).await;
    }
    // In the end only what is kept for ever is there.
    for _ in 0..4 {
        world.pass(10 * DAY);
        sweep_within(&world, &nars, &models[0]).await;
        let there = visible(&world, &nars).await;
        models[0].forget_all_but(&there);
        check(&world, &nars, &models[0]).await;
    }
    let (there, [least, most]) = (visible(&world, &nars).await, models.map(|model| model.kept(world.now())));
    assert!(there.is_superset(&least) && there.is_subset(&most), "{least:?}, there {there:?}, {most:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_should_be_kept_is_kept_whole_and_the_rest_goes(steps in proptest::collection::vec(step(), 10..30)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
