use std::fs;

use larder_tests::{
    nix::{Nix, ScratchStore},
    package::Package,
    source_store::path_of,
    test_servers::objects::Objects,
    world::Scene,
};

use super::scene::{Scenery, files, has};

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_keeps_any_more_goes_and_nothing_else_is_touched() {
    let scenery = Scenery::start().await;
    let base = Package::noise("base", 200_000);
    let stays = Package::noise("stays", 100_000).referring_to([&base]);
    let goes = Package::noise("goes", 100_000).referring_to([&base]);
    let with_it = Package::noise("with-it", 100_000).referring_to([&goes, &base]);
    scenery.push("main", &[&base, &stays]).await;
    scenery.push("topic", &[&base, &goes, &with_it]).await;
    assert_eq!(scenery.report(&[]).await["paths"], 4);
    let foreign = ["index.html", "nar/0.nar.xz", "0.narinfo.bak"];
    foreign.iter().for_each(|name| fs::write(scenery.folder().join(name), "mine").unwrap());

    // Of one ref alone, which is said and not done.
    let main_only = ["--repository", "Acme/Flake", "--ref", "refs/heads/main"];
    let planned = scenery.mirror(&[&main_only[..], &["--dry-run"]].concat()).await.expect_success();
    assert!(planned.contains("2 paths would be in") && planned.contains("2 removed"), "{planned}");
    assert!(has(&scenery.folder(), &goes));

    scenery.larderd(&["roots", "drop", "acme/flake", "--ref", "refs/heads/topic"]).await.expect_success();
    let report = scenery.report(&[]).await;
    assert_eq!((&report["removed"], &report["paths"]), (&2.into(), &2.into()), "{report}");
    // Whoever has read a narinfo just now still finds its NAR.
    assert_eq!((&report["nars_removed"], &report["nars_to_go"]), (&0.into(), &2.into()), "{report}");
    assert!(has(&scenery.folder(), &base) && has(&scenery.folder(), &stays));
    assert!(!has(&scenery.folder(), &goes) && !has(&scenery.folder(), &with_it));
    let report = scenery.report(&[]).await;
    assert_eq!((&report["nars_removed"], &report["nars_to_go"]), (&2.into(), &0.into()), "{report}");

    let left = files(&scenery.folder());
    assert_eq!(left.keys().filter(|name| name.ends_with(".nar.zst")).count(), 2, "{left:?}");
    assert!(foreign.iter().all(|name| left.contains_key(*name)), "{left:?}");
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&scenery.reader().await, &[path_of(&stays.info.path)]).await.expect_success();
    store.verify().await;

    // A mirror that would lose all is more likely a mistake.
    scenery.larderd(&["roots", "drop", "acme/flake"]).await.expect_success();
    let refused = scenery.mirror(&[]).await;
    assert!(!refused.success && refused.stderr.contains("has 2 paths"), "{refused:?}");
    assert_eq!(files(&scenery.folder()), left);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_has_lost_by_damage_stays_in_the_mirror_and_comes_into_no_other() {
    // Nobody finds it before the mirror does.
    let scene = Scene::saying("\n[retention]\nscrub_every = \"never\"");
    let scenery = Scenery::saying(scene).await;
    let base = Package::noise("base", 200_000);
    let top = Package::noise("top", 100_000).referring_to([&base]);
    let other = Package::noise("other", 100_000);
    scenery.push("main", &[&base, &top]).await;
    scenery.push("main", &[&other]).await;
    assert_eq!(scenery.report(&[]).await["paths"], 3);

    // The objects of the first push: the chunks of base come first.
    let objects = Objects::of(&scenery.dir.path().join("data"));
    objects.change(&objects.by_age("frames").await[0], |bytes| bytes[3000] ^= 1).await;
    let elsewhere = |name: &str| format!("file://{}", scenery.dir.path().join(name).display());
    let noticed = scenery.larderd(&["mirror", "--to", &elsewhere("first"), "--json"]).await;
    assert_eq!(noticed.code, Some(1), "{noticed:?}");
    let report: serde_json::Value = serde_json::from_str(&noticed.stdout).unwrap();
    assert_eq!(report["left_out"][0]["why"], "damaged", "{report}");
    assert_eq!(super::scene::assert_right(&scenery.dir.path().join("first")) as u64, report["paths"]);

    // Now the service knows, too, and serves it to nobody.
    assert!(!scenery.larderd(&["verify"]).await.success);
    let report = scenery.report(&[]).await;
    assert_eq!((&report["paths"], &report["removed"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(report["kept_by_mirror"], 1, "{report}");
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&scenery.reader().await, &[path_of(&top.info.path)]).await.expect_success();
    let refused = scenery.larderd(&["mirror", "--to", &elsewhere("second")]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    super::scene::assert_right(&scenery.dir.path().join("second"));
    assert!(has(&scenery.dir.path().join("second"), &other));
}
