//! How much a sweep deletes in one transaction: whoever wants to write meanwhile waits for no more.

use std::task::Poll;

use http::Method;
use larder_protocol::{
    ChunkId, StorePath, StorePathHash,
    api::{OpenPush, OpenedPush, PathInfo},
    chunk::CutChunk,
};
use sqlx::{Any, AnyConnection, QueryBuilder};

use crate::{
    nar::{TestNar, contents, path},
    roots::nar,
    world::{DAY, Pusher, World},
};

/// How many paths there are; each is a root, too.
const PATHS: u16 = 1200;
/// How many chunks each NAR has.
const CHUNKS: usize = 1000;
/// The most rows that a transaction of a sweep may delete.
const MOST: i64 = 1000;

/// A NAR of many tiny chunks.
fn of_many_chunks(seed: u8) -> TestNar {
    let mut nar = TestNar::new(path(seed, "many"), &contents(seed.into(), 40 * CHUNKS, &[]), &[]);
    let chunk = |content: &[u8]| CutChunk {
        id: ChunkId::of(content, []),
        content: content.to_vec(),
        holes: Vec::new(),
        hashes: Vec::new(),
    };
    nar.chunks = nar.bytes.chunks(nar.bytes.len().div_ceil(CHUNKS)).map(chunk).collect();
    nar
}

/// Pushes paths, each of which has one of these NARs, as roots.
async fn push(world: &World, who: &Pusher, nars: &[TestNar]) {
    let info = |number: u16| {
        let mut hash = [7; 20];
        hash[..2].copy_from_slice(&number.to_le_bytes());
        let path = StorePath::new(StorePathHash(hash), "x").unwrap();
        PathInfo { path, ..nars[usize::from(number) % nars.len()].info.clone() }
    };
    let paths: Vec<PathInfo> = (0..PATHS).map(info).collect();
    let open = OpenPush {
        roots: paths.iter().map(|info| info.path.clone()).collect(),
        paths,
        ..OpenPush::default()
    };
    let url = "/api/v1/caches/main/pushes";
    let (status, body) = world.call(Method::POST, url, Some(who), serde_json::to_vec(&open).unwrap()).await;
    assert_eq!(status, 200, "{body:?}");
    let opened: OpenedPush = serde_json::from_slice(&body).unwrap();
    if !opened.missing.is_empty() {
        for nar in nars {
            assert_eq!(world.upload(who, &opened, &nar.chunks).await, 200);
        }
        let answer = world.send_recipes(who, &opened, &nars.iter().collect::<Vec<_>>()).await.unwrap();
        assert!(answer.rejected.is_empty(), "{:?}", answer.rejected);
    }
    world.commit(who, &opened).await.unwrap();
}

/// How many rows each table has.
async fn rows(database: &mut AnyConnection, tables: &[String]) -> Vec<i64> {
    let mut query = QueryBuilder::<Any>::new("");
    let mut counts = query.separated(" UNION ALL ");
    for table in tables {
        counts.push("SELECT count(*) FROM ").push_unseparated(table);
    }
    query.build_query_scalar().fetch_all(database).await.unwrap()
}

/// Sweeps, and tells how many rows each transaction deleted: between two polls no more than one ends.
async fn sweep(world: &World) -> Vec<i64> {
    let mut database = world.database().await;
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .fetch_all(&mut database)
        .await
        .unwrap();
    let mut before = rows(&mut database, &tables).await;
    let mut deleted = Vec::new();
    let mut version: i64 = 0;
    let mut sweep = Box::pin(world.sweep());
    loop {
        let ended =
            std::future::poll_fn(|context| Poll::Ready(sweep.as_mut().poll(context).is_ready())).await;
        // Another one where somebody has committed something.
        let now = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut database).await.unwrap();
        if now != version {
            version = now;
            let after = rows(&mut database, &tables).await;
            deleted.push(before.iter().zip(&after).map(|(before, after)| (before - after).max(0)).sum());
            before = after;
        }
        if ended {
            return deleted;
        }
    }
}

#[tokio::test]
async fn no_transaction_of_a_sweep_deletes_more_than_a_thousand_rows() {
    let world = World::with(|config| {
        let rules = &mut config.caches[0].retention;
        rules.keep_days = 0;
        rules.keep_runs = 1;
    })
    .await;
    let (nars, last) = ([of_many_chunks(1), of_many_chunks(2)], nar(99, &[]));
    push(&world, &world.job("topic", 1).await, &nars).await;
    world.push(&world.job("topic", 2).await, &[&last]).await;
    let mut deleted = sweep(&world).await;
    // Found dead, and relied on again: each path is leased and claimed.
    push(&world, &world.job("topic", 3).await, &nars).await;
    world.push(&world.job("topic", 4).await, &[&last]).await;
    for _ in 0..4 {
        deleted.extend(sweep(&world).await);
        world.pass(DAY + 1);
    }
    assert!(deleted.iter().all(|rows| *rows <= MOST), "{deleted:?}");
    // Claims, paths, twice the roots; recipes' entries, chunks, and more.
    let chunks: usize = nars.iter().map(|nar| nar.chunks.len()).sum();
    let least = 4 * i64::from(PATHS) + i64::try_from(chunks).unwrap();
    assert!(deleted.iter().sum::<i64>() > least, "{deleted:?}");
    world.assert_nothing_else(&[&last]).await;
}
