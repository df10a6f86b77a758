//! Whose paths are taken along.

use std::{collections::HashSet, fs};

use larder_protocol::{SigningKey, prefetch::PrefetchState};
use larder_service::trust::people;
use larder_tests::{github::Job, package::Package, world::World};
use serde_json::json;
use tempfile::TempDir;

use crate::host::{Host, conclude, left, protected, push, roots, tree};

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_with_fewer_rights_brought_is_not_taken_along() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let anybody = Job { git_ref: "refs/heads/topic".to_owned(), run_id: 8, ..Job::default() };
    push(&world, &anybody, &[&leaf]).await;
    // It refers to what is there, and says nothing of it.
    push(&world, &protected(9), &[&top]).await;
    conclude(&world, &protected(9), "success").await;
    assert!(!host.has(&leaf.info.path) && !host.has(&top.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));

    // What a protected run names, it stands for.
    push(&world, &protected(10), &[&leaf, &top]).await;
    conclude(&world, &protected(10), "success").await;
    assert!(host.has(&leaf.info.path) && host.has(&top.info.path));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_branch_of_the_same_rank_brought_first_is_not_taken_along() {
    let mut host = Host::new();
    let world = host.world_by("ref = \"refs/heads/main\"", "").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let topic = Job { git_ref: "refs/heads/topic".to_owned(), run_id: 8, ..Job::default() };
    push(&world, &topic, &[&leaf]).await;
    push(&world, &protected(9), &[&leaf, &top]).await;
    conclude(&world, &protected(9), "success").await;
    assert!(!host.has(&leaf.info.path) && !host.has(&top.info.path));

    // What the branch itself brought is, whatever its rank.
    let own = Package::noise("own", 1000);
    push(&world, &protected(10), &[&own]).await;
    conclude(&world, &protected(10), "success").await;
    assert!(host.has(&own.info.path));
}

/// A binary cache in a folder, which has these.
fn folder_of(key: &SigningKey, packages: &[&Package]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for package in packages {
        let hash = package.info.path.hash();
        let narinfo = package.narinfo(&format!("{hash}.nar"), key);
        fs::write(folder.path().join(format!("{hash}.narinfo")), narinfo.to_string()).unwrap();
        fs::write(folder.path().join(&narinfo.url), &package.nar).unwrap();
    }
    folder
}

async fn prefetch(world: &World, package: &Package) {
    let (service, main) = (world.service(), "main".parse().unwrap());
    let new = people::NewToken::pushing("anna", &main, 3600);
    let token = people::create_token(&service.metadata, &service.clock, new).await.unwrap();
    let asked = json!({ "cache": "main", "paths": [package.info.path] });
    let pages = format!("{}/api/v1/prefetches", world.url());
    let client = reqwest::Client::new();
    let asked = client.post(&pages).bearer_auth(token.expose()).json(&asked).send().await.unwrap();
    let id = asked.json::<larder_protocol::prefetch::Prefetch>().await.unwrap().id;
    service.queue.idle().await.unwrap();
    let told = client.get(format!("{pages}/{id}")).bearer_auth(token.expose()).send().await.unwrap();
    let told: larder_protocol::prefetch::Prefetch = told.json().await.unwrap();
    assert_eq!(told.state, PrefetchState::Complete, "{told:?}");
}

/// Has the database say another rank of a path.
async fn rank(world: &World, package: &Package, rank: i64) {
    let mut database = world.database().await;
    let changed = sqlx::query("UPDATE paths SET rank = $1 WHERE hash = $2")
        .bind(rank)
        .bind(&package.info.path.hash().0[..])
        .execute(&mut database);
    assert_eq!(changed.await.unwrap().rows_affected(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prefetched_is_taken_along_by_who_brought_it_whatever_its_rank() {
    let mut host = Host::new();
    let (leaf, top) = tree();
    let key = SigningKey::generate("upstream-1").unwrap();
    let folder = folder_of(&key, &[&leaf]);
    let upstream = format!(
        "[[cache.upstream]]\nurl = \"file://{}\"\npublic_keys = [\"{}\"]",
        folder.path().display(),
        key.public_key()
    );
    let scene = host.scene("ref_protected = true", "", &upstream, &host.socket());
    let world = World::with(scene).await;
    host.start(&world.reader().await.public_keys).await;
    prefetch(&world, &leaf).await;
    push(&world, &protected(9), &[&top]).await;
    // As if a rule had been given the number that is kept for prefetches, and a prefetch another.
    let (other, next) = tree();
    let topic = Job { git_ref: "refs/heads/topic".to_owned(), run_id: 8, ..Job::default() };
    push(&world, &topic, &[&other]).await;
    push(&world, &protected(10), &[&next]).await;
    rank(&world, &other, -1000).await;
    rank(&world, &leaf, 0).await;
    conclude(&world, &protected(9), "success").await;
    assert!(host.has(&leaf.info.path) && host.has(&top.info.path));
    conclude(&world, &protected(10), "success").await;
    assert!(!host.has(&other.info.path) && !host.has(&next.info.path));
}
