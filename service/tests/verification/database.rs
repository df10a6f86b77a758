//! Bits flipped in the database.

use std::process::Command;

use larder_service::verification::{Outcome, Scope, verify};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    damage::{all, found, nar},
    nar::TestNar,
    world::{Pusher, World},
};

async fn change(world: &World, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(world.data.path().join("larder.db"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let changed = sqlx::query(statement).execute(&mut connection).await.unwrap();
    assert!(changed.rows_affected() > 0, "{statement}");
    connection.close().await.unwrap();
}

async fn scene() -> (World, Pusher, TestNar, TestNar) {
    let world = World::new().await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    let top = nar(2, &[&base]);
    world.push(&anna, &[&top, &base]).await;
    (world, anna, top, base)
}

/// What the objects tell better is corrected by them.
#[tokio::test]
async fn a_wrong_row_is_corrected_where_the_objects_say_better() {
    for (statement, what) in [
        ("UPDATE chunks SET frame_offset = frame_offset + 1 WHERE id = 2", "chunk"),
        ("UPDATE chunks SET frame_offset = frame_offset | (1 << 40) WHERE id = 2", "chunk"),
        ("UPDATE chunks SET frame_len = frame_len - 1 WHERE id = 1", "chunk"),
        ("UPDATE chunks SET frame_len = 4294967295 WHERE id = 1", "chunk"),
        ("UPDATE chunks SET content_len = content_len + 256 WHERE id = 3", "chunk"),
        ("UPDATE chunks SET holes = X'0000000100000001' WHERE id = 2", "chunk"),
        ("UPDATE chunks SET name = zeroblob(32) WHERE id = 2", "chunk"),
        ("UPDATE nars SET size = size + 64 WHERE id = 1", "nar"),
        ("UPDATE nars SET encoding = zeroblob(20) WHERE id = 2", "nar"),
        ("UPDATE nars SET file_size = file_size + 8 WHERE id = 2", "nar"),
        ("UPDATE nars SET file_size = file_size | (1 << 62) WHERE id = 2", "nar"),
        ("UPDATE objects SET size = size + 1 WHERE key LIKE 'frames/%'", "object"),
        ("UPDATE paths SET nar_hash = zeroblob(32) WHERE id = 1", "path"),
        ("UPDATE paths SET nar_size = nar_size + 8 WHERE id = 1", "path"),
        ("UPDATE paths SET refs = '' WHERE refs <> ''", "path"),
        ("UPDATE paths SET refs = 'damaged' WHERE refs <> ''", "path"),
        ("UPDATE paths SET name = 'other' WHERE id = 2", "path"),
        ("UPDATE paths SET hash = zeroblob(20) WHERE id = 1", "path"),
        ("UPDATE paths SET deriver = '00000000000000000000000000000000-x.drv' WHERE id = 2", "path"),
    ] {
        let (world, _, top, base) = scene().await;
        change(&world, statement).await;
        let report = all(&world).await;
        assert!(report.is_right(), "{statement}: {report:?}");
        assert!(found(&report, what).contains(&&Outcome::Mended), "{statement}: {report:?}");
        assert!(world.has(&top).await && world.has(&base).await, "{statement}");
        assert_eq!(world.narinfo(&top).await.unwrap().references, top.info.references);
        let report = all(&world).await;
        assert!(report.is_right() && report.findings.is_empty(), "{statement}: {report:?}");
    }
}

/// What they do not tell is withdrawn, and the next push brings it again.
#[tokio::test]
async fn a_row_that_nothing_corrects_is_withdrawn_and_the_next_push_mends_it() {
    for statement in [
        "UPDATE nars SET hash = zeroblob(32) WHERE id = 1",
        "UPDATE nar_chunks SET chunk = (SELECT max(id) FROM chunks) WHERE nar = 1 AND position = 0",
        "UPDATE nar_chunks SET hashes = zeroblob(20) WHERE hashes IS NOT NULL",
        "DELETE FROM nar_chunks WHERE nar = 2 AND position = 1",
    ] {
        let (world, anna, top, base) = scene().await;
        let before = [world.narinfo(&top).await, world.narinfo(&base).await];
        assert!(before.iter().all(Option::is_some));
        change(&world, statement).await;
        let report = all(&world).await;
        assert!(!report.is_right() && report.withdrawn > 0, "{statement}: {report:?}");
        let gone = [world.narinfo(&top).await.is_none(), world.narinfo(&base).await.is_none()];
        assert!(gone.contains(&true), "{statement}: {report:?}");
        world.push(&anna, &[&top, &base]).await;
        assert!(world.has(&top).await && world.has(&base).await, "{statement}");
        assert!(all(&world).await.is_right(), "{statement}");
    }
}

#[tokio::test]
async fn a_reference_that_nobody_has_is_reported() {
    let (world, _, top, base) = scene().await;
    change(&world, "UPDATE paths SET hidden = 1 WHERE refs = ''").await;
    let report = all(&world).await;
    assert!(!report.is_right());
    assert_eq!(found(&report, "reference"), [&Outcome::Lost], "{report:?}");
    let said = &report.findings[0];
    assert!(said.name.contains(base.info.path.name()) && said.problem.contains(top.info.path.name()));
}

/// All rows are looked at in a sample, and of a hundred percent all objects.
#[tokio::test]
async fn a_sample_looks_at_a_share() {
    let (world, ..) = scene().await;
    let report = verify(&world.service, Scope::Sample(100.0)).await.unwrap();
    assert_eq!((report.nars, report.paths), (2, 2));
    let report = verify(&world.service, Scope::Sample(0.000_001)).await.unwrap();
    assert_eq!((report.nars, report.frames, report.paths), (0, 0, 2));
}

/// At each place of its file where a path's, a NAR's or a chunk's name stands, in tables and in what finds their rows.
#[tokio::test]
async fn a_bit_in_the_databases_file_is_found_or_does_no_harm() {
    let (world, _, top, base) = scene().await;
    let now = world.now();
    let data = world.end().await;
    let bytes = std::fs::read(data.path().join("larder.db")).unwrap();
    let names = [&top.info.path.hash().0[..], &top.info.nar_hash.0, &top.chunks[0].id.0];
    let starts = names.map(|name| (0..bytes.len()).filter(|at| bytes[*at..].starts_with(name)).collect());
    let starts: [Vec<usize>; 3] = starts;
    assert!(starts.iter().all(|starts| !starts.is_empty()), "{starts:?}");
    let mut noticed = 0;
    for at in starts.into_iter().flatten() {
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(data.path().join(".")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        std::fs::write(copy.path().join("larder.db"), flipped).unwrap();
        let world = World::over(copy, |_| {}, now).await;
        // A database that cannot be read at all says so.
        let found = verify(&world.service, Scope::All).await.map(|report| report.findings.len());
        if matches!(found, Ok(0)) {
            let reads = [world.has(&top).await, world.has(&base).await];
            assert_eq!(reads, [true; 2], "nothing is found of what was changed at {at}");
        }
        noticed += u32::from(!matches!(found, Ok(0)));
    }
    assert!(noticed >= 3, "{noticed}");
}
