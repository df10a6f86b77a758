//! The stand-in for GitHub as a program, for `scripts/demo`: a job of a branch, and one of a pull request, for which a
//! runner's variables are printed. Ends when its standard input does.

use std::{io::Write, net::SocketAddr};

use clap::Parser;
use larder_service::clock::Clock;
use larder_tests::github::{GitHub, Job, StartedJob};
use tokio::io::AsyncReadExt;

/// A stand-in for GitHub's issuer and the runner's token endpoint.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; the issuer's name is made of it.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where containers reach the endpoint for ID tokens, such as Docker's bridge.
    #[arg(long)]
    listen_for_containers: Option<SocketAddr>,
    /// The repository that the job is of.
    #[arg(long, default_value = "acme/flake")]
    repository: String,
    /// The branch that was pushed.
    #[arg(long, default_value = "main")]
    branch: String,
    /// The pull request, from a branch of the same repository; its job's variables have `PULL_` before their names.
    #[arg(long, default_value_t = 7)]
    pull_request: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let mut github = GitHub::start_on(arguments.listen, Clock::System).await;
    let bound = match arguments.listen_for_containers {
        Some(address) => format!("http://{}", github.listen_also(address).await),
        None => github.issuer().to_owned(),
    };
    let push = github.start_job(Job::push(&arguments.repository, &arguments.branch));
    let pull_request = github.start_job(Job {
        run_id: push.job.run_id + 1,
        check_run_id: push.job.check_run_id + 1,
        ..Job::pull_request(&arguments.repository, arguments.pull_request)
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "ISSUER={}", github.issuer())?;
    for (prefix, started) in [("PULL_", &pull_request), ("", &push)] {
        for (name, value) in variables(started, &started.request_url.replace(github.issuer(), &bound)) {
            writeln!(out, "{prefix}{name}={value}")?;
        }
    }
    out.flush()?;
    drop(out);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// What a runner sets for the job.
fn variables(started: &StartedJob, request_url: &str) -> Vec<(&'static str, String)> {
    let job = &started.job;
    let owner = job.repository.split('/').next().unwrap_or_default();
    vec![
        ("ACTIONS_ID_TOKEN_REQUEST_URL", request_url.to_owned()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", started.request_token.clone()),
        ("GITHUB_REPOSITORY", job.repository.clone()),
        ("GITHUB_REPOSITORY_ID", job.repository_id.to_string()),
        ("GITHUB_REPOSITORY_OWNER", owner.to_owned()),
        ("GITHUB_REPOSITORY_OWNER_ID", job.owner_id.to_string()),
        ("GITHUB_REF", job.git_ref.clone()),
        ("GITHUB_SHA", job.sha.clone()),
        ("GITHUB_EVENT_NAME", job.event.clone()),
        ("GITHUB_WORKFLOW", job.workflow.clone()),
        ("GITHUB_RUN_ID", job.run_id.to_string()),
        ("GITHUB_RUN_NUMBER", job.run_number.to_string()),
        ("GITHUB_RUN_ATTEMPT", job.run_attempt.to_string()),
    ]
}
