//! What is asked of a bucket: as little as it takes.

use larder_tests::{
    bucket::Bucket,
    package::{Node, Package},
};

use crate::world;

/// How many bytes a request asks for.
fn length(request: &str) -> u64 {
    let range = request.rsplit_once("bytes=").unwrap().1;
    let (first, last) = range.split_once('-').unwrap();
    last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap()
}

/// What the bucket was asked to read of the objects of frames.
fn frames_asked(bucket: &Bucket) -> Vec<String> {
    let asked = bucket.take_requests().into_iter();
    asked.filter(|request| request.starts_with("GET ") && request.contains("/frames/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_together_is_read_by_one_request() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    // One large NAR, and many small ones. Each push is one object of less than 16 MiB.
    let large = Package::noise("large", 12_000_000);
    let small: Vec<Package> = (0..300).map(|n| Package::noise(&format!("small-{n}"), 3_000)).collect();
    let client = world.client().await;
    for push in [vec![&large], small.iter().collect()] {
        bucket.take_requests();
        client.push(&push).await.unwrap();
        let asked = frames_asked(&bucket);
        assert_eq!(asked.len(), 1, "to verify {} NARs: {asked:?}", push.len());
    }
    crate::assert_reads(&world, &large).await;
    let asked = frames_asked(&bucket);
    assert_eq!(asked.len(), 1, "for a reader: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_in_several_objects_takes_few_large_requests() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let client = world.client().await;
    // Three objects, and a NAR whose chunks lie in all of them, now here, now there.
    let parts: Vec<Package> = (0..3).map(|n| Package::noise(&format!("part-{n}"), 3_000_000)).collect();
    for part in &parts {
        client.push(&[part]).await.unwrap();
    }
    let pieces = (0..3).flat_map(|at| parts.iter().map(move |part| &part.nar[at * 1_000_000..][..1_000_000]));
    let node = Node::File(pieces.collect::<Vec<_>>().concat());
    let package = Package::new("all", &node);
    client.push(&[&package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();

    bucket.take_requests();
    let bytes = world.get(&narinfo.url).await.bytes().await.unwrap();
    assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == package.nar);
    // The service looks after its own affairs meanwhile.
    let asked: Vec<String> =
        bucket.take_requests().into_iter().filter(|request| request.starts_with("GET ")).collect();
    let total: u64 = asked.iter().map(|request| length(request)).sum();
    assert!(total < bytes.len() as u64 * 3 / 2, "{total} of {}: {asked:?}", bytes.len());
    // Nine pieces, what is between them, and nine times a MiB that ends within one of those: of some eighty chunks.
    assert!(asked.len() <= 36, "{} requests: {asked:?}", asked.len());
}
