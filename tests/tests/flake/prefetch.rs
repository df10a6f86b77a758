//! What a push brings into the cache of its lock file's inputs.

use larder_protocol::flake_lock::FlakeLock;
use larder_service::flake::Spent;
use larder_tests::{
    archive_host::{Page, nar_hash, tarball},
    github::Job,
    world::reader,
};
use serde_json::{Value, json};

use crate::scene::{ARCHIVE, FILES, Scene, lib, lock, paths};

#[tokio::test]
async fn a_push_brings_its_inputs_as_what_they_are() {
    let scene = Scene::new(&[]).await;
    let lock = lock(&[("lib", lib())]);
    let path = paths(&lock).remove(0);
    assert_eq!(scene.narinfo(&path).await, None);
    scene.push("main", &lock).await;
    let narinfo = scene.narinfo(&path).await.unwrap();
    assert!(narinfo.contains("\nCA: fixed:r:sha256:"), "{narinfo}");
    assert!(narinfo.contains("\nReferences: \n"), "{narinfo}");
    assert!(narinfo.contains("\nSig: larder-main-1:"), "{narinfo}");
    let asked = scene.hosts.take_asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].url, ARCHIVE);

    // What is here is not fetched again.
    scene.push("main", &lock).await;
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn a_lock_file_full_of_traps_brings_what_is_good_and_goes_nowhere_else() {
    let scene = Scene::new(&[]).await;
    let with_hash = |mut locked: Value| {
        // Each another path.
        let text = locked.to_string();
        locked["narHash"] = nar_hash(&[("trap", &text)]).into();
        locked
    };
    let trap = |url: &str| with_hash(json!({ "type": "tarball", "url": url }));
    let port = scene.hosts.address().port();
    scene.hosts.put("https://github.com/endless", Page::Endless);
    scene.hosts.put("https://github.com/away", Page::Redirect(302, "https://evil.example/x".to_owned()));
    scene.hosts.put("https://github.com/inside", Page::Redirect(302, format!("https://127.0.0.1:{port}/x")));
    scene.hosts.put("https://github.com/circle", Page::Redirect(302, "https://github.com/circle".to_owned()));
    scene.hosts.put("https://github.com/other", Page::Bytes(tarball("x", &FILES)));
    let bomb = "\0".repeat(3 << 20);
    scene.hosts.put("https://github.com/bomb", Page::Bytes(tarball("x", &[("zeros", &bomb)])));
    let mut inputs = vec![("lib".to_owned(), lib())];
    for (number, locked) in [
        trap("https://github.com/endless"),
        trap("https://github.com/away"),
        trap("https://github.com/inside"),
        trap("https://github.com/circle"),
        trap("https://github.com/other"),
        trap("https://github.com/bomb"),
        trap("https://github.com/nowhere"),
        trap("https://evil.example/x"),
        trap("http://169.254.169.254/latest/meta-data"),
        trap(&format!("https://127.0.0.1:{port}/x")),
        trap("https://10.0.0.1/x"),
        trap("https://[fd00::1]/x"),
        trap("https://user:password@github.com/other"),
        trap("file:///etc/passwd"),
        with_hash(json!({ "type": "path", "path": "/etc" })),
        with_hash(json!({ "type": "git", "url": "ssh://git@github.com/acme/private" })),
        with_hash(json!({ "type": "git", "url": "https://github.com/acme/lib" })),
        json!({ "type": "github", "owner": "acme", "repo": "lib", "rev": crate::scene::REV }),
    ]
    .into_iter()
    .enumerate()
    {
        inputs.push((format!("trap-{number}"), locked));
    }
    let inputs: Vec<(&str, Value)> =
        inputs.iter().map(|(name, locked)| (name.as_str(), locked.clone())).collect();
    let lock = lock(&inputs);
    scene.push("main", &lock).await;

    assert_eq!(scene.left().await, [""; 0]);
    let good = &paths(&crate::scene::lock(&[("lib", lib())]))[0];
    for path in paths(&lock) {
        assert_eq!(scene.narinfo(&path).await.is_some(), path == *good, "{path}");
    }
    let asked = scene.hosts.take_asked();
    for asked in &asked {
        assert!(asked.url.starts_with("https://github.com/"), "{}", asked.url);
        for secret in ["authorization", "cookie", "referer"] {
            assert!(!asked.headers.contains_key(secret), "{}: {secret}", asked.url);
        }
    }
    assert!(asked.iter().any(|asked| asked.url == "https://github.com/bomb"));
}

#[tokio::test]
async fn what_a_host_does_not_give_now_is_had_later() {
    let scene = Scene::new(&[]).await;
    let lock = lock(&[("lib", lib())]);
    let path = paths(&lock).remove(0);
    scene.hosts.put(ARCHIVE, Page::Status(503));
    scene.push("main", &lock).await;
    assert_eq!(scene.narinfo(&path).await, None);
    let left = scene.left().await;
    assert!(left.len() == 1 && left[0].contains("503"), "{left:?}");
    scene.hosts.put(ARCHIVE, Page::Bytes(tarball("x", &FILES)));
    scene.pass(3600).await;
    assert!(scene.narinfo(&path).await.is_some());
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn a_lock_file_of_what_comes_to_nothing_is_fetched_once_and_not_to_its_end() {
    let scene = Scene::new(&[]).await;
    let nar_hash = nar_hash(&[("another", "")]);
    let mut inputs = Vec::new();
    for number in 0..210 {
        let url = format!("https://github.com/{number}");
        // Some may be had later: the others are not tried again for that.
        let busy = number % 10 == 0;
        let page = if busy { Page::Status(503) } else { Page::Bytes(tarball("x", &FILES)) };
        scene.hosts.put(&url, page);
        // Each another path that nobody has.
        let digits = format!("{number:03}");
        let hash = nar_hash.replace(&nar_hash[20..23], &digits);
        inputs.push((format!("input-{digits}"), json!({ "type": "tarball", "url": url, "narHash": hash })));
    }
    let inputs: Vec<(&str, Value)> =
        inputs.iter().map(|(name, locked)| (name.as_str(), locked.clone())).collect();
    scene.push("main", &lock(&inputs)).await;
    assert_eq!(scene.hosts.take_urls().len(), 200);
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn what_is_wrong_is_not_asked_for_again_with_what_may_be_had_later() {
    let scene = Scene::new(&[]).await;
    let (wrong, busy) = ("https://github.com/wrong", "https://github.com/busy");
    scene.hosts.put(wrong, Page::Bytes(tarball("x", &FILES)));
    scene.hosts.put(busy, Page::Status(503));
    let good = [("busy", "")];
    let lock = lock(&[("wrong", at(wrong, &[("another", "")])), ("busy", at(busy, &good))]);
    scene.push("main", &lock).await;
    let mut asked = scene.hosts.take_urls();
    asked.sort_unstable();
    assert_eq!(asked, [busy, wrong]);
    for _ in 0..2 {
        scene.pass(3600).await;
        assert_eq!(scene.hosts.take_urls(), [busy]);
    }
    scene.hosts.put(busy, Page::Bytes(tarball("x", &good)));
    scene.pass(3600).await;
    assert_eq!(scene.hosts.take_urls(), [busy]);
    assert_eq!(scene.left().await, [""; 0]);
    assert!(scene.narinfo(&paths(&crate::scene::lock(&[("busy", at(busy, &good))]))[0]).await.is_some());
}

#[tokio::test]
async fn what_a_lock_file_may_cost_it_may_cost_once_however_often_it_is_tried() {
    let scene = Scene::new(&[]).await;
    let urls = ["https://github.com/1", "https://github.com/2", "https://github.com/3"];
    // Each comes to nothing, after something more than a MiB.
    let zeros = "\0".repeat(1 << 20);
    let page = Page::Bytes(tarball("x", &[("zeros", &zeros)]));
    let lock = lock(&urls.map(|url| (url, at(url, &[("it", url)]))));
    // The first that is asked for.
    let first = FlakeLock::parse(lock.to_string().as_bytes()).unwrap().inputs.remove(0).name;
    for url in urls {
        scene.hosts.put(url, if url == first { page.clone() } else { Page::Status(503) });
    }
    // Two of them are too much.
    let spent = Spent { wasted: 4_000_000_000 - (3 << 19), ..Spent::default() };
    scene.prefetch_inputs(&lock, spent).await;
    assert_eq!(scene.hosts.take_urls().len(), 3);
    assert_eq!(scene.left().await.len(), 1);
    for url in urls {
        scene.hosts.put(url, page.clone());
    }
    scene.pass(3600).await;
    assert_eq!(scene.hosts.take_urls().len(), 1);
    assert_eq!(scene.left().await, [""; 0]);
}

fn at(url: &str, files: &[(&str, &str)]) -> Value {
    json!({ "type": "tarball", "url": url, "narHash": nar_hash(files) })
}

#[tokio::test]
async fn what_is_no_lock_file_brings_nothing() {
    let scene = Scene::new(&[]).await;
    for lock in [&b"{}"[..], b"", b"<html>", &vec![b' '; (1 << 20) + 1]] {
        scene.push_bytes("main", lock).await;
        scene.service.queue.idle().await.unwrap();
        assert_eq!(scene.left().await, [""; 0]);
    }
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
}

#[tokio::test]
async fn what_an_upstream_has_is_not_asked_of_its_host() {
    let upstream = Scene::new(&[]).await;
    upstream.push("main", &lock(&[("lib", lib())])).await;
    let of_upstream = reader(&upstream.url, "main").await;
    let url = format!("{}/main", upstream.url);
    let scene = Scene::new(&[(&url, &of_upstream.public_keys[0])]).await;
    // Of a kind that no host is asked for.
    let mut git = lib();
    git["type"] = "git".into();
    git["url"] = "https://evil.example/lib".into();
    for inputs in [lock(&[("lib", git)]), lock(&[("lib", lib())])] {
        let path = paths(&inputs).remove(0);
        scene.push("main", &inputs).await;
        assert!(scene.narinfo(&path).await.is_some());
        assert_eq!(scene.hosts.take_urls(), [""; 0]);
    }
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn an_upstream_that_is_gone_keeps_nothing_from_coming_from_its_host() {
    let upstream = Scene::new(&[]).await;
    let of_upstream = reader(&upstream.url, "main").await;
    let url = format!("{}/main", upstream.url);
    drop(upstream);
    let scene = Scene::new(&[(&url, &of_upstream.public_keys[0])]).await;
    let lock = lock(&[("lib", lib())]);
    scene.push("main", &lock).await;
    assert!(scene.narinfo(&paths(&lock)[0]).await.is_some());
    assert_eq!(scene.hosts.take_urls(), [ARCHIVE]);
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn a_repository_that_may_not_push_brings_nothing() {
    let scene = Scene::new(&[]).await;
    scene.github.add_repository("acme/other");
    scene.push_from("acme/other", "main", lock(&[("lib", lib())]).to_string().as_bytes()).await;
    scene.service.queue.idle().await.unwrap();
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
    assert_eq!(scene.left().await, [""; 0]);
}

#[tokio::test]
async fn what_the_service_may_read_at_github_by_its_app_no_host_is_told() {
    let scene = Scene::with_app().await;
    let codeload = "https://codeload.github.com/acme/lib/tar.gz/x";
    scene.hosts.put(ARCHIVE, Page::Redirect(302, codeload.to_owned()));
    scene.hosts.put(codeload, Page::Bytes(tarball("x", &FILES)));
    let lock = lock(&[("lib", lib())]);
    let job = Job::push("acme/flake", "main");
    scene.push_of(&job, false, lock.to_string().as_bytes()).await;
    scene.service.queue.idle().await.unwrap();
    assert!(scene.narinfo(&paths(&lock)[0]).await.is_some());
    // Beside what asks which repositories the App is installed on, for missed deliveries.
    let mut scopes = scene.github.token_scopes();
    scopes.retain(|(_, permissions)| permissions != "metadata=read");
    assert_eq!(scopes, [("acme/flake".to_owned(), "contents=read".to_owned())]);
    let asked = scene.hosts.take_asked();
    assert_eq!(asked.iter().map(|asked| asked.url.as_str()).collect::<Vec<_>>(), [ARCHIVE, codeload]);
    for asked in asked {
        let names = asked.headers.keys().map(|name| name.as_str());
        let names: Vec<&str> = names.filter(|name| *name != "host").collect();
        assert_eq!(names, ["accept", "user-agent"], "{}", asked.url);
    }
    assert_eq!(scene.left().await, [""; 0]);
}
