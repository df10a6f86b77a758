//! A service with its data directory, and mirrors beside it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use larder_protocol::{NarHash, PublicKey, narinfo::NarInfo};
use larder_service::clock::Clock;
use larder_tests::{
    client::Client,
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{Output, Reader, run},
    package::Package,
    programs::program,
    test_servers,
    world::{Scene, reader},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::process::Command;

/// Another ref may push, too.
pub const TOPIC: &str = r#"
[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/topic"
"#;

pub struct Scenery {
    pub dir: TempDir,
    pub github: GitHub,
    pub larderd: Larderd,
}

impl Scenery {
    pub async fn start() -> Self {
        Self::saying(Scene::saying(TOPIC)).await
    }

    pub async fn saying(scene: Scene) -> Self {
        let dir = TempDir::new().unwrap();
        let github = GitHub::start(Clock::System).await;
        let larderd = Larderd::start(dir.path(), github.issuer(), &scene).await;
        Self { dir, github, larderd }
    }

    /// Pushes packages, the last of them being the root, as a job on a branch.
    pub async fn push(&self, branch: &str, packages: &[&Package]) {
        let token = self.github.id_token(&Job::push("acme/flake", branch), &self.larderd.url());
        let client = Client::exchange(&self.larderd.url(), "main", &token).await.unwrap();
        client.push(packages).await.unwrap();
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("mirror")
    }

    pub fn command(&self) -> Command {
        larderd(&self.dir.path().join("larder.toml"))
    }

    pub async fn larderd(&self, arguments: &[&str]) -> Output {
        run(self.command().args(arguments)).await
    }

    /// `larderd mirror` into the folder.
    pub async fn mirror(&self, arguments: &[&str]) -> Output {
        let to = format!("file://{}", self.folder().display());
        run(self.command().args(["mirror", "--to", &to]).args(arguments)).await
    }

    /// The same, which must end well; and all that it wrote is right.
    pub async fn report(&self, arguments: &[&str]) -> Value {
        let output = self.mirror(&[arguments, &["--json"]].concat()).await.expect_success();
        assert_right(&self.folder());
        serde_json::from_str(&output).unwrap()
    }

    /// Who reads from the folder, by the cache's keys.
    pub async fn reader(&self) -> Reader {
        let substituters = vec![format!("file://{}", self.folder().display())];
        Reader { substituters, ..reader(&self.larderd.url(), "main").await }
    }

    pub fn keys(&self) -> Vec<PublicKey> {
        let marker = fs::read(self.folder().join("larder-mirror.json")).unwrap();
        let marker: Value = serde_json::from_slice(&marker).unwrap();
        let keys = marker["public_keys"].as_array().unwrap();
        keys.iter().map(|key| key.as_str().unwrap().parse().unwrap()).collect()
    }
}

pub fn larderd(config: &Path) -> Command {
    let mut command = Command::new(program("larderd"));
    command.env_clear().envs(test_servers::credentials()).env("PATH", "/usr/bin:/bin");
    command.arg("--config").arg(config);
    command
}

/// Whether the mirror advertises a path.
pub fn has(folder: &Path, package: &Package) -> bool {
    folder.join(format!("{}.narinfo", package.info.path.hash())).exists()
}

/// Every file below a folder, by its name, with what changes when it is written.
pub fn files(folder: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for below in ["", "nar"] {
        for entry in fs::read_dir(folder.join(below)).into_iter().flatten().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_file() {
                let name = Path::new(below).join(entry.file_name()).display().to_string();
                found.insert(name, (metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
    }
    found
}

/// Whatever a mirror advertises is there, whole and with all that it refers to. Tells how many paths that are.
pub fn assert_right(folder: &Path) -> usize {
    let names = files(folder);
    let narinfos: Vec<_> = names.keys().filter_map(|name| name.strip_suffix(".narinfo")).collect();
    if !narinfos.is_empty() {
        let info = fs::read_to_string(folder.join("nix-cache-info")).unwrap();
        assert!(info.contains("StoreDir: /nix/store\n"), "{info}");
    }
    for name in &narinfos {
        let text = fs::read_to_string(folder.join(format!("{name}.narinfo"))).unwrap();
        let info = NarInfo::parse(&text).unwrap();
        assert_eq!(info.path.hash().to_string(), *name);
        for reference in &info.references {
            assert!(names.contains_key(&format!("{}.narinfo", reference.hash())), "{reference} is not there");
        }
        let file = fs::read(folder.join(&info.url)).unwrap_or_else(|error| panic!("{}: {error}", info.url));
        assert_eq!(info.file_size, Some(file.len() as u64));
        let nar = zstd::decode_all(&file[..]).unwrap();
        assert_eq!(NarHash(Sha256::digest(&nar).into()), info.nar_hash, "{text}");
    }
    narinfos.len()
}
