//! What is taken, and for how long; and what is not.

use std::collections::HashSet;

use larder_tests::{github::Job, nix::Nix, package::Package};

use crate::host::{Host, conclude, left, protected, push, roots, tree};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_protected_run_published_is_in_the_store_and_stays_until_the_next() {
    stays_until_the_next(Host::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_of_nix_2_26_takes_it_as_well() {
    stays_until_the_next(Host::of(Nix::V2_26)).await;
}

async fn stays_until_the_next(mut host: Host) {
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let first = protected(1000);
    push(&world, &first, &[&leaf, &top]).await;
    assert!(!host.has(&top.info.path), "before the run is over");
    conclude(&world, &first, "success").await;
    assert_eq!(left(&world).await, [""; 0]);
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path));
    host.verify().await;
    host.collect_garbage().await;
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path), "the collector took what is rooted");
    assert_eq!(roots(&world), HashSet::from([top.info.path.absolute()]));

    // The next run's take their place; what nothing keeps any more goes.
    let (other, next) = tree();
    let second = protected(1001);
    push(&world, &second, &[&other, &next]).await;
    conclude(&world, &second, "success").await;
    host.collect_garbage().await;
    assert!(host.has(&next.info.path) && host.has(&other.info.path));
    assert!(!host.has(&top.info.path) && !host.has(&leaf.info.path));

    // An older run that is told of later changes nothing.
    conclude(&world, &first, "success").await;
    assert_eq!(roots(&world), HashSet::from([next.info.path.absolute()]));
    // And what is there already is rooted without being sent again.
    conclude(&world, &second, "success").await;
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_taken() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let elsewhere = Job { repository: "acme/other".to_owned(), repository_id: 7, ..protected(2) };
    let refused = [
        // Not protected, though it is called main.
        Job { ref_protected: false, run_id: 1, ..Job::default() },
        elsewhere,
        Job { git_ref: "refs/heads/release".to_owned(), ..protected(3) },
    ];
    for job in &refused {
        let package = Package::noise("tool", 1000);
        push(&world, job, &[&package]).await;
        conclude(&world, job, "success").await;
        assert!(!host.has(&package.info.path), "{job:?}");
    }
    // Nor of a run that failed, or one that another repository says is over.
    let package = Package::noise("tool", 1000);
    let job = protected(4);
    push(&world, &job, &[&package]).await;
    conclude(&world, &job, "failure").await;
    conclude(&world, &Job { repository: "acme/other".to_owned(), ..job.clone() }, "success").await;
    assert!(!host.has(&package.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
    conclude(&world, &job, "success").await;
    assert!(host.has(&package.info.path), "it was not taken for another reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_it_may_be_is_not_taken() {
    let mut host = Host::new();
    let world = host.world("max_size = \"500 kB\"").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    push(&world, &protected(5), &[&leaf, &top]).await;
    conclude(&world, &protected(5), "success").await;
    assert!(!host.has(&leaf.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_trust_the_key_refuses_and_nothing_is_rooted() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&[]).await;
    let (leaf, top) = tree();
    push(&world, &protected(6), &[&leaf, &top]).await;
    conclude(&world, &protected(6), "success").await;
    assert!(!host.has(&leaf.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
}
