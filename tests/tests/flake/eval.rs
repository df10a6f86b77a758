//! Real Nix evaluates a flake whose inputs were prefetched, with their host unreachable.

use std::fs;

use larder_tests::{
    nix::{Nix, Output, Reader, ScratchStore, run},
    world::reader,
};
use serde_json::Value;

use crate::scene::{REV, Scene, lib, lock};

const FLAKE: &str =
    r#"{ inputs.lib.url = "github:acme/lib"; outputs = { self, lib }: { answer = lib.answer; }; }"#;

/// Evaluates the flake with no way to any https host.
async fn evaluate(nix: Nix, reader: &Reader, lock: &Value) -> Output {
    let store = ScratchStore::new(nix);
    let flake = store.root().join("flake");
    fs::create_dir(&flake).unwrap();
    fs::write(flake.join("flake.nix"), FLAKE).unwrap();
    fs::write(flake.join("flake.lock"), lock.to_string()).unwrap();
    let config = format!(
        "build-users-group =\nsandbox = false\nsubstitute = true\nsubstituters = {}\ntrusted-public-keys = {}\n\
         narinfo-cache-negative-ttl = 0\ndownload-attempts = 1\nexperimental-features = nix-command flakes\n",
        reader.substituters.join(" "),
        reader.public_keys.join(" "),
    );
    let mut command = store.command("env", &config);
    command.args([
        "https_proxy=http://127.0.0.1:1",
        "no_proxy=127.0.0.1",
        "nix",
        "eval",
        "--no-write-lock-file",
    ]);
    command.arg(format!("path:{}#answer", flake.display()));
    run(&mut command).await
}

async fn evaluates_from_the_cache_alone(nix: Nix) {
    let scene = Scene::new(&[]).await;
    let reader = reader(&scene.url, "main").await;
    let lock = lock(&[("lib", lib())]);
    let before = evaluate(nix, &reader, &lock).await;
    assert!(!before.success && before.stderr.contains(REV), "{}", before.stderr);

    scene.push("main", &lock).await;
    assert_eq!(scene.left().await, [""; 0]);
    let after = evaluate(nix, &reader, &lock).await.expect_success();
    assert_eq!(after.trim(), "42");
}

#[tokio::test]
async fn nix_2_8_evaluates_with_github_unreachable() {
    evaluates_from_the_cache_alone(Nix::Installed).await;
}

#[tokio::test]
async fn nix_2_26_evaluates_with_github_unreachable() {
    evaluates_from_the_cache_alone(Nix::V2_26).await;
}
