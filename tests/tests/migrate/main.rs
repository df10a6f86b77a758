//! From SQLite and files to PostgreSQL and a bucket, by the real programs and servers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod killed;
mod moved;
mod restored;

use std::{fs, net::SocketAddr, path::PathBuf};

use larder_service::clock::Clock;
use larder_tests::{
    bucket::Bucket,
    client::Client,
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{Output, run},
    package::Package,
    programs::program,
    world::{Scene, configuration},
};
use tempfile::TempDir;
use tokio::process::Command;

/// A public cache, and a private one.
const CACHES: &str = r#"
[[cache]]
name = "main"
upstream = []

[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/main"
permissions = ["push", "pin", "read"]

[[cache]]
name = "team"
public = false
upstream = []
"#;

/// A data directory and a configuration, and the service on them where it runs.
struct Installation {
    dir: TempDir,
    scene: Scene,
    larderd: Option<Larderd>,
}

impl Installation {
    /// An embedded one, which runs.
    async fn embedded(github: &GitHub) -> Self {
        let scene = Scene { caches: CACHES.to_owned(), ..Scene::default() };
        Self { dir: TempDir::new().unwrap(), scene, larderd: None }.started(github).await
    }

    /// One on a server and a bucket, with the signing keys of another, before its first start.
    async fn on_servers(github: &GitHub, keys_of: &Self, database: &str, bucket: &Bucket) -> Self {
        let servers = format!("[database]\nurl = \"{database}\"\n\n{}", bucket.configuration());
        Self::with_keys_of(keys_of, github, &servers).await
    }

    /// One whose configuration says more, with the signing keys of another, before its first start.
    async fn with_keys_of(other: &Self, github: &GitHub, more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        run(Command::new("cp").arg("-r").arg(other.data().join("keys")).arg(&data)).await.expect_success();
        let scene = Scene { caches: format!("{CACHES}\n{more}"), ..Scene::default() };
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let text = configuration(anywhere, &data, github.issuer(), &scene).await;
        fs::write(dir.path().join("larder.toml"), text).unwrap();
        Self { dir, scene, larderd: None }
    }

    async fn started(self, github: &GitHub) -> Self {
        let larderd = Larderd::start(self.dir.path(), github.issuer(), &self.scene).await;
        Self { larderd: Some(larderd), ..self }
    }

    fn larderd(&self) -> &Larderd {
        self.larderd.as_ref().expect("it runs")
    }

    fn url(&self) -> String {
        self.larderd().url()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `larderd …` with its configuration.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("larderd"));
        command.env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
        command.arg("--config").arg(self.dir.path().join("larder.toml")).args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments)).await
    }

    /// `larderd migrate-store` to these.
    fn migrate(&self, database: &str, bucket: &Bucket) -> Command {
        let mut command = self.command(&["migrate-store", "--json", "--to", database]);
        command.args(["--storage", &bucket.url("larder")]).envs(bucket.environment());
        command
    }

    async fn token(&self, name: &str, cache: &str) -> String {
        let make = ["token", "create", name, "--cache", cache, "--permission", "push,read"];
        self.run(&make).await.expect_success().trim().to_owned()
    }

    /// A job that may push to `main`.
    async fn job(&self, github: &GitHub) -> Client {
        let id_token = github.id_token(&Job::default(), &self.url());
        Client::exchange(&self.url(), "main", &id_token).await.unwrap()
    }

    /// The narinfo of a path and its NAR, as they are sent.
    async fn read(&self, cache: &str, token: &str, package: &Package) -> Option<(String, Vec<u8>)> {
        let get = async |page: &str| {
            let request = reqwest::Client::new().get(format!("{}/{cache}/{page}", self.url()));
            request.bearer_auth(token).send().await.unwrap()
        };
        let answer = get(&format!("{}.narinfo", package.info.path.hash())).await;
        if answer.status() == 404 {
            return None;
        }
        let narinfo = answer.error_for_status().unwrap().text().await.unwrap();
        let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        let nar = get(url).await.error_for_status().unwrap().bytes().await.unwrap();
        assert!(zstd::decode_all(&nar[..]).unwrap() == package.nar, "a wrong byte was served");
        Some((narinfo, nar.into()))
    }
}

async fn github() -> GitHub {
    GitHub::start(Clock::System).await
}
