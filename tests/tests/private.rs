//! A private cache, as those see it who may read it: real Nix with a netrc, the relay of a job, people by hand.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_action::{
    credentials::Credentials,
    progress::Silent,
    relay::{Patience, Relay},
    secret::Secret,
    service::Service,
};
use larder_protocol::api::Permission;
use larder_service::{
    metadata::Settled,
    trust::{
        Rank,
        people::{self, NewToken},
    },
};
use larder_tests::{
    client::Client,
    github::Job,
    larder::Push,
    nix::{Nix, Output, Reader, ScratchStore, run},
    package::{Node, Package, noise},
    programs::program,
    source_store::{SourceStore, tree},
    world::{Scene, World},
};
use tokio::process::Command;

const CACHES: &str = r#"
[[cache]]
name = "main"
public = false
upstream = []

[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/main"

[[cache]]
name = "other"
public = false
upstream = []
"#;

async fn world() -> World {
    World::with(Scene { caches: CACHES.to_owned(), ..Scene::default() }).await
}

async fn token(world: &World, name: &str, cache: &str, permissions: &[Permission]) -> String {
    let cache = cache.parse().unwrap();
    let permissions = permissions.to_vec();
    let new = NewToken { name, cache: &cache, permissions, rank: Rank::default(), lifetime: 1000 };
    let service = world.service();
    people::create_token(&service.metadata, &service.clock, new).await.unwrap().expose().to_owned()
}

/// A library and a program that refers to it, which a job has pushed.
async fn pushed(world: &World) -> (Client, Package, Package) {
    let library = Package::noise("library", 300_000);
    let uses = library.info.path.absolute().into_bytes();
    let program =
        Package::new("program", &Node::directory([("uses", Node::File(uses))])).referring_to([&library]);
    let client = world.client().await;
    client.push(&[&library, &program]).await.unwrap();
    (client, library, program)
}

/// Reads the program into an empty store, with a netrc that has this token.
async fn read(nix: Nix, client: &Client, program: &Package, token: Option<&str>) -> (Output, ScratchStore) {
    let line = token.map(|token| format!("machine 127.0.0.1 login larder password {token}\n"));
    read_by(nix, client, &client.cache().url, program, &line.unwrap_or_default()).await
}

async fn read_by(
    nix: Nix,
    client: &Client,
    url: &str,
    program: &Package,
    lines: &str,
) -> (Output, ScratchStore) {
    let store = ScratchStore::new(nix);
    let netrc = store.root().join("netrc");
    std::fs::write(&netrc, lines).unwrap();
    let reader = Reader {
        substituters: vec![url.to_owned()],
        public_keys: client.cache().public_keys.iter().map(ToString::to_string).collect(),
        more: format!("netrc-file = {}", netrc.display()),
    };
    let paths = [PathBuf::from(program.info.path.absolute())];
    (store.realise(&reader, &paths).await, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_of_both_versions_reads_it_by_a_netrc_and_by_nothing_else() {
    let world = world().await;
    let (client, library, program) = pushed(&world).await;
    assert!(!client.cache().public);
    let reading = token(&world, "build-host", "main", &[Permission::Read]).await;
    let pushing = token(&world, "pusher", "main", &[Permission::Push]).await;
    let elsewhere = token(&world, "elsewhere", "other", &[Permission::Read, Permission::Admin]).await;
    for nix in [Nix::Installed, Nix::V2_26] {
        let (output, store) = read(nix, &client, &program, Some(&reading)).await;
        output.expect_success();
        store.verify().await;
        assert!(store.has(Path::new(&library.info.path.absolute())));
        for token in [None, Some(&pushing), Some(&elsewhere)] {
            let (output, store) = read(nix, &client, &program, token.map(String::as_str)).await;
            assert!(!output.success && !store.has(Path::new(&program.info.path.absolute())), "{token:?}");
        }
        // One netrc for two private caches of a host: each URL names its user.
        let line = |user: &str, token: &str| format!("machine 127.0.0.1 login {user} password {token}\n");
        let lines = line("other", &elsewhere) + &line("team", &reading);
        let url = client.cache().url.replace("http://", "http://team@");
        let (output, _) = read_by(nix, &client, &url, &program, &lines).await;
        output.expect_success();
    }
    // Revoked, it reads no more; nor does one that has ended.
    let service = world.service();
    assert!(people::revoke_token(&service.metadata, &service.clock, "build-host").await.unwrap());
    assert!(!read(Nix::Installed, &client, &program, Some(&reading)).await.0.success);
    let short = token(&world, "short", "main", &[Permission::Read]).await;
    assert!(read(Nix::Installed, &client, &program, Some(&short)).await.0.success);
    world.advance(1000);
    assert!(!read(Nix::Installed, &client, &program, Some(&short)).await.0.success);
}

/// What lets the relay of this job read, as the agent makes it.
fn pass(world: &World, job: Job) -> Arc<Service<'static>> {
    let started = world.github.start_job(job);
    let credentials = Credentials::Job {
        request_url: started.request_url.parse().unwrap(),
        request_token: Secret::new(&started.request_token),
    };
    let service = world.url().parse().unwrap();
    Arc::new(
        Service::new(&service, &"main".parse().unwrap(), &credentials, &Silent).unwrap().with_any_grant(),
    )
}

#[tokio::test]
async fn a_relay_reads_it_by_the_jobs_session_and_shows_no_token() {
    let world = world().await;
    let (_, _, program) = pushed(&world).await;
    let upstream = format!("{}/main", world.url()).parse().unwrap();
    let pass = pass(&world, Job::default());
    let relay = Relay::start(upstream, Some(pass.clone()), Patience::default()).await.unwrap();
    let page = format!("{}/{}.narinfo", relay.url(), program.info.path.hash());
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let read = async || {
        let narinfo = http.get(&page).send().await.unwrap();
        assert!(narinfo.status().is_success(), "{}", narinfo.status());
        let headers = format!("{:?}", narinfo.headers());
        let narinfo = larder_protocol::narinfo::NarInfo::parse(&narinfo.text().await.unwrap()).unwrap();
        let nar = http.get(format!("{}/{}", relay.url(), narinfo.url)).send().await.unwrap();
        let token = pass.token().await.unwrap();
        assert!(
            !headers.contains(token.expose()) && !format!("{:?}", nar.headers()).contains(token.expose())
        );
        assert_eq!(zstd::decode_all(&nar.bytes().await.unwrap()[..]).unwrap(), program.nar);
        token
    };
    let first = read().await;
    assert!(first == read().await, "one session for all");
    // Given back, nobody can read by it; nor when its time is over. The relay gets another.
    let url = format!("{}/main/{}.narinfo", world.url(), program.info.path.hash());
    let reads = async |token: &Secret| {
        http.get(&url).bearer_auth(token.expose()).send().await.unwrap().status().is_success()
    };
    assert!(reads(&first).await);
    pass.end_session().await;
    assert!(!reads(&first).await);
    let second = read().await;
    assert!(first != second && reads(&second).await);
    world.advance(15 * 60);
    assert!(!reads(&second).await);
}

#[tokio::test]
async fn a_relay_without_a_good_pass_has_nothing_and_fails_no_build() {
    let world = world().await;
    let (_, _, program) = pushed(&world).await;
    let upstream: url::Url = format!("{}/main", world.url()).parse().unwrap();
    for pass in [None, Some(pass(&world, Job::push("mallory/flake", "main")))] {
        let relay = Relay::start(upstream.clone(), pass, Patience::default()).await.unwrap();
        let page = format!("{}/{}.narinfo", relay.url(), program.info.path.hash());
        assert_eq!(reqwest::get(page).await.unwrap().status(), 404);
        let info = reqwest::get(format!("{}/nix-cache-info", relay.url())).await.unwrap();
        assert!(info.status().is_success(), "what Nix asks first");
    }
}

/// All of an answer that could tell something, with one cache's name for another's.
async fn all(request: reqwest::RequestBuilder, name: &str) -> (u16, Vec<String>, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer.headers().iter().filter(|(name, _)| **name != reqwest::header::DATE);
    let mut headers: Vec<String> = headers.map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.sort();
    (status, headers, answer.text().await.unwrap().replace(name, "NAME"))
}

/// A world whose pull requests have caches of their own, too.
async fn isolating() -> World {
    let rule =
        "\n[[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n\n[[cache]]\nname = \"other\"";
    let caches = CACHES.replace("\n[[cache]]\nname = \"other\"", rule);
    World::with(Scene { caches, ..Scene::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_request_brought_keeps_its_parent_private() {
    let world = isolating().await;
    let own = world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    let settle = async |public| {
        world.service().metadata.settle_namespace(&"main".parse().unwrap(), public).await.unwrap()
    };
    // As long as nothing was pushed, it could still become public.
    assert!(settle(true).await != Settled::WasOtherwise && settle(false).await != Settled::WasOtherwise);
    own.push(&[&Package::noise("own", 1000)]).await.unwrap();
    assert_eq!(settle(true).await, Settled::WasOtherwise);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pull_requests_private_cache_nobody_hears_but_its_jobs() {
    let world = isolating().await;
    let (client, _, theirs) = pushed(&world).await;
    let package = Package::noise("own", 1000);
    let own = world.exchange(&Job::pull_request("acme/flake", 7)).await.unwrap();
    own.push(&[&package]).await.unwrap();
    let other = world.exchange(&Job::pull_request("acme/flake", 8)).await.unwrap();
    let name = own.cache().name.as_str();
    assert!(name.starts_with("main~") && !own.cache().public);
    let http = reqwest::Client::new();
    let narinfo = |cache: &str, package: &Package| {
        http.get(format!("{}/{cache}/{}.narinfo", world.url(), package.info.path.hash()))
    };
    for (package, there) in [(&package, true), (&theirs, true), (&Package::noise("none", 10), false)] {
        let answer = narinfo(name, package).bearer_auth(own.token()).send().await.unwrap();
        assert_eq!(answer.status().is_success(), there);
    }
    // The parent is read by its jobs, and its own cache by no other's.
    assert_eq!(narinfo("main", &theirs).bearer_auth(own.token()).send().await.unwrap().status(), 200);
    assert_eq!(narinfo("main", &package).bearer_auth(own.token()).send().await.unwrap().status(), 404);
    let reading = token(&world, "build-host", "main", &[Permission::Read, Permission::Admin]).await;
    let absent = name.replace("-pr-7", "-pr-9");
    let nowhere = name.replace("main~", "nowhere~");
    for shown in [None, Some(other.token()), Some(client.token()), Some(&*reading)] {
        let show = |request: reqwest::RequestBuilder| match shown {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let hash = package.info.path.hash();
        for page in [
            format!("/NAME/{hash}.narinfo"),
            "/NAME/nix-cache-info".to_owned(),
            "/NAME/pins/web".to_owned(),
            "/api/v1/caches/NAME".to_owned(),
            format!("/api/v1/caches/NAME/paths/{hash}"),
            format!("/api/v1/caches/NAME/paths/{hash}/statement"),
        ] {
            let ask = async |name: &str| {
                all(show(http.get(format!("{}{}", world.url(), page.replace("NAME", name)))), name).await
            };
            let there = ask(name).await;
            assert_eq!(there.0, 404, "{page}");
            assert_eq!((&there, &there), (&ask(&absent).await, &ask(&nowhere).await), "{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_push_to_it_and_ask_about_it_by_their_tokens() {
    let world = world().await;
    let source = SourceStore::new([tree("tool", Node::File(noise(200_000)))]).await;
    let path = source.root().info.path.to_string();
    let both = token(&world, "anna", "main", &[Permission::Push, Permission::Read]).await;
    let blind = token(&world, "blind", "main", &[Permission::Push]).await;
    let push = |token: &str| source.push(Push::with_token(&world.url(), token));
    assert_eq!(push(&both).report().await.published, 1);
    // Once more, by somebody who is told nothing: all of it goes over the wire again.
    let report = push(&blind).report().await;
    assert!(report.sent_bytes > 100_000 && report.published == 1, "{report:?}");
    assert_eq!(push(&both).report().await.sent_bytes, 0);

    let why = async |token: Option<&str>| {
        let mut command = Command::new(program("larder"));
        command.env_clear().env("HOME", "/var/empty").args(["why", &path, "--service", &world.url()]);
        command.envs(token.map(|token| ("LARDER_TOKEN", token)));
        run(&mut command).await
    };
    assert!(why(Some(&both)).await.expect_success().contains("anna"));
    for token in [None, Some(&*blind)] {
        let refused = why(token).await;
        assert!(!refused.success && refused.stderr.contains("no such cache"), "{refused:?}");
    }
}
