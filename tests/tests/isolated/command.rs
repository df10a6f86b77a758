//! `larderd isolated`.

use larder_service::clock::Clock;
use larder_tests::{
    client::Client,
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{Output, run},
    package::Package,
    programs::program,
    world::Scene,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::scene::RULE;

async fn larderd(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(program("larderd"));
    run(command.arg("--config").arg(dir.path().join("larder.toml")).arg("isolated").args(args)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_listed_and_dropped() {
    let dir = TempDir::new().unwrap();
    let github = GitHub::start(Clock::System).await;
    let service = Larderd::start(dir.path(), github.issuer(), &Scene::saying(RULE)).await;
    assert_eq!(larderd(&dir, &["list"]).await.expect_success(), "");

    let id_token = github.id_token(&Job::pull_request("acme/flake", 7), &service.url());
    let job = Client::exchange(&service.url(), "main", &id_token).await.unwrap();
    let package = Package::noise("tool", 100_000);
    job.push(&[&package]).await.unwrap();
    let page = format!("{}/{}.narinfo", job.cache().url, package.info.path.hash());
    assert_eq!(reqwest::get(&page).await.unwrap().status(), 200);

    let name = job.cache().name.to_string();
    let listed = larderd(&dir, &["list"]).await.expect_success();
    assert!(listed.starts_with(&name) && listed.contains("\t1 path\t"), "{listed}");
    let json = larderd(&dir, &["list", "--json"]).await.expect_success();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["issuer"]), (&name.clone().into(), &github.issuer().into()));
    assert!(json[0]["bytes"].as_u64().unwrap() > 100_000, "{json}");

    larderd(&dir, &["drop", &name]).await.expect_success();
    assert_eq!(reqwest::get(&page).await.unwrap().status(), 404);
    let again = larderd(&dir, &["drop", "main~1-pr-1"]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("larderd isolated list"), "{}", again.stderr);
}
