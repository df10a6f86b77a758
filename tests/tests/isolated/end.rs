//! A pull request's cache goes, and leaves nothing.

use std::{collections::BTreeMap, task::Poll};

use larder_protocol::api::ErrorCode;
use larder_service::{
    audit::{Kind, Who},
    isolated::tidy,
    metadata::AuditFilter,
};
use larder_tests::{
    package::{Node, Package, noise},
    world::World,
};

use crate::scene::{narinfo, objects, pull_request, rows, world};

pub(crate) const OWN: &str = "main~610214307-pr-7";
pub(crate) const DAY: i64 = 24 * 60 * 60;

async fn drop_cache(world: &World) {
    let metadata = &world.service().metadata;
    let now = world.service().clock.now();
    assert!(metadata.drop_isolated(&OWN.parse().unwrap(), &Who::default(), "a test", now).await.unwrap());
}

/// Brings something of every kind into the pull request's cache. The parent's path, and the rows and objects that were kept
/// before that.
pub(crate) async fn with_much(world: &World) -> (Package, BTreeMap<String, i64>, Vec<String>) {
    let parents = Package::noise("library", 300_000);
    let main = world.client().await;
    main.push(&[&parents]).await.unwrap();
    let (rows_before, objects_before) = (rows(world).await, objects(world).await);

    let job = pull_request(world, 7).await;
    // Some chunks are the parent's, some are not.
    let mixed =
        Node::directory([("old", Node::File(parents.nar.clone())), ("new", Node::File(noise(300_000)))]);
    let mixed = Package::new("mixed", &mixed).referring_to([&parents]);
    let differs = Package::with_nar(parents.info.path.clone(), Node::File(noise(1000)).nar());
    job.push(&[&mixed]).await.unwrap();
    assert_eq!(job.push(&[&differs]).await.unwrap().divergences.len(), 1);
    // A push that leases what is present, and was never finished.
    let unfinished = Package::noise("unfinished", 300_000);
    let opened = job.open(&[&parents, &mixed, &unfinished]).await.unwrap();
    job.send(opened.push, &[&unfinished]).await.unwrap();
    assert!(rows(world).await["leases"] >= 2);
    (parents, rows_before, objects_before)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_cache_that_was_dropped() {
    let world = world("").await;
    let (_, rows_before, objects_before) = with_much(&world).await;
    drop_cache(&world).await;
    tidy(world.service()).await.unwrap();
    let after = rows(&world).await;
    assert_eq!(BTreeMap::from_iter(after.iter().filter(|(table, _)| *table != "objects")), {
        BTreeMap::from_iter(rows_before.iter().filter(|(table, _)| *table != "objects"))
    });
    // For an hour at least readers may still be sent what is in the files.
    world.advance(59 * 60);
    tidy(world.service()).await.unwrap();
    assert!(objects(&world).await.len() > objects_before.len());
    world.advance(61 * 60 + 1);
    tidy(world.service()).await.unwrap();
    assert_eq!(rows(&world).await, rows_before);
    let dropped = AuditFilter { kind: Some(Kind::CacheDropped), limit: 10, ..AuditFilter::default() };
    let dropped = world.service().metadata.audit(&dropped).await.unwrap();
    assert!(
        matches!(&dropped[..], [row] if row.cache.as_deref() == Some(OWN) && row.details.contains("a test"))
    );
    assert_eq!(objects(&world).await, objects_before);
}

/// The service can be killed between any two statements: a later pass removes what is left.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_interrupts_the_removal_the_next_pass_ends_it() {
    let mut interrupted = 0;
    for polls in 0.. {
        let world = world("").await;
        let (_, rows_before, objects_before) = with_much(&world).await;
        drop_cache(&world).await;
        let done = cut_off(tidy(world.service()), polls * 7).await;
        world.advance(2 * 60 * 60 + 1);
        let removed = cut_off(tidy(world.service()), polls * 7).await;
        tidy(world.service()).await.unwrap();
        world.advance(2 * 60 * 60 + 1);
        tidy(world.service()).await.unwrap();
        assert_eq!(rows(&world).await, rows_before, "after {polls} polls");
        assert_eq!(objects(&world).await, objects_before, "after {polls} polls");
        if done && removed {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 3, "it was never interrupted in its middle");
}

/// Polls a future as often as `polls`, then drops it. Whether it ended.
async fn cut_off(future: impl Future, mut polls: usize) -> bool {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if polls == 0 => Poll::Ready(false),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_cache_went_is_told_so() {
    let world = world("").await;
    let job = pull_request(&world, 7).await;
    let package = Package::noise("tool", 1000);
    let opened = job.open(&[&package]).await.unwrap();
    drop_cache(&world).await;
    for tidied in [false, true] {
        if tidied {
            tidy(world.service()).await.unwrap();
        }
        let refusal = job.send(opened.push, &[&package]).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::NotFound);
        assert!(refusal.answer.message.contains("no such cache"), "{}", refusal.answer.message);
        assert_eq!(job.commit(opened.push).await.unwrap_err().answer.error, ErrorCode::NotFound);
        assert_eq!(job.open(&[&package]).await.unwrap_err().answer.error, ErrorCode::NotFound);
    }
    // The pull request's next job begins anew, with a key that nobody had.
    let next = pull_request(&world, 7).await;
    assert_ne!(next.cache().public_keys[0], job.cache().public_keys[0]);
    assert_eq!(next.push(&[&package]).await.unwrap().published, 1);
}

/// While one is being removed, a job is asked to come again, so that nothing of the old one gets into the new.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_during_the_removal_comes_again() {
    let world = world("").await;
    pull_request(&world, 7).await;
    drop_cache(&world).await;
    let refusal = crate::scene::try_pull_request(&world, 7).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Unavailable);
    tidy(world.service()).await.unwrap();
    pull_request(&world, 7).await;
}

/// An upload that is under way when its cache goes ends with an error, and what it has written is collected.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_under_way_leaves_nothing() {
    let world = world("").await;
    let before = rows(&world).await;
    let job = pull_request(&world, 7).await;
    let package = Package::noise("tool", 3_000_000);
    let (_, frames) = package.cut();
    let body = larder_tests::package::upload_body(&frames);
    let opened = job.open(&[&package]).await.unwrap();
    let (go_on, told) = tokio::sync::oneshot::channel::<()>();
    let (first, rest) = body.split_at(2_500_000);
    let pieces = futures_util::StreamExt::chain(
        futures_util::stream::iter([Ok::<_, std::io::Error>(first.to_vec())]),
        futures_util::stream::once({
            let rest = rest.to_vec();
            async move {
                let _ = told.await;
                Ok(rest)
            }
        }),
    );
    let uploading = tokio::spawn({
        let job = job.clone();
        async move { job.upload(opened.push, reqwest::Body::wrap_stream(pieces)).await }
    });
    // It has begun its object.
    while rows(&world).await["objects"] == before["objects"] {
        tokio::task::yield_now().await;
    }
    drop_cache(&world).await;
    tidy(world.service()).await.unwrap();
    go_on.send(()).unwrap();
    let refusal = uploading.await.unwrap().unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::NotFound, "{}", refusal.answer.message);
    world.advance(2 * 60 * 60 + 1);
    tidy(world.service()).await.unwrap();
    assert_eq!(rows(&world).await, before);
    assert!(objects(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_no_job_uses_goes_after_its_time() {
    let world = world("keep = \"3d\"").await;
    let package = Package::noise("tool", 1000);
    pull_request(&world, 7).await.push(&[&package]).await.unwrap();
    world.advance(2 * DAY);
    pull_request(&world, 7).await;
    world.advance(3 * DAY);
    tidy(world.service()).await.unwrap();
    assert!(narinfo(&world, OWN, &package.info.path).await.is_some());
    world.advance(1);
    tidy(world.service()).await.unwrap();
    assert!(narinfo(&world, OWN, &package.info.path).await.is_none());
}

/// What is remembered of it outlives a restart, and what it brought is no more in the parent's filter than before.
#[tokio::test(flavor = "multi_thread")]
async fn it_survives_a_restart() {
    let mut world = world("").await;
    let package = Package::noise("tool", 1000);
    let job = pull_request(&world, 7).await;
    job.push(&[&package]).await.unwrap();
    world.restart().await;
    let narinfo = narinfo(&world, OWN, &package.info.path).await.unwrap();
    assert!(job.cache().public_keys[0].verifies(&narinfo.fingerprint(), &narinfo.signatures[0]));
    assert!(!world.service().metadata.may_have(&package.info.path.hash()));
}
