use std::fs;

use larder_tests::{package::Package, world::Scene};

use super::scene::{Scenery, files, larderd};

const CACHES: &str = r#"
[[cache]]
name = "main"
upstream = []

[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/main"

[[cache]]
name = "hidden"
public = false
upstream = []
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_somebody_elses_is_left_as_it_is() {
    let scenery = Scenery::saying(Scene { caches: CACHES.to_owned(), ..Scene::default() }).await;
    let package = Package::noise("package", 1000);
    scenery.push("main", &[&package]).await;
    let refused = async |arguments: &[&str], words: &str| {
        let output = scenery.mirror(arguments).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(words), "{}", output.stderr);
    };
    refused(&[], "which cache? Say --cache and one of main, hidden").await;
    refused(&["--cache", "hidden"], "say --allow-private").await;
    refused(&["--cache", "main", "--pin", "web"], "nothing is pinned as web").await;
    refused(
        &["--cache", "main", "--repository", "acme/flake", "--ref", "main"],
        "no run of acme/flake on main",
    )
    .await;
    assert!(!scenery.folder().exists(), "a refused mirroring made a folder");

    fs::create_dir(scenery.folder()).unwrap();
    fs::write(scenery.folder().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let before = files(&scenery.folder());
    refused(&["--cache", "main"], "is not empty, and not a mirror that larderd made").await;
    assert_eq!(files(&scenery.folder()), before);

    fs::remove_file(scenery.folder().join("nix-cache-info")).unwrap();
    scenery.mirror(&["--cache", "main"]).await.expect_success();
    let before = files(&scenery.folder());
    refused(&["--cache", "hidden", "--allow-private"], "is a mirror of the cache main, not of hidden").await;
    // Of another service, whose cache has the same name.
    let another = Scenery::saying(Scene { caches: CACHES.to_owned(), ..Scene::default() }).await;
    let to = format!("file://{}", scenery.folder().display());
    let mut command = larderd(&another.dir.path().join("larder.toml"));
    let output = larder_tests::nix::run(command.args(["mirror", "--cache", "main", "--to", &to])).await;
    assert!(!output.success && output.stderr.contains("of another larderd's cache main"), "{output:?}");
    assert_eq!(files(&scenery.folder()), before);

    // With another key the same cache signs all of it anew.
    scenery.larderd(&["key", "rotate", "--overlap", "0d"]).await.expect_success();
    let signed = scenery.report(&["--cache", "main"]).await;
    assert_eq!((&signed["changed"], &signed["nars_written"]), (&1.into(), &0.into()), "{signed}");

    let hidden = format!("file://{}", scenery.dir.path().join("hidden").display());
    let allowed = ["mirror", "--cache", "hidden", "--allow-private", "--to", &hidden];
    scenery.larderd(&allowed).await.expect_success();
}
