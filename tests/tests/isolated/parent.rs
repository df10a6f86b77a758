//! A pull request's cache has what its parent has, and its parent has nothing of it.

use std::path::PathBuf;

use larder_protocol::{StorePath, api::ErrorCode};
use larder_tests::{
    client::Client,
    github::Job,
    nix::{Nix, Reader, ScratchStore},
    package::{Node, Package, noise},
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::scene::{narinfo, pull_request, rows, world};

const OWN: &str = "main~610214307-pr-7";

fn real(path: &StorePath) -> PathBuf {
    path.absolute().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_pushes_what_its_parent_lacks_and_its_jobs_read_all() {
    let world = world("").await;
    let library = Package::noise("library", 300_000);
    world.client().await.push(&[&library]).await.unwrap();

    let job = pull_request(&world, 7).await;
    let cache = job.cache().clone();
    assert_eq!(cache.name.as_str(), OWN);
    assert_eq!(cache.url, format!("{}/{OWN}", world.url()));
    let [own_key, parents_key] = &cache.public_keys[..] else { panic!("{:?}", cache.public_keys) };
    let parent = world.service().caches.named("main").unwrap().public_keys().remove(0);
    assert_eq!(*parents_key, parent);
    assert_eq!(own_key.name(), format!("{}~610214307-pr-7", parent.name()));

    let contents = [noise(200_000), library.info.path.absolute().into_bytes()].concat();
    let program = Package::new("program", &Node::File(contents)).referring_to([&library]);
    let opened = job.open(&[&library, &program]).await.unwrap();
    assert_eq!(opened.present, [library.info.path.hash()], "what the parent has is not sent again");
    job.send(opened.push, &[&program]).await.unwrap();
    let committed = job.commit(opened.push).await.unwrap();
    assert_eq!(committed.published, 1);

    // Its own path is signed with its own key, its parent's with its parent's.
    let own = narinfo(&world, OWN, &program.info.path).await.unwrap();
    assert!(own_key.verifies(&own.fingerprint(), &own.signatures[0]));
    assert!(own.signatures.iter().all(|signature| signature.key_name() == own_key.name()));
    let parents = narinfo(&world, OWN, &library.info.path).await;
    assert_eq!(parents, world.narinfo(&library.info.path).await);
    assert_eq!(world.narinfo(&program.info.path).await, None);
    assert_eq!(world.get(&own.url).await.status(), StatusCode::NOT_FOUND);

    let reader = Reader {
        substituters: vec![cache.url],
        public_keys: cache.public_keys.iter().map(ToString::to_string).collect(),
        more: String::new(),
    };
    for nix in [Nix::Installed, Nix::V2_26] {
        let store = ScratchStore::new(nix);
        store.realise(&reader, &[real(&program.info.path)]).await.expect_success();
        store.verify().await;
        assert!(store.has(&real(&library.info.path)));
    }
    // Who pushed a path is said there too, and to which of the two.
    let brought = |path: &StorePath, cache: &str| {
        let address = format!("{}/api/v1/caches/{cache}/paths/{}", world.url(), path.hash());
        let asked = reqwest::Client::new().get(address).bearer_auth(job.token());
        async { asked.send().await.unwrap().json::<serde_json::Value>().await.unwrap() }
    };
    for (path, cache) in [(&program.info.path, OWN), (&library.info.path, "main")] {
        let said = brought(path, OWN).await;
        assert_eq!((said["cache"].as_str(), said["path"].as_str()), (Some(cache), Some(&*path.to_string())));
    }
    // Who trusts the parent alone takes nothing of it, even from here.
    let stranger = Reader { public_keys: vec![parent.to_string()], ..reader };
    let store = ScratchStore::new(Nix::Installed);
    assert!(!store.realise(&stranger, &[real(&program.info.path)]).await.success);
    assert!(!store.has(&real(&program.info.path)));
}

/// A pull request that was there first has no say: the path, its NAR and its chunks are its own affair.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_cannot_squat_a_path_of_its_parent() {
    let world = world("").await;
    let good = Package::noise("tool", 300_000);
    let bad = Package::with_nar(good.info.path.clone(), Node::File(noise(300_000)).nar());
    let job = pull_request(&world, 7).await;
    job.push(&[&bad]).await.unwrap();
    assert_eq!(world.narinfo(&good.info.path).await, None);

    let committed = world.client().await.push(&[&good]).await.unwrap();
    assert_eq!((committed.published, committed.divergences.len()), (1, 0));
    assert_eq!(world.narinfo(&good.info.path).await.unwrap().nar_hash, good.info.nar_hash);
    // Nor afterwards: what the parent has stays, for the pull request too.
    let other = pull_request(&world, 8).await;
    let diverging = other.push(&[&bad]).await.unwrap();
    assert_eq!((diverging.published, diverging.divergences.len()), (0, 1));
    let cache = other.cache().name.to_string();
    let seen = narinfo(&world, &cache, &good.info.path).await.unwrap();
    assert_eq!(seen.nar_hash, good.info.nar_hash);
    assert_eq!(world.narinfo(&good.info.path).await.unwrap().nar_hash, good.info.nar_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_pull_request_sent_is_there_for_its_parent() {
    let world = world("").await;
    let library = Package::noise("library", 300_000);
    let program = Package::noise("program", 300_000).referring_to([&library]);
    pull_request(&world, 7).await.push(&[&library, &program]).await.unwrap();
    let filter = &world.service().metadata;
    assert!(!filter.may_have(&library.info.path.hash()), "the parent's readers have to look for it");

    for client in [world.client().await, pull_request(&world, 8).await] {
        let opened = client.open(&[&library]).await.unwrap();
        assert_eq!(opened.missing, [library.info.path.hash()]);
        assert_eq!((opened.present.len(), opened.reused.len()), (0, 0));
        let chunks: Vec<_> = library.cut().1.iter().map(|frame| frame.entry.id).collect();
        let missing = client.missing(opened.push, &chunks).await.unwrap();
        assert!(missing.iter().all(|missing| *missing));

        // A reference that only the pull request has is none.
        let opened = client.open(&[&program]).await.unwrap();
        client.send(opened.push, &[&program]).await.unwrap();
        let refusal = client.commit(opened.push).await.unwrap_err();
        assert_eq!(refusal.answer.missing_references, std::slice::from_ref(&library.info.path));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_requests_session_is_for_its_own_cache_alone() {
    let world = world("").await;
    let package = Package::noise("tool", 1000);
    let job = pull_request(&world, 7).await;
    pull_request(&world, 8).await;
    let other = OWN.replace("-7", "-8");
    for cache in ["main", &other, "main~1-pr-7", "nowhere"] {
        let refusal =
            Client::with_token(&world.url(), cache, job.token()).open(&[&package]).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::Denied, "{cache}");
    }
    // Nor is one that may push to the parent for the pull request's.
    let main = world.client().await;
    let refusal = Client::with_token(&world.url(), OWN, main.token()).open(&[&package]).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Denied);
    // And no job can ask for such a cache by its name.
    let id_token = world.github.id_token(&Job::default(), &world.url());
    let refusal = Client::exchange(&world.url(), OWN, &id_token).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_keys_are_told_to_its_own_jobs_alone() {
    let world = world("").await;
    let job = pull_request(&world, 7).await;
    let other = pull_request(&world, 8).await;
    let main = world.client().await;
    let url = format!("{}/api/v1/caches/{OWN}", world.url());
    let nowhere = format!("{}/api/v1/caches/main~610214307-pr-9", world.url());
    let http = reqwest::Client::new();
    let absent = http.get(&nowhere).send().await.unwrap().text().await.unwrap();
    for token in [None, Some(main.token()), Some(other.token())] {
        let mut request = http.get(&url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(answer.text().await.unwrap(), absent, "whether there is one is told to nobody either");
    }
    let package = Package::noise("tool", 1000);
    job.push(&[&package]).await.unwrap();
    let provenance = format!("{url}/paths/{}", package.info.path.hash());
    assert_eq!(http.get(&provenance).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let who = http.get(&provenance).bearer_auth(job.token()).send().await.unwrap();
    assert!(who.text().await.unwrap().contains("refs/pull/7/merge"));
    let told = http.get(&url).bearer_auth(job.token()).send().await.unwrap().text().await.unwrap();
    assert!(told.contains(&job.cache().public_keys[0].to_string()), "{told}");
    assert_ne!(job.cache().public_keys[0], other.cache().public_keys[0]);
    let again = pull_request(&world, 7).await;
    assert_eq!(again.cache().public_keys, job.cache().public_keys, "the next job of the same one");
}

/// A path that the parent gets later stays as the pull request brought it, for its jobs; each NAR is found.
#[tokio::test(flavor = "multi_thread")]
async fn its_own_paths_come_first() {
    let world = world("").await;
    let own = Package::noise("tool", 300_000);
    let parents = Package::with_nar(own.info.path.clone(), Node::File(noise(300_000)).nar());
    // The same contents under two names: the pull request's NAR and its parent's lie apart.
    let twin = Package::with_nar(larder_tests::package::store_path("twin"), own.nar.clone());
    let job = pull_request(&world, 7).await;
    job.push(&[&own]).await.unwrap();
    world.client().await.push(&[&parents, &twin]).await.unwrap();
    for (cache, package, contents) in [
        (OWN, &own, &own.nar),
        ("main", &own, &parents.nar),
        (OWN, &twin, &own.nar),
        ("main", &twin, &own.nar),
    ] {
        let narinfo = narinfo(&world, cache, &package.info.path).await.unwrap();
        let nar = reqwest::get(format!("{}/{cache}/{}", world.url(), narinfo.url)).await.unwrap();
        assert!(nar.headers().contains_key("accept-ranges"), "these are not the bytes that were promised");
        assert_eq!(zstd::decode_all(&nar.bytes().await.unwrap()[..]).unwrap(), *contents, "{cache}");
    }
}

/// What it says that it wants, pins or asks for is its own affair as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_is_no_source_of_manifests_prefetches_and_roots() {
    let world = world("").await;
    let job = pull_request(&world, 7).await;
    let own = Package::noise("own", 1000);
    job.push(&[&own]).await.unwrap();
    let ask = |method: Method, page: String, token: String, body: serde_json::Value| {
        let request = reqwest::Client::new().request(method, format!("{}{page}", world.url()));
        async move { request.bearer_auth(token).json(&body).send().await.unwrap() }
    };
    let (pulls, mains) = (job.token().to_owned(), world.client().await.token().to_owned());
    let path = own.info.path.to_string();
    let manifest = json!({ "system": "x86_64-linux", "built": [path], "substituted": [] });
    let manifests = |git_ref: &str| format!("/api/v1/repositories/acme/flake/manifests?ref={git_ref}");
    let refs = ["refs/heads/main", "refs/pull/7/merge"];

    // Its own report is taken for what it is; its parent's are not its to write or to read.
    let page = |cache: &str| format!("/api/v1/caches/{cache}/manifests");
    for (cache, taken) in [("main", false), ("main~610214307-pr-8", false), (OWN, true)] {
        let answer = ask(Method::POST, page(cache), pulls.clone(), manifest.clone()).await;
        assert_eq!(answer.status().is_success(), taken, "{cache}");
    }
    for git_ref in refs {
        let told = ask(Method::GET, manifests(git_ref), pulls.clone(), json!(null)).await;
        assert!(!told.status().is_success());
        let told = ask(Method::GET, manifests(git_ref), mains.clone(), json!(null)).await;
        let told: serde_json::Value = told.json().await.unwrap();
        assert_eq!(told["manifests"], json!([]), "{git_ref}");
    }
    for cache in ["main", OWN] {
        let wanted = json!({ "cache": cache, "paths": [path] });
        let answer = ask(Method::POST, "/api/v1/prefetches".to_owned(), pulls.clone(), wanted).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{cache}");
        let pin = json!({ "path": path });
        let answer = ask(Method::PUT, format!("/api/v1/caches/{cache}/pins/web"), pulls.clone(), pin).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{cache}");
    }
    // Nor can its parent's job pin what only the pull request has.
    let pin = json!({ "path": path });
    let answer = ask(Method::PUT, "/api/v1/caches/main/pins/web".to_owned(), mains, pin).await;
    assert!(!answer.status().is_success());
    let database = rows(&world).await;
    assert_eq!((database["pins"], database["prefetches"]), (0, 0));
    let main = "main".parse().unwrap();
    assert!(world.service().metadata.pushed_runs(&main).await.unwrap().is_empty());
}
