//! One push over several replicas, and what one of them knows.

use larder_protocol::recipe;
use larder_tests::{
    client::Client,
    github::Job,
    package::{Package, upload_body},
    world::Scene,
};
use reqwest::StatusCode;
use sqlx::{Connection as _, PgConnection};

use super::scene::{Read, Servers, Site, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_opens_on_one_replica_and_uploads_and_commits_on_others() {
    let mut site = Site::start(3).await;
    let token = site.client(&Job::default()).await.token().to_owned();
    let [first, second, third] =
        [0, 1, 2].map(|replica| Client::with_token(&site.replicas[replica].url(), "main", &token));
    let (one, two) = (Package::noise("one", 2_000_000), Package::noise("two", 2_000_000));
    let two = two.referring_to([&one]);
    let opened = first.open(&[&one, &two]).await.unwrap();
    site.replicas[0].kill().await;
    let (_, frames) = one.cut();
    let (half, rest) = frames.split_at(frames.len() / 2);
    second.upload(opened.push, upload_body(half)).await.unwrap();
    site.replicas[1].stop().await;
    third.upload(opened.push, upload_body(rest)).await.unwrap();
    site.replicas[1].start_again().await;
    let answer = second.recipes(opened.push, recipe::encode(&[one.cut().0])).await.unwrap();
    assert_eq!(answer.verified, [one.info.nar_hash], "{answer:?}");
    third.send(opened.push, &[&two]).await.unwrap();
    site.replicas[2].kill().await;
    let committed = second.commit(opened.push).await.unwrap();
    assert_eq!(committed.published, 2);
    // Whoever did not hear the answer asks again, somebody else.
    site.replicas[0].start_again().await;
    assert_eq!(first.commit(opened.push).await.unwrap().signatures, committed.signatures);
    site.replicas[2].start_again().await;
    let http = reqwest::Client::new();
    for replica in &site.replicas {
        for package in [&one, &two] {
            assert_eq!(read(&http, &replica.url(), package).await, Read::Right);
        }
    }
}

/// The rule by which pull requests have caches of their own.
const ISOLATE: &str = "\n[[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_knows_the_other_knows() {
    let servers = Servers::start().await;
    let scene = servers.scene();
    let caches = scene.caches.clone() + ISOLATE;
    let mut site = Site::on(servers, &Scene { caches, ..scene }, 2).await;
    let [one, other] = [0, 1].map(|replica: usize| site.replicas[replica].url());
    let http = reqwest::Client::new();

    // Which ID tokens were used.
    let id_token = site.github.id_token(&Job::default(), &site.nginx.url());
    let job = Client::exchange(&one, "main", &id_token).await.unwrap();
    let again = Client::exchange(&other, "main", &id_token).await.unwrap_err();
    assert!(again.answer.message.contains("was exchanged before"), "{again:?}");

    // That a path is there which was not.
    let package = Package::noise("package", 300_000);
    assert_eq!(read(&http, &other, &package).await, Read::Absent);
    job.push(&[&package]).await.unwrap();
    assert_eq!(read(&http, &other, &package).await, Read::Right);

    // A pull request's cache.
    let id_token = site.github.id_token(&Job::pull_request("acme/flake", 7), &site.nginx.url());
    let there = Client::exchange(&one, "main", &id_token).await.unwrap();
    let name = there.cache().name.to_string();
    let own = Package::noise("own", 300_000);
    Client::with_token(&other, &name, there.token()).push(&[&own]).await.unwrap();
    let narinfo = format!("{one}/{name}/{}.narinfo", own.info.path.hash());
    assert_eq!(http.get(narinfo).send().await.unwrap().status(), StatusCode::OK);

    // That a session has ended.
    let end = http.delete(format!("{other}/api/v1/token")).bearer_auth(job.token());
    assert!(end.send().await.unwrap().status().is_success());
    let ended = job.open(&[&own]).await.unwrap_err();
    assert_eq!(ended.status, StatusCode::UNAUTHORIZED, "{ended:?}");

    // When a path was read, once the one that served it has written so.
    site.replicas[1].stop().await;
    let mut database = PgConnection::connect(&site.servers.postgres.url()).await.unwrap();
    let is_read = "SELECT count(*) FROM paths WHERE cache = 'main' AND read_at IS NOT NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(is_read).fetch_one(&mut database).await.unwrap(), 1);
}
