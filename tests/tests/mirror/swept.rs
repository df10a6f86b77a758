use std::{fs, process::Stdio, sync::atomic::Ordering};

use larder_protocol::api::CacheName;
use larder_service::{
    audit::Who,
    clock::Clock,
    config::{Config, Environment},
    retention,
};
use larder_tests::{
    github::Job,
    nix::run,
    package::Package,
    world::{Scene, World, configuration},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::scene::{TOPIC, assert_right, has, larderd};

const DAY: i64 = 24 * 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_swept_while_it_is_mirrored_is_left_out_with_what_refers_to_it() {
    let world = World::with(Scene::saying(TOPIC)).await;
    // The program that mirrors has no other.
    world.clock.store(Clock::System.now(), Ordering::SeqCst);
    let mut chain = vec![Package::noise("base", 6_000_000)];
    for number in 1..40 {
        let before = &chain[number - 1];
        chain.push(Package::noise(&format!("link-{number}"), 1000).referring_to([before]));
    }
    let client = world.exchange(&Job::push("acme/flake", "topic")).await.unwrap();
    client.push(&chain.iter().collect::<Vec<_>>()).await.unwrap();
    let stays = Package::noise("stays", 1000);
    world.client().await.push(&[&stays]).await.unwrap();
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("larder.toml");
    let text =
        configuration(world.address(), &world.data_dir(), world.github.issuer(), &Scene::default()).await;
    Config::parse(&config, &text, &Environment::of_process()).unwrap();
    fs::write(&config, text).unwrap();

    let folder = dir.path().join("mirror");
    let mut mirror = larderd(&config);
    mirror.env("LARDER_LOG", "warn,larder_service::mirror=debug");
    mirror.args(["mirror", "--to", &format!("file://{}", folder.display())]);
    let mut mirror = mirror.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut log = BufReader::new(mirror.stderr.take().unwrap()).lines();
    // It knows by then what is to be there, and has written little of it.
    while !log.next_line().await.unwrap().unwrap().contains("nix-cache-info") {}
    signal(&mirror, "-STOP").await;
    let service = world.service();
    let cache: CacheName = "main".parse().unwrap();
    let (who, now) = (Who::operator(), service.clock.now());
    assert_eq!(
        service.metadata.drop_roots(&cache, "acme/flake", Some("refs/heads/topic"), &who, now).await.unwrap(),
        1
    );
    // Noted as dead, taken, and their files deleted.
    for _ in 0..4 {
        world.advance(2 * DAY);
        retention::sweep(service).await.unwrap();
    }
    for package in &chain {
        assert!(world.narinfo(&package.info.path).await.is_none(), "it was not swept");
    }
    signal(&mirror, "-CONT").await;
    let output = mirror.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    // It may have been stopped a little late, when all was written.
    match assert_right(&folder) {
        1 => assert!(has(&folder, &stays)),
        number => assert_eq!(number, chain.len() + 1, "some of what went is there"),
    }
}

async fn signal(child: &tokio::process::Child, signal: &str) {
    let pid = child.id().unwrap().to_string();
    run(Command::new("kill").args([signal, &pid])).await.expect_success();
}
