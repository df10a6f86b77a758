//! The real program is killed at every step of a prefetch: at its statements, and at each piece of the NARs.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{Router, body::Body, extract, http::Response, routing::get};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use larder_protocol::{SigningKey, narinfo::NarInfo};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    verification::{Scope, verify},
};
use larder_tests::{
    killing::{copy_with_due, do_what_is_left, kill_at},
    package::Package,
    programs::program,
    world::{Scene, World, configuration},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::Command,
    sync::mpsc::{self, UnboundedSender},
};

const KIND: &str = "prefetch";
const DONE: &str = "prefetched prefetch=";
const PIECE: usize = 32 << 10;

/// How an upstream answers.
#[derive(Clone)]
enum Manner {
    Refuses,
    /// Piece by piece, each of them a step.
    Gives(UnboundedSender<()>),
    /// The first piece of a NAR, and then nothing but steps: more than anything has.
    Holds(UnboundedSender<()>),
}

struct Files {
    files: HashMap<String, Bytes>,
    manner: Mutex<Manner>,
}

async fn answer(
    extract::State(files): extract::State<Arc<Files>>,
    extract::Path(file): extract::Path<String>,
) -> Response<Body> {
    let status = |code: u16| Response::builder().status(code).body(Body::empty()).unwrap();
    let Some(bytes) = files.files.get(&file).cloned() else { return status(404) };
    let manner = files.manner.lock().unwrap().clone();
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        pieces.push(rest.split_to(rest.len().min(PIECE)));
    }
    let pieces = stream::iter(pieces);
    let is_nar = file.starts_with("nar/");
    match manner {
        Manner::Refuses => status(503),
        Manner::Holds(steps) if is_nar => {
            let held = pieces.take(1).map(Ok::<_, std::io::Error>).chain(stream::once(async move {
                (0..10_000).for_each(|_| steps.send(()).unwrap());
                std::future::pending().await
            }));
            Response::new(Body::from_stream(held))
        }
        Manner::Gives(steps) | Manner::Holds(steps) => {
            let given = pieces.then(move |piece| {
                // It has ended when nobody counts any more.
                let _ = steps.send(());
                async move {
                    tokio::task::yield_now().await;
                    Ok::<_, std::io::Error>(piece)
                }
            });
            Response::new(Body::from_stream(given))
        }
    }
}

/// A world whose upstream has refused a closure; and all that the program needs to go on.
struct Prepared {
    world: World,
    scene: Scene,
    upstream: Arc<Files>,
    closure: [Package; 3],
}

impl Prepared {
    async fn new() -> Self {
        let leaf = Package::noise("leaf", 700_000);
        let middle = Package::noise("middle", 300_000).referring_to([&leaf]);
        let top = Package::noise("top", 1000).referring_to([&middle]);
        let closure = [leaf, middle, top];
        let key = SigningKey::generate("upstream-1").unwrap();
        let mut files = HashMap::new();
        for package in &closure {
            let narinfo = package.narinfo(&format!("nar/{}.nar", package.info.nar_hash.base32()), &key);
            files.insert(format!("{}.narinfo", package.info.path.hash()), narinfo.to_string().into());
            files.insert(narinfo.url, package.nar.clone().into());
        }
        let upstream = Arc::new(Files { files, manner: Mutex::new(Manner::Refuses) });
        let router = Router::new().route("/{*file}", get(answer)).with_state(upstream.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let caches = format!(
            "[[cache]]\nname = \"main\"\n[[cache.upstream]]\nurl = \"{url}\"\npublic_keys = [\"{}\"]\n\
             timeout = 600\n",
            key.public_key()
        );
        let scene = || Scene { caches: caches.clone(), ..Scene::default() };
        let mut world = World::with(scene()).await;
        // The program knows the time.
        world.clock.store(Clock::System.now(), Ordering::SeqCst);
        let token = crate::token(&world).await;
        let asked = reqwest::Client::new().post(format!("{}/api/v1/prefetches", world.url()));
        let asked =
            asked.bearer_auth(token).json(&json!({ "cache": "main", "paths": [closure[2].info.path] }));
        assert_eq!(asked.send().await.unwrap().status(), 202);
        world.service().queue.idle().await.unwrap();
        world.stop().await;
        Self { world, scene: scene(), upstream, closure }
    }

    fn answers(&self, manner: Manner) {
        *self.upstream.manner.lock().unwrap() = manner;
    }

    /// The program in a folder, and its configuration.
    async fn program_in(&self, folder: &Path) -> (Command, String) {
        let data = folder.join("data");
        copy_with_due(&self.world.data_dir(), &data, KIND).await;
        let address = "127.0.0.1:0".parse().unwrap();
        let text = configuration(address, &data, self.world.github.issuer(), &self.scene).await;
        std::fs::write(folder.join("larder.toml"), &text).unwrap();
        let mut larderd = Command::new(program("larderd"));
        larderd.arg("--config").arg(folder.join("larder.toml"));
        (larderd, text)
    }

    /// Does what is left to be done, two hours later; then all must be there, whole, and nothing be left. What is visible
    /// before is whole, too.
    async fn finish(&self, text: &str, killed: &str) {
        let (steps, _counted) = mpsc::unbounded_channel();
        self.answers(Manner::Gives(steps));
        let config = Config::parse(Path::new("larder.toml"), text, &Environment::of_process()).unwrap();
        let time = Arc::new(AtomicI64::new(Clock::System.now()));
        let service = Service::open(config, Clock::Set(time.clone())).await.unwrap();
        assert!(verify(&service, Scope::All).await.unwrap().is_right(), "{killed}");
        time.fetch_add(7200, Ordering::SeqCst);
        do_what_is_left(&service, async |url| {
            let jobs = service.metadata.jobs().await.unwrap();
            assert!(jobs.iter().all(|job| job.kind != KIND), "{killed}: {jobs:?}");
            let get = async |page: &str| reqwest::get(format!("{url}/main/{page}")).await.unwrap();
            for Package { info, nar } in &self.closure {
                let narinfo = get(&format!("{}.narinfo", info.path.hash())).await.error_for_status().unwrap();
                let narinfo = NarInfo::parse(&narinfo.text().await.unwrap()).unwrap();
                let bytes = get(&narinfo.url).await.bytes().await.unwrap();
                assert!(zstd::decode_all(&bytes[..]).unwrap() == *nar, "{killed}: {}", info.path);
            }
            assert!(verify(&service, Scope::All).await.unwrap().is_right(), "{killed}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_statement_and_any_piece_of_a_prefetch_does_no_harm() {
    let prepared = Prepared::new().await;
    let mut killed = 0;
    for step in (1..).step_by(7) {
        let folder = TempDir::new().unwrap();
        let (larderd, text) = prepared.program_in(folder.path()).await;
        let (steps, mut pieces) = mpsc::unbounded_channel();
        prepared.answers(Manner::Gives(steps));
        let was_killed = kill_at(larderd, step, DONE, &mut pieces).await;
        prepared.finish(&text, &format!("killed at step {step}")).await;
        if !was_killed {
            break;
        }
        killed += 1;
    }
    assert!(killed > 5, "it had {killed} steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_nar_does_no_harm() {
    let prepared = Prepared::new().await;
    let folder = TempDir::new().unwrap();
    let (larderd, text) = prepared.program_in(folder.path()).await;
    let (steps, mut held) = mpsc::unbounded_channel();
    prepared.answers(Manner::Holds(steps));
    assert!(kill_at(larderd, 5000, DONE, &mut held).await);
    prepared.finish(&text, "killed in the middle of a NAR").await;
}
