//! What jobs report of what they wanted.

use larder_protocol::manifest::{MAX_MANIFEST_PATHS, Manifests};
use larder_service::{audit::Kind, metadata::AuditFilter};
use serde_json::{Value, json};

use crate::world::{DAY, World};

/// A store path of its own for each number.
pub fn path(number: usize) -> String {
    format!("{number:0>32}-output-{number}")
}

pub fn wanted(built: &[usize], substituted: &[usize]) -> Value {
    let paths = |numbers: &[usize]| numbers.iter().map(|number| path(*number)).collect::<Vec<_>>();
    json!({ "system": "x86_64-linux", "built": paths(built), "substituted": paths(substituted) })
}

#[tokio::test]
async fn a_job_says_what_it_wanted_and_its_token_who_it_is() {
    let world = World::new().await;
    let job = world.job(|_| {}).await;
    let mut manifest = wanted(&[2, 1, 2], &[3]);
    // What a client says of itself is not listened to.
    manifest["repository"] = json!("other/thing");
    manifest["ref"] = json!("refs/heads/elsewhere");
    world.report(&job, &manifest, 204).await;
    let listed = world.manifests(&job, "ACME/flake", "refs/heads/main").await;
    assert!(listed.complete);
    let [manifest] = &listed.manifests[..] else { panic!("{listed:?}") };
    let said = serde_json::to_value(manifest).unwrap();
    assert_eq!(
        said,
        json!({
            "repository": "acme/flake", "ref": "refs/heads/main", "commit": "0123456789abcdef",
            "workflow": ".github/workflows/ci.yml", "run": 1000, "attempt": 1, "job": 5000, "system": "x86_64-linux",
            "reported_at": crate::world::NOW, "built": [path(1), path(2)], "substituted": [path(3)],
        })
    );
    assert!(world.manifests(&job, "other/thing", "refs/heads/main").await.manifests.is_empty());
    assert!(world.manifests(&job, "acme/flake", "refs/heads/elsewhere").await.manifests.is_empty());

    // Reported again, also with nothing: it counts as the last one.
    world.report(&job, &wanted(&[], &[]), 204).await;
    let [manifest] = &world.manifests(&job, "acme/flake", "refs/heads/main").await.manifests[..] else {
        panic!()
    };
    assert!(manifest.built.is_empty() && manifest.substituted.is_empty());
}

#[tokio::test]
async fn who_is_refused_is_on_record() {
    let world = World::new().await;
    world.report(&world.person().await, &wanted(&[1], &[]), 403).await;
    let url = format!("{}/api/v1/repositories/acme/flake/manifests?ref=refs/heads/main", world.url);
    assert_eq!(world.client.get(url).send().await.unwrap().status(), 401);
    world.service.audit.flush().await;
    let filter = AuditFilter { kind: Some(Kind::Denied), limit: 10, ..AuditFilter::default() };
    let rows = world.service.metadata.audit(&filter).await.unwrap();
    let said: Vec<_> = rows.iter().map(|row| (row.actor.is_some(), row.times)).collect();
    assert_eq!(said, [(true, 1), (false, 1)]);
    world.end().await;
}

#[tokio::test]
async fn the_newest_run_of_each_workflow_is_told_with_all_its_jobs_and_attempts() {
    let world = World::new().await;
    let report = async |run: u64, attempt: u64, check_run: u64, workflow: &str| {
        let job = world
            .job(|claims| {
                claims["run_id"] = json!(run);
                claims["run_attempt"] = json!(attempt);
                claims["check_run_id"] = json!(check_run);
                claims["workflow_ref"] =
                    json!(format!("acme/flake/.github/workflows/{workflow}@refs/heads/main"));
            })
            .await;
        world.report(&job, &wanted(&[1], &[]), 204).await;
        job
    };
    report(7, 1, 1, "ci.yml").await;
    report(9, 1, 2, "ci.yml").await;
    report(9, 1, 3, "ci.yml").await;
    report(9, 2, 4, "ci.yml").await;
    // One that ends after a newer one began.
    report(8, 1, 5, "ci.yml").await;
    let job = report(3, 1, 6, "nightly.yml").await;
    let listed = world.manifests(&job, "acme/flake", "refs/heads/main").await.manifests;
    let mut jobs: Vec<_> = listed.iter().map(|m| (m.run, m.attempt, m.job.unwrap())).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, [(3, 1, 6), (9, 1, 2), (9, 1, 3), (9, 2, 4)]);
}

#[tokio::test]
async fn only_jobs_report_and_only_those_with_a_token_for_the_cache_read() {
    let world = World::new().await;
    let job = world.job(|_| {}).await;
    world.report(&job, &wanted(&[1], &[]), 204).await;
    world.report("larder_s_nonsense", &wanted(&[1], &[]), 401).await;
    world.report(&world.person().await, &wanted(&[1], &[]), 403).await;
    let of_other = world.job_in("other", |_| {}).await;
    world.report(&of_other, &wanted(&[1], &[]), 403).await;

    let page = "/api/v1/repositories/acme/flake/manifests?ref=refs/heads/main";
    assert_eq!(world.client.get(format!("{}{page}", world.url)).send().await.unwrap().status(), 401);
    let listed = world.manifests(&world.person().await, "acme/flake", "refs/heads/main").await;
    assert_eq!(listed.manifests.len(), 1);
    assert!(world.manifests(&of_other, "acme/flake", "refs/heads/main").await.manifests.is_empty());
}

#[tokio::test]
async fn of_what_is_not_public_only_its_own_jobs_and_people_are_told() {
    let world = World::new().await;
    for visibility in [json!("private"), json!("internal"), json!(null)] {
        let own = world.job(|claims| claims["repository_visibility"] = visibility.clone()).await;
        world.report(&own, &wanted(&[1], &[]), 204).await;
        let told = async |token: &str| {
            let listed = world.manifests(token, "acme/flake", "refs/heads/main").await;
            assert!(listed.complete);
            listed.manifests.len()
        };
        let other = world
            .job(|claims| {
                claims["repository"] = json!("acme/other");
                claims["repository_id"] = json!(43);
            })
            .await;
        // It has the number, and another vouches for it.
        let elsewhere = world.job(|claims| claims["iss"] = json!("https://forge.example.org")).await;
        assert_eq!((told(&other).await, told(&elsewhere).await), (0, 0), "{visibility}");
        assert_eq!((told(&own).await, told(&world.person().await).await), (1, 1), "{visibility}");
        world.report(&world.job(|_| {}).await, &wanted(&[1], &[]), 204).await;
        assert_eq!((told(&other).await, told(&elsewhere).await), (1, 1), "what is public is told");
    }
}

#[tokio::test]
async fn a_repository_of_the_same_name_hides_nothing() {
    let world = World::new().await;
    let own = world.job(|_| {}).await;
    world.report(&own, &wanted(&[1], &[]), 204).await;
    for run in 0..12 {
        let foreign = world
            .job(|claims| {
                claims["iss"] = json!("https://forge.example.org");
                claims["run_id"] = json!(i64::MAX - run);
            })
            .await;
        world.report(&foreign, &wanted(&[2], &[]), 204).await;
        let later = world
            .job(|claims| {
                claims["repository_id"] = json!(43);
                claims["run_id"] = json!(i64::MAX - run);
            })
            .await;
        world.report(&later, &wanted(&[3], &[]), 204).await;
    }
    let listed = world.manifests(&own, "acme/flake", "refs/heads/main").await.manifests;
    let mut runs: Vec<_> = listed.iter().map(|manifest| manifest.run).collect();
    runs.sort_unstable();
    assert_eq!(runs, [1000, i64::MAX as u64, i64::MAX as u64]);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let world = World::new().await;
    let job = world.job(|_| {}).await;
    let many: Vec<usize> = (0..=MAX_MANIFEST_PATHS).collect();
    for (manifest, status) in [
        (json!({}), 400),
        (json!({ "system": "a b", "built": [], "substituted": [] }), 400),
        (json!({ "system": "", "built": [], "substituted": [] }), 400),
        (json!({ "system": "x".repeat(65), "built": [], "substituted": [] }), 400),
        (json!({ "system": "x", "built": ["nonsense"], "substituted": [] }), 400),
        (json!({ "system": "x", "built": ["../../etc/passwd"], "substituted": [] }), 400),
        (wanted(&many, &[]), 422),
        (wanted(&many[1..], &[1]), 422),
        (json!({ "system": "x", "built": [], "substituted": [], "more": "x".repeat(9 << 20) }), 413),
    ] {
        world.report(&job, &manifest, status).await;
    }
    world.report(&job, &wanted(&many[1..], &[]), 204).await;
    let get = |query: &str| {
        let url = format!("{}/api/v1/repositories/acme/flake/manifests{query}", world.url);
        world.client.get(url).bearer_auth(&job).send()
    };
    for query in ["", "?ref=main", "?ref=refs/heads/%0a"] {
        assert_eq!(get(query).await.unwrap().status(), 400, "{query:?}");
    }
    let listed: Manifests = get("?ref=refs/heads/main").await.unwrap().json().await.unwrap();
    assert_eq!(listed.manifests[0].built.len(), MAX_MANIFEST_PATHS);
}

#[tokio::test]
async fn manifests_do_not_pile_up() {
    let world = World::new().await;
    let mut job = String::new();
    for run in 1..=15 {
        job = world
            .job(|claims| {
                claims["run_id"] = json!(run);
                claims["check_run_id"] = json!(run);
            })
            .await;
        world.report(&job, &wanted(&[run], &[]), 204).await;
    }
    assert_eq!(world.kept_manifests().await, 10);
    assert_eq!(world.manifests(&job, "acme/flake", "refs/heads/main").await.manifests[0].run, 15);
    // And not for ever.
    world.pass(91 * DAY).await;
    assert_eq!(world.kept_manifests().await, 0);
}
