//! Pull requests' caches leave room on the disk, and go first when it has little.

use larder_service::{
    audit::Kind,
    isolated::tidy,
    metadata::AuditFilter,
    retention::{BudgetReport, sweep},
};
use larder_tests::{
    client::Client,
    github::Job,
    package::Package,
    small_disk::SmallDisk,
    world::{Scene, World},
};

use crate::scene::{RULE, narinfo, pull_request};

const HOUR: i64 = 3600;

async fn world_on(disk: &SmallDisk) -> World {
    World::in_folder(disk.path(), Scene::saying(RULE)).await
}

async fn main_run(world: &World, run_id: u64) -> Client {
    world.advance(60);
    world.exchange(&Job { run_id, ..Job::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_leaves_what_sweeps_keep_free() {
    let disk = SmallDisk::new(64);
    let world = world_on(&disk).await;
    let available = world.service().storage.room().unwrap().unwrap().available;
    // A quarter of it is what it takes. It fits, and leaves less than twice the twentieth of the disk.
    let mut large = Package::noise("large", 1000);
    large.info.nar_size = 4 * (available - 5_000_000);
    let refusal = pull_request(&world, 7).await.open(&[&large]).await.unwrap_err();
    assert_eq!(refusal.status, 507, "{}", refusal.answer.message);
    for words in ["pull requests' own caches leave 6.7 MB", "a larger disk", "larderd isolated list"] {
        assert!(refusal.answer.message.contains(words), "{words:?}: {}", refusal.answer.message);
    }
    main_run(&world, 1).await.open(&[&large]).await.unwrap();
    pull_request(&world, 7).await.push(&[&Package::noise("small", 1000)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_used_goes_before_anything_of_their_parents() {
    let disk = SmallDisk::new(64);
    let world = world_on(&disk).await;
    let of_main = [Package::noise("old", 4_000_000), Package::noise("new", 4_000_000)];
    for (package, run_id) in of_main.iter().zip(1..) {
        main_run(&world, run_id).await.push(&[package]).await.unwrap();
    }
    let own: Vec<Package> = (0..2).map(|_| Package::noise("own", 8_000_000)).collect();
    for (package, number) in own.iter().zip(7..) {
        world.advance(60);
        pull_request(&world, number).await.push(&[package]).await.unwrap();
    }
    sweep(world.service()).await.unwrap();
    disk.fill();
    let report = sweep(world.service()).await.unwrap();
    let [BudgetReport { disk: true, isolated, .. }] = &report.budgets[..] else { panic!("{report:?}") };
    assert_eq!(isolated[..], ["main~610214307-pr-7"]);
    assert!(narinfo(&world, "main~610214307-pr-7", &own[0].info.path).await.is_none());
    assert!(narinfo(&world, "main~610214307-pr-8", &own[1].info.path).await.is_some());
    for package in &of_main {
        assert!(world.narinfo(&package.info.path).await.is_some());
    }
    let dropped = AuditFilter { kind: Some(Kind::CacheDropped), limit: 10, ..AuditFilter::default() };
    let dropped = world.service().metadata.audit(&dropped).await.unwrap();
    assert_eq!(dropped.len(), 1);
    assert!(format!("{dropped:?}").contains("the disk is nearly full"), "{dropped:?}");

    // What goes anyway makes nothing else go.
    let report = sweep(world.service()).await.unwrap();
    assert!(report.budgets[0].isolated.is_empty(), "{report:?}");
    tidy(world.service()).await.unwrap();
    world.advance(2 * HOUR + 1);
    tidy(world.service()).await.unwrap();
    let report = sweep(world.service()).await.unwrap();
    assert_eq!(report.budgets, [], "there is room again");
    for package in &of_main {
        assert!(world.narinfo(&package.info.path).await.is_some());
    }
}
