//! What follows from GitHub's events: sent by the stand-in, signed, through the front door, about what real jobs pushed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "github_events/late.rs"]
mod late;

use larder_service::{audit::Who, clock::to_date, metadata::WantedIsolated, retention::kept};
use larder_tests::{
    github::{HookOf, Job},
    package::Package,
    world::{Scene, World, secret_file},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const DAY: i64 = 24 * 60 * 60;
const OWN: &str = "main~610214307-pr-7";

struct Repository {
    world: World,
    hook: u64,
    others_hook: u64,
    _secrets: TempDir,
}

const CACHE: &str = r#"
[[cache]]
name = "main"
upstream = []
[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/*"
[[cache.trust]]
repository = "acme/flake"
ref = "refs/tags/*"
[[cache.trust]]
repository = "acme/flake"
isolate = true
"#;

impl Repository {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With more in the rule about its webhook.
    async fn with(more: &str) -> Self {
        let secrets = TempDir::new().unwrap();
        let secret = |name: &str| {
            let file = secret_file(&secrets.path().join(name), &format!("the secret of {name}"));
            format!("[{{ file = \"{file}\" }}]")
        };
        let caches = format!(
            "[[webhook]]\nrepositories = [\"acme/*\"]\nsecrets = {}\n{more}\n\
             [[webhook]]\nrepositories = [\"other/thing\"]\nsecrets = {}\n{CACHE}",
            secret("acme"),
            secret("other")
        );
        let world = World::with(Scene { caches, ..Scene::default() }).await;
        let url = format!("{}/webhooks/github", world.url());
        let hook = |owner: &str| {
            world.github.add_hook(
                HookOf::Repository(format!("{owner}/x")),
                &url,
                &format!("the secret of {owner}"),
            )
        };
        let (hook, others_hook) = (hook("acme"), hook("other"));
        Self { world, hook, others_hook, _secrets: secrets }
    }

    /// A run that pushes a path.
    async fn push(&self, git_ref: &str, run_id: u64, package: &Package) {
        let job = Job { git_ref: git_ref.to_owned(), run_id, ..Job::default() };
        self.world.exchange(&job).await.unwrap().push(&[package]).await.unwrap();
    }

    /// An event about the repository, and all that follows at once. What GitHub was answered.
    async fn event(&self, event: &str, more: Value) -> u16 {
        self.event_of(self.hook, event, more).await
    }

    async fn event_of(&self, hook: u64, event: &str, more: Value) -> u16 {
        let mut payload = json!({
            "repository": { "id": 610_214_307, "full_name": "acme/flake", "owner": { "id": 5_917_224 } },
        });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let github = &self.world.github;
        github.send_event(hook, event, &payload).await;
        self.pass(0).await;
        github.deliveries(hook).last().unwrap().status_code
    }

    async fn pass(&self, seconds: i64) {
        self.world.advance(seconds);
        let queue = &self.world.service().queue;
        queue.wake();
        queue.idle().await.unwrap();
    }

    fn now(&self) -> i64 {
        self.world.service().clock.now()
    }

    /// The runs that keep what they pushed, by ref and number.
    async fn kept(&self) -> Vec<(String, String)> {
        let service = self.world.service();
        let cache = &service.config.caches[0];
        let runs = kept(&service.metadata, &cache.name, &cache.retention, self.now()).await.unwrap();
        let mut kept: Vec<_> = runs.into_iter().map(|run| (run.run.git_ref, run.run.run_id)).collect();
        kept.sort();
        kept
    }

    async fn pins(&self) -> Vec<(String, String)> {
        let service = self.world.service();
        let pins = service.metadata.pins(&service.config.caches[0].name, self.now()).await.unwrap();
        pins.into_iter().map(|pin| (pin.name.to_string(), pin.path.to_string())).collect()
    }

    async fn has_isolated(&self) -> bool {
        self.world.service().metadata.find_isolated(&OWN.parse().unwrap()).await.unwrap().is_some()
    }
}

fn runs(these: &[(&str, u64)]) -> Vec<(String, String)> {
    these.iter().map(|(git_ref, run)| ((*git_ref).to_owned(), run.to_string())).collect()
}

const MAIN: &str = "refs/heads/main";
const TOPIC: &str = "refs/heads/topic";

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_branch_lets_go_after_its_grace_unless_it_comes_back() {
    let acme = Repository::new().await;
    for (git_ref, run) in [(MAIN, 1), (TOPIC, 2), ("refs/heads/back", 3), ("refs/tags/topic", 4)] {
        acme.push(git_ref, run, &Package::noise("x", 1000)).await;
    }
    acme.pass(1).await;
    let gone = json!({ "ref": "topic", "ref_type": "branch" });
    assert_eq!(acme.event_of(acme.others_hook, "delete", gone.clone()).await, 403);
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await.len(), 4, "another's secret let go");

    for branch in ["topic", "back"] {
        assert_eq!(acme.event("delete", json!({ "ref": branch, "ref_type": "branch" })).await, 202);
    }
    acme.pass(DAY - 1).await;
    acme.event("create", json!({ "ref": "back", "ref_type": "branch" })).await;
    assert_eq!(acme.kept().await.len(), 4, "it went at once");
    acme.pass(DAY).await;
    assert_eq!(acme.kept().await, runs(&[("refs/heads/back", 3), (MAIN, 1), ("refs/tags/topic", 4)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_after_a_deletion_stays_though_the_delivery_comes_late() {
    let acme = Repository::new().await;
    acme.push(TOPIC, 1, &Package::noise("x", 1000)).await;
    let deleted_at = acme.now() + 10;
    acme.pass(3600).await;
    acme.push(TOPIC, 2, &Package::noise("x", 1000)).await;
    acme.pass(3600).await;
    let late = json!({ "id": 610_214_307, "full_name": "acme/flake", "pushed_at": to_date(deleted_at) });
    acme.event("delete", json!({ "ref": "topic", "ref_type": "branch", "repository": late })).await;
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await, runs(&[(TOPIC, 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pull_request_takes_no_cache_of_another_issuers_repository_with_the_same_number() {
    let acme = Repository::new().await;
    acme.push(MAIN, 1, &Package::noise("x", 1000)).await;
    let wanted = WantedIsolated {
        name: &OWN.parse().unwrap(),
        parent: &"main".parse().unwrap(),
        issuer: "https://git.example.org",
        repository_id: 610_214_307,
        salt: [7; 32],
        max_per_repository: 10,
        max: 10,
        who: &Who::default(),
    };
    acme.world.service().metadata.open_isolated(&wanted, acme.now()).await.unwrap();
    acme.event("pull_request", json!({ "action": "closed", "number": 7, "pull_request": {} })).await;
    acme.pass(2 * DAY).await;
    assert!(acme.has_isolated().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pull_request_of_a_fork_whose_branch_is_main_takes_nothing_of_main() {
    let acme = Repository::with("grace = \"2h\"").await;
    acme.push(MAIN, 1, &Package::noise("x", 1000)).await;
    let own = acme.world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    own.push(&[&Package::noise("x", 1000)]).await.unwrap();
    assert!(acme.has_isolated().await);
    let pull = |action: &str, number: u64| {
        json!({
            "action": action, "number": number,
            "pull_request": {
                "head": { "ref": "main", "sha": "4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11", "repo": { "full_name": "stranger/flake", "fork": true } },
                "base": { "ref": "main", "repo": { "full_name": "acme/flake" } },
                "merged": false, "closed_at": to_date(acme.now()),
            },
        })
    };
    // Another's number; one that is opened again; then this.
    acme.event("pull_request", pull("closed", 8)).await;
    acme.event("pull_request", pull("closed", 7)).await;
    acme.event("pull_request", pull("reopened", 7)).await;
    acme.pass(3 * 3600).await;
    assert!(acme.has_isolated().await);
    acme.event("pull_request", pull("closed", 7)).await;
    assert!(acme.has_isolated().await, "it went at once");
    acme.pass(2 * 3600).await;
    assert!(!acme.has_isolated().await);
    assert_eq!(acme.kept().await, runs(&[(MAIN, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_keeps_what_the_runs_of_its_tag_pushed() {
    let acme = Repository::new().await;
    let (early, late, failed, other) = (
        Package::noise("early", 1000),
        Package::noise("late", 1000),
        Package::noise("f", 1000),
        Package::noise("o", 1000),
    );
    acme.push("refs/tags/v1", 1, &early).await;
    acme.push(MAIN, 2, &other).await;
    let release = |action: &str| json!({ "action": action, "release": { "tag_name": "v1", "target_commitish": "main" } });
    let pinned = |packages: &[&Package]| -> Vec<(String, String)> {
        packages
            .iter()
            .map(|package| ("release.acme.flake.v1".to_owned(), package.info.path.to_string()))
            .collect()
    };
    acme.event("release", release("created")).await;
    assert_eq!(acme.pins().await, []);
    acme.event("release", release("published")).await;
    assert_eq!(acme.pins().await, pinned(&[&early]));
    // A release starts workflows of its own.
    acme.push("refs/tags/v1", 3, &late).await;
    acme.push("refs/tags/v1", 4, &failed).await;
    let over = |id: u64, conclusion: &str| json!({ "action": "completed", "workflow_run": { "id": id, "run_attempt": 1, "conclusion": conclusion } });
    for (run, conclusion) in [(4, "failure"), (3, "success"), (2, "success"), (99, "success")] {
        acme.event("workflow_run", over(run, conclusion)).await;
    }
    assert_eq!(acme.pins().await, pinned(&[&late, &early]));
    acme.event("release", release("published")).await;
    assert_eq!(acme.pins().await.len(), 2, "the same again");
    acme.event("release", release("deleted")).await;
    assert_eq!(acme.pins().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_takes_nobodys_place_until_its_rerun_succeeds() {
    let acme = Repository::with("").await;
    let over = |attempt: u64, conclusion: &str| {
        json!({ "action": "completed", "workflow_run": {
            "id": 2, "run_attempt": attempt, "conclusion": conclusion, "head_branch": "other" } })
    };
    acme.push(TOPIC, 0, &Package::noise("x", 1000)).await;
    acme.pass(10).await;
    acme.push(TOPIC, 1, &Package::noise("x", 1000)).await;
    acme.pass(10).await;
    // Two legs of a matrix, which end apart.
    acme.push(TOPIC, 2, &Package::noise("x", 1000)).await;
    acme.pass(10).await;
    acme.push(TOPIC, 2, &Package::noise("y", 1000)).await;
    let keep_runs = acme.world.service().config.caches[0].retention.keep_runs;
    assert_eq!(keep_runs, 2, "this test is about lines that keep two runs");
    assert_eq!(acme.kept().await, runs(&[(TOPIC, 1), (TOPIC, 2)]));
    acme.event("workflow_run", over(1, "failure")).await;
    assert_eq!(acme.kept().await, runs(&[(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)]));
    // The failed jobs run again, and push what was missing.
    acme.push(TOPIC, 2, &Package::noise("z", 1000)).await;
    acme.event("workflow_run", over(2, "success")).await;
    assert_eq!(acme.kept().await, runs(&[(TOPIC, 1), (TOPIC, 2)]));
    // What comes late of the first attempt is not the last word.
    acme.event("workflow_run", over(1, "failure")).await;
    assert_eq!(acme.kept().await, runs(&[(TOPIC, 1), (TOPIC, 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_a_rename_and_a_transfer_suspends_trust() {
    let acme = Repository::new().await;
    acme.push(MAIN, 1, &Package::noise("x", 1000)).await;
    let names = async || {
        let service = acme.world.service();
        let runs = service.metadata.pushed_runs(&service.config.caches[0].name).await.unwrap();
        runs.into_iter().map(|run| run.run.repository).collect::<Vec<_>>()
    };
    let renamed = |id: u64| {
        json!({
            "action": "renamed", "changes": { "repository": { "name": { "from": "flake" } } },
            "repository": { "id": id, "full_name": "acme/renamed", "owner": { "id": 5_917_224 } },
        })
    };
    acme.event("repository", renamed(1)).await;
    assert_eq!(names().await, ["acme/flake"], "another repository's number");
    assert_eq!(acme.event_of(acme.others_hook, "repository", renamed(610_214_307)).await, 403);
    acme.event("repository", renamed(610_214_307)).await;
    assert_eq!(names().await, ["acme/renamed"]);

    let transferred = json!({
        "action": "transferred", "changes": { "owner": { "from": { "organization": { "login": "acme" } } } },
        "repository": { "id": 610_214_307, "full_name": "buyer/flake", "owner": { "id": 999 } },
    });
    acme.world.exchange(&Job::default()).await.unwrap();
    assert_eq!(acme.event("repository", transferred).await, 202);
    let refused = acme.world.exchange(&Job::default()).await.unwrap_err();
    assert_eq!(refused.status, 403, "{refused:?}");
    let bound = acme.world.service().metadata.all_bound_names().await.unwrap();
    assert!(bound.iter().any(|row| row.bound.suspended.as_ref().is_some_and(|s| s.found.owner == 999)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_repository_lets_go_of_all_unless_it_comes_back() {
    let acme = Repository::with("on = [\"repository\"]").await;
    acme.push(MAIN, 1, &Package::noise("x", 1000)).await;
    let own = acme.world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    own.push(&[&Package::noise("x", 1000)]).await.unwrap();
    // The rule does not act on this.
    acme.event("delete", json!({ "ref": "main", "ref_type": "branch" })).await;
    acme.event("repository", json!({ "action": "deleted" })).await;
    acme.event("repository", json!({ "action": "created" })).await;
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await, runs(&[(MAIN, 1)]));
    acme.event("repository", json!({ "action": "deleted" })).await;
    acme.pass(2 * DAY).await;
    assert_eq!(acme.kept().await, []);
    assert!(!acme.has_isolated().await);
}
