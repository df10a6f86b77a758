//! The stand-in for GitHub as a program, for `scripts/demo`: one job, for which a runner's variables are
//! printed. Ends when its standard input does.

use std::{io::Write, net::SocketAddr};

use clap::Parser;
use larder_service::clock::Clock;
use larder_tests::github::{GitHub, Job};
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
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let mut github = GitHub::start_on(arguments.listen, Clock::System).await;
    let started = github.start_job(Job::push(&arguments.repository, &arguments.branch));
    let mut request_url = started.request_url.clone();
    if let Some(address) = arguments.listen_for_containers {
        let bound = github.listen_also(address).await;
        request_url = request_url.replace(github.issuer(), &format!("http://{bound}"));
    }
    let job = &started.job;
    let owner = job.repository.split('/').next().unwrap_or_default();
    let lines = [
        ("ISSUER", github.issuer().to_owned()),
        ("ACTIONS_ID_TOKEN_REQUEST_URL", request_url),
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
    ];
    let mut out = std::io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name}={value}")?;
    }
    out.flush()?;
    drop(out);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
