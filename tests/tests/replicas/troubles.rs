//! Parts that fail under load, one after the other, each in its way.

use std::{collections::BTreeMap, io::Write as _};

use larder_protocol::StorePathHash;

use super::{
    load::Load,
    scene::{Read, Site, read},
};

/// How many rounds of troubles there are; one, unless it is said.
const ROUNDS: &str = "LARDER_TEST_ROUNDS";

#[derive(Debug, Clone, Copy)]
enum Trouble {
    ReplicaKilled,
    DatabaseRestarted,
    StorageStopped,
    StorageStalled,
    DatabaseStalled,
    ReplicasRestarted,
}

use Trouble::{
    DatabaseRestarted, DatabaseStalled, ReplicaKilled, ReplicasRestarted, StorageStalled, StorageStopped,
};

/// One round: a replica is killed between all others, too.
const ROUND: [Trouble; 8] = [
    ReplicaKilled,
    DatabaseRestarted,
    ReplicaKilled,
    StorageStopped,
    ReplicaKilled,
    StorageStalled,
    ReplicasRestarted,
    DatabaseStalled,
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_no_acknowledged_push_is_lost_and_no_wrong_byte_is_served() {
    let rounds: usize = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    let mut site = Site::start(3).await;
    let (load, mut clients) = Load::start(&site, 3, 4);
    load.until_all_goes_well(&mut clients).await;
    let mut next = 0;
    for (number, trouble) in (0..rounds).flat_map(|_| ROUND).enumerate() {
        let begun = std::time::Instant::now();
        match trouble {
            ReplicaKilled => {
                next = (next + 1) % site.replicas.len();
                site.replicas[next].kill().await;
                load.until_all_goes_well(&mut clients).await;
                site.replicas[next].start_again().await;
            }
            ReplicasRestarted => {
                for replica in &mut site.replicas {
                    replica.stop().await;
                    replica.start_again().await;
                }
            }
            DatabaseRestarted => site.servers.postgres.restart().await,
            DatabaseStalled => {
                site.servers.postgres.stall();
                load.until_it_hurts(&mut clients).await;
                site.servers.postgres.resume();
            }
            StorageStopped => {
                site.servers.bucket.kill().await;
                load.until_it_hurts(&mut clients).await;
                site.servers.bucket.start_again().await;
            }
            StorageStalled => {
                site.servers.bucket.stall();
                load.until_it_hurts(&mut clients).await;
                site.servers.bucket.resume();
            }
        }
        load.until_all_goes_well(&mut clients).await;
        say(&format!("{number}: {trouble:?}, {:.1?}: {}", begun.elapsed(), *load.figures.borrow()));
    }
    load.end(clients).await;

    let figures = load.figures.borrow().clone();
    say(&figures.to_string());
    assert_eq!(figures.refused, 0, "a reader was answered 5xx");
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    let all: BTreeMap<StorePathHash, _> =
        acknowledged.iter().map(|package| (package.info.path.hash(), package)).collect();
    let http = reqwest::Client::new();
    for (number, package) in all.values().enumerate() {
        let replica = &site.replicas[number % site.replicas.len()];
        assert_eq!(read(&http, &replica.url(), package).await, Read::Right);
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
