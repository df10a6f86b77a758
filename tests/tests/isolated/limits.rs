//! Pull requests' caches are bounded in number and size.

use larder_protocol::api::ErrorCode;
use larder_service::retention::sweep;
use larder_tests::{
    github::Job,
    package::{Node, Package, noise},
    world::{Scene, World},
};

use crate::scene::{RULE, narinfo, pull_request, rows, try_pull_request, world};

#[tokio::test(flavor = "multi_thread")]
async fn the_repositorys_least_used_cache_makes_room() {
    let world = world("max_per_repository = 2").await;
    let package = Package::noise("tool", 1000);
    for number in [1, 2] {
        pull_request(&world, number).await.push(&[&package]).await.unwrap();
        world.advance(60);
    }
    let first = pull_request(&world, 1).await;
    world.advance(60);
    pull_request(&world, 3).await;
    assert!(narinfo(&world, "main~610214307-pr-1", &package.info.path).await.is_some());
    assert!(narinfo(&world, "main~610214307-pr-2", &package.info.path).await.is_none());
    assert!(first.open(&[&package]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_cannot_take_anothers_place() {
    let others = "[[cache.trust]]\nrepository = \"acme/other\"\nisolate = true\n";
    let world = World::with(Scene::saying(&format!("{RULE}\n{others}\n[isolated]\nmax = 2"))).await;
    pull_request(&world, 1).await;
    pull_request(&world, 2).await;
    let other = Job { repository_id: 5, ..Job::pull_request("acme/other", 1) };
    let refusal = world.exchange(&other).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Denied);
    assert!(refusal.answer.message.contains("2 of them"), "{}", refusal.answer.message);
    assert!(refusal.answer.message.contains("isolated.max"), "{}", refusal.answer.message);
    // Its own, the repository may replace.
    assert!(try_pull_request(&world, 3).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_store_is_bounded() {
    let world = world("max_size = \"1 MB\"").await;
    let job = pull_request(&world, 7).await;
    let (small, large) = (Package::noise("small", 400_000), Package::noise("large", 900_000));
    job.push(&[&small]).await.unwrap();
    let refusal = job.push(&[&large]).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Invalid);
    for part in ["1 MB", "isolated.max_size"] {
        assert!(refusal.answer.message.contains(part), "{}", refusal.answer.message);
    }
    // What the parent has is not counted, and what is refused neither.
    world.client().await.push(&[&large]).await.unwrap();
    let again = Package::noise("again", 300_000);
    assert_eq!(job.push(&[&large, &small, &again]).await.unwrap().published, 1);
    assert_eq!(
        crate::scene::objects(&world).await.iter().filter(|key| key.contains("frames/isolated")).count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_one_are_bounded() {
    let world = world("max_paths = 2").await;
    let job = pull_request(&world, 7).await;
    let packages: Vec<Package> = (0..3).map(|_| Package::noise("tool", 1000)).collect();
    job.push(&[&packages[0], &packages[1]]).await.unwrap();
    let refusal = job.open(&[&packages[2]]).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Invalid);
    assert!(refusal.answer.message.contains("isolated.max_paths"), "{}", refusal.answer.message);
    assert!(job.open(&[&packages[0]]).await.unwrap().committed.is_some(), "what is there can be named");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_keeps_of_its_parent_counts_among_its_paths() {
    let world = world("max_paths = 3").await;
    let parents: Vec<Package> = (0..3).map(|_| Package::noise("tool", 1000)).collect();
    world.client().await.push(&parents.iter().collect::<Vec<_>>()).await.unwrap();
    let job = pull_request(&world, 7).await;
    let own = Package::noise("own", 1000).referring_to(&parents[..2]);
    let refusal = job.push(&[&parents[0], &parents[1], &parents[2], &own]).await.unwrap_err();
    assert!(refusal.answer.message.contains("isolated.max_paths"), "{}", refusal.answer.message);
    job.push(&[&parents[0], &parents[1], &own]).await.unwrap();
    assert!(job.open(&[&Package::noise("more", 1000)]).await.is_err());
    // What is there can be named, and is kept no further.
    assert!(job.open(&[&parents[0], &parents[1], &parents[2]]).await.unwrap().committed.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brings_one_nothing_leaves_no_row() {
    let world = world("").await;
    let package = Package::noise("tool", 1000);
    world.client().await.push(&[&package]).await.unwrap();
    let job = pull_request(&world, 7).await;
    sweep(world.service()).await.unwrap();
    let before = rows(&world).await;
    let other = Package::with_nar(package.info.path.clone(), Node::File(noise(1000)).nar());
    for _ in 0..5 {
        let opened = job.open(&[&package]).await.unwrap();
        assert!(opened.present == [package.info.path.hash()] && opened.committed.is_some());
        assert_eq!(job.push(&[&other]).await.unwrap().divergences.len(), 1);
    }
    sweep(world.service()).await.unwrap();
    assert_eq!(rows(&world).await, before);
}
