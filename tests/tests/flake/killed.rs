//! The service as a program is killed at every step of bringing an input, its download among them.

use std::{path::Path, sync::Arc};

use larder_protocol::{NarHash, StorePath, narinfo::NarInfo};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    verification::{Scope, verify},
};
use larder_tests::{
    archive_host::{Page, tarball},
    killing::{copy_with_due, do_what_is_left, kill_at},
    programs::program,
    world::reader,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{process::Command, sync::mpsc};

use crate::scene::{ARCHIVE, FILES, HOSTS, SECRET, Scene, everybody, lib, lock, paths};

const KIND: &str = "prefetch-inputs";

/// A scene in which an input could not be had yet; and the input's path.
async fn prepare() -> (Scene, StorePath) {
    let scene = Scene::new(&[]).await;
    let lock = lock(&[("lib", lib())]);
    scene.hosts.put(ARCHIVE, Page::Status(503));
    scene.push("main", &lock).await;
    assert_eq!(scene.left().await.len(), 1);
    scene.stop().await;
    scene.hosts.put(ARCHIVE, Page::Bytes(tarball("x", &FILES)));
    scene.hosts.take_asked();
    (scene, paths(&lock).remove(0))
}

/// The program, with a copy of the scene's data.
async fn program_in(folder: &Path, scene: &Scene) -> Command {
    copy_with_due(scene.data.path(), &folder.join("data"), KIND).await;
    std::fs::write(folder.join("larder.toml"), &scene.config).unwrap();
    std::fs::write(folder.join("root.pem"), scene.hosts.root()).unwrap();
    let mut larderd = Command::new(program("larderd-on-loopback"));
    larderd.current_dir(folder).env_clear().env("LARDER_DATA_DIR", folder.join("data")).env("SECRET", SECRET);
    larderd.env("LARDER_LISTEN", "127.0.0.1:0");
    larderd.args(["larder.toml", "root.pem", &scene.hosts.address().to_string()]).args(HOSTS);
    larderd
}

/// Does what is left to be done, two hours later; then the input must be there, whole, and nothing be left.
async fn finish(folder: &Path, scene: &Scene, path: &StorePath, killed: &str) {
    let data = folder.join("data");
    let environment = Environment::from([("LARDER_DATA_DIR", data.to_str().unwrap()), ("SECRET", SECRET)]);
    let config = Config::parse(Path::new("larder.toml"), &scene.config, &environment).unwrap();
    let clock = Clock::Set(Arc::new((Clock::System.now() + 7200).into()));
    let service = Service::open_on(config, clock, scene.hosts.internet(everybody)).await.unwrap();
    do_what_is_left(&service, async |url| {
        let jobs = service.metadata.jobs().await.unwrap();
        assert!(jobs.iter().all(|job| job.kind != KIND), "{killed}: {jobs:?}");
        let get = async |page: &str| {
            reqwest::get(format!("{url}/main/{page}")).await.unwrap().error_for_status().unwrap()
        };
        let narinfo = get(&format!("{}.narinfo", path.hash())).await.text().await.unwrap();
        let narinfo = NarInfo::parse(&narinfo).unwrap();
        let nar = zstd::decode_all(&get(&narinfo.url).await.bytes().await.unwrap()[..]).unwrap();
        assert_eq!(NarHash(Sha256::digest(nar).into()), narinfo.nar_hash, "{killed}");
        let report = verify(&service, Scope::All).await.unwrap();
        assert!(report.is_right(), "{killed}: {report:?}");
    })
    .await;
    // What was downloaded and unpacked lay in files without a name.
    let left: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{killed}: {left:?}");
}

/// Kills it after so many steps, and then after four more each time, until it is done.
async fn kill_at_each_step(scene: &Scene, path: &StorePath) {
    let (_keep, mut nothing_else) = mpsc::unbounded_channel();
    let mut killed = 0;
    for step in (1..).step_by(4) {
        let folder = TempDir::new().unwrap();
        let larderd = program_in(folder.path(), scene).await;
        let was_killed = kill_at(larderd, step, "prefetched a lock file's inputs", &mut nothing_else).await;
        finish(folder.path(), scene, path, &format!("killed at step {step}")).await;
        if !was_killed {
            break;
        }
        killed += 1;
    }
    assert!(killed > 6, "it had {killed} steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_step_of_bringing_an_input_from_its_host_does_no_harm() {
    let (scene, path) = prepare().await;
    kill_at_each_step(&scene, &path).await;
    assert!(!scene.hosts.take_urls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_step_of_bringing_an_input_from_an_upstream_does_no_harm() {
    let upstream = Scene::new(&[]).await;
    upstream.push("main", &lock(&[("lib", lib())])).await;
    let keys = reader(&upstream.url, "main").await.public_keys;
    let (mut scene, path) = prepare().await;
    let configured =
        format!("upstream = [{{ url = \"{}/main\", public_keys = [\"{}\"] }}]", upstream.url, keys[0]);
    scene.config = scene.config.replace("upstream = []", &configured);
    assert!(scene.config.contains(&configured));
    kill_at_each_step(&scene, &path).await;
    assert_eq!(scene.hosts.take_urls(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_download_does_no_harm() {
    let (scene, path) = prepare().await;
    let archive = tarball("x", &FILES);
    scene.hosts.put(ARCHIVE, Page::Held(archive.clone()));
    let folder = TempDir::new().unwrap();
    let larderd = program_in(folder.path(), &scene).await;
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let hosts = &scene.hosts;
    let downloading = async {
        while hosts.take_urls().is_empty() {
            tokio::task::yield_now().await;
        }
        // More steps than anything has.
        (0..10_000).for_each(|_| asked.send(()).unwrap());
        std::future::pending().await
    };
    let was_killed = tokio::select! {
        was_killed = kill_at(larderd, 5000, "prefetched a lock file's inputs", &mut was_asked) => was_killed,
        () = downloading => unreachable!(),
    };
    assert!(was_killed);
    scene.hosts.put(ARCHIVE, Page::Bytes(archive));
    finish(folder.path(), &scene, &path, "killed in the middle of the download").await;
}
