//! `larder prefetch --flake-lock`, as a person or a job calls it.

use std::{fs, path::Path};

use larder_service::trust::people;
use larder_tests::{
    nix::{Output, run},
    programs::program,
    world::reader,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::scene::{Scene, lib, lock, paths};

async fn larder(scene: &Scene, token: &str, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("larder"));
    command.current_dir(folder).env_clear().env("LARDER_TOKEN", token).env("LARDER_SERVICE", &scene.url);
    run(command.arg("prefetch").args(arguments)).await
}

#[tokio::test]
async fn the_inputs_of_a_lock_file_are_asked_for_by_name() {
    let upstream = Scene::new(&[]).await;
    let lock = lock(&[
        ("lib", lib()),
        ("local", json!({ "type": "path", "path": "/etc", "narHash": lib()["narHash"] })),
        ("loose\u{1b}[2J", json!({ "type": "github", "owner": "acme", "repo": "lib" })),
    ]);
    let path = paths(&lock).remove(0);
    upstream.push("main", &lock).await;
    let of_upstream = reader(&upstream.url, "main").await;
    let url = format!("{}/main", upstream.url);
    let scene = Scene::new(&[(&url, &of_upstream.public_keys[0])]).await;
    let main = "main".parse().unwrap();
    let new = people::NewToken::pushing("anna", &main, 3600);
    let token = people::create_token(&scene.service.metadata, &scene.service.clock, new).await.unwrap();
    let token = token.expose();
    let flake = TempDir::new().unwrap();

    // Without a lock file, or with none that names an input.
    let missing = larder(&scene, token, flake.path(), &["--flake-lock"]).await;
    assert!(missing.code == Some(2) && missing.stderr.contains("flake.lock: No such file"), "{missing:?}");
    for bad in [&b"{}"[..], b"{\"version\": 7, \"nodes\": {\"root\": {}}}", &vec![b' '; (1 << 20) + 1]] {
        fs::write(flake.path().join("flake.lock"), bad).unwrap();
        let refused = larder(&scene, token, flake.path(), &["--flake-lock"]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    assert_eq!(larder(&scene, token, flake.path(), &["--wait"]).await.code, Some(2));
    assert_eq!(scene.narinfo(&path).await, None);

    fs::write(flake.path().join("flake.lock"), lock.to_string()).unwrap();
    let asked = larder(&scene, token, flake.path(), &["--wait", "--flake-lock"]).await;
    for said in ["the input local is left out: it is of a kind", "the input loose\\u{1b}[2J is left out"] {
        assert!(asked.stderr.contains(said), "{asked:?}");
    }
    let said = asked.expect_success();
    assert!(said.contains("complete: 1 of 1 paths that were missing are in main"), "{said}");
    assert!(scene.narinfo(&path).await.unwrap().contains("\nCA: fixed:r:sha256:"));
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
    // By the flake's folder, beside a path, and by the file's name.
    let folder = flake.path().to_str().unwrap();
    let file = format!("--flake-lock={folder}/flake.lock");
    for arguments in [&["--flake-lock", folder, "--wait"][..], &["--wait", &path.absolute(), &file]] {
        let again = larder(&scene, token, Path::new("/"), arguments).await.expect_success();
        assert!(again.contains("complete: 0 of 0 paths"), "{again}");
    }
}
