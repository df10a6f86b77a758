//! A service whose GitHub and whose internet are this machine's.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_protocol::{StorePath, flake_lock::FlakeLock};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    flake::Spent,
    queue::Work,
    serve,
    trust::SaidOfRepository,
};
use larder_tests::{
    archive_host::{ArchiveHosts, Page, nar_hash, tarball},
    github::{GitHub, Job},
    webhook::deliver,
    world::secret_file,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::AbortHandle};

pub const NOW: i64 = 1_790_078_400;
pub const COMMIT: &str = "4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11";
pub const REV: &str = "0123456789abcdef0123456789abcdef01234567";
pub const ARCHIVE: &str =
    "https://github.com/acme/lib/archive/0123456789abcdef0123456789abcdef01234567.tar.gz";
/// What the input is.
pub const FILES: [(&str, &str); 2] = [("flake.nix", "{ outputs = _: { answer = 42; }; }"), ("dir/x", "y")];
/// Who is in the internet.
pub const HOSTS: [&str; 3] = ["github.com", "codeload.github.com", "evil.example"];
pub const SECRET: &str = "a secret of the repository's webhook";

pub struct Scene {
    pub hosts: ArchiveHosts,
    pub github: GitHub,
    pub service: Arc<Service>,
    pub url: String,
    /// What the configuration's file says.
    pub config: String,
    pub data: TempDir,
    time: Arc<AtomicI64>,
    server: AbortHandle,
}

impl Scene {
    /// One cache, `main`, to which `acme/flake` may push its `main`, with these upstreams: URL and public key.
    pub async fn new(upstreams: &[(&str, &str)]) -> Self {
        Self::with_rule("ref = \"refs/heads/main\"", upstreams).await
    }

    /// The same, where this is the rest of the rule for `acme/flake`.
    pub async fn with_rule(rule: &str, upstreams: &[(&str, &str)]) -> Self {
        Self::with_whole_rule(&format!("repository = \"acme/flake\"\n{rule}"), upstreams).await
    }

    /// The same with this rule.
    pub async fn with_whole_rule(rule: &str, upstreams: &[(&str, &str)]) -> Self {
        Self::of(rule, upstreams, false).await
    }

    /// One in which GitHub shows `acme/flake` to the service alone, as an App.
    pub async fn with_app() -> Self {
        let rule = "repository = \"acme/flake\"\nref = \"refs/heads/main\"\npublish = true";
        Self::of(rule, &[], true).await
    }

    async fn of(rule: &str, upstreams: &[(&str, &str)], private: bool) -> Self {
        let hosts = ArchiveHosts::start(&HOSTS).await;
        hosts.put(ARCHIVE, Page::Bytes(tarball("lib-0123", &FILES)));
        let time = Arc::new(AtomicI64::new(NOW));
        let clock = Clock::Set(time.clone());
        let github = GitHub::start(clock.clone()).await;
        let data = TempDir::new().unwrap();
        let mut app = String::new();
        if private {
            github.add_private_repository("acme/flake");
            let of = github.register_app(&[("contents", "read")]);
            github.install(&of, "acme", None);
            let key = secret_file(&data.path().join("app.key"), &of.private_key);
            app = format!("app_id = {}\nprivate_key_file = \"{key}\"\n", of.id);
        } else {
            github.add_repository("acme/flake");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstreams: Vec<String> = upstreams
            .iter()
            .map(|(url, key)| format!("{{ url = \"{url}\", public_keys = [\"{key}\"], timeout = 600 }}"))
            .collect();
        let upstreams = upstreams.join(", ");
        let text = format!(
            "listen = \"{address}\"\npublic_url = \"http://{address}\"\n\
             [github]\napi_url = \"{}\"\n{app}\
             [prefetch]\nmax_archive = \"1 MiB\"\nmax_unpacked = \"2 MiB\"\n\
             [[issuer]]\nurl = \"{}\"\n\
             [[webhook]]\nrepositories = [\"acme/*\"]\nsecrets = [{{ env = \"SECRET\" }}]\n\
             [[cache]]\nname = \"main\"\nupstream = [{upstreams}]\n\
             [[cache.trust]]\n{rule}\n",
            github.api_url(),
            github.issuer(),
        );
        let environment =
            Environment::from([("LARDER_DATA_DIR", data.path().to_str().unwrap()), ("SECRET", SECRET)]);
        let config = Config::parse(Path::new("larder.toml"), &text, &environment).unwrap();
        let service = Service::open_on(config, clock, hosts.internet(everybody)).await.unwrap();
        let server = tokio::spawn(serve(service.clone(), listener, std::future::pending())).abort_handle();
        Self { hosts, github, service, url: format!("http://{address}"), config: text, data, time, server }
    }

    /// Has GitHub say that this lock file was pushed to a branch, and waits until all that follows is done.
    pub async fn push(&self, branch: &str, lock: &Value) {
        self.push_bytes(branch, lock.to_string().as_bytes()).await;
        self.service.queue.idle().await.unwrap();
    }

    pub async fn push_bytes(&self, branch: &str, lock: &[u8]) {
        self.push_from("acme/flake", branch, lock).await;
    }

    pub async fn push_from(&self, repository: &str, branch: &str, lock: &[u8]) {
        let job = Job::push(repository, branch);
        self.push_of(&job, true, lock).await;
    }

    /// What job of a push it would be whose token says the same as the event; `public` is the repository to everybody.
    pub async fn push_of(&self, job: &Job, public: bool, lock: &[u8]) {
        let files: [(&str, &[u8]); 2] = [("flake.lock", lock), ("flake.nix", b"{ }")];
        self.github.commit(&job.repository, &job.git_ref, COMMIT, &files);
        let payload = json!({
            "ref": job.git_ref, "before": "0".repeat(40), "after": COMMIT, "created": false, "deleted": false,
            "repository": {
                "id": job.repository_id, "full_name": job.repository, "owner": { "id": job.owner_id },
                "private": !public, "pushed_at": NOW, "default_branch": "main",
            },
            "head_commit": { "id": COMMIT }, "sender": { "login": "anna" },
        });
        deliver(&self.url, SECRET, "push", &payload).await;
    }

    /// Ends the service, as it is.
    pub async fn stop(&self) {
        self.server.abort();
        self.service.metadata.close().await;
    }

    /// Has this lock file of `acme/flake` be prefetched, when its inputs have cost that much already.
    pub async fn prefetch_inputs(&self, lock: &Value, spent: Spent) {
        let git_ref = "refs/heads/main";
        let lock = lock.to_string();
        self.github.commit("acme/flake", git_ref, COMMIT, &[("flake.lock", lock.as_bytes())]);
        let work = Work::PrefetchInputs {
            repository: "acme/flake".parse().unwrap(),
            said: SaidOfRepository { public: true, ..SaidOfRepository::default() },
            git_ref: git_ref.parse().unwrap(),
            commit: COMMIT.to_owned(),
            pushed_at: NOW,
            spent,
        };
        self.service.queue.enqueue(&work.job(NOW)).await.unwrap();
        self.service.queue.idle().await.unwrap();
    }

    /// Lets time go by, and waits until all that is due then is done.
    pub async fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
        self.service.queue.wake();
        self.service.queue.idle().await.unwrap();
    }

    /// The narinfo of a path in `main`, if it is there.
    pub async fn narinfo(&self, path: &StorePath) -> Option<String> {
        let answer = reqwest::get(format!("{}/main/{}.narinfo", self.url, path.hash())).await.unwrap();
        if answer.status() == 404 { None } else { Some(answer.text().await.unwrap()) }
    }

    /// Which prefetches of inputs are not done, and why.
    pub async fn left(&self) -> Vec<String> {
        let jobs = self.service.metadata.jobs().await.unwrap();
        let flake = jobs.into_iter().filter(|job| job.kind == "prefetch-inputs");
        flake.map(|job| job.error.unwrap_or_default()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Loopback is everybody's here.
pub fn everybody(_: SocketAddr) -> bool {
    true
}

/// A lock file of these inputs.
pub fn lock(inputs: &[(&str, Value)]) -> Value {
    let mut nodes = json!({ "root": { "inputs": {} } });
    for (name, locked) in inputs {
        // As a flake's author writes it: without what locks it.
        let mut original = locked.clone();
        for key in ["rev", "narHash", "lastModified"] {
            original.as_object_mut().unwrap().remove(key);
        }
        nodes[*name] = json!({ "locked": locked, "original": original });
        nodes["root"]["inputs"][*name] = (*name).into();
    }
    json!({ "nodes": nodes, "root": "root", "version": 7 })
}

/// The input that is there.
pub fn lib() -> Value {
    json!({
        "type": "github", "owner": "acme", "repo": "lib", "rev": REV, "lastModified": 1,
        "narHash": nar_hash(&FILES),
    })
}

/// The paths of a lock file's inputs.
pub fn paths(lock: &Value) -> Vec<StorePath> {
    let lock = FlakeLock::parse(lock.to_string().as_bytes()).unwrap();
    lock.inputs.into_iter().map(|input| input.path).collect()
}
