//! `larder action post`: has the agent push what the job built, says what was done, and cleans up.

use std::{env, fmt::Write as _, path::Path, time::Duration};

use larder_protocol::{StorePath, api::CacheName};

use super::{
    environment::{Job, Variables},
    inputs::{self, is_strict},
    log,
    main::labels,
    nix_config, state, summary,
    wording::{bytes, count},
};
use crate::{
    agent::{
        messages::{Finish, Order, Told, to_line},
        report::Report,
    },
    docker::{Docker, DockerError, Sibling},
    store::{self, StoreError},
};

/// What the agent may take beyond the push's own limit.
const OVERTIME: Duration = Duration::from_secs(20);
/// Lines of a push that are printed.
const MAX_LINES: usize = 5_000;

/// Why the step did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// Docker cannot be spoken with.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The agent is not there.
    #[error("the agent that main started is gone; nothing was pushed at the job's end")]
    NoAgent,
    /// The push failed.
    #[error("the push failed: {0}")]
    Failed(String),
    /// A path that the workflow names is none.
    #[error("input paths: {0}")]
    Path(#[from] StoreError),
    /// It took too long.
    #[error("the push took longer than the input `time-limit` allows")]
    TimeLimit,
    /// Somebody cancelled the job.
    #[error("the job was cancelled; the agent pushes for some more seconds and then ends")]
    Cancelled,
    /// A message could not be written.
    #[error("cannot speak with the agent: {0}")]
    Message(#[from] serde_json::Error),
    /// The program does not know where it is.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the step. Returns the exit code: what fails here fails the job only if that is asked for.
pub async fn run(variables: &Variables) -> u8 {
    let job = Job::of(variables);
    let saved = state::read(variables);
    let mut found = None;
    let ended = tokio::select! {
        ended = finish(variables, &job, &saved, &mut found) => ended,
        () = super::stopped() => Err(PostError::Cancelled),
    };
    let id = found.as_ref().map_or(saved.agent.as_str(), |(_, sibling): &(Docker, Sibling)| &sibling.id);
    restore_nix_config(&job, id);
    let cancelled = matches!(ended, Err(PostError::Cancelled));
    if cancelled {
        log::end_group();
    }
    if let Some((docker, sibling)) = found.as_ref().filter(|_| !cancelled)
        && let Err(error) = docker.remove(sibling).await
    {
        log::line(&error.to_string());
    }
    if !cancelled {
        state::remove_marker(&saved);
    }
    let cache = cache_name(variables);
    match ended {
        Ok(Some(report)) => tell(&job, &report, cache.as_ref()),
        Ok(None) => {}
        Err(error) => {
            if let Some(cache) = &cache {
                let _ = job.files.add_summary(&summary::of_failure(&error.to_string(), cache));
            }
            if is_strict(variables) {
                log::error(&error.to_string());
                return 1;
            }
            log::warning(&error.to_string());
        }
    }
    0
}

fn cache_name(variables: &Variables) -> Option<CacheName> {
    variables.input("cache").unwrap_or("main").parse().ok()
}

/// Has the agent push. None if there is nothing to be done.
async fn finish(
    variables: &Variables,
    job: &Job,
    saved: &state::Saved,
    found: &mut Option<(Docker, Sibling)>,
) -> Result<Option<Report>, PostError> {
    let docker = match Docker::connect().await {
        Ok(docker) => docker,
        // Main has said it, and what to do about it.
        Err(_) if saved.agent.is_empty() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mounts = docker.own().await.map(|own| own.mounts).unwrap_or_default();
    let wanted = labels(&mounts, job, saved.agent.clone());
    let Some(sibling) = docker.find(&wanted).await? else {
        return if saved.agent.is_empty() { Ok(None) } else { Err(PostError::NoAgent) };
    };
    *found = Some((docker.clone(), sibling.clone()));
    if !may_push(variables) {
        return Ok(None);
    }
    let limit = inputs::time_limit(variables);
    let order = Order::Finish(Finish { paths: named_paths(variables, job)?, seconds: limit.as_secs() });
    let program = env::current_exe()?.to_string_lossy().into_owned();
    log::group("Larder: pushing");
    let told = tokio::time::timeout(limit + OVERTIME, order_push(&docker, &sibling, &program, &order)).await;
    log::end_group();
    told.map_err(|_| PostError::TimeLimit)?
}

/// Whether there is anything to be ordered: main has said why not.
fn may_push(variables: &Variables) -> bool {
    let wants = !variables.input("push").is_some_and(|push| push.eq_ignore_ascii_case("false"));
    wants && variables.get(crate::credentials::REQUEST_TOKEN_VARIABLE).is_some()
}

async fn order_push(
    docker: &Docker,
    sibling: &Sibling,
    program: &str,
    order: &Order,
) -> Result<Option<Report>, PostError> {
    let command = [program, "agent", "finish"].map(str::to_owned);
    let mut conversation = docker.run(sibling, command.into()).await?;
    conversation.say(&to_line(order)?).await?;
    let mut lines = 0;
    loop {
        // The limit of the whole stands around this; the agent keeps its own as well.
        let line = conversation.line(Duration::from_secs(7 * 60 * 60)).await?;
        match serde_json::from_str(&line) {
            Ok(Told::Note(note)) => {
                lines += 1;
                match lines {
                    0..MAX_LINES => log::line(&note),
                    MAX_LINES => log::line("…"),
                    _ => {}
                }
            }
            Ok(Told::Done(report)) => return Ok(Some(*report)),
            Ok(Told::Nothing) => return Ok(None),
            Ok(Told::Failed(reason)) => return Err(PostError::Failed(reason)),
            Err(_) => {}
        }
    }
}

/// The paths that the workflow names: store paths, or links to them such as `./result`.
fn named_paths(variables: &Variables, job: &Job) -> Result<Option<Vec<StorePath>>, PostError> {
    let Some(text) = variables.input("paths") else { return Ok(None) };
    let workspace = job.workspace.as_deref().unwrap_or(Path::new("/github/workspace"));
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        paths.push(store::resolve(Path::new("/"), &workspace.join(line))?);
    }
    Ok(Some(paths))
}

/// Takes our lines out of `NIX_CONFIG`, for the steps after this one.
fn restore_nix_config(job: &Job, id: &str) {
    if let Some(value) = job.nix_config.as_deref().and_then(|current| nix_config::remove(current, id))
        && let Err(error) = job.files.set_variable("NIX_CONFIG", &value)
    {
        log::line(&error.to_string());
    }
}

/// Says what was done: in the log, the outputs and the summary.
fn tell(job: &Job, report: &Report, cache: Option<&CacheName>) {
    for row in &report.paths {
        let mut line =
            format!("  {:<22} {} ({}", summary::outcome(row.outcome), row.path, bytes(row.nar_size));
        if row.sent_bytes > 0 {
            let _ = write!(line, ", {} sent", bytes(row.sent_bytes));
        }
        log::line(&(line + ")"));
    }
    for left_out in &report.left_out {
        log::warning(&format!("not pushed: {}: {}", left_out.path, left_out.reason));
    }
    differing(report).iter().for_each(|line| log::line(line));
    let Some(cache) = report.isolated.as_ref().or(cache) else { return };
    log::line(&format!("Larder: {}. {}", summary::headline(report, cache), summary::totals(report)));
    let written = job
        .files
        .set_output("pushed-paths", &report.published.to_string())
        .and_then(|()| job.files.set_output("sent-bytes", &report.sent_bytes.to_string()))
        .and_then(|()| job.files.add_summary(&summary::of_report(report, cache)));
    if let Err(error) = written {
        log::line(&error.to_string());
    }
}

/// What stands where the job and the cache have different contents, in a line each.
fn differing(report: &Report) -> Vec<String> {
    let kinds = [
        (
            &report.divergences,
            "here with another content than in the cache, which keeps its own: not reproducible",
        ),
        (&report.replaced, "replaced in the cache, where a job of lower rank had brought another content"),
        (&report.refused, "refused, since an upstream has signed another content"),
    ];
    let told = kinds.into_iter().filter(|(paths, _)| !paths.is_empty());
    told.map(|(paths, what)| format!("{} {what}", count(paths.len(), "path"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_stands_where_contents_differ() {
        let path: StorePath = BASE.parse().unwrap();
        assert_eq!(differing(&Report::default()), [""; 0]);
        let report = Report {
            divergences: vec![path.clone(); 2],
            replaced: vec![path.clone()],
            refused: vec![path; 3],
            ..Report::default()
        };
        let told = differing(&report);
        for (line, said) in
            told.iter().zip(["2 paths here with another", "1 path replaced", "3 paths refused"])
        {
            assert!(line.starts_with(said), "{told:?}");
        }
        assert_eq!(told.len(), 3);
    }

    const BASE: &str = "s66mzxpvicwk07gjbjfw9izjfa797vsw-hello";

    #[test]
    fn named_paths_are_store_paths_or_links_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let target = format!("/nix/store/{BASE}");
        std::os::unix::fs::symlink(&target, dir.path().join("result")).unwrap();
        let job = Job { workspace: Some(dir.path().into()), ..Job::default() };
        let named = |paths: &str| named_paths(&[("INPUT_PATHS", paths)].into(), &job);
        let expected: StorePath = BASE.parse().unwrap();
        for paths in ["result", "./result", "result/bin/hello", &target] {
            assert_eq!(named(paths).unwrap(), Some(vec![expected.clone()]), "{paths}");
        }
        assert!(named("nothing-there").is_err() && named("/etc/passwd").is_err());
        assert_eq!(named("").unwrap(), None);
    }

    #[test]
    fn only_our_own_lines_leave_nix_config() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let mut job = Job::default();
        job.files.environment = Some(path.clone());
        job.nix_config = Some("a = b\n# larder a1: begin\nx = y\n# larder a1: end".into());
        restore_nix_config(&job, "b2");
        assert!(!path.exists(), "another agent's lines");
        restore_nix_config(&job, "a1");
        assert!(std::fs::read_to_string(path).unwrap().contains("\na = b\nlarder_"));
    }
}
