use std::process::Stdio;

use larder_tests::package::Package;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::scene::{Scenery, assert_right, files};

/// Kills a mirroring with `kill -9` when it has written or removed so many files. `false` if it ended before.
async fn kill_at(scenery: &Scenery, step: usize) -> bool {
    let to = format!("file://{}", scenery.folder().display());
    let mut mirror = scenery.command();
    mirror.env("LARDER_LOG", "warn,larder_service::mirror=debug").args(["mirror", "--to", &to]);
    mirror.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut mirror = mirror.spawn().unwrap();
    let mut log = BufReader::new(mirror.stderr.take().unwrap()).lines();
    let mut steps = 0;
    while steps < step {
        match log.next_line().await.unwrap() {
            Some(line) => steps += usize::from(line.contains("DEBUG")),
            None => {
                assert!(mirror.wait().await.unwrap().success());
                return false;
            }
        }
    }
    mirror.kill().await.unwrap();
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirroring_that_is_killed_leaves_what_it_advertises_whole_and_the_next_goes_on() {
    let scenery = Scenery::start().await;
    let base = Package::noise("base", 6_500_000);
    let mut chain = vec![base];
    for number in 1..13 {
        let mut before = vec![&chain[0], &chain[number - 1]];
        before.dedup_by_key(|package| package.info.path.clone());
        chain.push(Package::noise(&format!("link-{number}"), 40_000).referring_to(before));
    }
    let stays = Package::noise("stays", 1000).referring_to([&chain[0], &chain[5]]);
    scenery.push("topic", &chain.iter().collect::<Vec<_>>()).await;
    let mut kept: Vec<&Package> = chain[..=5].iter().collect();
    kept.push(&stays);
    scenery.push("main", &kept).await;

    let (mut killed, mut seen) = (0, 0);
    while kill_at(&scenery, 4).await {
        killed += 1;
        // What is there is never less than before.
        let now = assert_right(&scenery.folder());
        assert!(now >= seen, "{now} paths are left of {seen}");
        seen = now;
    }
    assert!(killed > 0, "it was never killed in its middle");
    assert_eq!(assert_right(&scenery.folder()), 14);
    let all = files(&scenery.folder());
    assert!(!all.keys().any(|name| name.contains('#')), "{all:?}");
    assert!(scenery.mirror(&[]).await.expect_success().ends_with("; nothing changed\n"));

    scenery.larderd(&["roots", "drop", "acme/flake", "--ref", "refs/heads/topic"]).await.expect_success();
    killed = 0;
    while kill_at(&scenery, 2).await {
        killed += 1;
        assert_right(&scenery.folder());
    }
    assert!(killed > 1, "it was never killed in its middle");
    assert_eq!(assert_right(&scenery.folder()), 7);
    assert!(scenery.mirror(&[]).await.expect_success().contains("7 paths"));
    assert_eq!(files(&scenery.folder()).keys().filter(|name| name.ends_with(".nar.zst")).count(), 7);
}
