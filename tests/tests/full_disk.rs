//! A disk that is full, at any point: nothing is lost, nothing is half there, and there is a way out.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::pin::pin;

use larder_protocol::api::PinRequest;
use larder_service::{
    metadata::MetadataError,
    retention::{SweepReport, sweep},
    verification::{Scope, verify},
};
use larder_tests::{
    client::Client,
    github::Job,
    package::Package,
    small_disk::SmallDisk,
    world::{Scene, World},
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

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
    assert!(world.service().storage.room().unwrap().unwrap().available > 8_000_000);
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

/// A cache that keeps what is pinned, and what the last run of main pushed.
async fn forgetful_world_on(disk: &SmallDisk) -> World {
    let rules = format!("{PERMISSIONS}\n[cache.retention]\nkeep_days = 0\nkeep_runs_main = 1\n");
    let scene = Scene { limits: "[retention]\nsweep_every = \"300d\"\n".to_owned(), ..Scene::saying(&rules) };
    World::in_folder(disk.path(), scene).await
}

/// The next sweep takes the first of these, and copies the second out of the object in which both lie.
async fn about_to_go(world: &World, number: u64) -> [Package; 2] {
    let [goes, stays] = [Package::noise("goes", 5_000_000), Package::noise("stays", 3_000_000)];
    let client = run(world, 2 * number + 1).await;
    client.push(&[&goes, &stays]).await.unwrap();
    let pin = PinRequest { path: stays.info.path.clone(), lifetime: None, keep: 1 };
    client.pin(&format!("stays-{number}"), &pin).await.unwrap();
    run(world, 2 * number + 2).await.push(&[&Package::noise("next", 1000)]).await.unwrap();
    sweep(world.service()).await.unwrap();
    world.advance(DAY + 1);
    [goes, stays]
}

/// Sweeps, and fills the disk as soon as it is told to. Whether it was.
async fn fill_while_it_sweeps(
    world: &World,
    disk: &SmallDisk,
    mut is_time: impl FnMut() -> bool,
) -> (bool, Result<SweepReport, MetadataError>) {
    let mut sweep = pin!(sweep(world.service()));
    let mut is_full = false;
    let ended = std::future::poll_fn(|context| {
        let polled = sweep.as_mut().poll(context);
        if polled.is_pending() && !is_full && is_time() {
            disk.fill();
            is_full = true;
        }
        polled
    });
    let ended = ended.await;
    (is_full, ended)
}

/// What stays is right; with room again the next sweep does all that is left to be done, and all that is there is right.
async fn assert_goes_on(world: &World, disk: &SmallDisk, [goes, stays]: &[Package; 2], moment: &str) {
    assert!(is_right(world, stays).await, "{moment}");
    disk.empty();
    let report = sweep(world.service()).await.unwrap();
    assert!(report.budgets.iter().all(|budget| budget.is_met()), "{moment}: {report:?}");
    assert!(is_right(world, stays).await && !is_right(world, goes).await, "{moment}");
    world.advance(HOUR + 1);
    sweep(world.service()).await.unwrap();
    assert!(world.data_dir().join("reserve").exists(), "{moment}");
    let found = verify(world.service(), Scope::All).await.unwrap();
    assert!(found.is_right() && found.findings.is_empty(), "{moment}: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_in_the_middle_of_a_sweep_loses_nothing() {
    let disk = SmallDisk::new(128);
    let world = forgetful_world_on(&disk).await;
    about_to_go(&world, 0).await;
    let mut polls = 0;
    let counting = || {
        polls += 1;
        false
    };
    let report = fill_while_it_sweeps(&world, &disk, counting).await.1.unwrap();
    assert_eq!((report.caches[0].deleted, report.compaction.replaced), (1, 1), "{report:?}");
    let mut disturbed = 0;
    for (number, moment) in (1..).zip((1..polls).step_by(polls / 8)) {
        let packages = about_to_go(&world, number).await;
        // With what is set aside for this, and without.
        let has_reserve = number % 2 == 0;
        if !has_reserve {
            std::fs::remove_file(world.data_dir().join("reserve")).unwrap();
        }
        let mut left = moment;
        let is_time = || {
            left -= 1;
            left == 0
        };
        let (was_filled, ended) = fill_while_it_sweeps(&world, &disk, is_time).await;
        if !was_filled {
            disk.fill();
        }
        match ended {
            Ok(report) => disturbed += u32::from(report.compaction.replaced == 0),
            Err(error) => {
                assert!(error.is_full() && error.to_string().contains("full"), "{moment}: {error}");
                disturbed += 1;
            }
        }
        assert_goes_on(&world, &disk, &packages, &format!("after {moment} of {polls} polls")).await;
    }
    assert!(disturbed > 0, "no sweep lacked room");
}

/// Whether a part of an object is there.
fn is_copying(world: &World) -> bool {
    let frames = std::fs::read_dir(world.data_dir().join("objects/frames/0")).unwrap();
    frames.flatten().any(|file| file.file_name().to_string_lossy().contains('#'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_while_frames_are_copied_loses_nothing() {
    let disk = SmallDisk::new(128);
    let world = forgetful_world_on(&disk).await;
    for number in 0..2 {
        let packages = about_to_go(&world, number).await;
        let (was_copying, ended) = fill_while_it_sweeps(&world, &disk, || is_copying(&world)).await;
        assert!(was_copying);
        match ended {
            Ok(report) => assert_eq!(report.compaction.written, 0, "{report:?}"),
            Err(error) => assert!(error.is_full(), "{error}"),
        }
        assert_goes_on(&world, &disk, &packages, "while frames are copied").await;
        assert!(!is_copying(&world), "a part stays");
    }
}
