//! A move that is killed.

use std::{process::Stdio, time::Duration};

use larder_tests::{
    bucket::Bucket, client::Client, github::Job, nix::run, package::Package, postgres::Postgres,
};
use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _, sqlite::SqliteConnectOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{Installation, github};

/// What whoever writes on a server holds, and what whoever leads does.
const WRITES: i32 = 781_075;
const LEADS: i32 = 781_076;

/// Waits for that lock.
async fn lock(connection: &mut PgConnection, lock: i32) {
    let lock = sqlx::query("SELECT pg_advisory_lock($1, hashtext(current_schema()))").bind(lock);
    lock.execute(connection).await.unwrap();
}

/// When it was heard last of whoever leads.
async fn heard_of_leader(connection: &mut PgConnection) -> Option<String> {
    let heard = "SELECT state_change::text FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE locktype = 'advisory' AND classid::bigint = $1 AND granted";
    sqlx::query_scalar(heard).bind(i64::from(LEADS)).fetch_optional(connection).await.unwrap()
}

/// Has the one database say that its rows are about to leave, or have left, and the other that they are arriving: as they
/// do where a move is killed between its steps.
async fn set_back(old: &Installation, postgres: &Postgres, state: &str) {
    let file = SqliteConnectOptions::new().filename(old.data().join("larder.db"));
    let mut file = file.connect().await.unwrap();
    sqlx::query("UPDATE moves SET state = ?").bind(state).execute(&mut file).await.unwrap();
    let id: Vec<u8> = sqlx::query("SELECT id FROM moves").fetch_one(&mut file).await.unwrap().get(0);
    file.close().await.unwrap();
    let mut server = PgConnection::connect(&postgres.url()).await.unwrap();
    let arriving = sqlx::query("INSERT INTO moves VALUES ($1, 'arriving', 'there', 0)");
    arriving.bind(id).execute(&mut server).await.unwrap();
    server.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_the_installation_goes_on_and_the_next_run_ends_it() {
    let (github, postgres, bucket) = (github().await, Postgres::start().await, Bucket::start().await);
    let old = Installation::embedded(&github).await;
    let job = old.job(&github).await;
    let mut packages: Vec<Package> =
        (0..4).map(|number| Package::noise(&format!("package-{number}"), 400_000)).collect();
    for package in &packages {
        job.push(&[package]).await.unwrap();
    }

    // The numbers of pull requests' caches never come again, though there is none any more.
    let mut file =
        SqliteConnectOptions::new().filename(old.data().join("larder.db")).connect().await.unwrap();
    let numbered = sqlx::query("INSERT INTO sqlite_sequence VALUES ('isolated_caches', 41)");
    numbered.execute(&mut file).await.unwrap();
    file.close().await.unwrap();

    // As long as objects are copied the server is kept, and nobody begins to use it.
    let mut server = PgConnection::connect(&postgres.url()).await.unwrap();
    bucket.stall();
    let mut moving = old.migrate(&postgres.url(), &bucket).stderr(Stdio::piped()).spawn().unwrap();
    let there = "SELECT to_regclass('moves') IS NOT NULL";
    while !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut server).await.unwrap() {}
    let arriving = "SELECT count(*) FROM moves WHERE state = 'arriving'";
    while sqlx::query_scalar::<_, i64>(arriving).fetch_one(&mut server).await.unwrap() == 0 {}
    let new = Installation::on_servers(&github, &old, &postgres.url(), &bucket).await;
    let refused = new.run(&["serve"]).await.stderr;
    assert!(refused.contains("are on their way to") && refused.contains("Run that again"), "{refused}");
    let heard = heard_of_leader(&mut server).await.expect("it leads");
    while heard_of_leader(&mut server).await.expect("it leads still") == heard {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Somebody else writes there, so that the rows wait, and pushes with them.
    lock(&mut server, WRITES).await;
    bucket.resume();
    let mut said = BufReader::new(moving.stderr.take().unwrap()).lines();
    while !said.next_line().await.unwrap().expect("it ended").contains("pushes wait") {}
    assert!(old.read("main", "", &packages[0]).await.is_some());
    let meanwhile = Package::noise("meanwhile", 400_000);
    let pushing = tokio::spawn({
        let (job, meanwhile) = (job.clone(), meanwhile.clone());
        async move { job.push(&[&meanwhile]).await }
    });
    moving.kill().await.unwrap();
    pushing.await.unwrap().unwrap();
    packages.push(meanwhile);
    // It may take a moment until the server sees that it is gone.
    lock(&mut server, LEADS).await;
    server.close().await.unwrap();
    let objects = bucket.objects();
    let copied: Vec<String> = objects.sizes().await.into_keys().collect();
    assert!(!copied.is_empty());

    // As if it had been killed while it copied: one is missing, one is cut short.
    objects.delete(&copied[0]).await;
    objects.change(&copied[1], |bytes| bytes.truncate(10)).await;
    // And of one that is whole, the note of its upload was left.
    let note = format!("uploads/{}", copied[2]);
    objects.write(&note, b"1f0c6b5e-3d4a-4c5b-9e8f-0a1b2c3d4e5f".into()).await;
    let report = run(&mut old.migrate(&postgres.url(), &bucket)).await.expect_success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let copied_now = report["copied_objects"].as_u64().unwrap();
    assert!((2..report["objects"].as_u64().unwrap()).contains(&copied_now), "{report}");
    let there = objects.sizes().await;
    assert!(copied.iter().all(|object| there.contains_key(object)) && !there.contains_key(&note));
    assert_eq!(report["paths"], 5, "{report}");

    // As if the rows had arrived, and not left: they are used where they were.
    set_back(&old, &postgres, "leaving").await;
    packages.push(Package::noise("later", 400_000));
    job.push(&[&packages[5]]).await.unwrap();
    let new = Installation::on_servers(&github, &old, &postgres.url(), &bucket).await;
    let refused = new.run(&["serve"]).await.stderr;
    assert!(refused.contains("are on their way to") && refused.contains("Run that again"), "{refused}");
    let report = run(&mut old.migrate(&postgres.url(), &bucket)).await.expect_success();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["paths"] == 6 && report["copied_rows"].as_u64() > Some(6), "{report}");

    // As if they had left, and nobody had said so there. Objects are looked for all the same.
    set_back(&old, &postgres, "left").await;
    objects.delete(&copied[1]).await;
    let id_token = github.id_token(&Job::default(), &old.url());
    let refused = Client::exchange(&old.url(), "main", &id_token).await;
    assert_eq!(refused.unwrap_err().status, 503);
    let report = run(&mut old.migrate(&postgres.url(), &bucket)).await.expect_success();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["paths"] == 6 && report["copied_rows"] == 0, "{report}");
    assert_eq!(report["copied_objects"], 1, "{report}");

    let new = new.started(&github).await;
    for package in &packages {
        assert!(new.read("main", "", package).await.is_some());
    }
    new.job(&github).await.push(&[&Package::noise("new", 400_000)]).await.unwrap();
    let mut server = PgConnection::connect(&postgres.url()).await.unwrap();
    let next = sqlx::query("SELECT nextval('isolated_caches_id_seq')");
    assert_eq!(next.fetch_one(&mut server).await.unwrap().get::<i64, _>(0), 42);
    let verified = new.run(&["verify", "--all"]).await;
    assert!(verified.success, "{verified:?}");

    // As if they had arrived there and not left, and then moved elsewhere: what is old there is never used.
    drop(new);
    set_back(&old, &postgres, "leaving").await;
    let elsewhere = postgres.database("elsewhere").await;
    run(&mut old.migrate(&elsewhere, &bucket)).await.expect_success();
    let refused = run(&mut old.migrate(&postgres.url(), &bucket)).await;
    assert!(!refused.success && refused.stderr.contains("/elsewhere before"), "{refused:?}");
}
