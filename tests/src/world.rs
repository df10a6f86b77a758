//! The scene of a test: a service, a stand-in for GitHub, and a clock.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once, PoisonError, atomic::AtomicI64},
};

use larder_protocol::{api::CacheInfo, narinfo::NarInfo};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    serve,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, sync::oneshot, task::JoinHandle};

use crate::{
    client::{Answer, Client},
    github::{GitHub, Job},
    nix::Reader,
    programs::program,
    test_servers::{self, objects::Objects},
};

/// The time at which every world begins: 2026-09-21 12:00 UTC.
const BEGINNING: i64 = 1_790_078_400;

/// What a test's configuration says beside addresses and folders.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Keys before the first table, and `[limits]`.
    pub limits: String,
    /// The caches. `ISSUER` stands for the stand-in's URL.
    pub caches: String,
    /// What no configuration says, such as for how long a bucket is waited.
    pub change: fn(&mut Config),
}

impl Default for Scene {
    fn default() -> Self {
        Self { limits: String::new(), caches: CACHES.to_owned(), change: |_| {} }
    }
}

impl Scene {
    /// One cache, to which the default job may push, and more in its rule or behind it.
    pub fn saying(more: &str) -> Self {
        Self { caches: format!("{CACHES}{more}\n"), ..Self::default() }
    }
}

/// Writes a file that nobody else may read, as those of keys and secrets must be; and says where it is, as a configuration
/// does.
pub fn secret_file(file: &Path, text: &str) -> String {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

/// One cache, to which the default job may push.
const CACHES: &str = r#"
[[cache]]
name = "main"
upstream = []

[[cache.trust]]
repository = "acme/flake"
ref = "refs/heads/main"
"#;

/// A service in this process, a stand-in for GitHub, and a clock that a test sets.
///
/// When it is dropped, the test fails if a part of Larder panicked, or GitHub was asked for what it should
/// not be.
pub struct World {
    /// GitHub.
    pub github: GitHub,
    /// The time of the service and of GitHub.
    pub clock: Arc<AtomicI64>,
    data: TempDir,
    address: SocketAddr,
    scene: Scene,
    running: Option<Running>,
}

struct Running {
    service: Arc<Service>,
    stop: oneshot::Sender<()>,
    stopped: JoinHandle<()>,
}

impl World {
    /// A world with one cache, `main`, to which [`Job::default`] may push.
    pub async fn new() -> Self {
        Self::with(Scene::default()).await
    }

    /// A world that is configured otherwise.
    pub async fn with(scene: Scene) -> Self {
        let clock = Arc::new(AtomicI64::new(BEGINNING));
        let github = GitHub::start(Clock::Set(clock.clone())).await;
        Self::of(github, clock, scene).await
    }

    /// A world whose configuration says something of its GitHub, such as an App; and of its own address.
    pub async fn with_github(scene: impl FnOnce(&GitHub) -> Scene) -> Self {
        let clock = Arc::new(AtomicI64::new(BEGINNING));
        let github = GitHub::start(Clock::Set(clock.clone())).await;
        let scene = scene(&github);
        Self::of(github, clock, scene).await
    }

    /// A world that keeps all in a folder of its own below this one.
    pub async fn in_folder(folder: &Path, scene: Scene) -> Self {
        let clock = Arc::new(AtomicI64::new(BEGINNING));
        let github = GitHub::start(Clock::Set(clock.clone())).await;
        Self::keeping_in(TempDir::new_in(folder).unwrap(), github, clock, scene).await
    }

    /// A world whose GitHub is an Enterprise Server.
    pub async fn of_enterprise_server(scene: Scene) -> Self {
        let clock = Arc::new(AtomicI64::new(BEGINNING));
        let github = GitHub::start_enterprise_server(Clock::Set(clock.clone())).await;
        Self::of(github, clock, scene).await
    }

    async fn of(github: GitHub, clock: Arc<AtomicI64>, scene: Scene) -> Self {
        Self::keeping_in(TempDir::new().unwrap(), github, clock, scene).await
    }

    async fn keeping_in(data: TempDir, github: GitHub, clock: Arc<AtomicI64>, scene: Scene) -> Self {
        note_panics();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut world = Self { github, clock, data, address, scene, running: None };
        world.start_on(listener).await;
        world
    }

    /// Stops the service in good order and starts it again on what it has kept.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Starts the service again on what it has kept.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.start_on(listener).await;
    }

    /// Stops the service in good order.
    pub async fn stop(&mut self) {
        if let Some(Running { stop, stopped, .. }) = self.running.take() {
            let _ = stop.send(());
            stopped.await.unwrap();
        }
    }

    async fn start_on(&mut self, listener: TcpListener) {
        let text = configuration(self.address, self.data.path(), self.github.issuer(), &self.scene).await;
        let mut config = Config::parse(Path::new("larder.toml"), &text, &Environment::of_process())
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        (self.scene.change)(&mut config);
        let service = Service::open(config, Clock::Set(self.clock.clone())).await.unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let serving = service.clone();
        let stopped = tokio::spawn(async move {
            serve(serving, listener, async {
                let _ = stopping.await;
            })
            .await;
        });
        self.running = Some(Running { service, stop, stopped });
    }

    /// The service's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service.
    pub fn service(&self) -> &Arc<Service> {
        &self.running.as_ref().expect("the service runs").service
    }

    /// The folder that the service keeps all in.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// `larderd …` on what it keeps.
    pub async fn larderd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("larderd"));
        command.env_clear().env("LARDER_DATA_DIR", self.data.path());
        command.envs(test_servers::environment(self.data.path()).await).args(arguments);
        command
    }

    /// What lies in its storage.
    pub fn objects(&self) -> Objects {
        Objects::of(self.data.path())
    }

    /// A look at its rows.
    pub async fn database(&self) -> sqlx::AnyConnection {
        test_servers::connect(self.data.path()).await
    }

    /// Lets time go by.
    pub fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds, std::sync::atomic::Ordering::SeqCst);
    }

    /// A session in `main` for the job that may push.
    pub async fn client(&self) -> Client {
        self.exchange(&Job::default()).await.unwrap()
    }

    /// What a job gets when it asks for a session in `main`.
    pub async fn exchange(&self, job: &Job) -> Answer<Client> {
        let id_token = self.github.id_token(job, &self.url());
        Client::exchange(&self.url(), "main", &id_token).await
    }

    /// Who reads from `main` as the cache says one should.
    pub async fn reader(&self) -> Reader {
        reader(&self.url(), "main").await
    }

    /// `GET` of a page below `main`.
    pub async fn get(&self, page: &str) -> reqwest::Response {
        reqwest::get(format!("{}/main/{page}", self.url())).await.unwrap()
    }

    /// The narinfo of a path in `main`.
    pub async fn narinfo(&self, path: &larder_protocol::StorePath) -> Option<NarInfo> {
        let response = self.get(&format!("{}.narinfo", path.hash())).await;
        match response.status().as_u16() {
            200 => Some(NarInfo::parse(&response.text().await.unwrap()).unwrap()),
            404 => None,
            status => panic!("a narinfo was answered with {status}"),
        }
    }
}

/// Who reads from a cache as the cache says one should.
pub async fn reader(service: &str, cache: &str) -> Reader {
    let info: CacheInfo =
        reqwest::get(format!("{service}/api/v1/caches/{cache}")).await.unwrap().json().await.unwrap();
    Reader {
        substituters: vec![info.url],
        public_keys: info.public_keys.iter().map(ToString::to_string).collect(),
        more: String::new(),
    }
}

/// The configuration's file.
pub async fn configuration(address: SocketAddr, data_dir: &Path, issuer: &str, scene: &Scene) -> String {
    let says = |table| scene.limits.contains(table) || scene.caches.contains(table);
    let mut servers = String::new();
    if let Some(url) = test_servers::database_url(data_dir).await
        && !says("[database]")
    {
        servers += &format!("[database]\nurl = \"{url}\"\n");
    }
    if let Some(url) = test_servers::storage_url(data_dir).filter(|_| !says("[storage]")) {
        servers += &format!("[storage]\nurl = \"{url}\"\n");
    }
    format!(
        "listen = \"{address}\"\npublic_url = \"http://{address}\"\ndata_dir = \"{}\"\n{}\n{servers}\
         [[issuer]]\nurl = \"{issuer}\"\n{}",
        data_dir.display(),
        scene.limits,
        scene.caches.replace("ISSUER", issuer),
    )
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stopped.abort();
        }
        if !std::thread::panicking() {
            let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(panics.is_empty(), "a part of Larder panicked: {panics:#?}");
        }
    }
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes panics in Larder's own parts, which a handler's answer or a task's end may hide. A test's own
/// panics are not noted: they fail the test anyway.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = info.location().is_some_and(|location| !location.file().starts_with("tests/"));
            if ours {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}
