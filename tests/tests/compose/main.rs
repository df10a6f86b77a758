//! `deploy/compose.yaml`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use larder_tests::{
    nix::{Output, run},
    programs::repository,
};
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
