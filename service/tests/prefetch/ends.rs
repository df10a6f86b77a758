//! However a prefetch's job ends, whoever waits for the prefetch hears of it.

use std::sync::Arc;

use larder_protocol::prefetch::PrefetchState;
use larder_service::queue::{JobRow, JobState, MAX_ATTEMPTS, Work};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache},
    world::World,
};

/// An upstream that has this, and gives it for a permit of the gate.
async fn gated(nar: &TestNar) -> (UpstreamCache, Arc<Semaphore>) {
    let (upstream, gate) = (UpstreamCache::start().await, Arc::new(Semaphore::new(0)));
    upstream.has(nar, "xz");
    let opened = gate.clone();
    upstream.nar(nar, move |bytes| Reply::Gated(opened.clone(), bytes));
    (upstream, gate)
}

async fn until_asked(upstream: &UpstreamCache, times: usize) {
    while upstream.asked().iter().filter(|page| page.starts_with("nar/")).count() < times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_prefetch_fails_with_the_job_that_never_came_back_and_succeeds_with_its_retry() {
    let nar = TestNar::new(path(1, "x"), &contents(1, 1000, &[]), &[]);
    let (upstream, gate) = gated(&nar).await;
    let world = World::new(&[upstream.configured()]).await;
    let asked = world.begin(&[&nar.info.path]).await;
    until_asked(&upstream, 1).await;
    // As if it were another process's job, which died.
    let sql = format!(
        "UPDATE jobs SET worker = NULL, lease_ends_at = 0, attempts = {MAX_ATTEMPTS}
                       WHERE kind = 'prefetch'"
    );
    world.sql(&sql).await;
    world.pass(0).await;
    let [job] = &world.service.metadata.jobs().await.unwrap()[..1] else { panic!() };
    assert_eq!((job.state, job.kind.as_str()), (JobState::Failed, "prefetch"));
    let told = world.tell(&asked.id).await;
    assert_eq!((told.state, told.ended_at), (PrefetchState::Failed, Some(world.service.clock.now())));
    assert_eq!(told.error, job.error);

    world.service.metadata.retry_failed_jobs(Some(job.id), world.service.clock.now()).await.unwrap();
    let told = world.tell(&asked.id).await;
    assert_eq!((told.state, told.ended_at, told.error), (PrefetchState::Waiting, None, None));
    gate.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.tell(&asked.id).await.state, PrefetchState::Complete);
    world.end().await;
}

#[tokio::test]
async fn a_prefetch_ends_with_the_job_that_a_newer_one_made_pointless() {
    let nar = TestNar::new(path(1, "x"), &contents(1, 1000, &[]), &[]);
    let (upstream, _gate) = gated(&nar).await;
    let world = World::new(&[upstream.configured()]).await;
    world.report("main", json!({}), &[&nar], &[]).await;
    let push = |commit: &str, pushed_at: i64| {
        json!({
            "ref": "refs/heads/main", "after": commit.repeat(40),
            "repository": { "id": 42, "full_name": "acme/flake", "pushed_at": pushed_at },
        })
    };
    world.deliver("push", &push("1", 100)).await;
    until_asked(&upstream, 1).await;
    assert_eq!(world.prefetches().await, ["running"]);
    // Nothing is wanted there any more.
    world.sql("DELETE FROM manifests").await;
    world.deliver("push", &push("2", 200)).await;
    world.pass(0).await;
    assert_eq!(world.prefetches().await, ["superseded"]);
    world.end().await;
}

#[tokio::test]
async fn what_fetches_nothing_waits_for_no_prefetch() {
    let nar = TestNar::new(path(1, "x"), &contents(1, 1000, &[]), &[]);
    let (upstream, gate) = gated(&nar).await;
    let world = World::new(&[upstream.configured()]).await;
    let runs = 1..=6;
    for run in runs.clone() {
        world.report("main", json!({ "run_id": run, "check_run_id": run }), &[&nar], &[]).await;
    }
    // And more by hand than there are hands for.
    for _ in 0..8 {
        world.begin(&[&nar.info.path]).await;
    }
    let over = |run: u64| {
        json!({
            "action": "completed", "repository": { "id": 42, "full_name": "acme/flake" },
            "workflow_run": { "id": run, "run_attempt": 1, "conclusion": "success" },
        })
    };
    for run in runs {
        world.deliver("workflow_run", &over(run)).await;
    }
    while world.jobs().await.iter().any(|job| job.starts_with("conclude-run")) {
        tokio::task::yield_now().await;
    }
    assert!(world.jobs().await.iter().any(|job| job.starts_with("prefetch-run")));
    gate.add_permits(100);
    world.pass(0).await;
    world.end().await;
}

#[tokio::test]
async fn what_is_done_again_and_again_waits_for_no_prefetch() {
    let nar = TestNar::new(path(1, "x"), &contents(1, 1000, &[]), &[]);
    let (upstream, gate) = gated(&nar).await;
    let world = World::new(&[upstream.configured()]).await;
    for _ in 0..8 {
        world.begin(&[&nar.info.path]).await;
    }
    let rows = async || world.service.metadata.jobs().await.unwrap();
    let prefetching = |row: &&JobRow| row.state == JobState::Running && row.kind == "prefetch";
    while rows().await.iter().filter(prefetching).count() < 6 {
        tokio::task::yield_now().await;
    }
    world.advance(3600);
    let now = world.service.clock.now();
    world.service.queue.enqueue(&Work::AskForMissed.job(now)).await.unwrap();
    while rows()
        .await
        .iter()
        .any(|row| row.kind == "ask-for-missed" || row.kind == "tidy" && row.due_at <= now)
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(rows().await.iter().filter(prefetching).count(), 6);
    gate.add_permits(100);
    world.pass(0).await;
    world.end().await;
}
