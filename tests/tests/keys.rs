//! Signing keys that come and go, as real Nix sees it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

use larder_protocol::PublicKey;
use larder_tests::{
    nix::{Nix, Reader, ScratchStore, run},
    package::Package,
    world::World,
};
use tempfile::TempDir;

const DAY: i64 = 24 * 60 * 60;

/// `larderd key …` on a world's data, as whoever runs the service calls it. Returns the key that it prints.
async fn key(world: &World, args: &[&str]) -> PublicKey {
    let mut command = world.larderd(&["key"]).await;
    let key = run(command.args(args)).await.expect_success().trim().parse().unwrap();
    // As long as a running service may take.
    world.advance(5);
    key
}

/// Whether somebody who trusts this key alone can read the path.
async fn reads(world: &World, path: &Path, key: &PublicKey) -> bool {
    let reader = Reader { public_keys: vec![key.to_string()], ..world.reader().await };
    let store = ScratchStore::new(Nix::Installed);
    let read = store.realise(&reader, &[path.to_owned()]).await.success;
    assert_eq!(read, store.has(path));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_old_key_and_of_the_new_one_read_until_the_old_one_is_retired() {
    let world = World::new().await;
    let package = Package::noise("rotated", 5000);
    world.client().await.push(&[&package]).await.unwrap();
    let path = PathBuf::from(package.info.path.absolute());
    let old: PublicKey = world.reader().await.public_keys[0].parse().unwrap();
    assert!(reads(&world, &path, &old).await);

    let new = key(&world, &["rotate", "--overlap", "90d"]).await;
    let both = [old.to_string(), new.to_string()];
    assert_eq!(world.reader().await.public_keys, both, "the service's own line for nix.conf");
    for key in [&old, &new] {
        assert!(reads(&world, &path, key).await, "{key:?}");
    }
    // A client is told both signatures as well.
    let later = Package::noise("later", 5000);
    let committed = world.client().await.push(&[&later]).await.unwrap();
    let signed_by: Vec<&str> =
        committed.signatures[&later.info.path].iter().map(|sig| sig.key_name()).collect();
    assert_eq!(signed_by, [old.name(), new.name()]);

    // The world's clock is behind the machine's, by which the command reckons.
    world.advance(10 * 365 * DAY);
    assert_eq!(world.reader().await.public_keys, [new.to_string()]);
    assert!(reads(&world, &path, &new).await);
    assert!(!reads(&world, &path, &old).await, "the old key signs still");
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    assert!(narinfo.signatures.iter().all(|signature| signature.key_name() != old.name()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_key_signs_as_nix_does() {
    let (world, dir) = (World::new().await, TempDir::new().unwrap());
    let (secret, public) = (dir.path().join("secret"), dir.path().join("public"));
    let store = ScratchStore::new(Nix::Installed);
    let config = "experimental-features = nix-command\n";
    let mut generate = store.command("nix-store", config);
    generate.args(["--generate-binary-cache-key", "cache.old.example-1"]).arg(&secret).arg(&public);
    run(&mut generate).await.expect_success();

    let leaf = Package::noise("leaf", 100);
    let package = Package::noise("signed", 5000).referring_to([&leaf]);
    world.client().await.push(&[&leaf, &package]).await.unwrap();
    let imported = key(&world, &["import", secret.to_str().unwrap()]).await;
    assert_eq!(imported.to_string(), std::fs::read_to_string(&public).unwrap().trim());

    let path = PathBuf::from(package.info.path.absolute());
    assert!(reads(&world, &path, &imported).await);
    // Nix's own signature of what it read must be the same: Ed25519 leaves no choice.
    let reader = Reader { public_keys: vec![imported.to_string()], ..world.reader().await };
    store.realise(&reader, std::slice::from_ref(&path)).await.expect_success();
    let theirs = |info: serde_json::Value| -> Vec<String> {
        let signatures = info["signatures"].as_array().unwrap().clone();
        let texts = signatures.iter().map(|signature| signature.as_str().unwrap().to_owned());
        texts.filter(|text| text.starts_with("cache.old.example-1:")).collect()
    };
    let ours = theirs(store.path_info(&path).await);
    assert_eq!(ours.len(), 1);
    let mut copy = store.command("nix", config);
    copy.args(["store", "sign", "--key-file"]).arg(&secret).arg(&path);
    run(&mut copy).await.expect_success();
    assert_eq!(theirs(store.path_info(&path).await), ours);
}
