//! `deploy/compose.yaml`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use larder_protocol::narinfo::NarInfo;
use larder_tests::{
    client::Client,
    nix::{Nix, Output, ScratchStore, run, unique},
    package::Package,
    programs::{program, repository},
};
use reqwest::Certificate;
use tempfile::TempDir;
use tokio::process::Command;

/// A copy of `deploy`, prepared.
async fn prepared() -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut copy = Command::new("cp");
    let folder = repository().join("deploy").canonicalize().unwrap();
    copy.arg("--recursive")
        .args(["compose", "compose.yaml", "nginx", "prepare"].map(|name| folder.join(name)));
    run(copy.arg(dir.path())).await.expect_success();
    prepare(dir.path()).await;
    dir
}

async fn prepare(dir: &Path) {
    run(Command::new(dir.join("prepare")).arg("localhost")).await.expect_success();
}

async fn compose(dir: &Path, words: &[&str]) -> Output {
    run(Command::new("docker-compose").current_dir(dir).args(words)).await
}

#[tokio::test]
async fn what_is_prepared_is_closed_and_stays() {
    let dir = prepared().await;
    let secrets = dir.path().join("secrets");
    assert_eq!(secrets.metadata().unwrap().mode() & 0o777, 0o700);
    let of_service = ["keys", "larderd", "larderd/database-password", "larderd/storage-key"];
    for (name, owner) in
        of_service.map(|name| (name, 65532)).into_iter().chain([("garage.env", 0), ("tls/privkey.pem", 0)])
    {
        let about = secrets.join(name).metadata().unwrap();
        assert_eq!((about.uid(), about.mode() & 0o077), (owner, 0), "{name}");
    }
    let read = || {
        ["larderd/database-password", "garage.env", "tls/privkey.pem"]
            .map(|name| fs::read_to_string(secrets.join(name)).unwrap())
    };
    let before = read();
    prepare(dir.path()).await;
    assert_eq!(read(), before);
    let key = fs::read_to_string(secrets.join("larderd/storage-key")).unwrap();
    assert!(before[1].contains(&format!("GARAGE_DEFAULT_SECRET_KEY={}\n", key.trim())), "{before:?}");
}

#[tokio::test]
async fn its_files_are_right() {
    let dir = prepared().await;
    compose(dir.path(), &["config", "--quiet"]).await.expect_success();

    // nginx wants to know every host when it starts, and its own files where they lie.
    let folder = repository().join("deploy").canonicalize().unwrap();
    for name in ["nginx/replicas.conf", "kubernetes/nginx.conf"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let text = text
            .replace("/tmp/", &format!("{}/", dir.path().display()))
            .replace("/etc/nginx/tls", &dir.path().join("secrets/tls").display().to_string())
            .replace("/etc/nginx/larder.conf", &folder.join("nginx/larder.conf").display().to_string())
            .replace("server larderd:", "server 127.0.0.1:");
        let file = dir.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut test = Command::new("/usr/sbin/nginx");
        let tested = run(test.args(["-t", "-e", "stderr", "-g", "daemon off;", "-c"]).arg(&file)).await;
        assert!(tested.success, "{name}: {}", tested.stderr);
    }
}

/// All that `compose.yaml` names, with the images that can be had here.
struct Site {
    dir: TempDir,
    project: String,
}

impl Site {
    async fn start() -> Self {
        let dir = prepared().await;
        fs::copy(repository().join("tests/tests/compose/local.yaml"), dir.path().join("local.yaml")).unwrap();
        let site = Self { dir, project: unique("larder") };
        site.compose(&["up", "--detach"]).await;
        site.until_ready("larderd-1").await;
        site.until_ready("larderd-2").await;
        site
    }

    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new("docker-compose");
        command.current_dir(self.dir.path()).args(["--project-name", &self.project]);
        command.args(["--file", "compose.yaml", "--file", "local.yaml"]);
        command.env("PROGRAMS", program("larderd").parent().unwrap().canonicalize().unwrap());
        for image in ["LARDER_IMAGE", "POSTGRES_IMAGE", "GARAGE_IMAGE", "NGINX_IMAGE"] {
            command.env(image, "larder-test/debian");
        }
        // Any port will do.
        command.env("HTTP_PORT", "127.0.0.1:").env("HTTPS_PORT", "127.0.0.1:");
        command
    }

    async fn compose(&self, words: &[&str]) -> String {
        let mut command = Command::from(self.command());
        run(command.args(words)).await.expect_success().trim().to_owned()
    }

    async fn until_ready(&self, replica: &str) {
        let ask = [
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--retry",
            "60",
            "--retry-all-errors",
            "--retry-delay",
            "1",
        ];
        let words = [&["exec", "-T", replica], ask.as_slice(), &["http://127.0.0.1:8080/readyz"]].concat();
        assert_eq!(self.compose(&words).await, "ready");
    }

    async fn url(&self) -> String {
        let address = self.compose(&["port", "proxy", "443"]).await;
        format!("https://localhost:{}", address.rsplit(':').next().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("secrets/tls/fullchain.pem")
    }

    /// Somebody who believes the proxy's certificate.
    fn http(&self) -> reqwest::Client {
        let certificate = Certificate::from_pem(&fs::read(self.certificate()).unwrap()).unwrap();
        reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.command().args(["logs", "--no-color", "--tail=40"]).output().unwrap();
            let _ = std::io::stderr().write_all(&logs.stdout);
        }
        let _ = self.command().args(["down", "--volumes", "--timeout=0"]).output();
    }
}

/// What was pushed can be read, to the last byte.
async fn is_there(http: &reqwest::Client, cache: &str, package: &Package) {
    let get = async |page: &str| {
        http.get(format!("{cache}/{page}")).send().await.unwrap().error_for_status().unwrap()
    };
    let text = get(&format!("{}.narinfo", package.info.path.hash())).await.text().await.unwrap();
    let narinfo = NarInfo::parse(&text).unwrap();
    let nar = get(&narinfo.url).await.bytes().await.unwrap();
    assert!(zstd::decode_all(&nar[..]).unwrap() == package.nar, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_and_its_readers_go_on_when_a_replica_dies() {
    let site = Site::start().await;
    let (url, http) = (site.url().await, site.http());
    let token = site.compose(&["exec", "-T", "larderd-1", "larderd", "token", "create", "anna"]).await;
    let client = Client::with_token(&url, "main", &token).over(http.clone());
    let [before, meanwhile, after] =
        ["before", "meanwhile", "after"].map(|name| Package::noise(name, 2_000_000));
    let cache = format!("{url}/main");
    client.push(&[&before]).await.unwrap();
    is_there(&http, &cache, &before).await;

    let opened = client.open(&[&meanwhile]).await.unwrap();
    site.compose(&["kill", "larderd-1"]).await;
    client.send(opened.push, &[&meanwhile]).await.unwrap();
    client.commit(opened.push).await.unwrap();
    for package in [&before, &meanwhile] {
        is_there(&http, &cache, package).await;
    }

    site.compose(&["start", "larderd-1"]).await;
    site.until_ready("larderd-1").await;
    site.compose(&["kill", "larderd-2"]).await;
    let all = [&before, &meanwhile, &after];
    client.push(&[&after]).await.unwrap();
    for package in all {
        is_there(&http, &cache, package).await;
    }
    let info = http.get(format!("{url}/api/v1/caches/main")).send().await.unwrap();
    let info: larder_protocol::api::CacheInfo = info.json().await.unwrap();
    let keys: Vec<_> = info.public_keys.iter().map(ToString::to_string).collect();
    let config = format!(
        "build-users-group =\nsubstituters = {cache}\ntrusted-public-keys = {}\nrequire-sigs = true\n",
        keys.join(" ")
    );
    let store = ScratchStore::new(Nix::Installed);
    let mut realise = store.command("nix-store", &config);
    realise.env("NIX_SSL_CERT_FILE", site.certificate()).arg("--realise");
    run(realise.args(all.map(|package| package.info.path.absolute()))).await.expect_success();
    store.verify().await;
}
