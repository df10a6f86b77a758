//! `larder push` as a person or a script meets it: what it says and how it ends, whatever goes wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{fs, process::Stdio};

use larder_service::clock::Clock;
use larder_tests::{
    front_proxy::{FrontProxy, Manner},
    github::{GitHub, Job},
    larder::Push,
    larderd::Larderd,
    nix::{Nix, Output, run},
    package::{Node, Package, noise},
    small_disk::SmallDisk,
    source_store::{SourceStore, tree},
    world::{Scene, World, reader},
};

/// A store with a path of this much noise, and another that refers to it.
async fn source(bytes: usize) -> SourceStore {
    let leaf = tree("leaf", Node::File(noise(bytes)));
    let link = Node::Link(leaf.0.info.path.absolute().into_bytes());
    let (package, node) = tree("top", link);
    let top = (package.referring_to([&leaf.0]), node);
    SourceStore::new([leaf, top]).await
}

/// Somebody with a token that may push.
async fn token(world: &World) -> String {
    world.client().await.token().to_owned()
}

async fn is_visible(world: &World, package: &Package) -> bool {
    world.narinfo(&package.info.path).await.is_some()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, said: &[&str]) {
    assert_eq!(output.code, Some(code), "{output:?}");
    for words in said {
        assert!(output.stderr.contains(words), "{words:?} is not in {output:?}");
    }
    assert!(!output.stderr.contains("internal error"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_and_the_json_say_what_was_done() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(100_000).await);
    let first = source.push(Push::with_token(&world.url(), &token)).run().await;
    assert_ends(&first, 0, &[]);
    let last = first.stdout.lines().last().unwrap();
    assert!(last.starts_with("pushed 2 paths ("), "{last}");
    assert!(last.contains(&format!("to {}/main in ", world.url())), "{last}");

    let second = source.push(Push::with_token(&world.url(), &token)).run().await;
    assert!(second.stdout.lines().last().unwrap().starts_with("pushed 0 paths ("), "{second:?}");
    let report = source.push(Push::with_token(&world.url(), &token)).report().await;
    assert_eq!((report.published, report.sent_bytes), (0, 0));
    assert_eq!(report.statuses(), [("present", 2)].into());
    assert!(report.nar_bytes > 100_000);
    assert!(is_visible(&world, source.root()).await);
}

/// A token that `larderd token create` made for somebody.
async fn token_with(world: &World, name: &str, permissions: &[&str]) -> String {
    let mut command = world.larderd(&["token", "create", name]).await;
    command.args(permissions.iter().flat_map(|permission| ["--permission", permission]));
    run(&mut command).await.expect_success().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_has_a_path_replaced_on_purpose() {
    let world = World::new().await;
    let source = source(50_000).await;
    let root = source.root();
    let other = Package::with_nar(root.info.path.clone(), Node::File(noise(1000)).nar());
    world.client().await.push(&[&other]).await.unwrap();
    let stands = async || world.narinfo(&root.info.path).await.unwrap().nar_hash;

    // Without being told to, nobody's push changes what stands.
    let (anna, admin) =
        (token_with(&world, "anna", &["push"]).await, token_with(&world, "admin", &["push", "admin"]).await);
    for token in [&anna, &admin] {
        let kept = source.push(Push::with_token(&world.url(), token)).run().await;
        assert_ends(&kept, 0, &["with other contents", &root.info.path.absolute()]);
        assert_eq!(stands().await, other.info.nar_hash);
    }
    let refused = source.push(Push::with_token(&world.url(), &anna)).args(["--replace"]).run().await;
    assert_ends(&refused, 3, &["larderd token create --permission admin"]);
    assert_eq!(stands().await, other.info.nar_hash);

    let replaced = source.push(Push::with_token(&world.url(), &admin)).args(["--replace"]).run().await;
    assert_ends(&replaced, 0, &["is replaced", &root.info.path.absolute()]);
    assert_eq!(stands().await, root.info.nar_hash);
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_wrong_is_denied_and_not_repeated() {
    let world = World::new().await;
    let source = source(1000).await;
    let wrong = "larder_person_0123456789abcdef0123456789abcdef";
    let output = source.push(Push::with_token(&world.url(), wrong)).run().await;
    assert_ends(&output, 3, &["error: opening the push was refused"]);
    assert!(!output.stderr.contains("0123456789") && output.stdout.is_empty(), "{output:?}");

    let stranger = world.github.start_job(Job { repository: "evil/flake".to_owned(), ..Job::default() });
    let output = source.push(Push::in_job(&world.url(), &stranger)).run().await;
    assert_ends(&output, 3, &["error: exchanging the job's ID token was refused"]);
    assert!(!is_visible(&world, source.root()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_with_its_remedy() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(1000).await);
    let nothing = source.push(Push::without_credentials(&world.url())).run().await;
    assert_ends(&nothing, 2, &["LARDER_TOKEN", "--token-file", "id-token: write"]);

    let push = || Push::with_token(&world.url(), &token).from_store(source.dir());
    let elsewhere = push().args(["/etc/passwd"]).run().await;
    assert_ends(&elsewhere, 2, &["/etc/passwd"]);
    let absent = Package::noise("absent", 10).info.path.absolute();
    assert_ends(&push().args([&absent]).run().await, 2, &[&absent]);
    assert_ends(&push().run().await, 2, &["<PATH>"]);
    let path = source.root().info.path.absolute();
    assert_ends(&push().args(["--time-limit", "soon", &path]).run().await, 2, &["soon"]);
    let open_line = Push::with_token("http://cache.example.org", &token).from_store(source.dir());
    assert_ends(&open_line.args([&path]).run().await, 1, &["https://"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caches_url_in_place_of_the_services_is_told_with_its_remedy() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(1000).await);
    let cache = format!("{}/main", world.url());
    let pushed = source.push(Push::with_token(&cache, &token)).run().await;
    assert_ends(&pushed, 1, &["without a cache's name behind it", "name the cache by itself"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_whose_files_changed_is_skipped_and_the_others_are_pushed() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(100_000).await);
    let file = source.real_path(&source.root().info.path);
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/elsewhere", &file).unwrap();
    let output = source.push(Push::with_token(&world.url(), &token)).run().await;
    let root = source.root().info.path.absolute();
    assert_ends(&output, 4, &[&format!("skipped {root}: its NAR has"), "nix-store --verify-path"]);
    assert!(output.stdout.starts_with("pushed 1 path ("), "{output:?}");
    assert!(!is_visible(&world, source.root()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_dead_or_stalls_is_waited_for_no_longer_than_the_limit() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(1000).await);
    // Nobody listens on a port that was just given back.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let push = Push::with_token(&format!("http://{dead}"), &token).args(["--time-limit", "2s"]);
    assert_ends(&source.push(push).run().await, 1, &["no connection", "--time-limit"]);

    for page in ["/pushes", "/missing-chunks", "/frames", "/recipes", "/commit"] {
        let proxy = FrontProxy::start(&world.url(), Manner::Holds(page, 0)).await;
        let push = Push::with_token(&proxy.url(), &token).args(["--time-limit", "2s"]);
        assert_ends(&source.push(push).run().await, 1, &["--time-limit"]);
        assert_eq!(proxy.count(page), 1, "{:?}", proxy.requests());
    }
    assert!(!is_visible(&world, source.root()).await);
    source.push(Push::with_token(&world.url(), &token)).report().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_limits_bodies() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(24_000_000).await);
    let small = FrontProxy::start(&world.url(), Manner::LimitsBodies(100_000)).await;
    let output = source.push(Push::with_token(&small.url(), &token)).run().await;
    assert_ends(&output, 1, &["413", "--max-body"]);
    assert!(!is_visible(&world, source.root()).await);

    // One that takes less than the client begins with: it makes its bodies smaller by itself.
    let proxy = FrontProxy::start(&world.url(), Manner::LimitsBodies(3_000_000)).await;
    let report = source.push(Push::with_token(&proxy.url(), &token)).report().await;
    assert_eq!(report.published, 2);
    assert!(proxy.count("/frames") >= 8, "{:?}", proxy.requests());
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_hangs_up_on_large_bodies() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(24_000_000).await);
    let proxy = FrontProxy::start(&world.url(), Manner::HangsUpOn(3_000_000)).await;
    let report = source.push(Push::with_token(&proxy.url(), &token)).report().await;
    assert_eq!(report.published, 2);
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_and_is_not_larderd() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(1000).await);
    for (status, code, said) in
        [(404, 1, "is a Larder service"), (401, 3, "lets nobody through"), (302, 1, "final URL")]
    {
        let said = said.replace("is a Larder", "a Larder");
        let proxy = FrontProxy::start(&world.url(), Manner::Answers("/pushes", status)).await;
        let output = source.push(Push::with_token(&proxy.url(), &token)).run().await;
        assert_ends(&output, code, &["something that is not larderd", &said]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_that_is_there_costs_one_request() {
    let world = World::new().await;
    let token = token(&world).await;
    let leaves: Vec<_> = (0..2000).map(|n| tree("leaf", Node::File(format!("{n}").into_bytes()))).collect();
    let below: Vec<Package> = leaves.iter().map(|(package, _)| package.clone()).collect();
    let (package, node) = tree("list", Node::File(b"all".to_vec()));
    let source = SourceStore::new(leaves.into_iter().chain([(package.referring_to(&below), node)])).await;
    let proxy = FrontProxy::start(&world.url(), Manner::Plain).await;
    assert_eq!(source.push(Push::with_token(&proxy.url(), &token)).report().await.published, 2001);
    let first = proxy.requests().len();
    assert!(first < 20, "{:?}", proxy.requests());
    assert_eq!(source.push(Push::with_token(&proxy.url(), &token)).report().await.published, 0);
    assert_eq!(proxy.requests()[first..], ["POST /api/v1/caches/main/pushes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_push_the_same() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(8_000_000).await);
    let pushes = (0..3).map(|_| source.push(Push::with_token(&world.url(), &token)).report());
    let reports = futures_util::future::join_all(pushes).await;
    assert_eq!(reports.iter().map(|report| report.published).sum::<u64>(), 2, "{reports:?}");
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_while_it_uploads_goes_on_where_it_was() {
    let world = World::new().await;
    let (token, source) = (token(&world).await, source(20_000_000).await);
    let proxy = FrontProxy::start(&world.url(), Manner::Holds("/frames", 4)).await;
    let push = Push::with_token(&proxy.url(), &token).args(["--max-body", "2MiB", "--streams", "1"]);
    let mut dying = source.push(push).command();
    let mut dying = dying.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    // The fifth body: the four before it were acknowledged.
    proxy.until_held().await;
    dying.kill().await.unwrap();
    assert!(!is_visible(&world, source.root()).await);

    let report = source.push(Push::with_token(&world.url(), &token)).report().await;
    assert_eq!(report.published, 2);
    assert!((10_000_000..15_000_000).contains(&report.sent_bytes), "{} were sent", report.sent_bytes);
    source.assert_read_back(&world.reader().await, Nix::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_disk_is_full_says_so_and_recovers() {
    let disk = SmallDisk::new(24);
    let github = GitHub::start(Clock::System).await;
    let larderd = Larderd::start(disk.path(), github.issuer(), &Scene::default()).await;
    let (fits, too_much) = (source(1_000_000).await, source(40_000_000).await);
    let push = || Push::in_job(&larderd.url(), &github.start_job(Job::default()));
    fits.push(push()).report().await;

    let output = too_much.push(push()).run().await;
    assert_ends(&output, 1, &["error: uploading chunks was refused", "no space left"]);
    let page = format!("{}/main/{}.narinfo", larderd.url(), too_much.root().info.path.hash());
    assert_eq!(reqwest::get(&page).await.unwrap().status(), 404);
    // What is there is read as ever.
    let reader = reader(&larderd.url(), "main").await;
    fits.assert_read_back(&reader, Nix::Installed).await;
    // What was begun and could not be ended takes no place.
    assert!(disk.files().iter().all(|file| !file.to_string_lossy().contains('#')), "{:?}", disk.files());

    disk.grow(100);
    assert_eq!(too_much.push(push()).report().await.published, 2);
    too_much.assert_read_back(&reader, Nix::Installed).await;
}
