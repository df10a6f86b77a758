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

/// The action's image with the program that cargo built, made anew once in a test's process.
pub async fn dev_image() -> String {
    static IMAGE: OnceCell<String> = OnceCell::const_new();
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
