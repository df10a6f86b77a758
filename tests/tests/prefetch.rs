//! Prefetching from a real binary cache, for real Nix; and killed in its middle.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "prefetch/https.rs"]
mod https;
#[path = "prefetch/killed.rs"]
mod killed;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract, http::Response, routing::get};
use larder_protocol::prefetch::{Prefetch, PrefetchState};
use larder_service::{clock::Clock, trust::people};
use larder_tests::{
    github::GitHub,
    larderd::Larderd,
    nix::{self, Nix, Reader, ScratchStore, build, closure, command, delete, derivation, run},
    programs::program,
    test_servers,
    world::{Scene, World, reader},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::Command,
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

/// A binary cache that Nix itself made, and that is served by HTTP until it is stopped.
struct Upstream {
    url: String,
    public_key: String,
    served: JoinHandle<()>,
    gates: Arc<Gates>,
    _dir: TempDir,
}

/// What is served when: a file whose name has this in it waits for a permit.
struct Gates {
    closed: Mutex<Option<String>>,
    reached: Notify,
    permits: Semaphore,
}

impl Upstream {
    async fn of(paths: &[PathBuf], compression: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let key = dir.path().join("key");
        let mut generate = command("nix-store", dir.path());
        generate
            .args(["--generate-binary-cache-key", "upstream-1"])
            .arg(&key)
            .arg(dir.path().join("key.pub"));
        run(&mut generate).await.expect_success();
        let cache = dir.path().join("cache");
        let to = format!("file://{}?compression={compression}&secret-key={}", cache.display(), key.display());
        let mut copy = command("nix", dir.path());
        run(copy.args(["copy", "--to", &to]).args(paths)).await.expect_success();
        let gates =
            Arc::new(Gates { closed: Mutex::default(), reached: Notify::new(), permits: Semaphore::new(0) });
        let shared = (cache, gates.clone());
        let router = Router::new().route("/{*file}", get(file)).with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let public_key = fs::read_to_string(dir.path().join("key.pub")).unwrap().trim().to_owned();
        Self { url, public_key, served, gates, _dir: dir }
    }

    fn scene(&self) -> Scene {
        let caches = format!(
            "[[cache]]\nname = \"main\"\n[[cache.upstream]]\nurl = \"{}\"\npublic_keys = [\"{}\"]\n",
            self.url, self.public_key
        );
        Scene { caches, ..Scene::default() }
    }

    /// From now on, files whose names have this in them are not answered.
    fn close(&self, end: &str) {
        *self.gates.closed.lock().unwrap() = Some(end.to_owned());
    }

    /// All are answered again.
    fn open(&self) {
        *self.gates.closed.lock().unwrap() = None;
        self.gates.permits.add_permits(1000);
    }

    fn stop(&self) {
        self.served.abort();
    }
}

async fn file(
    extract::State((folder, gates)): extract::State<(PathBuf, Arc<Gates>)>,
    extract::Path(file): extract::Path<String>,
) -> Response<Body> {
    let closed = gates.closed.lock().unwrap().as_ref().is_some_and(|end| file.contains(end.as_str()));
    if closed {
        gates.reached.notify_one();
        gates.permits.acquire().await.unwrap().forget();
    }
    match fs::read(folder.join(file)) {
        Ok(bytes) => Response::new(Body::from(bytes)),
        Err(_) => Response::builder().status(404).body(Body::empty()).unwrap(),
    }
}

/// A program and what it needs, built here.
async fn built() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let leaf = derivation("leaf", &[], "mkdir $out; head -c 3000000 /dev/urandom > $out/data");
    let middle =
        derivation("middle", &[&leaf], "mkdir $out; ln -s $in0 $out/leaf; seq 1 200000 > $out/numbers");
    let top = derivation("top", &[&middle], "mkdir $out; echo $in0 > $out/needs");
    let top = build(&top).await;
    let all = closure(&top).await;
    assert_eq!(all.len(), 3);
    (top, all)
}

fn larder(url: &str, token: &str, paths: &[PathBuf]) -> Command {
    let mut command = Command::new(program("larder"));
    command.env_clear().env("LARDER_TOKEN", token).args(["prefetch", "--service", url]).args(paths);
    command
}

/// A person's token for `main`.
async fn token(world: &World) -> String {
    let (service, main) = (world.service(), "main".parse().unwrap());
    let new = people::NewToken::pushing("anna", &main, 3600);
    people::create_token(&service.metadata, &service.clock, new).await.unwrap().expose().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_substitutes_what_was_prefetched_with_all_upstreams_stopped() {
    let (top, all) = built().await;
    for (compression, nix) in [
        ("xz", Nix::Installed),
        ("zstd", Nix::V2_26),
        ("bzip2", Nix::Installed),
        ("lzip", Nix::Installed),
        ("br", Nix::Installed),
    ] {
        let upstream = Upstream::of(&top, compression).await;
        let world = World::with(upstream.scene()).await;
        let token = token(&world).await;
        // Somebody asks too early. That is not remembered.
        let early = ScratchStore::new(Nix::Installed);
        assert!(!early.realise(&world.reader().await, &top).await.success);
        let said = run(larder(&world.url(), &token, &top).arg("--wait")).await.expect_success();
        assert!(said.contains("complete: 3 of 3 paths that were missing are in main"), "{said}");
        upstream.stop();
        let again = run(larder(&world.url(), &token, &top).args(["--wait", "--json"])).await.expect_success();
        let again: Prefetch = serde_json::from_str(&again).unwrap();
        assert_eq!((again.state, again.closure, again.wanted), (PrefetchState::Complete, 3, 0));

        let store = ScratchStore::new(nix);
        store.realise(&world.reader().await, &top).await.expect_success();
        assert!(all.iter().all(|path| store.has(path)));
        store.verify().await;
        early.realise(&world.reader().await, &top).await.expect_success();
    }
    delete(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_no_upstream_has_and_who_may_not() {
    let (top, all) = built().await;
    let upstream = Upstream::of(&top, "xz").await;
    let world = World::with(upstream.scene()).await;
    let token = token(&world).await;
    let absent = PathBuf::from("/nix/store/00000000000000000000000000000000-absent");
    let output = run(larder(&world.url(), &token, &[absent, top[0].clone()]).arg("--wait")).await;
    assert_eq!(output.code, Some(4), "{output:?}");
    assert!(output.stderr.contains("no upstream has /nix/store/00000000000000000000000000000000-absent"));
    assert!(output.stdout.contains("incomplete: 3 of 4 paths"), "{output:?}");
    let stranger = larder_service::trust::SecretToken::generate("larder_t_").unwrap();
    let output = run(&mut larder(&world.url(), stranger.expose(), &top)).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    let output = run(&mut larder(&world.url(), &token, &[PathBuf::from("/etc/passwd")])).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    delete(&all).await;
}

/// What a killed process was at is another's when its lease is over. It is over now.
async fn end_leases(dir: &Path) {
    let mut database = test_servers::connect(&dir.join("data")).await;
    let ended = "UPDATE jobs SET lease_ends_at = 0 WHERE state = 'running' RETURNING kind";
    let ended: Vec<String> = sqlx::query_scalar(ended).fetch_all(&mut database).await.unwrap();
    // What is done again and again may have been too.
    assert!(ended.iter().any(|kind| kind == "prefetch"), "the prefetch was not under way: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_step_of_a_prefetch_does_no_harm() {
    let (top, all) = built().await;
    let hash = |path: &Path| path.file_name().unwrap().to_str().unwrap()[..32].to_owned();
    let leaf = all.iter().find(|path| path.to_str().unwrap().ends_with("leaf")).unwrap();
    // While the closure is walked; before a NAR; before the last; in the middle of all of them.
    let steps = [format!("{}.narinfo", hash(leaf)), ".nar.xz".to_owned(), "nar/".to_owned()];
    let dir = TempDir::new().unwrap();
    let github = GitHub::start(Clock::System).await;
    let upstream = Upstream::of(&top, "xz").await;
    let mut larderd = Larderd::start(dir.path(), github.issuer(), &upstream.scene()).await;
    let mut create = Command::new(program("larderd"));
    create.arg("--config").arg(dir.path().join("larder.toml")).args([
        "token",
        "create",
        "anna",
        "--permission",
        "push",
    ]);
    let token = run(&mut create).await.expect_success().split_whitespace().last().unwrap().to_owned();
    let client = reqwest::Client::new();
    upstream.close(&steps[0]);
    let asked = run(larder(&larderd.url(), &token, &top).arg("--json")).await.expect_success();
    let id = serde_json::from_str::<Prefetch>(&asked).unwrap().id;
    for (number, _) in steps.iter().enumerate() {
        upstream.gates.reached.notified().await;
        larderd.kill().await;
        end_leases(dir.path()).await;
        match steps.get(number + 1) {
            Some(next) => upstream.close(next),
            None => upstream.open(),
        }
        // Whoever asked before the kill is gone.
        larderd.start_again().await;
        let page = format!("{}/main/{}.narinfo", larderd.url(), hash(&top[0]));
        if number + 1 < steps.len() {
            assert_eq!(client.get(page).send().await.unwrap().status(), 404);
        }
    }
    let page = format!("{}/api/v1/prefetches/{id}", larderd.url());
    let ended = async {
        loop {
            let told: Prefetch =
                client.get(&page).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
            if told.state.has_ended() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(120), ended).await.expect("it goes on for ever");
    assert_eq!((told.state, told.closure, told.lacking), (PrefetchState::Complete, 3, 0), "{told:?}");
    upstream.stop();
    let store = ScratchStore::new(Nix::Installed);
    let reader: Reader = reader(&larderd.url(), "main").await;
    store.realise(&reader, &top).await.expect_success();
    store.verify().await;
    nix::delete(&all).await;
}
