//! Whose lock files' inputs are fetched: only where a rule would let a job of that push push.

use larder_tests::{client::Client, github::Job};

use crate::scene::{Scene, lib, lock, paths};

impl Scene {
    /// Whether this push brings the inputs of its lock file.
    async fn brings(&self, job: &Job, public: bool) -> bool {
        let lock = lock(&[("lib", lib())]);
        self.push_of(job, public, lock.to_string().as_bytes()).await;
        self.service.queue.idle().await.unwrap();
        assert_eq!(self.left().await, [""; 0]);
        let fetched = !self.hosts.take_urls().is_empty();
        assert_eq!(self.narinfo(&paths(&lock)[0]).await.is_some(), fetched);
        fetched
    }

    /// Has a job of the repository ask for a session.
    async fn exchange(&self, job: &Job) -> bool {
        Client::exchange(&self.url, "main", &self.github.id_token(job, &self.url)).await.is_ok()
    }
}

fn push_to(branch: &str) -> Job {
    Job::push("acme/flake", branch)
}

#[tokio::test]
async fn a_push_to_a_ref_that_no_rule_names_brings_nothing() {
    let scene = Scene::new(&[]).await;
    assert!(!scene.brings(&push_to("topic"), true).await);
    assert!(!scene.brings(&push_to("main-2"), true).await);
    assert!(scene.brings(&push_to("main"), true).await);

    let scene = Scene::with_rule(r#"ref = "refs/heads/release-*""#, &[]).await;
    assert!(!scene.brings(&push_to("main"), true).await);
    assert!(scene.brings(&push_to("release-1"), true).await);
}

#[tokio::test]
async fn what_only_a_token_can_say_is_believed_of_the_default_branch_alone() {
    for demand in [
        "ref_protected = true",
        "environment = \"production\"",
        "workflow = \"Build\"",
        "job_workflow_ref = \"acme/flake/.github/workflows/build.yml@refs/heads/main\"",
        "runner_environment = \"github-hosted\"",
        "claims = { actor = \"rosa\" }",
        "events = [\"schedule\"]",
    ] {
        let rule = format!("ref = \"refs/heads/*\"\n{demand}");
        let scene = Scene::with_rule(&rule, &[]).await;
        assert!(!scene.brings(&push_to("topic"), true).await, "{demand}");
        assert!(scene.brings(&push_to("main"), true).await, "{demand}");
    }
}

#[tokio::test]
async fn a_public_cache_gets_no_inputs_of_a_repository_that_is_not_public_unless_that_is_meant() {
    let scene = Scene::new(&[]).await;
    assert!(!scene.brings(&push_to("main"), false).await);
    let scene = Scene::with_rule("ref = \"refs/heads/main\"\npublish = true", &[]).await;
    assert!(scene.brings(&push_to("main"), false).await);
}

#[tokio::test]
async fn a_repository_that_only_has_the_name_brings_nothing() {
    let scene = Scene::new(&[]).await;
    let (bound, other) = (push_to("main"), Job { repository_id: 5, ..push_to("main") });
    assert!(scene.exchange(&bound).await);
    assert!(!scene.brings(&other, true).await);
    let other_owner = Job { owner_id: 6, ..push_to("main") };
    assert!(!scene.brings(&other_owner, true).await);
    // From now on the name is trusted for nothing.
    assert!(!scene.exchange(&other).await);
    assert!(!scene.brings(&bound, true).await);

    let scene = Scene::with_rule("ref = \"refs/heads/main\"\nrepository_id = 7", &[]).await;
    assert!(!scene.brings(&push_to("main"), true).await);
    assert!(scene.brings(&Job { repository_id: 7, ..push_to("main") }, true).await);
}

#[tokio::test]
async fn a_rule_with_a_number_alone_brings_the_inputs_of_whatever_has_it() {
    let rule = |number: &str| format!("ref = \"refs/heads/main\"\n{number}");
    let (ours, other) = (push_to("main"), Job { repository_id: 5, owner_id: 6, ..push_to("main") });
    for (number, wrong) in [
        (format!("repository_id = {}", ours.repository_id), &other),
        (format!("repository_owner_id = {}", ours.owner_id), &other),
        (
            format!("repository_id = {}\nrepository_owner_id = {}", ours.repository_id, ours.owner_id),
            &Job { owner_id: 6, ..push_to("main") },
        ),
    ] {
        let scene = Scene::with_whole_rule(&rule(&number), &[]).await;
        assert!(!scene.brings(wrong, true).await, "{number}");
        assert!(scene.brings(&ours, true).await, "{number}");
        assert!(scene.exchange(&ours).await, "{number}");
    }
}
