//! The action in real Docker, as GitHub's runner starts it and as act does: what a job builds is in the cache
//! afterwards, and an empty store reads it.
//!
//! A job pushes what is built on the machine while it runs, so nothing else runs at the same time
//! (`.config/nextest.toml`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "action/by_act.rs"]
mod by_act;
#[path = "action/private.rs"]
mod private;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use larder_protocol::{
    StorePath,
    manifest::{Manifest, Manifests},
};
use larder_service::clock::Clock;
use larder_tests::{
    front_proxy::{FrontProxy, Manner},
    github::{GitHub, Job, Page, StartedJob},
    larderd::Larderd,
    nix::{self, Nix, ScratchStore, run, unique},
    programs::program,
    runner::{Ran, RunnerJob, Stage, start_job},
    world::{Scene, reader},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

/// What a step that installs Nix leaves behind.
const NIX_CONFIG: &str =
    "build-users-group =\nsandbox = false\nsubstituters =\nexperimental-features = nix-command flakes";

/// A service, and a GitHub whose endpoint for ID tokens containers reach.
struct Machine {
    larderd: Larderd,
    github: GitHub,
    dir: TempDir,
}

impl Machine {
    async fn start() -> Self {
        Self::with(&Scene::default()).await
    }

    async fn with(scene: &Scene) -> Self {
        let dir = TempDir::new().unwrap();
        let github = GitHub::start(Clock::System).await;
        let larderd = Larderd::start(dir.path(), github.issuer(), scene).await;
        Self { larderd, github, dir }
    }

    async fn job(&mut self) -> StartedJob {
        start_job(&mut self.github, Job::default()).await
    }

    /// A job whose Nix is installed and which uses the action.
    async fn runner_job(&mut self) -> RunnerJob {
        let job = RunnerJob::new(&self.job().await);
        self.with_action(job)
    }

    fn with_action(&self, job: RunnerJob) -> RunnerJob {
        let mut job = job.with("service", &self.larderd.url());
        job.set_variable("NIX_CONFIG", NIX_CONFIG);
        job
    }

    /// Empty stores of both Nix versions read these paths, and trust the cache's key alone.
    async fn assert_readable(&self, paths: &[PathBuf]) {
        let reader = reader(&self.larderd.url(), "main").await;
        let key = reader.public_keys[0].split_once(':').unwrap().0;
        for nix in [Nix::Installed, Nix::V2_26] {
            let store = ScratchStore::new(nix);
            store.realise(&reader, paths).await.expect_success();
            store.verify().await;
            for path in paths {
                let info = store.path_info(path).await;
                assert!(info["signatures"][0].as_str().unwrap().starts_with(key), "{info}");
            }
        }
    }

    /// What its jobs on the main branch have reported.
    async fn manifests(&self) -> Vec<Manifest> {
        let mut create = Command::new(program("larderd"));
        create.arg("--config").arg(self.dir.path().join("larder.toml"));
        let created = run(create.args(["token", "create", "anna", "--permission", "read"])).await;
        let token = created.expect_success().split_whitespace().last().unwrap().to_owned();
        let page = "api/v1/repositories/acme/flake/manifests?ref=refs/heads/main";
        let asked = reqwest::Client::new().get(format!("{}/{page}", self.larderd.url())).bearer_auth(token);
        asked.send().await.unwrap().json::<Manifests>().await.unwrap().manifests
    }

    async fn has(&self, path: &Path) -> bool {
        self.has_in("main", path).await
    }

    async fn has_in(&self, cache: &str, path: &Path) -> bool {
        let name = path.file_name().unwrap().to_str().unwrap();
        let page = format!("{}/{cache}/{}.narinfo", self.larderd.url(), &name[..32]);
        reqwest::get(page).await.unwrap().status().is_success()
    }
}

/// A program and a library that it refers to, with some contents.
fn expression() -> String {
    let library = nix::derivation("library", &[], "mkdir $out; head -c 400000 /dev/urandom >$out/data");
    nix::derivation(
        "program",
        &[&library],
        "mkdir $out; echo \"exec $in0/data\" >$out/run; chmod +x $out/run",
    )
}

/// A later step that builds; what it said, and the paths.
async fn build(job: &RunnerJob, expression: &str) -> (String, Vec<PathBuf>) {
    let output = run(job.step("nix-build").args(["-o", "result", "-E", expression])).await;
    let said = output.stderr.clone();
    (said, output.expect_success().lines().map(PathBuf::from).collect())
}

/// Waits until none of the job's agents is left.
async fn until_no_agent(job: &RunnerJob) {
    let gone = async {
        while !job.agents().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.expect("an agent stays");
}

fn assert_ended_well(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}", ran.log);
    assert!(!ran.log.contains("::warning") && !ran.log.contains("::error"), "{}", ran.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_builds_is_pushed_and_the_next_job_reads_it() {
    let mut machine = Machine::start().await;
    let expression = expression();

    let mut job = machine.runner_job().await;
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    assert_eq!(main.outputs["status"], "ready");
    assert_eq!(main.outputs["substituter"], format!("{}/main", machine.larderd.url()));
    let key = &reader(&machine.larderd.url(), "main").await.public_keys[0];
    assert_eq!(&main.outputs["public-key"], key);
    assert_eq!(job.state("agent").unwrap().len(), 16);
    let config = job.variable("NIX_CONFIG").unwrap().to_owned();
    assert!(config.starts_with(NIX_CONFIG) && config.contains(key), "{config}");
    assert!(config.contains("extra-substituters = http://127.0.0.1:"), "no relay in {config}");
    assert_eq!(job.agents().await.len(), 1);

    let (_, built) = build(&job, &expression).await;
    let post = job.run(Stage::Post).await;
    assert_ended_well(&post);
    assert!(post.outputs["pushed-paths"].parse::<u64>().unwrap() >= 2, "{:?}", post.outputs);
    assert!(post.outputs["sent-bytes"].parse::<u64>().unwrap() >= 400_000, "{:?}", post.outputs);
    let name = built[0].file_name().unwrap().to_str().unwrap();
    assert!(post.log.contains(name), "{}", post.log);
    assert!(post.summary.contains(&format!("<code>{name}</code>")), "{}", post.summary);
    assert_eq!(job.variable("NIX_CONFIG"), Some(NIX_CONFIG));
    assert!(job.agents().await.is_empty(), "the agent stays");
    machine.assert_readable(&built).await;

    // The same again on a machine that has nothing.
    let closure = nix::closure(&built).await;
    nix::delete(&closure).await;
    let mut job = machine.runner_job().await;
    assert_ended_well(&job.run(Stage::Main).await);
    let (said, again) = build(&job, &expression).await;
    assert_eq!(again, built);
    assert!(said.contains("copying path") && !said.contains("building '"), "it was built again: {said}");
    let (_, new) = build(&job, &self::expression()).await;
    let new = nix::closure(&new).await;
    let post = job.run(Stage::Post).await;
    assert_ended_well(&post);
    assert!(post.log.contains("Read through the relay: "), "{}", post.log);

    // It has reported what it built, and what it took from the cache.
    let said = machine.manifests().await;
    let [Manifest { built, substituted, .. }] = &said[..] else { panic!("{said:?}") };
    let has = |paths: &[StorePath], all: &[PathBuf]| {
        let names: Vec<PathBuf> = paths.iter().map(|path| path.absolute().into()).collect();
        all.iter().filter(|path| names.contains(path)).count()
    };
    assert_eq!((has(built, &new), has(substituted, &new)), (new.len(), 0), "{said:?}");
    assert_eq!((has(built, &closure), has(substituted, &closure)), (0, closure.len()), "{said:?}");
    nix::delete(&[closure, new].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_from_outside() {
    let mut machine = Machine::start().await;
    let started = machine.job().await;
    let mut job = machine.with_action(RunnerJob::new(&started));
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    let agents = job.agents().await;
    let inspected = run(Command::new("docker").arg("inspect").args(&agents)).await.expect_success();
    assert!(!inspected.contains(&started.request_token), "{inspected}");
    let processes = run(Command::new("ps").args(["-eo", "args", "-ww"])).await.expect_success();
    assert!(!processes.contains(&started.request_token));
    // Where it is said, it is said to the runner, to be masked.
    for line in main.log.lines().filter(|line| line.contains(&started.request_token)) {
        assert!(line.starts_with("::add-mask::"), "{line}");
    }
    assert_ended_well(&job.run(Stage::Post).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forks_pull_request_reads_and_says_so_in_one_line() {
    let mut machine = Machine::start().await;
    let mut job = machine.runner_job().await;
    job.run(Stage::Main).await;
    let expression = expression();
    let (_, built) = build(&job, &expression).await;
    job.run(Stage::Post).await;
    let closure = nix::closure(&built).await;
    nix::delete(&closure).await;

    let fork = RunnerJob::without_identity(Job::pull_request("acme/flake", 7));
    let mut job = machine.with_action(fork).with("strict", "true");
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    assert_eq!(main.outputs["status"], "read-only");
    let said = main.log.lines().filter(|line| line.contains("no ID token")).count();
    assert_eq!(said, 1, "{}", main.log);
    let (said, again) = build(&job, &expression).await;
    assert!(again == built && said.contains("copying path"), "{said}");
    let own = build(&job, &self::expression()).await.1;
    let post = job.run(Stage::Post).await;
    assert_ended_well(&post);
    assert!(!machine.has(&own[0]).await);
    assert!(job.agents().await.is_empty());
    assert_eq!(job.variable("NIX_CONFIG"), Some(NIX_CONFIG));
    nix::delete(&closure).await;
    nix::delete(&nix::closure(&own).await).await;
}

/// As [`Scene::default`], and pull requests have caches of their own.
fn isolating() -> Scene {
    let scene = Scene::default();
    let rule = "\n[[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n";
    Scene { caches: scene.caches + rule, ..scene }
}

/// The cache of [`Job::pull_request`] 7.
const OWN: &str = "main~610214307-pr-7";

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_reads_all_and_pushes_into_a_cache_of_its_own() {
    let mut machine = Machine::with(&isolating()).await;
    let mut job = machine.runner_job().await;
    job.run(Stage::Main).await;
    let parents = expression();
    let (_, built) = build(&job, &parents).await;
    assert_ended_well(&job.run(Stage::Post).await);
    let in_parent = nix::closure(&built).await;
    nix::delete(&in_parent).await;

    let own = expression();
    let mut in_own = Vec::new();
    for first in [true, false] {
        let started = start_job(&mut machine.github, Job::pull_request("acme/flake", 7)).await;
        let mut job = machine.with_action(RunnerJob::new(&started)).with("strict", "true");
        let main = job.run(Stage::Main).await;
        assert_ended_well(&main);
        assert_eq!(main.outputs["status"], "ready");
        assert_eq!(main.outputs["substituter"], format!("{}/{OWN}", machine.larderd.url()));
        assert_eq!(main.log.matches("This pull request has a cache of its own").count(), 1, "{}", main.log);
        let keys: Vec<&str> = main.outputs["public-key"].split(' ').collect();
        let config = job.variable("NIX_CONFIG").unwrap();
        assert_eq!(keys.len(), 2, "its own and its parent's");
        assert!(keys.iter().all(|key| config.contains(key)), "{config}");
        assert!(config.contains("extra-substituters = http://127.0.0.1:"), "no relay in {config}");

        let (said, again) = build(&job, &parents).await;
        assert!(again == built && said.contains("copying path"), "{said}");
        let (said, paths) = build(&job, &own).await;
        assert_eq!(said.contains("building '"), first, "{said}");
        let post = job.run(Stage::Post).await;
        assert_ended_well(&post);
        if first {
            assert!(post.log.contains(&format!("pushed to {OWN}")), "{}", post.log);
            assert_eq!(post.summary.matches("own cache").count(), 1, "{}", post.summary);
        }
        assert!(machine.has_in(OWN, &paths[0]).await && !machine.has(&paths[0]).await);
        in_own = nix::closure(&paths).await;
        nix::delete(&in_own).await;
        nix::delete(&in_parent).await;
    }
    assert!(!in_own.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_it_says_which() {
    let machine = Machine::start().await;
    let mut job = machine.with_action(RunnerJob::without_identity(Job::default()));
    let main = job.run(Stage::Main).await;
    assert_eq!(main.code, 0);
    assert!(main.log.contains("::warning") && main.log.contains("id-token: write"), "{}", main.log);
    assert_eq!(job.run(Stage::Post).await.code, 0);
    assert!(job.agents().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_service_fails_a_job_only_if_it_is_strict() {
    let mut machine = Machine::start().await;
    machine.larderd.kill().await;
    for strict in [false, true] {
        let mut job = machine.runner_job().await.with("strict", if strict { "true" } else { "false" });
        let main = job.run(Stage::Main).await;
        assert_eq!(main.code, i32::from(strict), "{}", main.log);
        assert!(main.log.contains(if strict { "::error" } else { "::warning" }), "{}", main.log);
        let (_, built) = build(&job, &expression()).await;
        let post = job.run(Stage::Post).await;
        assert_eq!(post.code, i32::from(strict), "{}", post.log);
        assert!(job.agents().await.is_empty());
        nix::delete(&nix::closure(&built).await).await;
    }
}

/// One that speaks version 2, at pages of its own.
fn second(page: &str, status: &mut StatusCode, said: &mut Value) {
    match page {
        "/api/v1/caches/main" => *said = json!({ "api": 2 }),
        _ => *status = StatusCode::NOT_FOUND,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_another_version_is_told_as_such_and_breaks_no_job() {
    let mut machine = Machine::start().await;
    let proxy = FrontProxy::start(&machine.larderd.url(), Manner::Retells(second)).await;
    let mut job = machine.runner_job().await.with("service", &proxy.url());
    let main = job.run(Stage::Main).await;
    assert_eq!(main.code, 0, "{}", main.log);
    let warning = main.log.lines().find(|line| line.starts_with("::warning")).expect(&main.log);
    for words in ["the service speaks version 2 of the API", "update the client (larder, or the action)"] {
        assert!(warning.contains(words), "{words:?} is not in {}", main.log);
    }
    let (_, built) = build(&job, &expression()).await;
    assert_eq!(job.run(Stage::Post).await.code, 0);
    assert!(job.agents().await.is_empty());
    nix::delete(&nix::closure(&built).await).await;
}

/// The one line says how much there may be and what to do, and the job goes on unless it is strict.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_told_in_one_line_and_breaks_no_job() {
    let limits = "[retention]\nmax_size = \"50 kB\"\n".to_owned();
    let mut machine = Machine::with(&Scene { limits, ..Scene::default() }).await;
    for strict in [false, true] {
        let mut job = machine.runner_job().await.with("strict", if strict { "true" } else { "false" });
        assert_ended_well(&job.run(Stage::Main).await);
        let (_, built) = build(&job, &expression()).await;
        let post = job.run(Stage::Post).await;
        assert_eq!(post.code, i32::from(strict), "{}", post.log);
        let lines: Vec<&str> = post.log.lines().filter(|line| line.contains("no room")).collect();
        let [line] = lines[..] else { panic!("{}", post.log) };
        assert!(line.starts_with(if strict { "::error" } else { "::warning" }), "{line}");
        for words in ["may hold 50.0 kB (max_size)", "Tell who runs the service", "larder pin remove"] {
            assert!(line.contains(words), "{words:?} is not in {line}");
        }
        assert!(post.summary.contains("nothing was pushed") && post.summary.contains("50.0 kB"));
        assert!(!machine.has(&built[0]).await && job.agents().await.is_empty());
        nix::delete(&nix::closure(&built).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_meanwhile_leaves_builds_alone() {
    let mut machine = Machine::start().await;
    let mut job = machine.runner_job().await.with("time-limit", "1");
    assert_ended_well(&job.run(Stage::Main).await);
    machine.larderd.kill().await;
    let (_, built) = build(&job, &expression()).await;
    let post = job.run(Stage::Post).await;
    assert_eq!(post.code, 0, "{}", post.log);
    assert!(post.log.contains("::warning"), "{}", post.log);
    assert!(post.summary.contains("nothing was pushed"), "{}", post.summary);
    assert!(job.agents().await.is_empty());
    nix::delete(&nix::closure(&built).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_may_not_push_is_told_why() {
    let mut machine = Machine::start().await;
    let started = start_job(&mut machine.github, Job::push("acme/flake", "topic")).await;
    let mut job = machine.with_action(RunnerJob::new(&started));
    assert_eq!(job.run(Stage::Main).await.code, 0);
    let (_, built) = build(&job, &expression()).await;
    let post = job.run(Stage::Post).await;
    assert_eq!(post.code, 0, "{}", post.log);
    assert!(post.log.contains("refs/heads/topic"), "{}", post.log);
    assert!(!machine.has(&built[0]).await);
    nix::delete(&nix::closure(&built).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_docker_it_says_what_to_do_instead() {
    let mut machine = Machine::start().await;
    for strict in [false, true] {
        let job = machine.runner_job().await.with("strict", if strict { "true" } else { "false" });
        let mut job = job.without_docker();
        let main = job.run(Stage::Main).await;
        assert_eq!(main.code, i32::from(strict), "{}", main.log);
        assert_eq!(main.outputs["status"], "off");
        assert!(main.log.contains("larder push"), "{}", main.log);
        let post = job.run(Stage::Post).await;
        assert_ended_well(&post);
    }
    // Nobody asked for a token.
    assert_eq!(machine.github.asked(Page::IdToken), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_shared_store_the_workflow_names_what_is_pushed() {
    let mut machine = Machine::start().await;
    let job = machine.runner_job().await.with("store", "shared").with("paths", "./result");
    let mut job = job;
    assert_ended_well(&job.run(Stage::Main).await);
    let other = nix::build(&expression()).await;
    let (_, built) = build(&job, &expression()).await;
    assert_ended_well(&job.run(Stage::Post).await);
    assert!(machine.has(&built[0]).await && !machine.has(&other[0]).await);
    nix::delete(&nix::closure(&built).await).await;
    nix::delete(&nix::closure(&other).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_when_the_runner_cleans_up() {
    let mut machine = Machine::start().await;
    let mut job = machine.runner_job().await;
    assert_ended_well(&job.run(Stage::Main).await);
    assert_eq!(job.agents().await.len(), 1);
    job.clean_up();
    until_no_agent(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_of_a_job_that_is_cancelled_while_it_pushes() {
    let mut machine = Machine::start().await;
    let mut job = machine.runner_job().await;
    assert_ended_well(&job.run(Stage::Main).await);
    let (_, built) = build(&job, &expression()).await;
    // The push waits for its ID token, for ever.
    machine.github.trouble(Page::IdToken, larder_tests::github::Trouble::Stall);
    let container = unique("larder-cancelled");
    let mut post = job.begin(Stage::Post, &container).await;
    let asked = async {
        while machine.github.asked(Page::IdToken) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), asked).await.expect("nobody asked for a token");
    run(Command::new("docker").args(["kill", "--signal", "INT", &container])).await.expect_success();
    let status =
        timeout(Duration::from_secs(7), post.wait()).await.expect("the runner would kill it").unwrap();
    assert_eq!(status.code(), Some(0));
    until_no_agent(&job).await;
    nix::delete(&nix::closure(&built).await).await;
}
