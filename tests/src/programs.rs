//! The programs as cargo built them, and their images.

use std::path::PathBuf;

use tokio::{process::Command, sync::OnceCell};

use crate::nix::run;

/// The repository.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A program of the workspace. `scripts/test` builds them before the tests; by hand,
/// `cargo build --workspace --bins` does.
pub fn program(name: &str) -> PathBuf {
    // …/target/debug/deps/this-test
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(|deps| deps.parent()).unwrap().join(name);
    assert!(program.exists(), "{} is not there: run cargo build --workspace --bins", program.display());
    program
}

/// A program of `scripts/tools.txt`, which `scripts/test` installs.
pub fn tool(name: &str) -> PathBuf {
    let tool = repository().join("target/tools/bin").join(name);
    if tool.exists() { tool } else { name.into() }
}

/// The action's image: the one that `LARDER_ACTION_IMAGE` names (`scripts/test` builds it from the Dockerfile); else
/// one with the program that cargo built, made anew once in a test's process.
pub async fn action_image() -> String {
    static IMAGE: OnceCell<String> = OnceCell::const_new();
    if let Ok(image) = std::env::var("LARDER_ACTION_IMAGE") {
        return image;
    }
    IMAGE
        .get_or_init(|| async {
            let tag = "larder-test/action".to_owned();
            let mut make = Command::new(repository().join("scripts/dev-image"));
            run(make.arg(&tag)).await.expect_success();
            tag
        })
        .await
        .clone()
}
