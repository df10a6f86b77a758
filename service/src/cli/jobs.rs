//! `larderd jobs`: what the service does in the background.

use std::fmt::Write;

use clap::Subcommand;

use super::{Failure, open_existing, print};
use crate::{
    clock::Clock,
    config::Config,
    metadata::Metadata,
    queue::{JobId, JobRow, JobState},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the jobs: first those that were given up, then those under way, then those that wait
    List {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Have a job that was given up tried again, now
    ///
    /// A service that runs sees it within five seconds.
    Retry {
        /// The job's number, as `larderd jobs list` shows it
        #[arg(required_unless_present = "all")]
        job: Option<i64>,
        /// All that were given up
        #[arg(long, conflicts_with = "job")]
        all: bool,
    },
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let done = execute(command, &metadata, &Clock::System).await;
    metadata.close().await;
    done
}

async fn execute(command: Command, metadata: &Metadata, clock: &Clock) -> Result<(), Failure> {
    match command {
        Command::List { json } => {
            let jobs = metadata.jobs().await.map_err(Failure::because)?;
            print::out(&if json { as_json(&jobs)? } else { as_text(&jobs, clock.now()) });
        }
        Command::Retry { job, .. } => {
            let retried = metadata.retry_failed_jobs(job.map(JobId), clock.now()).await;
            match (retried.map_err(Failure::because)?, job) {
                (0, Some(job)) => {
                    return Err(Failure::Other(format!("no job {job} was given up. See: larderd jobs list")));
                }
                (count, _) => print::complain(&format!("jobs that are tried again: {count}")),
            }
        }
    }
    Ok(())
}

fn as_json(jobs: &[JobRow]) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "jobs": jobs }));
    text.map(|text| text + "\n").map_err(Failure::because)
}

fn as_text(jobs: &[JobRow], now: i64) -> String {
    let mut text = String::new();
    for job in jobs {
        let state = match job.state {
            JobState::Failed => "given up".to_owned(),
            JobState::Running => "under way".to_owned(),
            JobState::Waiting if job.due_at <= now => "waits".to_owned(),
            JobState::Waiting => format!("waits for {} s", job.due_at - now),
        };
        // Writing to a string cannot fail. What others wrote is in the key: escaped.
        let _ = write!(text, "{}\t{state}\t{} attempts\t{}", job.id.0, job.attempts, job.key.escape_debug());
        if let Some(error) = &job.error {
            let _ = write!(text, "\t{}", error.escape_debug());
        }
        text.push('\n');
    }
    text
}
