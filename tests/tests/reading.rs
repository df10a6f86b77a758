//! What Nix reads, and how.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;

use larder_protocol::{PublicKey, narinfo::NarInfo};
use larder_tests::{
    cutting_proxy::CuttingProxy,
    nix::{Nix, Reader, ScratchStore},
    package::{Node, Package, noise, store_path},
    world::World,
};
use reqwest::{Method, Response, StatusCode, header};

/// A world with one path in it, of some chunks, with holes.
async fn with_path() -> (World, Package, NarInfo) {
    let world = World::new().await;
    let leaf = Package::noise("leaf", 1000);
    let mut contents = noise(900_000);
    contents.extend_from_slice(leaf.info.path.absolute().as_bytes());
    contents.extend_from_slice(&b"words that compress ".repeat(20_000));
    let node = Node::directory([("data", Node::File(contents)), ("empty", Node::File(Vec::new()))]);
    let package = Package::new("package-1.0", &node).referring_to([&leaf]);
    world.client().await.push(&[&leaf, &package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    (world, package, narinfo)
}

async fn request(world: &World, method: Method, page: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = reqwest::Client::new().request(method, format!("{}/main/{page}", world.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn get_range(world: &World, page: &str, range: &str) -> Response {
    request(world, Method::GET, page, &[("Range", range)]).await
}

fn header(response: &Response, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_says_what_it_is() {
    let world = World::new().await;
    let info = world.get("nix-cache-info").await;
    assert_eq!(info.status(), 200);
    assert_eq!(info.text().await.unwrap(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    let head = request(&world, Method::HEAD, "nix-cache-info", &[]).await;
    assert_eq!(head.status(), 200);
    let elsewhere = reqwest::get(format!("{}/other/nix-cache-info", world.url())).await.unwrap();
    assert_eq!(elsewhere.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narinfo_says_all_that_nix_needs() {
    let (world, package, narinfo) = with_path().await;
    assert_eq!(narinfo.path, package.info.path);
    assert_eq!(narinfo.references, package.info.references);
    assert_eq!(narinfo.nar_size, package.info.nar_size);
    let key: PublicKey = world.reader().await.public_keys[0].parse().unwrap();
    assert!(key.verifies(&narinfo.fingerprint(), &narinfo.signatures[0]));
    let page = format!("{}.narinfo", package.info.path.hash());
    let head = request(&world, Method::HEAD, &page, &[]).await;
    assert_eq!(head.status(), 200);
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_and_nothing_worse() {
    let (world, _, narinfo) = with_path().await;
    let absent = store_path("absent").hash();
    let (hash, encoding) = narinfo.url[4..].strip_suffix(".nar.zst").unwrap().split_once('-').unwrap();
    for page in [
        format!("{absent}.narinfo"),
        "x.narinfo".to_owned(),
        "..narinfo".to_owned(),
        format!("{absent}.ls"),
        "nar/x.nar.zst".to_owned(),
        format!("nar/{hash}.nar.zst"),
        format!("nar/{hash}-{encoding}.nar"),
        format!("nar/{}-{encoding}.nar.zst", "0".repeat(52)),
        "nar/%2e%2e/%2e%2e/larder.db".to_owned(),
        "%2e%2e/larder.db".to_owned(),
        "%00".to_owned(),
        "%ff.narinfo".to_owned(),
        "log/x.drv".to_owned(),
        "nix-cache-info/".to_owned(),
    ] {
        let status = world.get(&page).await.status();
        assert!(matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST), "{page}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_is_served_so_that_nix_can_resume() {
    let (world, package, narinfo) = with_path().await;
    let whole = world.get(&narinfo.url).await;
    assert_eq!(whole.status(), 200);
    assert_eq!(header(&whole, header::ACCEPT_RANGES), Some("bytes"));
    assert_eq!(header(&whole, header::CONTENT_ENCODING), None);
    assert_eq!(whole.content_length(), narinfo.file_size);
    let etag = header(&whole, header::ETAG).unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag} is weak");
    let bytes = whole.bytes().await.unwrap();
    assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), package.nar);

    let head = request(&world, Method::HEAD, &narinfo.url, &[]).await;
    assert_eq!(header(&head, header::CONTENT_LENGTH).unwrap(), bytes.len().to_string());
    assert_eq!(header(&head, header::ETAG), Some(&*etag));
    // What a client says that it can decode changes nothing.
    let encoded = request(&world, Method::GET, &narinfo.url, &[("Accept-Encoding", "zstd, gzip, br")]).await;
    assert_eq!(header(&encoded, header::CONTENT_ENCODING), None);
    assert_eq!(encoded.bytes().await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_is_that_part_of_the_whole() {
    let (world, _, narinfo) = with_path().await;
    let whole = world.get(&narinfo.url).await.bytes().await.unwrap();
    let len = whole.len();
    let step = len / 40;
    let edges: Vec<usize> = (0..40).map(|n| n * step + n).chain([1, 2, len - 2, len - 1]).collect();
    for &start in &edges {
        for range in [start..len, start..start + 1, start..(start + 70_000).min(len)] {
            let answer =
                get_range(&world, &narinfo.url, &format!("bytes={}-{}", range.start, range.end - 1)).await;
            assert_eq!(answer.status(), 206, "{range:?}");
            let content_range = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            assert_eq!(header(&answer, header::CONTENT_RANGE), Some(&*content_range));
            assert_eq!(answer.content_length(), Some(range.len() as u64));
            assert!(answer.bytes().await.unwrap() == whole[range.clone()], "{range:?}");
        }
        let open = get_range(&world, &narinfo.url, &format!("bytes={start}-")).await;
        assert!(open.bytes().await.unwrap() == whole[start..], "{start}");
    }
    let last = get_range(&world, &narinfo.url, "bytes=-100").await;
    assert_eq!(last.status(), 206);
    assert!(last.bytes().await.unwrap() == whole[len - 100..]);
    let beyond = get_range(&world, &narinfo.url, &format!("bytes=10-{}", len + 10)).await;
    assert!(beyond.bytes().await.unwrap() == whole[10..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_cannot_be_or_need_not_be() {
    let (world, _, narinfo) = with_path().await;
    let len = narinfo.file_size.unwrap();
    for range in [format!("bytes={len}-"), "bytes=999999999999-".to_owned()] {
        let answer = get_range(&world, &narinfo.url, &range).await;
        assert_eq!(answer.status(), 416, "{range}");
        assert_eq!(header(&answer, header::CONTENT_RANGE), Some(&*format!("bytes */{len}")));
    }
    // RFC 9110: what is not understood is left out of account.
    for range in ["lines=1-2", "bytes=", "bytes=x-y", "bytes=5-2", "nonsense"] {
        let answer = get_range(&world, &narinfo.url, range).await;
        assert!(matches!(answer.status().as_u16(), 200 | 416), "{range}: {}", answer.status());
    }
    let several = get_range(&world, &narinfo.url, "bytes=0-1,5-6").await;
    assert_eq!((several.status().as_u16(), several.content_length()), (200, Some(len)));

    let etag = header(&world.get(&narinfo.url).await, header::ETAG).unwrap().to_owned();
    let same =
        request(&world, Method::GET, &narinfo.url, &[("Range", "bytes=5-"), ("If-Range", &etag)]).await;
    assert_eq!(same.status(), 206);
    let other = [("Range", "bytes=5-"), ("If-Range", "\"another\"")];
    assert_eq!(request(&world, Method::GET, &narinfo.url, &other).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_under_another_encoding_is_whole_or_absent() {
    let (world, package, narinfo) = with_path().await;
    let (hash, _) = narinfo.url.split_once('-').unwrap();
    let other = format!("{hash}-{}.nar.zst", store_path("x").hash());
    let whole = world.get(&other).await;
    assert_eq!(whole.status(), 200);
    assert_eq!(header(&whole, header::ACCEPT_RANGES), None);
    assert_eq!(zstd::decode_all(&whole.bytes().await.unwrap()[..]).unwrap(), package.nar);
    assert_eq!(get_range(&world, &other, "bytes=5-").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_where_one_reads() {
    let (world, package, narinfo) = with_path().await;
    let page = format!("{}.narinfo", package.info.path.hash());
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
        for page in ["nix-cache-info", &page, &narinfo.url, "nar/x.nar.zst"] {
            let status = request(&world, method.clone(), page, &[]).await.status();
            assert_eq!(status, 405, "{method} {page}");
        }
    }
    assert!(world.narinfo(&package.info.path).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_reads_with_signatures_and_refuses_without_the_key() {
    let (world, package, _) = with_path().await;
    let paths = [PathBuf::from(package.info.path.absolute())];
    let reader = world.reader().await;
    for nix in [Nix::Installed, Nix::V2_26] {
        let store = ScratchStore::new(nix);
        store.realise(&reader, &paths).await.expect_success();
        store.verify().await;
        let signature = &store.path_info(&paths[0]).await["signatures"][0];
        let name = reader.public_keys[0].split(':').next().unwrap();
        assert!(signature.as_str().unwrap().starts_with(&format!("{name}:")), "{signature}");

        let stranger = Reader { public_keys: Vec::new(), ..reader.clone() };
        let untrusting = ScratchStore::new(nix);
        assert!(!untrusting.realise(&stranger, &paths).await.success);
        assert!(!untrusting.has(&paths[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_resumes_a_transfer_wherever_it_was_cut() {
    let (world, package, narinfo) = with_path().await;
    let len = narinfo.file_size.unwrap();
    let paths = [PathBuf::from(package.info.path.absolute())];
    // Each cut is so many bytes behind the one before, an answer's head of some 300 bytes among them. Nix gives
    // up at the fifth attempt.
    let several: [&[u64]; 6] = [
        &[400, 401, 1000, 70_000],
        &[len / 8, len / 4, len / 3, len / 7],
        &[len / 2, len / 3, len / 9],
        &[len / 12 * 11],
        &[len],
        &[66_000, 131_500, 262_600, 5],
    ];
    let installed = several.map(|cuts| (Nix::Installed, cuts));
    for (nix, cuts) in installed.into_iter().chain([(Nix::V2_26, several[1])]) {
        let proxy = CuttingProxy::start(world.address(), cuts.iter().copied()).await;
        // The leaf's NAR would take a cut away.
        let store = ScratchStore::new(nix);
        let leaf = [PathBuf::from(package.info.references[0].absolute())];
        let reader = world.reader().await;
        store.realise(&reader, &leaf).await.expect_success();
        let reader = Reader { substituters: vec![format!("{}/main", proxy.url())], ..reader };
        store.realise(&reader, &paths).await.expect_success();
        store.verify().await;
        assert_eq!(proxy.cuts_left(), 0, "{cuts:?}");
        let requests = proxy.nar_requests();
        assert_eq!(requests.len(), cuts.len() + 1);
        let resumed = requests.iter().filter(|head| head.to_lowercase().contains("range: bytes=")).count();
        assert!(resumed >= 1, "{requests:#?}");
    }
}
