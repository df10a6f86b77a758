//! The action in a workflow that act runs.

use larder_tests::runner::Workflow;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_run_by_act_pushes_what_it_builds() {
    let mut machine = Machine::start().await;
    let started = machine.job().await;
    let built = run_by_act(&machine, &started, "main").await;
    machine.assert_readable(&built).await;
    nix::delete(&nix::closure(&built).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_requests_workflow_run_by_act_pushes_into_its_own_cache() {
    let mut machine = Machine::with(&isolating()).await;
    let started = start_job(&mut machine.github, Job::pull_request("acme/flake", 7)).await;
    let built = run_by_act(&machine, &started, OWN).await;
    assert!(machine.has_in(OWN, &built[0]).await && !machine.has(&built[0]).await);
    nix::delete(&nix::closure(&built).await).await;
}

/// Runs a workflow that builds, and tells what it has built and pushed to that cache.
async fn run_by_act(machine: &Machine, started: &StartedJob, cache: &str) -> Vec<PathBuf> {
    let (built, said) = run_by_act_with(machine, started, &expression()).await;
    assert!(said.contains(&format!("pushed to {cache}")), "{said}");
    built
}

/// Runs a workflow that builds this; tells the paths, and what was said.
pub async fn run_by_act_with(
    machine: &Machine,
    started: &StartedJob,
    expression: &str,
) -> (Vec<PathBuf>, String) {
    let out = machine.dir.path().join("built");
    // For a pull request act runs the steps elsewhere than in the repository.
    let program = machine.dir.path().join("program.nix");
    std::fs::write(&program, expression).unwrap();
    let workflow = Workflow::new(&format!(
        "on: [push, pull_request]
permissions:
  contents: read
  id-token: write
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - run: |
          {{
            echo 'NIX_CONFIG<<end'
            echo '{}'
            echo end
          }} >>\"$GITHUB_ENV\"
      - uses: larder-nix/larder@v1
        with:
          service: {}
          strict: true
      - run: nix-build {} | tee {}
",
        NIX_CONFIG.replace('\n', "'\n            echo '"),
        machine.larderd.url(),
        program.display(),
        out.display()
    ))
    .await;
    let output = workflow.run(started).await;
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(output.success, "{said}");
    let built: Vec<PathBuf> = std::fs::read_to_string(out).unwrap().lines().map(PathBuf::from).collect();
    assert!(!said.contains(&started.request_token), "a secret is in the log");
    let left = run(Command::new("docker").args(["ps", "-q", "--filter", "label=larder.agent"])).await;
    assert_eq!(left.expect_success(), "", "an agent stays");
    (built, said)
}
