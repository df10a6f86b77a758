//! A disk that is full, at any point: nothing is lost, nothing is half there, and there is a way out.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_service::retention::sweep;
use larder_tests::{
    client::Client,
    github::Job,
    package::Package,
    small_disk::SmallDisk,
    world::{Scene, World},
};

const HOUR: i64 = 3600;

/// Of the rule about acme/flake.
const PERMISSIONS: &str = r#"permissions = ["push", "pin", "read"]"#;

async fn world_on(disk: &SmallDisk) -> World {
    World::in_folder(disk.path(), Scene::saying(PERMISSIONS)).await
}

/// A job of main, in a run of its own.
async fn run(world: &World, number: u64) -> Client {
    world.exchange(&Job { run_id: number, check_run_id: number, ..Job::default() }).await.unwrap()
}

/// Readers get it whole.
async fn is_right(world: &World, package: &Package) -> bool {
    let Some(narinfo) = world.narinfo(&package.info.path).await else { return false };
    let nar = world.get(&narinfo.url).await.bytes().await.unwrap();
    assert!(zstd::decode_all(&nar[..]).unwrap() == package.nar, "{} came back otherwise", package.info.path);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_makes_room_on_a_disk_without_any() {
    let disk = SmallDisk::new(64);
    let world = world_on(&disk).await;
    let mut packages = Vec::new();
    for number in 1..5 {
        let package = Package::noise("system", 8_000_000);
        run(&world, number).await.push(&[&package]).await.unwrap();
        packages.push(package);
        world.advance(HOUR);
    }
    sweep(world.service()).await.unwrap();
    assert!(world.data_dir().join("reserve").exists());
    let before = run(&world, 5).await;
    disk.fill();
    for package in &packages {
        assert!(is_right(&world, package).await);
    }
    // What is asked to be kept needs no byte of what is full; what is new is refused, and says why.
    let new = Package::noise("new", 8_000_000);
    let refusal = before.push(&[&new]).await.unwrap_err();
    assert_eq!(refusal.status, 507, "{}", refusal.answer.message);
    assert!(world.narinfo(&new.info.path).await.is_none());

    sweep(world.service()).await.unwrap();
    // The newest run of main stays, the oldest go.
    assert!(is_right(&world, &packages[3]).await);
    assert!(!is_right(&world, &packages[0]).await);
    // Files stay an hour for readers under way.
    world.advance(HOUR + 1);
    sweep(world.service()).await.unwrap();
    assert!(world.service().storage.room().unwrap().available > 8_000_000);
    assert!(world.data_dir().join("reserve").exists());
    run(&world, 6).await.push(&[&new]).await.unwrap();
    assert!(is_right(&world, &new).await && is_right(&world, &packages[3]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_byte_to_write_nothing_is_lost_and_all_goes_on_once_there_is() {
    let disk = SmallDisk::new(48);
    let mut world = world_on(&disk).await;
    let (old, new) = (Package::noise("old", 4_000_000), Package::noise("new", 4_000_000));
    run(&world, 1).await.push(&[&old]).await.unwrap();
    world.advance(30 * 24 * HOUR);
    let client = run(&world, 2).await;
    let push = client.open(&[&new]).await.unwrap().push;
    client.send(push, &[&new]).await.unwrap();
    sweep(world.service()).await.unwrap();
    // The reserve is gone, too.
    let _ = std::fs::remove_file(world.data_dir().join("reserve"));
    disk.fill();
    let committed = client.commit(push).await;
    assert_eq!(committed.is_ok(), is_right(&world, &new).await);
    if let Err(refusal) = committed {
        assert_eq!(refusal.status, 507, "{}", refusal.answer.message);
    }
    for _ in 0..3 {
        // It may find room in what is written already, or not.
        drop(sweep(world.service()).await);
        assert!(is_right(&world, &old).await);
    }
    world.restart().await;
    assert!(is_right(&world, &old).await);
    disk.empty();
    client.commit(push).await.unwrap();
    assert!(is_right(&world, &new).await && is_right(&world, &old).await);
    sweep(world.service()).await.unwrap();
    assert!(world.data_dir().join("reserve").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_nearly_full_is_swept_by_itself() {
    let limits = "[retention]\nmax_size = \"10 MB\"\n".to_owned();
    let scene = Scene { limits, ..Scene::saying(PERMISSIONS) };
    let world = World::with(scene).await;
    let mut packages = Vec::new();
    for number in 1..5 {
        let package = Package::noise("system", 3_000_000);
        run(&world, number).await.push(&[&package]).await.unwrap();
        packages.push(package);
        world.advance(HOUR);
    }
    // Whoever asks for it reads it, and what is read stays: the database is asked.
    let (metadata, main) = (&world.service().metadata, "main".parse().unwrap());
    let oldest = [packages[0].info.path.hash()];
    // If nothing goes, the test is ended by what bounds them all.
    while !metadata.visible_paths(&[&main], &oldest).await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(is_right(&world, &packages[3]).await);
}
