//! An upstream by https, as nearly all are.

use std::fs;

use larder_protocol::{
    SigningKey,
    prefetch::{Prefetch, PrefetchState},
};
use larder_service::clock::Clock;
use larder_tests::{
    archive_host::{ArchiveHosts, Page},
    github::GitHub,
    larderd::Larderd,
    package::Package,
    programs::program,
    world::Scene,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

/// What the real program makes of a prefetch, once it has ended or failed.
async fn prefetch(dir: &TempDir, larderd: &Larderd, package: &Package) -> Prefetch {
    let mut create = Command::new(program("larderd"));
    create.arg("--config").arg(dir.path().join("larder.toml"));
    let created = create.args(["token", "create", "anna", "--permission", "push"]).output().await.unwrap();
    let created = String::from_utf8(created.stdout).unwrap();
    let (client, token) = (reqwest::Client::new(), created.split_whitespace().last().unwrap());
    let prefetches = format!("{}/api/v1/prefetches", larderd.url());
    let asked = json!({ "cache": "main", "paths": [package.info.path] });
    let asked = client.post(&prefetches).bearer_auth(token).json(&asked).send().await.unwrap();
    let mut told: Prefetch = asked.json().await.unwrap();
    while !told.state.has_ended() && told.error.is_none() {
        let asked = client.get(format!("{prefetches}/{}", told.id)).bearer_auth(token).send();
        told = asked.await.unwrap().json().await.unwrap();
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_by_https_is_believed_by_the_certificates_that_the_machine_trusts() {
    let hosts = ArchiveHosts::start(&["localhost"]).await;
    let url = format!("https://localhost:{}", hosts.address().port());
    let (key, package) = (SigningKey::generate("upstream-1").unwrap(), Package::noise("tool", 300_000));
    let narinfo = package.narinfo("nar/tool.nar", &key).to_string();
    hosts.put(&format!("{url}/{}.narinfo", package.info.path.hash()), Page::Bytes(narinfo.into()));
    hosts.put(&format!("{url}/nar/tool.nar"), Page::Bytes(package.nar.clone()));
    let caches = format!(
        "[[cache]]\nname = \"main\"\n[[cache.upstream]]\nurl = \"{url}\"\npublic_keys = [\"{}\"]\n",
        key.public_key()
    );
    let scene = Scene { caches, ..Scene::default() };
    let github = GitHub::start(Clock::System).await;
    for trusted in [true, false] {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root.pem");
        fs::write(&root, hosts.root()).unwrap();
        let root = trusted.then(|| ("SSL_CERT_FILE", root.display().to_string()));
        let larderd = Larderd::with(dir.path(), github.issuer(), &scene, root.into_iter().collect()).await;
        let told = prefetch(&dir, &larderd, &package).await;
        let expected = if trusted { (PrefetchState::Complete, 1) } else { (PrefetchState::Waiting, 0) };
        assert_eq!((told.state, told.published), expected, "{told:?}");
        assert_eq!(hosts.take_urls().len(), if trusted { 2 } else { 0 });
    }
}
