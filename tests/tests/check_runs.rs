//! The check run that the service writes beside a commit.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_service::forge::prefetch_ended;
use larder_tests::{
    github::{GitHub, Job},
    package::{Package, store_path},
    world::{Scene, World, secret_file},
};
use tempfile::TempDir;

const OTHER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

struct Scenery {
    world: World,
    installation: u64,
    _files: TempDir,
}

async fn scenery(permissions: &[(&str, &str)]) -> Scenery {
    scenery_with(permissions, "", "").await
}

/// Also with more about the cache, and about its rule for branches.
async fn scenery_with(permissions: &[(&str, &str)], cache: &str, rule: &str) -> Scenery {
    let files = TempDir::new().unwrap();
    let mut installation = 0;
    let world = World::with_github(|github: &GitHub| {
        github.add_private_repository("acme/flake");
        for (git_ref, sha) in
            [("refs/heads/main", Job::default().sha), ("refs/heads/topic", OTHER.to_owned())]
        {
            github.commit("acme/flake", git_ref, &sha, &[]);
        }
        let app = github.register_app(permissions);
        installation = github.install(&app, "acme", None);
        let key = secret_file(&files.path().join("key"), &app.private_key);
        let caches = format!(
            "[github]\napi_url = \"{}\"\napp_id = {}\nprivate_key_file = \"{}\"\n\
             [[cache]]\nname = \"main\"\nupstream = []\n{cache}\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/*\"\n{rule}",
            github.api_url(),
            app.id,
            key
        );
        Scene { caches, ..Scene::default() }
    })
    .await;
    Scenery { world, installation, _files: files }
}

impl Scenery {
    async fn push(&self, job: &Job, packages: &[&Package]) {
        self.world.exchange(job).await.unwrap().push(packages).await.unwrap();
        self.settle(5).await;
    }

    async fn settle(&self, seconds: i64) {
        self.world.advance(seconds);
        let queue = &self.world.service().queue;
        queue.wake();
        queue.idle().await.unwrap();
    }
}

fn topic() -> Job {
    Job { sha: OTHER.to_owned(), run_id: 2, ..Job::push("acme/flake", "topic") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_run_is_updated_and_not_repeated() {
    let mut this = scenery(&[("checks", "write"), ("contents", "write")]).await;
    let job = Job::default();
    this.push(&job, &[&Package::noise("one", 2_000_000)]).await;
    let runs = this.world.github.check_runs();
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!(
        (run.name.as_str(), &run.head_sha, run.status.as_str()),
        ("larder / cache", &job.sha, "completed")
    );
    assert_eq!(run.title, "1 paths pushed, closure 2.0 MB");
    assert!(
        run.summary.contains("Nothing of refs/heads/main is there to compare it with."),
        "{}",
        run.summary
    );
    let scopes = this.world.github.token_scopes();
    assert!(scopes.contains(&("acme/flake".to_owned(), "checks=write".to_owned())), "{scopes:?}");

    // Another job of the run, after a restart.
    this.world.restart().await;
    this.push(&Job { check_run_id: 7, ..job.clone() }, &[&Package::noise("two", 1_000_000)]).await;
    // Its row is lost, as when the service died before it heard of the check run.
    let mut database = this.world.database().await;
    sqlx::query("UPDATE reports SET check_run_id = NULL, written = NULL")
        .execute(&mut database)
        .await
        .unwrap();
    this.push(&Job { check_run_id: 8, ..job.clone() }, &[&Package::noise("three", 1_000_000)]).await;
    let runs = this.world.github.check_runs();
    assert_eq!((runs.len(), runs[0].writes), (1, 3));
    assert_eq!(runs[0].title, "3 paths pushed, closure 4.0 MB");

    // What a prefetch came to that the commit caused; of another commit nothing is said.
    let prefetched = async |sha: &str, state: &str| {
        let mut database = this.world.database().await;
        sqlx::query(
            "INSERT INTO prefetches (name, cache, why, repository_key, commit_sha, paths, state, requested_at, closure)
             VALUES ($1, 'main', 'event', 'acme/flake', $2, '', $3, $4, 12)",
        )
        .bind(store_path("x").hash().to_string())
        .bind(sha)
        .bind(state)
        .bind(this.world.service().clock.now())
        .execute(&mut database)
        .await
        .unwrap();
        prefetch_ended(this.world.service(), &job.repository.parse().unwrap(), sha).await.unwrap();
        this.settle(5).await;
        this.world.github.check_runs()
    };
    assert_eq!(prefetched(OTHER, "failed").await.len(), 1);
    let runs = prefetched(&job.sha, "failed").await;
    assert_eq!((runs.len(), runs[0].writes, runs[0].conclusion.as_deref()), (1, 4, Some("neutral")));
    assert!(runs[0].summary.contains("Prefetch: failed."), "{}", runs[0].summary);
    // The same again is not written again.
    assert_eq!(prefetched(&job.sha, "failed").await[0].writes, 4);
    let runs = prefetched(&job.sha, "complete").await;
    assert_eq!(runs[0].conclusion.as_deref(), Some("success"));
    assert!(runs[0].summary.contains("Prefetch: 12 paths are complete"), "{}", runs[0].summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_compared_with_the_default_branch() {
    let this = scenery(&[("checks", "write")]).await;
    let (shared, old, gone) = (
        Package::noise("glibc-2.40", 500_000),
        Package::noise("tool-1.0", 100_000),
        Package::noise("gone-3", 50_000),
    );
    let main = Package::noise("system", 1000).referring_to([&shared, &old, &gone]);
    this.push(&Job::default(), &[&shared, &old, &gone, &main]).await;
    let new = Package::noise("tool-1.1", 900_000);
    let many: Vec<Package> =
        (0..12).map(|number| Package::noise(&format!("lib{}x", char::from(b'a' + number)), 2000)).collect();
    let top = Package::noise("system", 1000).referring_to([&shared, &new].into_iter().chain(&many));
    let all: Vec<&Package> = [&shared, &new].into_iter().chain(&many).chain([&top]).collect();
    this.push(&topic(), &all).await;
    let runs = this.world.github.check_runs();
    assert_eq!(runs.len(), 2);
    let said = &runs[1].summary;
    assert!(said.contains("Against refs/heads/main: +7"), "{said}");
    assert!(said.contains("| tool | grown | 100") && said.contains("| gone | removed | 50"), "{said}");
    assert!(said.contains("| liba") || said.contains("| libb"), "{said}");
    assert!(said.contains("added") && said.contains("\nand 4 more.") && !said.contains("glibc"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_is_compared_with_the_branch_that_it_is_to_go_to() {
    let isolate = "[[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n";
    let this = scenery_with(&[("checks", "write")], "", isolate).await;
    let merged = "cccccccccccccccccccccccccccccccccccccccc".to_owned();
    this.world.github.commit("acme/flake", "refs/heads/release", OTHER, &[]);
    this.world.github.commit("acme/flake", "refs/pull/7/merge", &merged, &[]);
    this.push(&Job::default(), &[&Package::noise("on-main", 3_000_000)]).await;
    let release = Job { git_ref: "refs/heads/release".to_owned(), ..topic() };
    this.push(&release, &[&Package::noise("on-release", 1_000_000)]).await;
    let job = Job {
        sha: merged.clone(),
        run_id: 3,
        head_and_base: Some(("topic".to_owned(), "release".to_owned())),
        ..Job::pull_request("acme/flake", 7)
    };
    this.push(&job, &[&Package::noise("of-a-pull-request", 2_000_000)]).await;
    let runs = this.world.github.check_runs();
    let said = &runs.iter().find(|run| run.head_sha == merged).unwrap().summary;
    assert!(said.contains("Against refs/heads/release: +1.0 MB."), "{said}");
    assert!(said.contains("| on-release | removed |") && !said.contains("on-main"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_checks_pushes_all_the_same() {
    let this = scenery(&[("contents", "read")]).await;
    this.push(&Job::default(), &[&Package::noise("one", 1000)]).await;
    assert_eq!(this.world.github.check_runs().len(), 0);
    let jobs = this.world.service().metadata.jobs().await.unwrap();
    assert!(jobs.iter().all(|job| job.kind != "report"), "{jobs:?}");
    // From when it may on, it does.
    this.world.github.permit(this.installation, &[("checks", "write")]);
    this.push(&Job { check_run_id: 7, ..Job::default() }, &[&Package::noise("two", 1000)]).await;
    assert_eq!(this.world.github.check_runs().len(), 1);
    // A limit is waited for.
    this.world.github.limit_requests(0);
    this.push(&Job { check_run_id: 8, ..Job::default() }, &[&Package::noise("three", 1000)]).await;
    assert_eq!(this.world.github.check_runs()[0].writes, 1);
    this.world.github.limit_requests(100);
    this.settle(3600).await;
    assert_eq!(this.world.github.check_runs()[0].writes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_github_has_not_any_more_is_told_of_once_and_not_tried_again() {
    let this = scenery(&[("checks", "write")]).await;
    let gone = Job { sha: "dddddddddddddddddddddddddddddddddddddddd".to_owned(), ..Job::default() };
    this.push(&gone, &[&Package::noise("one", 1000)]).await;
    assert_eq!(this.world.github.check_runs().len(), 0);
    let jobs = this.world.service().metadata.jobs().await.unwrap();
    assert!(jobs.iter().all(|job| job.kind != "report"), "{jobs:?}");
}

/// Whoever may push to a private cache and not read it learns from no check run what stands there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_what_was_pushed_blindly() {
    // A job on main may read; one on another branch may not.
    let main = "permissions = [\"push\"]\n\
                [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n";
    let this = scenery_with(&[("checks", "write")], "public = false\n", main).await;
    let private = |job: Job| Job { visibility: "private".to_owned(), ..job };
    let (reader, blind) = (private(Job::default()), private(topic()));
    // What stands has 2 MB behind it; what is pushed blindly in its place has nothing.
    let behind = Package::noise("behind", 2_000_000);
    let stands = Package::noise("stands", 1000).referring_to([&behind]);
    this.push(&reader, &[&behind, &stands]).await;
    assert_eq!(this.world.github.check_runs().len(), 1);
    this.push(&blind, &[&Package::noise("guess", 1000)]).await;
    assert_eq!(this.world.github.check_runs().len(), 1);

    // A run of which one job reads, and one does not: only the first is told of.
    let of_same = Job { sha: blind.sha.clone(), run_id: blind.run_id, check_run_id: 9, ..reader.clone() };
    this.push(&of_same, &[&Package::noise("seen", 5000)]).await;
    let runs = this.world.github.check_runs();
    assert_eq!((runs.len(), runs[1].title.as_str()), (2, "1 paths pushed, closure 5.1 kB"));

    // Nor is anything fetched, and told of, for what it says that it wants.
    for (job, status) in [(&blind, 403), (&reader, 204)] {
        let session = this.world.exchange(&Job { check_run_id: 11, ..job.clone() }).await.unwrap();
        let url = format!("{}/api/v1/caches/main/manifests", this.world.url());
        let manifest = serde_json::json!({ "system": "x86_64-linux", "built": [], "substituted": [] });
        let answer = reqwest::Client::new().post(url).bearer_auth(session.token()).json(&manifest).send();
        assert_eq!(answer.await.unwrap().status(), status);
    }
}
