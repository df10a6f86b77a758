//! What events have the service prefetch.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

const COMMITS: [&str; 3] = [
    "1111111111111111111111111111111111111111",
    "2222222222222222222222222222222222222222",
    "3333333333333333333333333333333333333333",
];

fn push_to(repository: &str, git_ref: &str, commit: &str, pushed_at: i64) -> Value {
    json!({
        "ref": git_ref, "before": COMMITS[0], "after": commit, "deleted": false, "created": false,
        "repository": {
            "id": 42, "full_name": repository, "default_branch": "main", "pushed_at": pushed_at,
        },
    })
}

fn push(git_ref: &str, commit: &str, pushed_at: i64) -> Value {
    push_to("acme/flake", git_ref, commit, pushed_at)
}

fn completed(run: u64, attempt: u64, conclusion: &str) -> Value {
    json!({
        "action": "completed",
        "workflow_run": {
            "id": run, "run_attempt": attempt, "conclusion": conclusion, "head_branch": "main",
            "head_repository": { "full_name": "stranger/flake" },
        },
        "repository": { "id": 42, "full_name": "acme/flake" },
    })
}

fn nar(seed: u8) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), 50_000, &[]), &[])
}

async fn upstream_with(nars: &[TestNar]) -> UpstreamCache {
    let upstream = UpstreamCache::start().await;
    nars.iter().for_each(|nar| upstream.has(nar, "xz"));
    upstream
}

#[tokio::test]
async fn an_event_speaks_of_githubs_repository_of_that_number_alone() {
    let nars: Vec<TestNar> = (1..=3).map(nar).collect();
    let [own, foreign, another] = &nars[..] else { panic!() };
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    world.report("main", json!({ "run_id": 1 }), &[own], &[]).await;
    let elsewhere = json!({ "iss": "https://forge.example.org", "run_id": i64::MAX });
    world.report("main", elsewhere, &[foreign], &[]).await;
    world.report("main", json!({ "repository_id": 43, "run_id": i64::MAX }), &[another], &[]).await;
    world.deliver("push", &push("refs/heads/main", COMMITS[1], 1)).await;
    world.deliver("workflow_run", &completed(i64::MAX as u64, 1, "success")).await;
    world.pass(0).await;
    assert!(world.has(&[own]).await);
    assert!(!world.has(&[foreign]).await && !world.has(&[another]).await);
    world.end().await;
}

#[tokio::test]
async fn a_push_has_what_the_refs_jobs_wanted_last_prefetched() {
    let nars: Vec<TestNar> = (1..=6).map(nar).collect();
    let [old, new, nightly, topic, elsewhere, unwanted] = &nars[..] else { panic!() };
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    world.report("main", json!({ "run_id": 1 }), &[old], &[]).await;
    world.report("main", json!({ "run_id": 2, "check_run_id": 2 }), &[], &[new]).await;
    let workflow = "acme/flake/.github/workflows/nightly.yml@refs/heads/main";
    world
        .report("main", json!({ "run_id": 1, "check_run_id": 3, "workflow_ref": workflow }), &[nightly], &[])
        .await;
    let of_topic = json!({ "run_id": 3, "check_run_id": 4, "ref": "refs/heads/topic" });
    world.report("main", of_topic, &[topic], &[]).await;
    world.report("other", json!({ "run_id": 4, "check_run_id": 5 }), &[elsewhere], &[]).await;
    let foreign = json!({ "run_id": 5, "check_run_id": 6, "repository": "acme/quiet", "repository_id": 43 });
    world.report("main", foreign, &[unwanted], &[]).await;

    world.deliver("push", &push("refs/heads/main", COMMITS[1], 1)).await;
    world.pass(0).await;
    // The newest run of each workflow, into the cache where it was wanted.
    assert!(world.has(&[new, nightly]).await);
    assert!(world.narinfo("other", elsewhere).await.is_some());
    for nar in [old, topic, elsewhere, unwanted] {
        assert_eq!(world.narinfo("main", nar).await, None);
    }
    // What one's jobs wanted is none of another's.
    world.deliver("push", &push_to("acme/quiet", "refs/heads/main", COMMITS[1], 1)).await;
    world.pass(0).await;
    assert_eq!(world.narinfo("main", unwanted).await, None);
    world.end().await;
}

#[tokio::test]
async fn a_ref_without_jobs_is_taken_for_the_branch_that_it_comes_from() {
    let nars: Vec<TestNar> = (1..=2).map(nar).collect();
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    world.report("main", json!({}), &[&nars[0]], &[]).await;
    world.report("main", json!({ "ref": "refs/heads/release", "check_run_id": 2 }), &[&nars[1]], &[]).await;
    world.deliver("push", &push("refs/heads/new", COMMITS[1], 1)).await;
    world.pass(0).await;
    assert!(world.has(&[&nars[0]]).await);
    assert_eq!(world.narinfo("main", &nars[1]).await, None);
    // A fork's branch is called main: it is the base that counts, in the repository itself.
    let opened = json!({
        "action": "opened", "number": 7, "repository": { "id": 42, "full_name": "acme/flake" },
        "pull_request": {
            "head": { "ref": "main", "sha": COMMITS[2], "repo": { "full_name": "stranger/flake" } },
            "base": { "ref": "release" },
        },
    });
    world.deliver("pull_request", &opened).await;
    world.pass(0).await;
    assert!(world.has(&nars.iter().collect::<Vec<_>>()).await);
    world.end().await;
}

#[tokio::test]
async fn the_end_of_a_run_has_what_all_its_jobs_wanted_prefetched() {
    let nars: Vec<TestNar> = (1..=4).map(nar).collect();
    let [one, other, again, foreign] = &nars[..] else { panic!() };
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    // The legs of a matrix end apart, and one is run again.
    world.report("main", json!({ "run_id": 9, "check_run_id": 1 }), &[], &[one]).await;
    world.report("main", json!({ "run_id": 9, "check_run_id": 2 }), &[], &[other]).await;
    let rerun = json!({ "run_id": 9, "run_attempt": 2, "check_run_id": 3 });
    world.report("main", rerun, &[], &[again]).await;
    // A newer run makes the older one's end no less an end.
    world.report("main", json!({ "run_id": 10, "check_run_id": 4 }), &[], &[foreign]).await;
    // A run that nobody here knows.
    world.deliver("workflow_run", &completed(11, 1, "success")).await;
    world.pass(0).await;
    assert!(upstream.asked().is_empty());
    world.deliver("workflow_run", &completed(9, 2, "success")).await;
    world.pass(0).await;
    assert!(world.has(&[one, other, again]).await);
    assert_eq!(world.narinfo("main", foreign).await, None);
    world.end().await;
}

#[tokio::test]
async fn a_newer_push_ends_the_older_prefetch_and_an_older_one_ends_nothing() {
    let nars: Vec<TestNar> = (1..=2).map(nar).collect();
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        upstream.nar(nar, |bytes| Reply::Gated(gate.clone(), bytes));
    }
    world.report("main", json!({}), &[&nars[0]], &[]).await;
    world.deliver("push", &push("refs/heads/main", COMMITS[0], 100)).await;
    while !upstream.asked().contains(&nar_file(&nars[0])) {
        tokio::task::yield_now().await;
    }
    world.report("main", json!({ "run_id": 2000, "check_run_id": 2 }), &[&nars[1]], &[]).await;
    world.deliver("push", &push("refs/heads/main", COMMITS[1], 200)).await;
    while !upstream.asked().contains(&nar_file(&nars[1])) {
        tokio::task::yield_now().await;
    }
    // Delivered late.
    world.deliver("push", &push("refs/heads/main", COMMITS[2], 150)).await;
    // (Looking for a lock file's inputs may be over, or not.)
    let mut jobs = world.jobs().await;
    jobs.retain(|job| !job.starts_with("prefetch-inputs "));
    assert_eq!(jobs, [format!("prefetch-ref acme/flake refs/heads/main {}", COMMITS[1])]);
    gate.add_permits(100);
    world.pass(0).await;
    assert!(world.has(&[&nars[1]]).await);
    // The first was stopped in its middle.
    assert_eq!(world.narinfo("main", &nars[0]).await, None);
    world.end().await;
}

#[tokio::test]
async fn what_says_nothing_has_nothing_prefetched() {
    let nars = [nar(1)];
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    world.report("main", json!({}), &[&nars[0]], &[]).await;
    let mut deleted = push("refs/heads/main", "0000000000000000000000000000000000000000", 1);
    deleted["deleted"] = json!(true);
    for (event, payload) in [
        ("push", deleted),
        ("push", push("main", COMMITS[1], 1)),
        ("push", push("refs/heads/main", "; rm -rf /", 1)),
        ("push", json!({ "repository": { "full_name": "acme/flake" } })),
        (
            "workflow_run",
            json!({ "action": "requested", "repository": { "full_name": "acme/flake" },
            "workflow_run": { "id": 1000, "run_attempt": 1 } }),
        ),
        ("push", push_to("acme/quiet", "refs/heads/main", COMMITS[1], 1)),
    ] {
        world.deliver(event, &payload).await;
        world.pass(0).await;
    }
    assert!(upstream.asked().is_empty());
    // A path that its job built and did not push, and that no upstream has, is no failure.
    let unpushed = TestNar::new(path(9, "unpushed"), b"x", &[]);
    world.report("main", json!({ "run_id": 3000, "check_run_id": 9 }), &[&unpushed, &nars[0]], &[]).await;
    world.deliver("push", &push("refs/heads/main", COMMITS[2], 3)).await;
    world.pass(0).await;
    assert!(world.has(&[&nars[0]]).await);
    // What the deleted branch's jobs reported is forgotten after its grace.
    world.pass(2 * 24 * 3600).await;
    world.end().await;
}

#[tokio::test]
async fn what_a_schedule_wants_is_prefetched_each_time_it_comes() {
    let nars: Vec<TestNar> = (1..=3).map(nar).collect();
    let upstream = upstream_with(&nars).await;
    let world = World::new(&[upstream.configured()]).await;
    let of_nightly = |run: u64| json!({ "run_id": run, "check_run_id": run, "ref": "refs/heads/nightly" });
    world.report("main", of_nightly(1), &[&nars[0]], &[]).await;
    // Another forge's repository of that name is not meant.
    let mut foreign = of_nightly(1);
    foreign["iss"] = json!("https://forge.example.org");
    world.report("main", foreign, &[&nars[2]], &[]).await;
    // It is 8 o'clock; it comes at 4.
    world.pass(20 * 3600 - 1).await;
    assert_eq!(world.narinfo("main", &nars[0]).await, None);
    world.pass(1).await;
    assert!(world.has(&[&nars[0]]).await && !world.has(&[&nars[2]]).await);
    world.report("main", of_nightly(2), &[&nars[1]], &[]).await;
    world.pass(24 * 3600 - 1).await;
    assert_eq!(world.narinfo("main", &nars[1]).await, None);
    world.pass(1).await;
    assert!(world.has(&[&nars[1]]).await);
    world.end().await;
}

#[tokio::test]
async fn a_schedule_and_an_event_end_none_of_each_others_prefetches() {
    let nars: Vec<TestNar> = (1..=2).map(nar).collect();
    let upstream = upstream_with(&nars).await;
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        upstream.nar(nar, |bytes| Reply::Gated(gate.clone(), bytes));
    }
    let world = World::new(&[upstream.configured()]).await;
    let report = async |run: u64, nar: &TestNar| {
        let of_nightly = json!({ "run_id": run, "check_run_id": run, "ref": "refs/heads/nightly" });
        world.report("main", of_nightly, &[nar], &[]).await;
    };
    let until = async |count: usize| {
        while world.prefetches().await.len() < count {
            tokio::task::yield_now().await;
        }
    };
    report(1, &nars[0]).await;
    // It is 8 o'clock; it comes at 4.
    world.advance(20 * 3600);
    until(1).await;
    world.deliver("push", &push("refs/heads/nightly", COMMITS[1], 1)).await;
    until(2).await;
    assert_eq!(world.prefetches().await, ["running"; 2]);
    gate.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.prefetches().await, ["complete"; 2]);

    gate.forget_permits(10);
    report(2, &nars[1]).await;
    world.deliver("push", &push("refs/heads/nightly", COMMITS[2], 2)).await;
    until(3).await;
    world.advance(24 * 3600);
    until(4).await;
    assert_eq!(world.prefetches().await[2..], ["running"; 2]);
    gate.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.prefetches().await, ["complete"; 4]);
    world.end().await;
}
