//! `workflow_run`: a run began, or is over.

use serde::Deserialize;

use super::{Event, Follows};
use crate::{forge::Conclusion, queue::Work};

#[derive(Debug, Deserialize)]
struct Payload {
    workflow_run: Run,
}

/// A run. Where it came from is not looked at: that is what the run's own token says.
#[derive(Debug, Deserialize)]
struct Run {
    id: u64,
    run_attempt: u64,
    #[serde(default)]
    conclusion: Option<Conclusion>,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let (Some(repository), Some("completed")) = (event.repository.cloned(), event.action) else {
        return Ok(Vec::new());
    };
    let run = event.read::<Payload>()?.workflow_run;
    // GitHub's own examples have one that is completed without having been concluded.
    let Some(conclusion) = run.conclusion else { return Ok(Vec::new()) };
    let (run, attempt) = (run.id, run.run_attempt);
    let id = event.repository_id;
    let prefetch =
        event.rule.prefetch.then(|| Work::PrefetchRun { repository: repository.clone(), id, run, attempt });
    // What a run that failed left behind is nobody's.
    let fill = (conclusion == Conclusion::Success)
        .then(|| Work::FillHostStore { repository: repository.clone(), run });
    let conclude = Work::ConcludeRun { repository, id, run, attempt, conclusion };
    Ok([conclude].into_iter().chain(prefetch).chain(fill).map(|work| (work, event.now)).collect())
}
