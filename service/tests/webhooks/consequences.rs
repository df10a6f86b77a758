//! What follows from an event, and what does not.

use serde_json::json;

use crate::{
    github::{SIGNATURE, guid, sign},
    manifests::wanted,
    world::{DAY, FIRST, HOUR, OTHER, World, about_acme, taken},
};

const MAIN: &str = "refs/heads/main";

fn run(id: u64, attempt: u64, action: &str, conclusion: Option<&str>) -> serde_json::Value {
    about_acme(json!({
        "action": action,
        "workflow_run": { "id": id, "run_attempt": attempt, "conclusion": conclusion, "head_branch": "elsewhere" },
    }))
}

#[tokio::test]
async fn the_end_of_a_run_is_noted_for_its_jobs_alone() {
    let world = World::new().await;
    let job = world.job(|_| {}).await;
    world.report(&job, &wanted(&[1], &[]), 204).await;
    let conclusion = async || {
        world.pass(0).await;
        world.manifests(&job, "acme/flake", MAIN).await.manifests[0].conclusion.clone()
    };
    // Not over; another run, which nobody reported; another attempt at this one.
    world.deliver("workflow_run", &run(1000, 1, "in_progress", None)).await;
    world.deliver("workflow_run", &run(1001, 1, "completed", Some("success"))).await;
    world.deliver("workflow_run", &run(1000, 2, "completed", Some("success"))).await;
    assert_eq!(conclusion().await, None);
    // Another repository may say what it likes of a run with that number.
    let foreign = json!({
        "action": "completed", "repository": { "full_name": "other/thing" },
        "workflow_run": { "id": 1000, "run_attempt": 1, "conclusion": "failure" },
    });
    let foreign = foreign.to_string().into_bytes();
    let delivery = world.delivery("workflow_run", &foreign).header(SIGNATURE, sign(OTHER, &foreign));
    taken(delivery.send().await.unwrap()).await;
    assert_eq!(conclusion().await, None);

    world.deliver("workflow_run", &run(1000, 1, "completed", Some("success"))).await;
    assert_eq!(conclusion().await.as_deref(), Some("success"));
    world.deliver("workflow_run", &run(1000, 1, "completed", Some("of_next_year"))).await;
    assert_eq!(conclusion().await.as_deref(), Some("other"));
    world.end().await;
}

#[tokio::test]
async fn what_a_deleted_branch_needed_is_forgotten_after_a_day() {
    let world = World::new().await;
    let on = async |git_ref: &str, run: u64| {
        let job = world
            .job(|claims| {
                claims["ref"] = json!(git_ref);
                claims["run_id"] = json!(run);
            })
            .await;
        world.report(&job, &wanted(&[1], &[]), 204).await;
    };
    let known = async |git_ref: &str| {
        let job = world.job(|_| {}).await;
        !world.manifests(&job, "acme/flake", git_ref).await.manifests.is_empty()
    };
    for (git_ref, run) in [(MAIN, 1), ("refs/heads/topic", 2), ("refs/heads/back", 3), ("refs/tags/topic", 4)]
    {
        on(git_ref, run).await;
    }
    world.pass(1).await;
    for branch in ["topic", "back", "never-seen"] {
        world.deliver("delete", &about_acme(json!({ "ref": branch, "ref_type": "branch" }))).await;
    }
    world.pass(23 * HOUR).await;
    assert!(known("refs/heads/topic").await, "it went at once");
    // This one came back.
    on("refs/heads/back", 5).await;
    world.pass(2 * HOUR).await;
    assert!(!known("refs/heads/topic").await);
    for git_ref in [MAIN, "refs/heads/back", "refs/tags/topic"] {
        assert!(known(git_ref).await, "{git_ref}");
    }
    world.deliver("repository", &about_acme(json!({ "action": "renamed" }))).await;
    world.pass(2 * DAY).await;
    assert!(known(MAIN).await);
    world.deliver("repository", &about_acme(json!({ "action": "deleted" }))).await;
    world.pass(2 * DAY).await;
    assert!(!known(MAIN).await);
    world.end().await;
}

#[tokio::test]
async fn a_delivery_is_forgotten_after_its_time() {
    let world = World::new().await;
    world.deliver("ping", &about_acme(json!({}))).await;
    world.pass(6 * DAY).await;
    world.deliver("ping", &about_acme(json!({}))).await;
    assert_eq!(world.stored().await, 2);
    world.pass(DAY + 2 * HOUR).await;
    assert_eq!(world.stored().await, 1);
    world.end().await;
}

#[tokio::test]
async fn a_delivery_that_comes_again_after_it_was_acted_on_does_nothing() {
    let world = World::new().await;
    let guid = guid();
    let body = run(1000, 1, "completed", Some("failure")).to_string().into_bytes();
    let deliver = async || {
        let delivery =
            world.delivery_named(&guid, "workflow_run", &body).header(SIGNATURE, sign(FIRST, &body));
        taken(delivery.send().await.unwrap()).await
    };
    assert_eq!(deliver().await["new"], true);
    world.pass(0).await;
    let job = world.job(|_| {}).await;
    world.report(&job, &wanted(&[1], &[]), 204).await;
    assert_eq!(deliver().await["new"], false);
    world.pass(0).await;
    assert_eq!(world.manifests(&job, "acme/flake", MAIN).await.manifests[0].conclusion, None);
    world.end().await;
}
