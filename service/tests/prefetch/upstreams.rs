//! Upstreams that have what is wanted, and such that are slow, refuse, cut, stall and lie.

use std::time::Duration;

use data_encoding::BASE64;
use larder_protocol::{SigningKey, api::Permission, prefetch::PrefetchState};
use larder_service::config::cache::CheckedUpstream;
use serde_json::Value;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

/// A closure: a program, what it needs, and what that needs.
fn closure() -> [TestNar; 3] {
    let libc = TestNar::new(path(1, "libc"), &contents(1, 300_000, &[]), &[]);
    let lib = TestNar::new(path(2, "lib"), &contents(2, 90_000, &[&libc.info.path]), &[&libc.info.path]);
    let program = TestNar::new(path(3, "program"), b"#!/bin/sh", &[&lib.info.path, &libc.info.path]);
    [libc, lib, program]
}

#[tokio::test]
async fn a_closure_is_complete_however_its_nars_are_compressed() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let [libc, lib, program] = closure();
    let more: Vec<TestNar> = (4..7)
        .map(|seed| TestNar::new(path(seed, "more"), &contents(seed.into(), 700_000, &[]), &[]))
        .collect();
    let kinds = ["xz", "bzip2", "zstd", "none", "gzip", "xz"];
    let all: Vec<&TestNar> = [&libc, &lib, &program].into_iter().chain(&more).collect();
    for (nar, kind) in all.iter().zip(kinds) {
        upstream.has(nar, kind);
    }
    // Asked for before: that is not remembered.
    assert!(!world.has(&[&libc]).await);
    let told = world.complete(&[&program, &more[0], &more[1], &more[2]]).await;
    assert_eq!((told.closure, told.wanted, told.published, told.lacking), (6, 6, 6, 0));
    assert_eq!(told.bytes, all.iter().map(|nar| nar.info.nar_size).sum::<u64>());
    upstream.stop();
    assert!(world.has(&all).await);
    // It says where it comes from, and keeps the upstream's signature beside its own.
    let page = format!("{}/api/v1/caches/main/paths/{}", world.url, libc.info.path.hash());
    let asked = world.client.get(page).bearer_auth(&world.token);
    let provenance: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(provenance["pushed_by"]["kind"], "prefetch");
    assert_eq!(provenance["pushed_by"]["from"], upstream.url);
    let narinfo = world.narinfo("main", &libc).await.unwrap();
    assert!(narinfo.signatures.iter().any(|s| upstream.key.public_key().verifies(&narinfo.fingerprint(), s)));
    assert_eq!(narinfo.signatures.len(), 2);
    assert_eq!(world.narinfo("other", &libc).await, None);
    world.end().await;
}

/// As `nix copy --to 'file://…?compression=lz4'` makes it.
#[tokio::test]
async fn a_compression_that_is_not_read_is_named_and_keeps_nobody_elses_from_being_taken() {
    let (bad, good) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let world = World::new(&[bad.configured(), good.configured()]).await;
    let [libc, ..] = closure();
    let narinfo = bad.narinfo(&libc, "lz4", b"\x04\x22\x4d\x18", &bad.key);
    let file = format!("{}.narinfo", libc.info.path.hash());
    bad.says(&file, Reply::Whole(narinfo.to_string().into()));
    let told = world.prefetch(&[&libc]).await;
    assert_eq!(
        (told.state, &told.lacking_paths[..]),
        (PrefetchState::Incomplete, &[libc.info.path.clone()][..])
    );
    assert_eq!((told.closure, told.wanted, told.published), (1, 1, 0));
    let error = told.error.unwrap();
    let named = format!("{}: {}: its NAR is compressed by \"lz4\"", libc.info.path, bad.url);
    assert!(error.starts_with(&named), "{error}");
    good.has(&libc, "zstd");
    world.complete(&[&libc]).await;
    assert!(world.has(&[&libc]).await);
    world.end().await;
}

#[tokio::test]
async fn what_is_here_already_is_asked_of_nobody() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let [libc, lib, program] = closure();
    for nar in [&libc, &lib, &program] {
        upstream.has(nar, "zstd");
    }
    world.complete(&[&lib]).await;
    upstream.asked();
    // The rest of a closure of which a part is here.
    let told = world.complete(&[&program]).await;
    assert_eq!((told.closure, told.wanted), (3, 1));
    let mut asked = upstream.asked();
    asked.sort();
    let mut expected = vec![format!("{}.narinfo", program.info.path.hash()), nar_file(&program)];
    expected.sort();
    assert_eq!(asked, expected);
    upstream.stop();
    let told = world.complete(&[&program, &lib]).await;
    assert_eq!((told.closure, told.wanted), (3, 0));
    assert_eq!(upstream.asked(), Vec::<String>::new());
    world.end().await;
}

/// Whatever is the matter with one upstream, another's hit is found.
#[tokio::test]
async fn one_upstreams_failure_hides_no_others_hit() {
    let (bad, good) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let hasty = CheckedUpstream { timeout: Duration::from_secs(1), ..bad.configured() };
    let world = World::new(&[hasty, good.configured()]).await;
    let nar = |seed: u8| TestNar::new(path(seed, "x"), &contents(seed.into(), 200_000, &[]), &[]);
    let nars: Vec<TestNar> = (1..=9).map(nar).collect();
    let [refuses, cuts, stalls, lies, foreign, nonsense, no_nar, long, silent] = &nars[..] else { panic!() };
    for nar in &nars {
        bad.has(nar, "xz");
    }
    let narinfo = |nar: &TestNar| format!("{}.narinfo", nar.info.path.hash());
    bad.nar(refuses, |_| Reply::Refused(503));
    bad.nar(cuts, Reply::Cut);
    bad.nar(stalls, Reply::Stalled);
    // Right length, right signature, other bytes.
    let mut other = lies.bytes.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let other = crate::upstream::compress("none", &other);
    let signed = bad.narinfo(lies, "none", &other, &bad.key);
    bad.says(&narinfo(lies), Reply::Whole(signed.to_string().into()));
    bad.says(&nar_file(lies), Reply::Whole(other));
    // Another's key of the same name.
    let key = SigningKey::generate("upstream-1").unwrap();
    let signed = bad.narinfo(foreign, "xz", b"", &key);
    bad.says(&narinfo(foreign), Reply::Whole(signed.to_string().into()));
    bad.says(&narinfo(nonsense), Reply::Whole(b"no narinfo".to_vec()));
    bad.nar(no_nar, |_| Reply::Refused(404));
    // A bomb: what it is decompressed to has no end.
    let bomb = crate::upstream::compress("xz", &vec![0; 50 << 20]);
    let signed = bad.narinfo(long, "xz", &bomb, &bad.key);
    bad.says(&narinfo(long), Reply::Whole(signed.to_string().into()));
    bad.says(&nar_file(long), Reply::Whole(bomb));
    bad.says(&narinfo(silent), Reply::Stalled(b"StorePath: never".to_vec()));
    for nar in &nars {
        good.has(nar, "zstd");
        // The bad one is faster.
        if !std::ptr::eq(nar, silent) && !std::ptr::eq(nar, foreign) && !std::ptr::eq(nar, nonsense) {
            good.says(&narinfo(nar), Reply::Refused(500));
        }
    }
    // Only the bad one answers for most of them: they cannot be had, the others are here all the same.
    let told = world.prefetch(&nars.iter().collect::<Vec<_>>()).await;
    assert_eq!(told.state, PrefetchState::Waiting, "{told:?}");
    let error = told.error.unwrap();
    assert!(error.contains("6 paths cannot be had now") && error.contains(&bad.url), "{error}");
    assert!(world.has(&[foreign, nonsense, silent]).await);
    for nar in [refuses, cuts, stalls, lies, no_nar, long] {
        assert_eq!(world.narinfo("main", nar).await, None);
    }
    // The other one answers again. It is tried again by itself.
    for nar in &nars {
        good.has(nar, "zstd");
    }
    world.pass(3600).await;
    assert_eq!(world.tell(&told.id).await.state, PrefetchState::Complete);
    assert!(world.has(&nars.iter().collect::<Vec<_>>()).await);
    world.end().await;
}

#[tokio::test]
async fn what_refers_to_what_nobody_has_does_not_become_visible() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let [libc, lib, program] = closure();
    let alone = TestNar::new(path(9, "alone"), b"alone", &[]);
    for nar in [&lib, &program, &alone] {
        upstream.has(nar, "xz");
    }
    let told = world.prefetch(&[&program, &alone]).await;
    assert_eq!((told.state, told.lacking, told.published), (PrefetchState::Incomplete, 3, 1));
    assert!(told.lacking_paths.contains(&libc.info.path));
    assert!(world.has(&[&alone]).await);
    for nar in [&lib, &program] {
        assert_eq!(world.narinfo("main", nar).await, None);
    }
    upstream.has(&libc, "none");
    world.complete(&[&program]).await;
    assert!(world.has(&[&libc, &lib, &program]).await);
    world.end().await;
}

/// A folder, as `nix copy --to file://…` makes one.
#[tokio::test]
async fn a_folder_is_an_upstream_too() {
    let http = UpstreamCache::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [libc, ..] = closure();
    let bytes = crate::upstream::compress("xz", &libc.bytes);
    let narinfo = http.narinfo(&libc, "xz", &bytes, &http.key);
    std::fs::create_dir(folder.path().join("nar")).unwrap();
    std::fs::write(folder.path().join(format!("{}.narinfo", libc.info.path.hash())), narinfo.to_string())
        .unwrap();
    std::fs::write(folder.path().join(nar_file(&libc)), bytes).unwrap();
    let mut configured = http.configured();
    configured.upstream.url = format!("file://{}", folder.path().display());
    let world = World::new(&[configured]).await;
    world.complete(&[&libc]).await;
    assert!(world.has(&[&libc]).await);
    // Nobody else is told of it.
    let info: Value = world
        .client
        .get(format!("{}/api/v1/caches/main", world.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(info["upstreams"], serde_json::json!([]));
    world.end().await;
}

/// An upstream's URL may name a host inside, or a folder: who reads a public cache need not hear of it.
#[tokio::test]
async fn where_it_was_fetched_from_is_no_strangers_business() {
    let upstream = UpstreamCache::start().await;
    let [libc, ..] = closure();
    upstream.has(&libc, "xz");
    let world = World::new(&[upstream.configured()]).await;
    world.complete(&[&libc]).await;
    let reader = world.token_for("main", &[Permission::Read]).await;
    let url = upstream.configured().upstream.url;
    for (token, told) in [(None, false), (Some(&world.token), true), (Some(&reader), true)] {
        let ask = async |page: &str| -> Value {
            let mut request = world.client.get(format!("{}/api/v1/caches/main{page}", world.url));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            request.send().await.unwrap().json().await.unwrap()
        };
        assert_eq!(ask("").await["upstreams"].to_string().contains(&url), told);
        let page = format!("/paths/{}", libc.info.path.hash());
        let brought = ask(&page).await["pushed_by"].clone();
        assert_eq!(
            (brought["kind"].as_str(), brought["from"].as_str()),
            (Some("prefetch"), told.then_some(&*url))
        );
        let stated = ask(&format!("{page}/statement")).await["payload"].as_str().unwrap().to_owned();
        let stated = String::from_utf8(BASE64.decode(stated.as_bytes()).unwrap()).unwrap();
        assert_eq!(stated.contains(&url), told, "{stated}");
    }
    world.end().await;
}

#[tokio::test]
async fn nothing_is_fetched_from_where_an_upstream_must_not_send_us() {
    let (upstream, elsewhere) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let world = World::new(&[upstream.configured()]).await;
    let nars: Vec<TestNar> = (1..4).map(|seed| TestNar::new(path(seed, "x"), &[seed], &[])).collect();
    let [redirected, absolute, here] = &nars[..] else { panic!() };
    for nar in &nars {
        upstream.has(nar, "none");
        elsewhere.has(nar, "none");
    }
    upstream.nar(redirected, |_| Reply::Redirected(format!("{}/{}", elsewhere.url, nar_file(redirected))));
    let mut narinfo = upstream.narinfo(absolute, "none", &absolute.bytes, &upstream.key);
    narinfo.url = format!("{}/{}", elsewhere.url, nar_file(absolute));
    let file = format!("{}.narinfo", absolute.info.path.hash());
    upstream.says(&file, Reply::Whole(narinfo.to_string().into()));
    // Within itself it may.
    upstream.says("moved", Reply::Whole(here.bytes.clone()));
    upstream.nar(here, |_| Reply::Redirected("/moved".to_owned()));
    let told = world.prefetch(&[redirected, absolute, here]).await;
    assert_eq!(told.state, PrefetchState::Waiting);
    assert!(world.has(&[here]).await && elsewhere.asked().is_empty());
    upstream.has(redirected, "none");
    world.pass(3600).await;
    let told = world.tell(&told.id).await;
    assert_eq!(
        (told.state, &told.lacking_paths[..]),
        (PrefetchState::Incomplete, &[absolute.info.path.clone()][..])
    );
    assert!(elsewhere.asked().is_empty());
    world.end().await;
}
