//! What pull requests' caches store takes no room from their parents.

use larder_service::retention::{BudgetReport, sweep};
use larder_tests::{
    client::Client,
    github::Job,
    package::{Package, store_path},
    world::World,
};

use crate::scene::{narinfo, pull_request, rows, world};

const LIMITS: &str = "max_size = \"2 MB\"\n[retention]\nmax_size = \"1 MB\"";

/// A session of a job of this run on main.
async fn run(world: &World, run_id: u64) -> Client {
    world.advance(60);
    world.exchange(&Job { run_id, ..Job::default() }).await.unwrap()
}

async fn budget(world: &World) -> BudgetReport {
    let mut report = sweep(world.service()).await.unwrap();
    assert_eq!(report.budgets.len(), 1, "{report:?}");
    report.budgets.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_request_stores_is_no_part_of_max_size() {
    let world = world(LIMITS).await;
    let packages: Vec<Package> = (0..3).map(|_| Package::noise("tool", 300_000)).collect();
    run(&world, 1).await.push(&[&packages[0]]).await.unwrap();
    run(&world, 2).await.push(&[&packages[1]]).await.unwrap();
    let large = Package::noise("large", 1_900_000);
    pull_request(&world, 7).await.push(&[&large]).await.unwrap();
    let budget = budget(&world).await;
    assert!(budget.is_met() && (600_000..700_000).contains(&budget.used), "{budget:?}");
    // Nothing had to go, and there is room for more.
    run(&world, 3).await.push(&[&packages[2]]).await.unwrap();
    self::budget(&world).await;
    for package in &packages {
        assert!(world.narinfo(&package.info.path).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_parent_has_room_for_a_pull_request() {
    let world = world(LIMITS).await;
    run(&world, 1).await.push(&[&Package::noise("held", 970_000)]).await.unwrap();
    let before = budget(&world).await;
    assert!(before.held > 950_000, "{before:?}");
    pull_request(&world, 7).await.push(&[&Package::noise("tool", 1_000_000)]).await.unwrap();
    assert_eq!(budget(&world).await.used, before.used);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_request_alone_still_needs_of_its_parent_takes_no_room() {
    let world = world(LIMITS).await;
    let packages: Vec<Package> = (0..3).map(|_| Package::noise("tool", 400_000)).collect();
    let base = Package::noise("base", 100_000);
    let top = Package::noise("top", 300_000).referring_to([&base]);
    run(&world, 1).await.push(&[&base, &top]).await.unwrap();
    let job = pull_request(&world, 7).await;
    let own = Package::noise("own", 1000).referring_to([&top]);
    job.push(&[&base, &top, &own]).await.unwrap();
    run(&world, 2).await.push(&[&packages[0]]).await.unwrap();
    run(&world, 3).await.push(&[&packages[1]]).await.unwrap();

    let budget = budget(&world).await;
    assert!(budget.is_met() && (800_000..900_000).contains(&budget.used), "{budget:?}");
    assert!(budget.held < 500_000, "{budget:?}");
    for package in [&packages[0], &packages[1], &top, &base] {
        assert!(world.narinfo(&package.info.path).await.is_some(), "{}", package.info.path);
    }
    // What it holds on to keeps nobody out.
    run(&world, 4).await.push(&[&packages[2]]).await.unwrap();
    for package in [&packages[2], &top, &base] {
        assert!(world.narinfo(&package.info.path).await.is_some(), "{}", package.info.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_request_named_and_does_not_need_stays_no_longer_for_it() {
    let world = world(LIMITS).await;
    let packages: Vec<Package> = (0..2).map(|_| Package::noise("tool", 400_000)).collect();
    let (needed, named) = (Package::noise("needed", 100_000), Package::noise("named", 400_000));
    run(&world, 1).await.push(&[&needed, &named]).await.unwrap();
    let job = pull_request(&world, 7).await;
    for _ in 0..2 {
        let own = Package::noise("own", 1000).referring_to([&needed]);
        job.push(&[&needed, &named, &own]).await.unwrap();
    }
    assert_eq!(rows(&world).await["leases"], 1, "what two pushes need is leased once");
    run(&world, 2).await.push(&[&packages[0]]).await.unwrap();
    run(&world, 3).await.push(&[&packages[1]]).await.unwrap();

    assert!(budget(&world).await.is_met());
    assert!(world.narinfo(&needed.info.path).await.is_some());
    assert!(world.narinfo(&named.info.path).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_from_the_parent_stays_whole_in_a_pull_requests_cache() {
    let world = world(LIMITS).await;
    let packages: Vec<Package> = (0..3).map(|_| Package::noise("tool", 400_000)).collect();
    run(&world, 1).await.push(&[&packages[0]]).await.unwrap();
    // The parent's NAR under another name.
    let twin = Package::with_nar(store_path("twin"), packages[0].nar.clone());
    let job = pull_request(&world, 7).await;
    let opened = job.open(&[&twin]).await.unwrap();
    assert_eq!((opened.reused.len(), opened.missing.len()), (1, 0));
    job.commit(opened.push).await.unwrap();
    run(&world, 2).await.push(&[&packages[1]]).await.unwrap();
    run(&world, 3).await.push(&[&packages[2]]).await.unwrap();

    let budget = budget(&world).await;
    assert!(budget.is_met() && (800_000..900_000).contains(&budget.used), "{budget:?}");
    let mut there = Vec::new();
    for package in &packages {
        there.push(world.narinfo(&package.info.path).await.is_some());
    }
    assert_eq!(there, [false, true, true]);
    let own = job.cache().name.to_string();
    let narinfo = narinfo(&world, &own, &twin.info.path).await.unwrap();
    let nar = reqwest::get(format!("{}/{own}/{}", world.url(), narinfo.url)).await.unwrap();
    assert_eq!(zstd::decode_all(&nar.bytes().await.unwrap()[..]).unwrap(), twin.nar);
}
