//! The action with a private cache.

use larder_protocol::api::Permission;
use larder_service::trust::{
    Rank,
    people::{self, NewToken},
};

use larder_tests::test_servers;

use super::{by_act::run_by_act_with, *};

/// As [`Scene::default`], but not everybody may read; pull requests may, if they can say whose they are.
fn private() -> Scene {
    let rule = "\n[[cache.trust]]\nrepository = \"acme/flake\"\nevents = [\"pull_request\"]\npermissions = [\"read\"]\n";
    let caches = Scene::default().caches.replace("name = \"main\"", "name = \"main\"\npublic = false");
    Scene { caches: caches + rule, ..Scene::default() }
}

impl Machine {
    /// When the sessions end that jobs were given and have not given back, in seconds from now.
    async fn sessions(&self) -> Vec<i64> {
        let mut connection = test_servers::connect(&self.dir.path().join("data")).await;
        let now = Clock::System.now();
        let ends: Vec<i64> = sqlx::query_scalar("SELECT expires_at FROM tokens WHERE name IS NULL")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        ends.into_iter().map(|end| end - now).filter(|left| *left > 0).collect()
    }

    /// A token by which a test reads.
    async fn reading_token(&self) -> String {
        let metadata = self.larderd.metadata().await;
        let cache = "main".parse().unwrap();
        let new = NewToken {
            name: &unique("reader"),
            cache: &cache,
            permissions: vec![Permission::Read],
            rank: Rank::default(),
            lifetime: 1000,
        };
        let token = people::create_token(&metadata, &Clock::System, new).await.unwrap();
        metadata.close().await;
        token.expose().to_owned()
    }

    async fn has_for(&self, token: Option<&str>, path: &Path) -> bool {
        let name = path.file_name().unwrap().to_str().unwrap();
        let page = format!("{}/main/{}.narinfo", self.larderd.url(), &name[..32]);
        let request = reqwest::Client::new().get(page);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().is_success()
    }
}

/// No token of Larder's is in any file of the job, or in what its containers show.
async fn assert_no_token(job: &RunnerJob, ran: &Ran) {
    assert!(!ran.log.contains("larder_s_") && !ran.summary.contains("larder_s_"), "{}", ran.log);
    let searched = run(Command::new("grep").args(["-rl", "larder_s_"]).arg(job.directory())).await;
    assert_eq!(searched.stdout, "", "a token lies on the disk");
    let agents = job.agents().await;
    if !agents.is_empty() {
        let inspected = run(Command::new("docker").arg("inspect").args(&agents)).await.expect_success();
        assert!(!inspected.contains("larder_s_"), "{inspected}");
        let logs = run(Command::new("docker").arg("logs").args(&agents)).await;
        assert!(!format!("{logs:?}").contains("larder_s_"), "{logs:?}");
    }
    let processes = run(Command::new("ps").args(["-eo", "args", "-ww"])).await.expect_success();
    assert!(!processes.contains("larder_s_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn later_steps_read_a_private_cache_through_the_relay_and_no_secret_is_seen() {
    let mut machine = Machine::with(&private()).await;
    let expression = expression();
    let mut job = machine.runner_job().await.with("strict", "true");
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    assert_eq!(main.outputs["status"], "ready");
    assert_no_token(&job, &main).await;
    let (_, built) = build(&job, &expression).await;
    let post = job.run(Stage::Post).await;
    assert_ended_well(&post);
    assert!(post.log.contains("pushed to main"), "{}", post.log);
    assert_no_token(&job, &post).await;
    assert_eq!(machine.sessions().await, [0; 0], "a session was not given back");
    let token = machine.reading_token().await;
    assert!(machine.has_for(Some(&token), &built[0]).await && !machine.has_for(None, &built[0]).await);
    let closure = nix::closure(&built).await;
    nix::delete(&closure).await;

    // A job on a machine that has nothing reads it; also one that pushes nothing, and a pull request that may only read.
    let pull_request = start_job(&mut machine.github, Job::pull_request("acme/flake", 7)).await;
    let jobs = [
        (machine.runner_job().await, "ready"),
        (machine.runner_job().await.with("push", "false"), "read-only"),
        (machine.with_action(RunnerJob::new(&pull_request)), "read-only"),
    ];
    for (job, status) in jobs {
        let mut job = job.with("strict", "true");
        let main = job.run(Stage::Main).await;
        assert_ended_well(&main);
        assert_eq!(main.outputs["status"], status, "{}", main.log);
        assert_no_token(&job, &main).await;
        assert!(!machine.sessions().await.is_empty(), "the relay reads without a session");
        let (said, again) = build(&job, &expression).await;
        assert!(again == built && said.contains("copying path") && !said.contains("building '"), "{said}");
        let post = job.run(Stage::Post).await;
        assert_ended_well(&post);
        assert_no_token(&job, &post).await;
        assert_eq!(machine.sessions().await, [0; 0], "a session was not given back");
        assert!(job.agents().await.is_empty());
        nix::delete(&closure).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forks_pull_request_has_no_private_cache_and_one_line_says_so() {
    let machine = Machine::with(&private()).await;
    let fork = RunnerJob::without_identity(Job::pull_request("acme/flake", 7));
    let mut job = machine.with_action(fork).with("strict", "true");
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    let said: Vec<&str> = main.log.lines().filter(|line| !line.starts_with("::")).collect();
    assert!(
        matches!(&said[..], [line] if line.contains("no ID token") && line.contains("private")),
        "{said:?}"
    );
    assert_eq!(main.outputs["status"], "off");
    assert_eq!(job.variable("NIX_CONFIG"), Some(NIX_CONFIG));
    let (_, built) = build(&job, &expression()).await;
    assert_ended_well(&job.run(Stage::Post).await);
    assert!(job.agents().await.is_empty());
    nix::delete(&nix::closure(&built).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_it_says_which_line_the_netrc_needs() {
    let mut machine = Machine::with(&private()).await;
    let mut job = machine.runner_job().await.with("relay", "false");
    let main = job.run(Stage::Main).await;
    assert_ended_well(&main);
    assert!(main.log.contains("\n  machine 127.0.0.1 login larder password TOKEN\n"), "{}", main.log);
    assert!(main.log.contains("larderd token create NAME --cache main --permission read"), "{}", main.log);
    assert_no_token(&job, &main).await;
    assert_eq!(machine.sessions().await, [0; 0], "nothing reads by it");
    assert_ended_well(&job.run(Stage::Post).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_leaves_a_session_for_a_quarter_of_an_hour_and_a_cancelled_one_none() {
    let mut machine = Machine::with(&private()).await;
    let mut cancelled = machine.runner_job().await;
    assert_ended_well(&cancelled.run(Stage::Main).await);
    assert_eq!(machine.sessions().await.len(), 1);
    cancelled.clean_up();
    until_no_agent(&cancelled).await;
    assert_eq!(machine.sessions().await, [0; 0]);

    let mut killed = machine.runner_job().await;
    assert_ended_well(&killed.run(Stage::Main).await);
    let agents = killed.agents().await;
    run(Command::new("docker").args(["kill", "--signal", "KILL"]).args(&agents)).await.expect_success();
    let left = machine.sessions().await;
    assert!(matches!(left[..], [seconds] if seconds <= 15 * 60), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_run_by_act_pushes_to_a_private_cache_and_reads_it() {
    let mut machine = Machine::with(&private()).await;
    let expression = expression();
    let started = machine.job().await;
    let (built, said) = run_by_act_with(&machine, &started, &expression).await;
    assert!(!said.contains("larder_s_"), "{said}");
    let token = machine.reading_token().await;
    assert!(machine.has_for(Some(&token), &built[0]).await && !machine.has_for(None, &built[0]).await);
    let closure = nix::closure(&built).await;
    nix::delete(&closure).await;

    let started = machine.job().await;
    let (again, said) = run_by_act_with(&machine, &started, &expression).await;
    assert!(again == built && said.contains("copying path") && !said.contains("building '"), "{said}");
    assert!(!said.contains("larder_s_"), "{said}");
    assert_eq!(machine.sessions().await, [0; 0], "a session was not given back");
    nix::delete(&closure).await;
}
