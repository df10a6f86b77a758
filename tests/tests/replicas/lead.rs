//! What one of all replicas does, when that one dies.

use std::{sync::atomic::Ordering, time::Duration};

use larder_service::{clock::Clock, retention::sweep};
use larder_tests::{
    github::Job,
    package::Package,
    world::{Scene, World},
};
use sqlx::{Connection as _, PgConnection};

use super::scene::{Read, Servers, Site, read};

const HOUR: i64 = 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_whose_replica_dies_is_done_by_another() {
    let servers = Servers::start().await;
    // What was pushed long ago, and of which a sweep found a part dead more than a day ago.
    let scene = servers.scene();
    let caches =
        scene.caches.replace("upstream = []", "upstream = []\n[cache.retention]\nkeep_runs_main = 1");
    let scene = Scene { caches, ..scene };
    let mut world = World::with(scene.clone()).await;
    let now = Clock::System.now();
    world.clock.store(now - 240 * HOUR, Ordering::SeqCst);
    let (dead, alive) = (Package::noise("dead", 300_000), Package::noise("alive", 300_000));
    for (run_id, package) in [(1, &dead), (2, &alive)] {
        let job = Job { run_id, ..Job::default() };
        world.exchange(&job).await.unwrap().push(&[package]).await.unwrap();
    }
    world.clock.store(now - 30 * HOUR, Ordering::SeqCst);
    sweep(world.service()).await.unwrap();
    world.stop().await;

    // Somebody holds what the next sweep has to delete, so that it is under way until they let go.
    let mut held = PgConnection::connect(&servers.postgres.url()).await.unwrap();
    let mut holding = held.begin().await.unwrap();
    sqlx::query("SELECT FROM paths FOR UPDATE").execute(&mut *holding).await.unwrap();
    let mut site = Site::on(servers, &scene, 2).await;
    let mut look = PgConnection::connect(&site.servers.postgres.url()).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM paths%'";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut look).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.replicas[0].kill().await;
    holding.rollback().await.unwrap();
    site.replicas[1].says(&["this replica leads"]).await;
    site.replicas[1].says(&["swept"]).await;
    let http = reqwest::Client::new();
    assert_eq!(read(&http, &site.replicas[1].url(), &dead).await, Read::Absent);
    assert_eq!(read(&http, &site.replicas[1].url(), &alive).await, Read::Right);
}
