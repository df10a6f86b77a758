//! The real program is killed at every step of taking a closure into the host's store: at its statements, and at what it
//! says to the daemon.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
};
use larder_tests::{
    killing::{copy_with_due, do_what_is_left, kill_at},
    programs::program,
    world::configuration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{UnixListener, UnixStream},
    process::Command,
    sync::mpsc,
    task::JoinHandle,
};

use crate::host::{Host, conclude, left, protected, push, roots_in, tree};

/// Passes on what is said to a daemon, and tells of each piece.
fn between(listener: UnixListener, daemon: PathBuf, steps: mpsc::UnboundedSender<()>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_daemon, mut to_daemon) = UnixStream::connect(&daemon).await.unwrap().into_split();
            let (mut from_client, mut to_client) = client.into_split();
            tokio::spawn(async move { copy(&mut from_daemon, &mut to_client).await });
            let steps = steps.clone();
            tokio::spawn(async move {
                let mut piece = vec![0; 64 << 10];
                while let Ok(read @ 1..) = from_client.read(&mut piece).await {
                    if to_daemon.write_all(&piece[..read]).await.is_err() {
                        return;
                    }
                    let _ = steps.send(());
                }
            });
        }
    })
}

/// Does what is left to be done, two hours later. Why something is not done then.
async fn finish(config: Config) -> Vec<String> {
    let clock = Clock::Set(std::sync::Arc::new((Clock::System.now() + 7200).into()));
    let service = Service::open(config, clock).await.unwrap();
    let jobs = do_what_is_left(&service, async |_| service.metadata.jobs().await.unwrap()).await;
    let filling = jobs.into_iter().filter(|job| job.kind == "fill-host-store");
    filling.map(|job| job.error.unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_step_leaves_no_root_of_what_is_not_there_and_the_rest_is_done_later() {
    let before = Host::new();
    let mut world = before.world("").await;
    let (leaf, top) = tree();
    push(&world, &protected(7), &[&leaf, &top]).await;
    conclude(&world, &protected(7), "success").await;
    assert_eq!(left(&world).await.len(), 1);
    let keys = world.reader().await.public_keys;
    world.stop().await;
    let mut killed = 0;
    for step in (1..).step_by(3) {
        let mut host = Host::new();
        host.start(&keys).await;
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        copy_with_due(&world.data_dir(), &data, "fill-host-store").await;
        let socket = folder.path().join("socket");
        let (steps, mut messages) = mpsc::unbounded_channel();
        let passing = between(UnixListener::bind(&socket).unwrap(), host.socket(), steps);
        let address = "127.0.0.1:0".parse().unwrap();
        let scene = host.scene("ref_protected = true", "", "upstream = []", &socket);
        let text = configuration(address, &data, world.github.issuer(), &scene).await;
        let config = folder.path().join("larder.toml");
        std::fs::write(&config, &text).unwrap();
        let mut larderd = Command::new(program("larderd"));
        larderd.arg("--config").arg(config);
        let was_killed = kill_at(larderd, step, "is in the host's store", &mut messages).await;

        let both = || host.has(&top.info.path) && host.has(&leaf.info.path);
        assert!(roots_in(&data).is_empty() || both(), "killed at step {step}");
        host.verify().await;
        let config = Config::parse(Path::new("larder.toml"), &text, &Environment::of_process()).unwrap();
        assert_eq!(finish(config).await, [""; 0], "killed at step {step}");
        assert_eq!(roots_in(&data), HashSet::from([top.info.path.absolute()]), "killed at step {step}");
        host.collect_garbage().await;
        assert!(both(), "killed at step {step}");
        host.verify().await;
        passing.abort();
        if !was_killed {
            break;
        }
        killed += 1;
    }
    assert!(killed > 8, "it had {killed} steps");
}
