//! What protected refs publish is in the host's own store: by a real nix-daemon, which trusts the cache's key and not the
//! service.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

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

const SECRET: &str = "a secret of the repository's webhook";

/// A machine's store, with its daemon.
struct Host {
    nix: Nix,
    dir: TempDir,
    daemon: Option<Child>,
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
    fn new() -> Self {
        Self::of(Nix::Installed)
    }

    fn of(nix: Nix) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        Self { nix, dir, daemon: None }
    }

    /// Of the daemon's container.
    fn name(&self) -> String {
        format!("larder-test-host{}", self.dir.path().display().to_string().replace(['/', '.'], "-"))
    }

    fn socket(&self) -> PathBuf {
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
    async fn start(&mut self, keys: &[String]) {
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

    fn has(&self, path: &StorePath) -> bool {
        self.dir.path().join("root/nix/store").join(path.to_string()).symlink_metadata().is_ok()
    }

    /// Collects what nothing keeps.
    async fn collect_garbage(&self) {
        run(&mut self.command("nix-collect-garbage", "build-users-group =\n")).await.expect_success();
    }

    async fn verify(&self) {
        let mut verify = self.command("nix-store", "build-users-group =\n");
        run(verify.args(["--verify", "--check-contents"])).await.expect_success();
    }

    /// A world whose service takes what `acme/flake` publishes from its protected branch, with more said of that.
    async fn world(&self, more: &str) -> World {
        self.world_by("ref_protected = true", more).await
    }

    /// The same, with what the rule for the branch demands.
    async fn world_by(&self, demands: &str, more: &str) -> World {
        let caches = format!(
            "[[webhook]]\nrepositories = [\"acme/*\"]\nsecrets = [{{ file = \"{secret}\" }}]\n\
             [[cache]]\nname = \"main\"\nupstream = []\n\
             [[cache.trust]]\nrepository = [\"acme/flake\", \"acme/other\"]\n{demands}\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/*\"\n\
             [host_store]\nsocket = \"{socket}\"\n{more}\n\
             [[host_store.take]]\ncache = \"main\"\nissuer = \"ISSUER\"\nrepository = \"acme/flake\"\n\
             ref = \"refs/heads/main\"\n",
            secret = self.dir.path().join("secret").display(),
            socket = self.socket().display(),
        );
        World::with(Scene { limits: String::new(), caches }).await
    }
}

/// A job of a protected branch.
fn protected(run_id: u64) -> Job {
    Job { ref_protected: true, run_id, ..Job::default() }
}

async fn push(world: &World, job: &Job, packages: &[&Package]) {
    world.exchange(job).await.unwrap().push(packages).await.unwrap();
}

/// Has GitHub say that the job's run is over, and waits until all that follows is done.
async fn conclude(world: &World, job: &Job, conclusion: &str) {
    let payload = json!({
        "action": "completed",
        "workflow_run": { "id": job.run_id, "run_attempt": 1, "conclusion": conclusion },
        "repository": { "id": job.repository_id, "full_name": job.repository },
    });
    deliver(&world.url(), SECRET, "workflow_run", &payload).await;
    world.service().queue.idle().await.unwrap();
}

/// Why filling the host's store is still to be done.
async fn left(world: &World) -> Vec<String> {
    let jobs = world.service().metadata.jobs().await.unwrap();
    let filling = jobs.into_iter().filter(|job| job.kind == "fill-host-store");
    filling.map(|job| job.error.unwrap_or_default()).collect()
}

fn roots(world: &World) -> HashSet<String> {
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
    links(&world.data_dir().join("host-roots"), &mut found);
    found
}

fn tree() -> (Package, Package) {
    let leaf = Package::noise("leaf", 700_000);
    let top = Package::new("top", &Node::Link(leaf.info.path.absolute().into_bytes())).referring_to([&leaf]);
    (leaf, top)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_protected_run_published_is_in_the_store_and_stays_until_the_next() {
    stays_until_the_next(Host::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_of_nix_2_26_takes_it_as_well() {
    stays_until_the_next(Host::of(Nix::V2_26)).await;
}

async fn stays_until_the_next(mut host: Host) {
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let first = protected(1000);
    push(&world, &first, &[&leaf, &top]).await;
    assert!(!host.has(&top.info.path), "before the run is over");
    conclude(&world, &first, "success").await;
    assert_eq!(left(&world).await, [""; 0]);
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path));
    host.verify().await;
    host.collect_garbage().await;
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path), "the collector took what is rooted");
    assert_eq!(roots(&world), HashSet::from([top.info.path.absolute()]));

    // The next run's take their place; what nothing keeps any more goes.
    let (other, next) = tree();
    let second = protected(1001);
    push(&world, &second, &[&other, &next]).await;
    conclude(&world, &second, "success").await;
    host.collect_garbage().await;
    assert!(host.has(&next.info.path) && host.has(&other.info.path));
    assert!(!host.has(&top.info.path) && !host.has(&leaf.info.path));

    // An older run that is told of later changes nothing.
    conclude(&world, &first, "success").await;
    assert_eq!(roots(&world), HashSet::from([next.info.path.absolute()]));
    // And what is there already is rooted without being sent again.
    conclude(&world, &second, "success").await;
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_taken() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let elsewhere = Job { repository: "acme/other".to_owned(), repository_id: 7, ..protected(2) };
    let refused = [
        // Not protected, though it is called main.
        Job { ref_protected: false, run_id: 1, ..Job::default() },
        elsewhere,
        Job { git_ref: "refs/heads/release".to_owned(), ..protected(3) },
    ];
    for job in &refused {
        let package = Package::noise("tool", 1000);
        push(&world, job, &[&package]).await;
        conclude(&world, job, "success").await;
        assert!(!host.has(&package.info.path), "{job:?}");
    }
    // Nor of a run that failed, or one that another repository says is over.
    let package = Package::noise("tool", 1000);
    let job = protected(4);
    push(&world, &job, &[&package]).await;
    conclude(&world, &job, "failure").await;
    conclude(&world, &Job { repository: "acme/other".to_owned(), ..job.clone() }, "success").await;
    assert!(!host.has(&package.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
    conclude(&world, &job, "success").await;
    assert!(host.has(&package.info.path), "it was not taken for another reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_with_fewer_rights_brought_is_not_taken_along() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let anybody = Job { git_ref: "refs/heads/topic".to_owned(), run_id: 8, ..Job::default() };
    push(&world, &anybody, &[&leaf]).await;
    // It refers to what is there, and says nothing of it.
    push(&world, &protected(9), &[&top]).await;
    conclude(&world, &protected(9), "success").await;
    assert!(!host.has(&leaf.info.path) && !host.has(&top.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));

    // What a protected run names, it stands for.
    push(&world, &protected(10), &[&leaf, &top]).await;
    conclude(&world, &protected(10), "success").await;
    assert!(host.has(&leaf.info.path) && host.has(&top.info.path));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_branch_of_the_same_rank_brought_first_is_not_taken_along() {
    let mut host = Host::new();
    let world = host.world_by("ref = \"refs/heads/main\"", "").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    let topic = Job { git_ref: "refs/heads/topic".to_owned(), run_id: 8, ..Job::default() };
    push(&world, &topic, &[&leaf]).await;
    push(&world, &protected(9), &[&leaf, &top]).await;
    conclude(&world, &protected(9), "success").await;
    assert!(!host.has(&leaf.info.path) && !host.has(&top.info.path));

    // What the branch itself brought is, whatever its rank.
    let own = Package::noise("own", 1000);
    push(&world, &protected(10), &[&own]).await;
    conclude(&world, &protected(10), "success").await;
    assert!(host.has(&own.info.path));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_it_may_be_is_not_taken() {
    let mut host = Host::new();
    let world = host.world("max_size = \"500 kB\"").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    push(&world, &protected(5), &[&leaf, &top]).await;
    conclude(&world, &protected(5), "success").await;
    assert!(!host.has(&leaf.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_trust_the_key_refuses_and_nothing_is_rooted() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&[]).await;
    let (leaf, top) = tree();
    push(&world, &protected(6), &[&leaf, &top]).await;
    conclude(&world, &protected(6), "success").await;
    assert!(!host.has(&leaf.info.path));
    assert_eq!((left(&world).await, roots(&world)), (Vec::new(), HashSet::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_tried_again_when_no_daemon_answers() {
    let mut host = Host::new();
    let world = host.world("").await;
    let (leaf, top) = tree();
    push(&world, &protected(7), &[&leaf, &top]).await;
    conclude(&world, &protected(7), "success").await;
    assert_eq!(left(&world).await.len(), 1);
    host.start(&world.reader().await.public_keys).await;
    world.advance(3600);
    world.service().queue.wake();
    world.service().queue.idle().await.unwrap();
    assert_eq!(left(&world).await, [""; 0]);
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path));
}
