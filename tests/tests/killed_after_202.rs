//! What was acknowledged to GitHub is there, and so is what follows from it, whenever the service dies.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeMap, path::Path};

use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    metadata::Metadata,
    queue::JobState,
};
use larder_tests::{
    github::GitHub,
    killing::do_what_is_left,
    larderd::Larderd,
    webhook::deliver,
    world::{Scene, configuration},
};
use serde_json::json;
use tempfile::TempDir;

const SECRET: &str = "a secret of this test alone";
const DAY: i64 = 24 * 60 * 60;

/// How the jobs stand that follow from deleted branches, by what they do.
async fn of_deleted(metadata: &Metadata) -> BTreeMap<String, (JobState, Option<String>)> {
    let jobs = metadata.jobs().await.unwrap().into_iter().filter(|job| job.kind == "forget-ref");
    jobs.map(|job| (job.key, (job.state, job.error))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_right_after_a_202_loses_neither_the_delivery_nor_what_follows() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let scene = Scene::saying(&format!(
        "\n[[webhook]]\nrepositories = [\"acme/flake\"]\nsecrets = [{{ file = \"{}\" }}]\n",
        secret.display()
    ));
    let github = GitHub::start(Clock::System).await;
    let mut larderd = Larderd::start(dir.path(), github.issuer(), &scene).await;
    for round in 1..=3 {
        let branch = json!({
            "ref": format!("topic-{round}"), "ref_type": "branch",
            "repository": { "id": 42, "full_name": "acme/flake" },
        });
        deliver(&larderd.url(), SECRET, "delete", &branch).await;
        // A release is acted on at once: by the process that dies, or by the one after it.
        let release = json!({
            "action": "published", "release": { "tag_name": format!("v{round}") },
            "repository": { "id": 42, "full_name": "acme/flake" },
        });
        deliver(&larderd.url(), SECRET, "release", &release).await;
        larderd.kill().await;
        let metadata = larderd.metadata().await;
        assert_eq!(metadata.deliveries(100).await.unwrap().len(), 2 * round);
        let jobs = of_deleted(&metadata).await;
        assert_eq!(jobs.len(), round, "{jobs:?}");
        assert!(jobs.values().all(|how| *how == (JobState::Waiting, None)), "{jobs:?}");
        metadata.close().await;
        larderd.start_again().await;
    }
    let url = larderd.url();
    larderd.kill().await;

    // A day later their grace is over, and the leases of whoever died.
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    let text = configuration(address, &dir.path().join("data"), github.issuer(), &scene).await;
    let config = Config::parse(Path::new("larder.toml"), &text, &Environment::of_process()).unwrap();
    let time = Clock::System.now() + DAY + 3600;
    let service = Service::open(config, Clock::Set(std::sync::Arc::new(time.into()))).await.unwrap();
    let left = do_what_is_left(&service, async |_| service.metadata.jobs().await.unwrap()).await;
    assert!(left.iter().all(|job| ["tidy", "ask-for-missed"].contains(&job.kind.as_str())), "{left:?}");
}
