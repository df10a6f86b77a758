use std::process::Stdio;

use larder_tests::{
    bucket::Bucket,
    garage,
    nix::{Nix, Reader, ScratchStore, run},
    package::Package,
    source_store::path_of,
    world::reader,
};

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::scene::{Scenery, assert_right, files};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_in_a_bucket_is_the_same_as_in_a_folder() {
    let scenery = Scenery::start().await;
    let bucket = Bucket::start().await;
    // More than is sent at once.
    let base = Package::noise("base", 12_000_000);
    let stays = Package::noise("stays", 100_000).referring_to([&base]);
    let goes = Package::noise("goes", 100_000).referring_to([&base]);
    scenery.push("main", &[&base, &stays]).await;
    scenery.push("topic", &[&base, &goes]).await;
    let mirror = async || {
        let mut mirror = scenery.command();
        mirror.envs(bucket.environment()).args(["mirror", "--to", &bucket.url("mirror")]);
        run(&mut mirror).await.expect_success()
    };
    assert!(mirror().await.contains("3 paths in s3://"));
    // The server keeps its objects as files.
    let folder = bucket.folder("mirror");
    assert_eq!(assert_right(&folder), 3);
    let before = files(&folder);
    assert!(mirror().await.ends_with("; nothing changed\n"));
    assert_eq!(files(&folder), before, "something was written again");

    scenery.larderd(&["roots", "drop", "acme/flake", "--ref", "refs/heads/topic"]).await.expect_success();
    assert!(mirror().await.contains("1 removed"));
    assert_eq!(assert_right(&folder), 2);
    mirror().await;
    assert_eq!(files(&folder).keys().filter(|name| name.ends_with(".nar.zst")).count(), 2);
    let substituters = vec![format!("file://{}", folder.display())];
    let reader = Reader { substituters, ..reader(&scenery.larderd.url(), "main").await };
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&reader, &[path_of(&stays.info.path)]).await.expect_success();
    store.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_do_not_write_to_one_target_and_another_target_is_free() {
    let scenery = Scenery::start().await;
    let bucket = Bucket::start().await;
    scenery.push("main", &[&Package::noise("package", 1000)]).await;
    let to = bucket.url("mirror");
    let mirror = |to: &str| {
        let mut mirror = scenery.command();
        mirror.envs(bucket.environment()).args(["mirror", "--to", to]);
        mirror
    };
    // It waits for the bucket.
    bucket.stall();
    let mut first = mirror(&to);
    first.env("LARDER_LOG", "warn,larder_service::cli=debug").stdin(Stdio::null()).stdout(Stdio::null());
    let mut first = first.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut log = BufReader::new(first.stderr.take().unwrap()).lines();
    while !log.next_line().await.unwrap().expect("it ended").contains("nobody else writes there") {}
    let second = run(&mut mirror(&format!("{to}/"))).await;
    assert!(
        !second.success && second.stderr.contains("another `larderd mirror` writes to s3://"),
        "{second:?}"
    );
    assert!(scenery.mirror(&[]).await.expect_success().contains("1 path in file://"));
    bucket.resume();
    assert!(first.wait().await.unwrap().success());
    run(&mut mirror(&to)).await.expect_success();

    // A folder, from whatever data directory.
    let folder = std::fs::File::open(scenery.folder()).unwrap();
    folder.lock().unwrap();
    let second = scenery.mirror(&[]).await;
    assert!(
        !second.success && second.stderr.contains("another `larderd mirror` writes to file://"),
        "{second:?}"
    );
    scenery.mirror(&["--dry-run"]).await.expect_success();
    drop(folder);
    scenery.mirror(&[]).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_refuses_is_told_with_its_remedy_and_without_a_secret() {
    let scenery = Scenery::start().await;
    let bucket = Bucket::start().await;
    let refused = async |to: &str, variables: &[(&str, &str)], told: &str| {
        let mut mirror = scenery.command();
        mirror.envs(bucket.environment()).envs(variables.iter().copied()).args(["mirror", "--to", to]);
        let output = run(&mut mirror).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(told), "{}", output.stderr);
        assert!(
            !output.stderr.contains("SECRET@") && !output.stderr.contains("storage.url"),
            "{}",
            output.stderr
        );
    };
    refused("s3://absent/mirror", &[], "s3://absent/mirror: there is no such bucket. Make it").await;
    let wrong = [("AWS_SECRET_ACCESS_KEY", "another")];
    // (Garage says AccessDenied.)
    let code = if garage::program().is_some() { "AccessDenied" } else { "SignatureDoesNotMatch" };
    let told = format!("refused ({code}). Say credentials that are right");
    refused(&bucket.url("mirror"), &wrong, &told).await;
    // A machine that has none, as the server that is here refuses to tell.
    let machine = &bucket.environment()[0].1;
    let nobody =
        [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_METADATA_ENDPOINT", machine)];
    refused(&bucket.url("mirror"), &nobody, "Say AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY").await;
    refused("s3://KEY:SECRET@bucket/mirror", &[], "--to: is not a bucket").await;
    refused("https://KEY:SECRET@bucket/mirror", &[], "--to: this is no place for a mirror").await;
}
