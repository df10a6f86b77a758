//! The client's push engine against a service that dies, forgets or is narrow, and a store that is damaged.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use larder_action::{
    credentials::Credentials,
    progress::{Event, Progress, Silent},
    push::{PushError, PushOptions, PushReport, push},
    secret::Secret,
    store::{Closure, NixStore},
};
use larder_protocol::StorePath;
use larder_service::clock::Clock;
use larder_tests::{
    github::{GitHub, Job},
    larderd::Larderd,
    nix::{self, Nix, Reader, ScratchStore, build, derivation},
    world::{Scene, World, reader},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

fn options(service: &str) -> PushOptions {
    PushOptions::new(service.parse().unwrap(), "main".parse().unwrap())
}

/// A job that has just started, as the runner tells its steps.
fn job(github: &GitHub) -> Credentials {
    let job = github.start_job(Job::default());
    Credentials::Job {
        request_url: job.request_url.parse().unwrap(),
        request_token: Secret::new(&job.request_token),
    }
}

async fn closure(built: &[PathBuf]) -> Closure {
    let store = NixStore::open(Path::new("/")).await.unwrap();
    let roots: Vec<StorePath> = built.iter().map(|path| store.resolve(path).unwrap()).collect();
    store.closure(&roots).await.unwrap()
}

async fn push_to(world: &World, closure: Closure) -> Result<PushReport, PushError> {
    push(&options(&world.url()), &job(&world.github), closure, &Silent).await
}

/// A library of `megabytes` that name it here and there, a tool that needs it, and a link to the tool.
async fn build_some(megabytes: usize) -> Vec<PathBuf> {
    let library = derivation(
        "library",
        &[],
        &format!(
            "mkdir $out; for n in $(seq {megabytes}); do head -c 1000000 /dev/urandom > $out/$n; \
             echo $out >> $out/$n; done"
        ),
    );
    let tool = derivation("tool", &[&library], "mkdir $out; echo $in0 $out > $out/tool; chmod +x $out/tool");
    build(&derivation("link", &[&tool], "ln -s $in0/tool $out")).await
}

fn path_of<'a>(closure: &'a Closure, name: &str) -> &'a StorePath {
    &closure.paths.iter().find(|info| info.path.name() == name).unwrap().path
}

async fn delete_closure(paths: &[PathBuf]) {
    nix::delete(&nix::closure(paths).await).await;
}

async fn assert_readable(reader: &Reader, paths: &[PathBuf]) {
    let store = ScratchStore::new(Nix::Installed);
    store.realise(reader, paths).await.expect_success();
    store.verify().await;
}

/// A copy of the closure's files, to spoil.
fn copied(closure: &Closure) -> (Closure, TempDir) {
    let dir = TempDir::new().unwrap();
    for info in &closure.paths {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(closure.real_path(&info.path))
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
    (Closure { store_dir: dir.path().to_owned(), ..closure.clone() }, dir)
}

#[tokio::test]
async fn a_damaged_path_is_skipped_with_what_needs_it_and_the_rest_is_pushed() {
    let world = World::new().await;
    let built = [build_some(1).await, build(&derivation("sound", &[], "echo sound > $out")).await].concat();
    let closure = closure(&built).await;
    for damage in ["other bytes", "more bytes", "nothing"] {
        let (spoilt, _dir) = copied(&closure);
        let file = spoilt.real_path(path_of(&closure, "tool")).join("tool");
        let mut bytes = fs::read(&file).unwrap();
        let reason = match damage {
            "other bytes" => {
                bytes[0] ^= 1;
                "SHA-256"
            }
            "more bytes" => {
                bytes.extend_from_slice(b"more than there was");
                "bytes where Nix's database says"
            }
            _ => "cannot read",
        };
        fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(&file).unwrap();
        if damage == "nothing" {
            fs::remove_dir(file.parent().unwrap()).unwrap();
        } else {
            fs::write(&file, &bytes).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o555)).unwrap();
        }

        let report = push_to(&world, spoilt).await.unwrap();
        let skipped: Vec<&str> = report.skipped.iter().map(|skipped| skipped.path.name()).collect();
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        for skipped in &report.skipped {
            let expected = if skipped.path.name() == "tool" { reason } else { "it needs /nix/store/" };
            assert!(skipped.reason.contains(expected), "{damage}: {}", skipped.reason);
            assert!(world.narinfo(&skipped.path).await.is_none());
        }
        assert!(world.narinfo(path_of(&closure, "sound")).await.is_some());
    }
    // What was damaged there is sound here.
    assert!(push_to(&world, closure).await.unwrap().skipped.is_empty());
    assert_readable(&world.reader().await, &built).await;
    delete_closure(&built).await;
}

/// Tells when the first frames are stored.
struct FirstSent(Mutex<Option<mpsc::Sender<()>>>);

impl Progress for FirstSent {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Sent(_))
            && let Some(sender) = self.0.lock().unwrap().take()
        {
            sender.try_send(()).unwrap();
        }
    }
}

/// Pushes, and does something to the service once some of it is stored there.
async fn push_with_interruption(
    github: &GitHub,
    larderd: &mut Larderd,
    closure: Closure,
    interrupt: impl AsyncFnOnce(&mut Larderd),
) -> Result<PushReport, PushError> {
    let (sent, mut first) = mpsc::channel(1);
    let progress = FirstSent(Mutex::new(Some(sent)));
    let credentials = job(github);
    // Small bodies, so that there is much to come when the first has arrived.
    let options = PushOptions { max_body: Some(2 << 20), streams: 1, ..options(&larderd.url()) };
    let interruption = async {
        first.recv().await.unwrap();
        interrupt(larderd).await;
    };
    tokio::join!(push(&options, &credentials, closure, &progress), interruption).0
}

#[tokio::test]
async fn a_push_goes_on_when_the_service_is_killed_and_comes_back() {
    let dir = TempDir::new().unwrap();
    let github = GitHub::start(Clock::System).await;
    let mut larderd = Larderd::start(dir.path(), github.issuer(), &Scene::default()).await;
    let built = build_some(30).await;
    let closure = closure(&built).await;
    let report =
        push_with_interruption(&github, &mut larderd, closure, Larderd::kill_and_restart).await.unwrap();
    assert_eq!(report.published, 3);
    assert_readable(&reader(&larderd.url(), "main").await, &built).await;
    delete_closure(&built).await;
}

#[tokio::test]
async fn a_push_that_the_service_has_forgotten_is_opened_anew() {
    let dir = TempDir::new().unwrap();
    let github = GitHub::start(Clock::System).await;
    let mut larderd = Larderd::start(dir.path(), github.issuer(), &Scene::default()).await;
    let built = build_some(30).await;
    let closure = closure(&built).await;
    let forget = async |larderd: &mut Larderd| {
        larderd.kill().await;
        fs::remove_dir_all(dir.path().join("data")).unwrap();
        larderd.start_again().await;
    };
    let report = push_with_interruption(&github, &mut larderd, closure, forget).await.unwrap();
    assert_eq!(report.published, 3);
    assert_readable(&reader(&larderd.url(), "main").await, &built).await;
    delete_closure(&built).await;
}

#[tokio::test]
async fn bodies_and_memory_are_kept_within_small_bounds() {
    let limits = "[limits]\nmax_body = \"3 MB\"\n".to_owned();
    let world = World::with(Scene { limits, ..Scene::default() }).await;
    let built = build_some(20).await;
    let options = PushOptions { window: 1, streams: 2, ..options(&world.url()) };
    let report = push(&options, &job(&world.github), closure(&built).await, &Silent).await.unwrap();
    assert_eq!(report.published, 3);
    assert_readable(&world.reader().await, &built).await;

    let options = PushOptions { max_body: Some(1 << 20), ..options };
    let more = build(&derivation("more", &[], "echo more > $out")).await;
    let error = push(&options, &job(&world.github), closure(&more).await, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("--max-body"), "{error}");
    delete_closure(&[built, more].concat()).await;
}

#[tokio::test]
async fn a_job_that_no_rule_names_is_denied() {
    let world = World::new().await;
    let built = build(&derivation("denied", &[], "echo > $out")).await;
    let stranger = world.github.start_job(Job::push("acme/flake", "feature"));
    let credentials = Credentials::Job {
        request_url: stranger.request_url.parse().unwrap(),
        request_token: Secret::new(&stranger.request_token),
    };
    let error = push(&options(&world.url()), &credentials, closure(&built).await, &Silent).await.unwrap_err();
    assert!(error.is_denial(), "{error}");
    delete_closure(&built).await;
}
