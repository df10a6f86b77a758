//! The real program is killed with `kill -9` at every step of a sweep that takes paths, NARs, chunks and files and compacts.
//!
//! Its steps are its statements, which it logs if one asks for that: it is killed as soon as it has logged so many.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
};

use bytes::Bytes;
use larder_service::{clock::Clock, config::Config};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    compaction::{compressed, half_dead},
    nar::TestNar,
    roots::nar,
    world::{DAY, HOUR, World},
};

/// The same rules, for this process
fn rules(config: &mut Config) {
    let rules = &mut config.caches[0].retention;
    rules.keep_days = 0;
    rules.keep_runs = 1;
    rules.keep_runs_main = 1;
}

/// and for the program.
const RULES: &str = r#"
data_dir = "."
listen = "127.0.0.1:0"
[[cache]]
name = "main"
[cache.retention]
keep_days = 0
keep_runs = 1
keep_runs_main = 1
"#;

/// A folder in memory, where there is such: so many sweeps would wait for the disk most of the time, and what a killed
/// process has written the system keeps anywhere.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

/// What is on disk before that sweep: something to be taken, something to be rewritten, something to be merged, and a file
/// to be deleted. Tells what stays, and with which bytes.
async fn prepare() -> (TempDir, Vec<(TestNar, Bytes)>) {
    let folder = scratch();
    // All of it happened some time ago, so that it is due for the program, which knows the time.
    let world = World::over(folder, rules, Clock::System.now() - 10 * DAY).await;
    world.push(&world.job("early", 1).await, &[&nar(1, &[])]).await;
    world.push(&world.job("early", 2).await, &[&nar(2, &[])]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    let report = world.sweep().await;
    assert_eq!((report.caches[0].deleted, report.objects), (1, 0), "its file is to be deleted");
    let base = nar(30, &[]);
    let top = nar(31, &[&base]);
    world.push(&world.job("dying", 1).await, &[&top, &base]).await;
    let mut stay = vec![half_dead(&world).await];
    world.push(&world.job("dying", 2).await, &[&nar(32, &[])]).await;
    stay.push(nar(32, &[]));
    for seed in 40..50 {
        let small = nar(seed, &[]);
        world.push(&world.job(&format!("small-{seed}"), 1).await, &[&small]).await;
        stay.push(small);
    }
    stay.extend([nar(2, &[]), nar(99, &[])]);
    world.sweep().await;
    let mut bytes = Vec::new();
    for nar in &stay {
        bytes.push(compressed(&world, nar).await);
    }
    (world.end().await, stay.into_iter().zip(bytes).collect())
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            std::fs::set_permissions(&target, entry.metadata().unwrap().permissions()).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the program until it has logged so many statements, then kills it. How it ended, and how many it logged.
async fn kill_at(folder: &Path, arguments: &[&str], statements: usize) -> (ExitStatus, usize) {
    std::fs::write(folder.join("larder.toml"), RULES).unwrap();
    let mut larderd = Command::new(env!("CARGO_BIN_EXE_larderd"))
        .args(["--config", "larder.toml"])
        .args(arguments)
        .current_dir(folder)
        .env("LARDER_LOG", "info,sqlx=debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(larderd.stderr.take().unwrap()).lines();
    let (mut logged, mut swept) = (0, String::new());
    while let Some(line) = log.next_line().await.unwrap() {
        logged += usize::from(line.contains("db.statement"));
        if logged == statements {
            larderd.kill().await.unwrap();
        }
        swept = line;
    }
    let ended = larderd.wait().await.unwrap();
    assert!(ended.success() || logged >= statements, "{swept}");
    (ended, logged)
}

/// Kills it after so many statements, and then after four more each time, until it ends by itself.
async fn kill_from(first: usize) {
    let (before, stay) = prepare().await;
    let all: Vec<&TestNar> = stay.iter().map(|(nar, _)| nar).collect();
    let mut killed = 0;
    for statements in (first..).step_by(4) {
        let folder = scratch();
        copy(before.path(), folder.path());
        let (ended, logged) = kill_at(folder.path(), &["sweep"], statements).await;
        let world = World::over(folder, rules, Clock::System.now()).await;
        for (nar, bytes) in &stay {
            assert!(compressed(&world, nar).await == *bytes, "killed after {statements} statements");
        }
        let gone = [nar(30, &[]), nar(31, &[&nar(30, &[])])];
        let seen = world.visible(&[&gone[0], &gone[1]]).await;
        assert!(seen[0] || !seen[1], "a path is seen without what it refers to");
        for (nar, _) in gone.iter().zip(&seen).filter(|(_, seen)| **seen) {
            assert!(world.has(nar).await);
        }
        world.assert_storage_fits().await;
        // The next sweeps finish all of it. (They take their time: after some of the kills.)
        if statements % 16 == first || ended.success() {
            for _ in 0..4 {
                world.pass(DAY + HOUR);
                world.sweep().await;
            }
            world.assert_nothing_else(&all).await;
            for (nar, bytes) in &stay {
                assert!(compressed(&world, nar).await == *bytes, "killed after {statements} statements");
            }
        }
        if ended.success() {
            assert!(logged < statements);
            break;
        }
        killed += 1;
    }
    assert!(killed > 25, "the sweep had {killed} steps");
}

// Each transaction has two statements at least, so that every second is enough. Two tests go on side by side.

#[tokio::test]
async fn kill_9_at_every_step_of_a_sweep_loses_nothing_and_leaves_nothing() {
    kill_from(1).await;
}

#[tokio::test]
async fn kill_9_at_every_other_step_of_a_sweep_loses_nothing_and_leaves_nothing() {
    kill_from(3).await;
}
