//! What the README says works when it is pasted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;

use larder_service::clock::Clock;
use larder_tests::{
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{self, Nix, ScratchStore, run, unique},
    programs::{program, repository},
    runner::{Workflow, start_job},
    world::{Scene, reader},
};
use tempfile::TempDir;
use tokio::process::Command;

/// The README's first block of this kind.
fn block(kind: &str) -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("\n```{kind}\n")).expect(kind);
    rest.split_once("```\n").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_workflow_pushes_and_both_versions_of_nix_read() {
    let dir = TempDir::new().unwrap();
    let mut github = GitHub::start(Clock::System).await;
    let larderd = Larderd::start(dir.path(), github.issuer(), &Scene::default()).await;
    let yaml = block("yaml").replace("https://cache.example.org", &larderd.url());
    assert!(yaml.contains(&larderd.url()), "{yaml}");
    let mut workflow = Workflow::new(&yaml).await;
    // Of the other actions only what they leave behind.
    let checkout = "runs:\n  using: composite\n  steps: [{run: 'true', shell: sh}]\n";
    workflow.action("actions/checkout@v7", &format!("name: Checkout\ndescription: None\n{checkout}"));
    workflow.action("cachix/install-nix-action@v31", INSTALL_NIX);
    workflow.add_file("flake.nix", &flake());
    let started = start_job(&mut github, Job::default()).await;
    let output = workflow.run(&started).await;
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(output.success, "{said}");
    assert!(said.contains("pushed to main") && !said.contains("::warning"), "{said}");

    // What the log says was pushed; act removes the job's folder, and `result` with it.
    let is_result = |word: &&str| word.ends_with("-program") && word.len() == 32 + "-program".len();
    let result = said.split_whitespace().find(is_result).unwrap();
    let result = PathBuf::from(format!("/nix/store/{result}"));
    let reader = reader(&larderd.url(), "main").await;
    for nix in [Nix::Installed, Nix::V2_26] {
        let store = ScratchStore::new(nix);
        store.realise(&reader, std::slice::from_ref(&result)).await.expect_success();
        store.verify().await;
    }
    nix::delete(&nix::closure(&[result]).await).await;
}

const INSTALL_NIX: &str = r#"name: Install Nix
description: What a runner with a Nix of its own needs
runs:
  using: composite
  steps:
    - shell: bash
      run: |
        {
          echo "NIX_CONFIG<<end"
          echo "build-users-group ="
          echo "sandbox = false"
          echo "substituters ="
          echo "experimental-features = nix-command flakes"
          echo "end"
        } >>"$GITHUB_ENV"
"#;

fn flake() -> String {
    let library = nix::derivation("library", &[], "mkdir $out; head -c 200000 /dev/urandom >$out/data");
    let program = nix::derivation("program", &[&library], "mkdir $out; echo $in0 >$out/uses");
    let system = format!("{}-linux", std::env::consts::ARCH);
    // A flake knows no current system.
    let program = program.replace("builtins.currentSystem", &format!("\"{system}\""));
    format!("{{ outputs = _: {{ packages.{system}.default = {program}; }}; }}\n")
}

#[tokio::test]
async fn its_configuration_is_one() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("larder.toml");
    std::fs::write(&file, block("toml")).unwrap();
    let mut check = Command::new(program("larderd"));
    check.args(["check-config", "--config"]).arg(&file);
    let said = run(check.env("LARDER_DATA_DIR", dir.path())).await.expect_success();
    assert!(said.contains("your-name/your-flake"), "{said}");
}

/// The image of the service as the Dockerfile makes it, where `scripts/test` has built it.
#[tokio::test]
async fn the_services_image_serves() {
    let Ok(image) = std::env::var("LARDER_SERVICE_IMAGE") else { return };
    let name = unique("larder-service");
    let docker = || Command::new("docker");
    let mut start = docker();
    start.args(["run", "--detach", "--rm", "--name", &name, "--publish", "127.0.0.1::8080", &image]);
    run(&mut start).await.expect_success();
    let port = run(docker().args(["port", &name, "8080"])).await.expect_success();
    let page = format!("http://{}/main/nix-cache-info", port.trim());
    let mut answer = None;
    for _ in 0..300 {
        match reqwest::get(&page).await {
            Ok(response) => {
                answer = Some(response.text().await.unwrap());
                break;
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
    let log = run(docker().args(["logs", &name])).await;
    run(docker().args(["rm", "--force", "--volumes", &name])).await;
    assert!(answer.as_deref().is_some_and(|text| text.contains("Priority: 30")), "{answer:?} {log:?}");
    assert!(log.stdout.contains("extra-trusted-public-keys = larder-main-1:"), "{log:?}");
}
