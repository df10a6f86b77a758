//! Random pushes, reads, pins, drops, sweeps and restarts, against what should be kept by all that.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use larder_service::{
    config::{Config, Period},
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
    Push { path: usize, branch: usize },
    Read(usize),
    Pin { name: u8, path: usize, days: Option<u8> },
    Unpin(u8),
    Drop(usize),
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
        3 => Just(Step::Sweep),
        1 => (1..300u32).prop_map(Step::KilledSweep),
        1 => Just(Step::Restart),
        3 => (1..60u8).prop_map(Step::Pass),
    ]
}

/// What should be kept.
#[derive(Debug, Default)]
struct Model {
    /// Of each branch: when its runs pushed, and what; the latest last.
    runs: BTreeMap<usize, Vec<(i64, usize)>>,
    /// Who pushed or read when.
    recent: Vec<(i64, usize)>,
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
            runs.iter().rev().take(keep).for_each(|(_, path)| close(*path, &mut kept));
        }
        let since = now - KEEP_DAYS * DAY;
        self.recent.iter().filter(|(time, _)| *time > since).for_each(|(_, path)| close(*path, &mut kept));
        let lives = |ends: &Option<i64>| ends.is_none_or(|ends| ends > now);
        self.pins.values().filter(|(_, ends)| lives(ends)).for_each(|(path, _)| close(*path, &mut kept));
        kept
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

async fn run(steps: Vec<Step>) {
    let mut world = World::with(rules).await;
    let nars = universe();
    let anna = world.person().await;
    let mut model = Model::default();
    let mut next_run = 1;
    for step in steps {
        let now = world.now();
        match step {
            Step::Push { path, branch } => {
                let mut closure = BTreeSet::new();
                close(path, &mut closure);
                let named: Vec<&TestNar> = closure.iter().rev().map(|path| &nars[*path]).collect();
                world.push(&world.job(BRANCHES[branch], next_run).await, &named).await;
                next_run += 1;
                model.runs.entry(branch).or_default().push((now, path));
                model.recent.push((now, path));
            }
            Step::Read(path) => {
                if world.narinfo(&nars[path]).await.is_some() {
                    world.service.retention.reads.flush(&world.service).await.unwrap();
                    // It may have been read within the hour, and is noted so.
                    model.recent.push((now - HOUR, path));
                }
            }
            Step::Pin { name, path, days } => {
                let lifetime = days.map(|days| u64::from(days) * 24 * 3600);
                let status = world.pin(&anna, &name.to_string(), &nars[path].info.path, lifetime, 1).await;
                if status == 204 {
                    let ends = lifetime.map(|lifetime| now + i64::try_from(lifetime).unwrap());
                    model.pins.insert(name, (path, ends));
                }
            }
            Step::Unpin(name) => {
                let url = format!("/api/v1/caches/main/pins/{name}");
                world.call(Method::DELETE, &url, Some(&anna), Vec::new()).await;
                model.pins.remove(&name);
            }
            Step::Drop(branch) => {
                let git_ref = format!("refs/heads/{}", BRANCHES[branch]);
                let metadata = &world.service.metadata;
                let main = "main".parse().unwrap();
                metadata
                    .drop_roots(&main, "acme/flake", Some(&git_ref), &Default::default(), now)
                    .await
                    .unwrap();
                let dropped = model.runs.remove(&branch).unwrap_or_default();
                model.recent.retain(|recent| !dropped.contains(recent));
            }
            Step::Sweep => drop(world.sweep().await),
            Step::KilledSweep(polls) => {
                crate::races::cut_off(sweep(&world.service), polls).await;
                world.restart().await;
            }
            Step::Restart => world.restart().await,
            Step::Pass(hours) => world.pass(i64::from(hours) * HOUR),
        }
        check(&world, &nars, &model).await;
    }
    // In the end only what is kept for ever is there.
    for _ in 0..4 {
        world.pass(10 * DAY);
        world.sweep().await;
        check(&world, &nars, &model).await;
    }
    assert_eq!(visible(&world, &nars).await, model.kept(world.now()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_should_be_kept_is_kept_whole_and_the_rest_goes(steps in proptest::collection::vec(step(), 10..30)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
