//! `larder pin` as people, jobs and hosts meet it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_service::clock::Clock;
use larder_tests::{
    github::{GitHub, Job},
    larder::Push,
    larderd::Larderd,
    nix::{Output, run},
    package::{Node, Package},
    programs::program,
    source_store::{SourceStore, tree},
    world::Scene,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// Of the rule about acme/flake, and another.
const RULES: &str = r#"permissions = ["push", "pin", "read"]

[[cache.trust]]
repository = "acme/pushes"
ref = "refs/heads/main"
"#;

/// Real programs, and a data directory.
struct Scenery {
    github: GitHub,
    dir: TempDir,
    larderd: Larderd,
    /// A person's token.
    token: String,
}

impl Scenery {
    async fn new() -> Self {
        let github = GitHub::start(Clock::System).await;
        let dir = TempDir::new().unwrap();
        let scene = Scene::saying(RULES);
        let larderd = Larderd::start(dir.path(), github.issuer(), &scene).await;
        let mut create = Command::new(program("larderd"));
        create.env_clear().arg("--config").arg(dir.path().join("larder.toml"));
        create.args(["token", "create", "anna", "--permission", "push,pin"]);
        let token = run(&mut create).await.expect_success().trim().to_owned();
        Self { github, dir, larderd, token }
    }

    /// `larder pin …` by somebody with a token.
    async fn pin(&self, args: &[&str]) -> Output {
        run(larder(&self.larderd.url(), args).env("LARDER_TOKEN", &self.token)).await
    }

    /// `larder pin …` as a step of a workflow.
    async fn pin_in_job(&self, repository: &str, args: &[&str]) -> Output {
        let job = self.github.start_job(Job::push(repository, "main"));
        run(larder(&self.larderd.url(), args)
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", &job.request_url)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", &job.request_token))
        .await
    }

    /// Pushes a path with these contents.
    async fn push(&self, contents: &str) -> Package {
        let source = SourceStore::new([tree("system", Node::File(contents.into()))]).await;
        source.push(Push::with_token(&self.larderd.url(), &self.token)).report().await;
        source.root().clone()
    }

    /// What a host is told.
    async fn read(&self, name: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}/main/pins/{name}", self.larderd.url())).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What is listed: names and paths.
    async fn listed(&self) -> Vec<(String, String)> {
        let json = self.pin(&["list", "--json"]).await.expect_success();
        let pins: Vec<Value> = serde_json::from_str(&json).unwrap();
        let text = |pin: &Value, key: &str| pin[key].as_str().unwrap().to_owned();
        pins.iter().map(|pin| (text(pin, "name"), text(pin, "path"))).collect()
    }
}

fn larder(service: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program("larder"));
    command.env_clear().arg("pin").args(args).env("LARDER_SERVICE", service);
    command
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, said: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains(said), "{said:?} is not in {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_what_was_pinned_last_and_the_last_ones_stay() {
    let scenery = Scenery::new().await;
    let mut paths = Vec::new();
    for contents in ["first", "second", "third"] {
        let path = scenery.push(contents).await.info.path.absolute();
        let pinned = scenery.pin(&["web", &path, "--keep", "2", "--for", "30d"]).await;
        assert_ends(&pinned, 0, &format!("pinned {path} as web: {}/main/pins/web", scenery.larderd.url()));
        assert_eq!(scenery.read("web").await, (200, format!("{path}\n")));
        paths.push(path);
    }
    let web = |path: &String| ("web".to_owned(), path.clone());
    assert_eq!(scenery.listed().await, [web(&paths[2]), web(&paths[1])]);
    let table = scenery.pin(&["list"]).await.expect_success();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("web  20") && lines[0].contains(&paths[2]), "{table}");
    assert!(lines[0].contains("  until 20"), "{table}");

    // Pinned by a link to it, as `nix build` leaves one, for ever, and said as JSON.
    let link = scenery.dir.path().join("result");
    std::os::unix::fs::symlink(&paths[0], &link).unwrap();
    let json = scenery.pin(&["old", link.to_str().unwrap(), "--json"]).await.expect_success();
    let said: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&said["path"], &said["lifetime"]), (&paths[0].clone().into(), &Value::Null));
    assert_eq!(scenery.listed().await[0], ("old".to_owned(), paths[0].clone()));

    assert_ends(&scenery.pin(&["remove", "web"]).await, 0, "removed web from main");
    assert_eq!(scenery.read("web").await.0, 404);
    assert_eq!(scenery.listed().await.len(), 1);
    assert_ends(&scenery.pin(&["remove", "web"]).await, 1, "there is no pin of that name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_pins_by_its_own_identity_where_its_rule_permits_it() {
    let scenery = Scenery::new().await;
    let path = scenery.push("system").await.info.path.absolute();
    assert_ends(&scenery.pin_in_job("acme/flake", &["web", &path]).await, 0, "pinned");
    assert_eq!(scenery.read("web").await, (200, format!("{path}\n")));
    let refused = scenery.pin_in_job("acme/pushes", &["web", &path]).await;
    assert_ends(&refused, 3, "needs the permission `pin`");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pinned_is_told_with_its_remedy() {
    let scenery = Scenery::new().await;
    let absent = Package::noise("absent", 10).info.path.absolute();
    assert_ends(&scenery.pin(&["web", &absent]).await, 1, "push it first");
    assert_ends(&scenery.pin(&["-web", &absent]).await, 2, "");
    assert_ends(&scenery.pin(&["..", &absent]).await, 2, "is not a pin's name");
    assert_ends(&scenery.pin(&["web", &absent, "--for", "soon"]).await, 2, "30d");
    assert_ends(&scenery.pin(&["web", &absent, "--keep", "0"]).await, 2, "1..=1000");
    assert_ends(&scenery.pin(&["web"]).await, 2, "<PATH>");
    assert_ends(&scenery.pin(&["web", "/etc/passwd"]).await, 2, "/etc/passwd");
    let strangers = run(&mut larder(&scenery.larderd.url(), &["list"])).await;
    assert_ends(&strangers, 2, "LARDER_TOKEN");
    let wrong = run(larder(&scenery.larderd.url(), &["list"]).env("LARDER_TOKEN", "larder_t_wrong")).await;
    assert_ends(&wrong, 3, "refused");
    assert_eq!(scenery.listed().await, []);
}
