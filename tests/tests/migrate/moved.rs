//! A move that nothing interrupts.

use std::fs;

use larder_protocol::api::PinRequest;
use larder_tests::{
    bucket::Bucket,
    client::Client,
    github::Job,
    nix::run,
    package::{Node, Package},
    postgres::Postgres,
    programs::repository,
    world::secret_file,
};
use serde_json::Value;
use tokio::{process::Command, sync::oneshot};

use crate::{Installation, github};

/// What commands say of it that must not change.
async fn told(installation: &Installation) -> Vec<String> {
    let mut told = Vec::new();
    for arguments in [&["token", "list"][..], &["roots", "list", "--json"], &["divergences"], &["rules"]] {
        told.push(installation.run(arguments).await.expect_success());
    }
    let stats = installation.run(&["stats", "--json"]).await.expect_success();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    told.push(stats["largest"].to_string());
    told
}

/// The command stands in `docs/operations.md` just so, with other places.
fn by_the_book(old: &Installation, postgres: &Postgres, bucket: &Bucket) -> Command {
    let book = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let (_, chapter) = book.split_once("<!-- migrate -->\n```console\n").unwrap();
    let line = chapter.lines().find_map(|line| line.strip_prefix("$ larderd ")).unwrap();
    let password = old.dir.path().join("password");
    secret_file(&password, "asked by nobody\n");
    let line = line
        .replace("postgres://larder@db.example.org/larder", &postgres.url())
        .replace("/etc/larder/db-password", password.to_str().unwrap())
        .replace("s3://my-larder/objects", &bucket.url("larder"));
    let mut command = old.command(&line.split(' ').collect::<Vec<_>>());
    command.envs(bucket.environment());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_moves_while_reads_go_on_and_pushes_go_on_there() {
    let (github, mut postgres, bucket) = (github().await, Postgres::start().await, Bucket::start().await);
    let old = Installation::embedded(&github).await;
    let (anna, job) = (old.token("anna", "team").await, old.job(&github).await);
    let large = Package::noise("large", 12_000_000);
    let uses = Package::new("uses", &Node::File(large.info.path.absolute().into())).referring_to([&large]);
    let secret = Package::noise("secret", 300_000);
    job.push(&[&large, &uses]).await.unwrap();
    let pin = PinRequest { path: uses.info.path.clone(), lifetime: None, keep: 1 };
    job.pin("web", &pin).await.unwrap();
    Client::with_token(&old.url(), "team", &anna).push(&[&secret]).await.unwrap();
    // A push that is under way.
    let half = Package::noise("half", 2_000_000);
    let opened = job.open(&[&half]).await.unwrap().push;
    job.send(opened, &[&half]).await.unwrap();
    let all = [("main", &large), ("main", &uses), ("team", &secret)];
    let mut before = Vec::new();
    for (cache, package) in all {
        before.push(old.read(cache, &anna, package).await.unwrap());
    }
    let told_before = told(&old).await;

    let (stop, mut stopped) = oneshot::channel::<()>();
    let reading = async {
        let mut reads = 0;
        while stopped.try_recv().is_err() {
            assert!(old.read("main", "", &uses).await.is_some(), "a path was absent for a while");
            reads += 1;
        }
        reads
    };
    let moving = async {
        let moved = run(&mut by_the_book(&old, &postgres, &bucket)).await;
        let _ = stop.send(());
        moved.expect_success()
    };
    let (reads, moved) = tokio::join!(reading, moving);
    assert!(reads > 0);
    let objects = bucket.objects().sizes().await.len();
    for told in [
        "3 paths, 4 NARs and ",
        &format!("larder.db to {}: ", postgres.url().replace("postgres@", "")),
        &format!(" lie in {}: {objects} (", bucket.url("larder")),
        &format!("[database]\n  url = \"{}\"\n  password_file = \"", postgres.url()),
        &format!(
            "[storage]\n  url = \"{}\"\n  endpoint = \"{}\"",
            bucket.url("larder"),
            bucket.environment()[0].1
        ),
    ] {
        assert!(moved.contains(told), "{told}: {moved}");
    }
    assert!(!bucket.has_parts().await);

    // The old one goes on serving reads, takes nothing more, and is not started again.
    for (cache, package) in all {
        assert!(old.read(cache, &anna, package).await.is_some());
    }
    let id_token = github.id_token(&Job::default(), &old.url());
    let refused = Client::exchange(&old.url(), "main", &id_token).await.unwrap_err();
    assert!(refused.status == 503 && refused.answer.message.contains("another database"), "{refused:?}");
    let refused = job.commit(opened).await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused:?}");
    let place = "have moved to postgres://127.0.0.1:";
    old.larderd().says(&[place, "restart larderd"]).await;
    let again = run(&mut old.migrate(&postgres.url(), &bucket)).await;
    assert!(!again.success && again.stderr.contains("has moved to postgres://127.0.0.1:"), "{again:?}");
    for command in ["stats", "serve"] {
        let refused = old.run(&[command]).await;
        let is_told = refused.stderr.contains("another larderd uses")
            || refused.stderr.contains("Write that into [database]");
        assert!(!refused.success && is_told, "{refused:?}");
    }

    let new = Installation::on_servers(&github, &old, &postgres.url(), &bucket).await.started(&github).await;
    assert_eq!(told(&new).await, told_before);
    for ((cache, package), before) in all.iter().zip(&before) {
        assert!(new.read(cache, &anna, package).await.as_ref() == Some(before), "{cache} is not the same");
    }
    assert!(new.read("team", "", &secret).await.is_none(), "a stranger reads");
    let verified = new.run(&["verify", "--all"]).await;
    assert!(verified.success, "{verified:?}");
    // Where it was, and by the same session.
    let resumed = Client::with_token(&new.url(), "main", job.token());
    assert_eq!(resumed.commit(opened).await.unwrap().published, 1);
    let later = Package::noise("later", 500_000);
    new.job(&github).await.push(&[&later, &large, &half]).await.unwrap();
    Client::with_token(&new.url(), "team", &anna).push(&[&later]).await.unwrap();
    for (cache, package) in [("main", &half), ("main", &later), ("team", &later)] {
        assert!(new.read(cache, &anna, package).await.is_some());
    }
    drop(new);
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_where_somebody_has_something() {
    let (github, postgres, bucket) = (github().await, Postgres::start().await, Bucket::start().await);
    let old = Installation::embedded(&github).await;
    old.job(&github).await.push(&[&Package::noise("one", 100_000)]).await.unwrap();
    let refused = async |database: &str, bucket: &Bucket, why: &[&str]| {
        let output = run(&mut old.migrate(database, bucket)).await;
        assert!(!output.success && why.iter().all(|why| output.stderr.contains(why)), "{output:?}");
    };
    // A service runs there; it has pushes; and so has its bucket.
    let there =
        Installation::on_servers(&github, &old, &postgres.url(), &bucket).await.started(&github).await;
    refused(&postgres.url(), &bucket, &["a larderd runs on postgres://127.0.0.1:", "Stop it first"]).await;
    there.job(&github).await.push(&[&Package::noise("two", 100_000)]).await.unwrap();
    drop(there);
    refused(&postgres.url(), &bucket, &["is in use already", "createdb"]).await;
    let empty = postgres.database("empty").await;
    refused(&empty, &bucket, &["holds objects already, and none of them is this installation's"]).await;

    let with_password = empty.replace("postgres@", "postgres:a-secret@");
    refused(&with_password, &bucket, &["--to: has a password in it", "--password-file"]).await;
    let shown = old.run(&["migrate-store", "--to", &with_password]).await;
    assert!(!shown.stderr.contains("a-secret"), "{shown:?}");
    let no_url = ["--to: is not the URL of a PostgreSQL database", "into a file (--password-file)\n"];
    refused("https://db/larder", &bucket, &no_url).await;
    let nowhere = old.run(&["migrate-store"]).await;
    assert!(nowhere.stderr.contains("where to? Say --to postgres://…"), "{nowhere:?}");

    // What was refused changed nothing: and without a bucket objects stay where they are.
    old.job(&github).await.push(&[&Package::noise("three", 100_000)]).await.unwrap();
    let mut by_variable = old.command(&["migrate-store"]);
    let moved = run(by_variable.env("LARDER_DATABASE_URL", &with_password)).await.expect_success();
    assert!(moved.contains("2 paths, 2 NARs") && !moved.contains("a-secret"), "{moved}");
    assert!(moved.contains(&format!("stay in {}", old.data().join("objects").display())), "{moved}");
    assert!(moved.contains("[database]") && moved.contains("the signing keys in "), "{moved}");
}
