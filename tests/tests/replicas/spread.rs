//! One push over several replicas.

use larder_protocol::recipe;
use larder_tests::{
    client::Client,
    github::Job,
    package::{Package, upload_body},
};

use super::scene::{Read, Site, read};

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
