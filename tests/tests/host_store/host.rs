//! A machine with a store of its own and Nix's daemon, and a service that takes into it what a branch publishes.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use larder_protocol::StorePath;
use larder_tests::{
    github::Job,
    nix::{self, NIX_2_26, Nix, run},
    package::{Node, Package},
    webhook::deliver,
    world::{Scene, World},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub const SECRET: &str = "a secret of the repository's webhook";

/// A machine's store, with its daemon.
pub struct Host {
    nix: Nix,
    pub dir: TempDir,
    pub daemon: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        // What runs in a container does not end with the command that began it.
        if self.nix == Nix::V2_26 {
            let _ = std::process::Command::new("docker").args(["rm", "--force", &self.name()]).output();
        }
    }
}

impl Host {
    pub fn new() -> Self {
        Self::of(Nix::Installed)
    }

    pub fn of(nix: Nix) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        Self { nix, dir, daemon: None }
    }

    /// Of the daemon's container.
    fn name(&self) -> String {
        format!("larder-test-host{}", self.dir.path().display().to_string().replace(['/', '.'], "-"))
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn command(&self, program: &str, config: &str) -> Command {
        let (home, root) = (self.dir.path().join("home"), self.dir.path().join("root"));
        let socket = self.socket();
        if self.nix == Nix::Installed {
            let mut command = nix::command(program, &home);
            command.env("NIX_CONFIG", config).env("NIX_REMOTE", root).env("NIX_DAEMON_SOCKET_PATH", socket);
            return command;
        }
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network", "host"]);
        // The service's roots are there, too.
        command.arg(format!("--volume={0}:{0}", std::env::temp_dir().display()));
        if program == "nix-daemon" {
            command.args(["--name", &self.name()]);
        }
        for (name, value) in [("HOME", home), ("NIX_REMOTE", root), ("NIX_DAEMON_SOCKET_PATH", socket)] {
            command.arg(format!("--env={name}={}", value.display()));
        }
        command.arg(format!("--env=NIX_CONFIG={config}")).args([NIX_2_26, program]);
        command
    }

    /// Starts the daemon, which trusts nobody but these keys.
    pub async fn start(&mut self, keys: &[String]) {
        let config = format!(
            "build-users-group =\ntrusted-users =\nsubstituters =\nrequire-sigs = true\ntrusted-public-keys = {}\n",
            keys.join(" ")
        );
        let mut command = self.command("nix-daemon", &config);
        command.kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().unwrap();
        let listening = async {
            while !self.socket().exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), listening).await.expect("nix-daemon does not start");
        self.daemon = Some(daemon);
    }

    pub fn has(&self, path: &StorePath) -> bool {
        self.dir.path().join("root/nix/store").join(path.to_string()).symlink_metadata().is_ok()
    }

    /// Whether Nix counts a path as there, and not as what a failure has left.
    pub async fn is_valid(&self, path: &StorePath) -> bool {
        let mut check = self.command("nix-store", "build-users-group =\n");
        run(check.arg("--check-validity").arg(path.absolute())).await.success
    }

    /// Collects what nothing keeps.
    pub async fn collect_garbage(&self) {
        run(&mut self.command("nix-collect-garbage", "build-users-group =\n")).await.expect_success();
    }

    pub async fn verify(&self) {
        let mut verify = self.command("nix-store", "build-users-group =\n");
        run(verify.args(["--verify", "--check-contents"])).await.expect_success();
    }

    /// A world whose service takes what `acme/flake` publishes from its protected branch, with more said of that.
    pub async fn world(&self, more: &str) -> World {
        self.world_by("ref_protected = true", more).await
    }

    /// The same, with what the rule for the branch demands.
    pub async fn world_by(&self, demands: &str, more: &str) -> World {
        World::with(self.scene(demands, more, "upstream = []", &self.socket())).await
    }

    /// What the configuration says, with more of the cache, and where the daemon listens.
    pub fn scene(&self, demands: &str, more: &str, of_cache: &str, socket: &Path) -> Scene {
        let caches = format!(
            "[[webhook]]\nrepositories = [\"acme/*\"]\nsecrets = [{{ file = \"{secret}\" }}]\n\
             [[cache]]\nname = \"main\"\n{of_cache}\n\
             [[cache.trust]]\nrepository = [\"acme/flake\", \"acme/other\"]\n{demands}\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/*\"\n\
             [host_store]\nsocket = \"{socket}\"\n{more}\n\
             [[host_store.take]]\ncache = \"main\"\nissuer = \"ISSUER\"\nrepository = \"acme/flake\"\n\
             ref = \"refs/heads/main\"\n",
            secret = self.dir.path().join("secret").display(),
            socket = socket.display(),
        );
        Scene { caches, ..Scene::default() }
    }
}

/// A job of a protected branch.
pub fn protected(run_id: u64) -> Job {
    Job { ref_protected: true, run_id, ..Job::default() }
}

pub async fn push(world: &World, job: &Job, packages: &[&Package]) {
    world.exchange(job).await.unwrap().push(packages).await.unwrap();
}

/// Has GitHub say that the job's run is over, and waits until all that follows is done.
pub async fn conclude(world: &World, job: &Job, conclusion: &str) {
    let payload = json!({
        "action": "completed",
        "workflow_run": { "id": job.run_id, "run_attempt": 1, "conclusion": conclusion },
        "repository": { "id": job.repository_id, "full_name": job.repository },
    });
    deliver(&world.url(), SECRET, "workflow_run", &payload).await;
    world.service().queue.idle().await.unwrap();
}

/// Why filling the host's store is still to be done.
pub async fn left(world: &World) -> Vec<String> {
    let jobs = world.service().metadata.jobs().await.unwrap();
    let filling = jobs.into_iter().filter(|job| job.kind == "fill-host-store");
    filling.map(|job| job.error.unwrap_or_default()).collect()
}

/// What roots of the service keep.
pub fn roots(world: &World) -> HashSet<String> {
    roots_in(&world.data_dir())
}

/// The same, by the folder of its data.
pub fn roots_in(data: &Path) -> HashSet<String> {
    fn links(folder: &Path, found: &mut HashSet<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match fs::read_link(&path) {
                Ok(target) => drop(found.insert(target.to_str().unwrap().to_owned())),
                Err(_) => links(&path, found),
            }
        }
    }
    let mut found = HashSet::new();
    links(&data.join("host-roots"), &mut found);
    found
}

pub fn tree() -> (Package, Package) {
    let leaf = Package::noise("leaf", 700_000);
    let top = Package::new("top", &Node::Link(leaf.info.path.absolute().into_bytes())).referring_to([&leaf]);
    (leaf, top)
}
