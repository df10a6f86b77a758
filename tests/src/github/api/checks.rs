//! Check runs.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Refusal,
    caller::Caller,
    model::State as Known,
    paging::{self, Query},
};
use crate::github::{GitHub, Hub};

/// The longest of a summary and of a text.
const MAX_TEXT: usize = 65_535;

/// A check run.
#[derive(Debug, Clone)]
pub struct CheckRun {
    /// Its number.
    pub id: u64,
    /// `owner/name`.
    pub repository: String,
    /// The commit.
    pub head_sha: String,
    /// Whose it is.
    pub app: u64,
    /// Its name.
    pub name: String,
    /// The number that its App gave it.
    pub external_id: String,
    /// `queued`, `in_progress` or `completed`.
    pub status: String,
    /// How it ended.
    pub conclusion: Option<String>,
    /// The title of what it says.
    pub title: String,
    /// What it says, in Markdown.
    pub summary: String,
    /// How often it was written.
    pub writes: u32,
}

/// What is said of one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    name: Option<String>,
    head_sha: Option<String>,
    external_id: Option<String>,
    status: Option<String>,
    conclusion: Option<String>,
    details_url: Option<String>,
    output: Option<Output>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    title: String,
    summary: String,
    #[serde(default)]
    text: Option<String>,
}

const CONCLUSIONS: [&str; 7] =
    ["action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out"];

impl Said {
    fn apply(self, run: &mut CheckRun) -> Result<(), Refusal> {
        let invalid = |what: &str| Refusal::new(422, format!("Invalid request.\n\n{what}"));
        if let Some(output) = self.output {
            if output.title.is_empty() || output.summary.is_empty() {
                return Err(invalid("output needs a title and a summary."));
            }
            let longest = output.summary.len().max(output.text.map_or(0, |text| text.len()));
            if longest > MAX_TEXT || output.title.len() > 255 {
                return Err(invalid("Only 65535 characters are allowed."));
            }
            (run.title, run.summary) = (output.title, output.summary);
        }
        if self.details_url.is_some_and(|url| !url.starts_with("http")) {
            return Err(invalid("details_url is no URL."));
        }
        if let Some(status) = self.status {
            if !["queued", "in_progress", "completed"].contains(&status.as_str()) {
                return Err(invalid("status is not included in the list."));
            }
            run.status = status;
        }
        if let Some(conclusion) = self.conclusion {
            if !CONCLUSIONS.contains(&conclusion.as_str()) {
                return Err(invalid("conclusion is not included in the list."));
            }
            // "Providing conclusion will automatically set the status parameter to completed."
            run.status = "completed".to_owned();
            run.conclusion = Some(conclusion);
        } else if run.status != "completed" {
            run.conclusion = None;
        }
        if let Some(external_id) = self.external_id {
            run.external_id = external_id;
        }
        run.writes += 1;
        Ok(())
    }
}

fn app_of(state: &Known, caller: &Caller) -> u64 {
    let Caller::Installation(token) = caller else { return 0 };
    state.installations.iter().find(|known| known.id == token.installation).map_or(0, |known| known.app)
}

fn shown(run: &CheckRun) -> Value {
    json!({
        "id": run.id, "name": run.name, "head_sha": run.head_sha, "external_id": run.external_id,
        "status": run.status, "conclusion": run.conclusion, "app": { "id": run.app },
        "output": { "title": run.title, "summary": run.summary },
    })
}

/// `POST /repos/{owner}/{name}/check-runs`
pub(super) async fn create(
    State(hub): State<Arc<Hub>>,
    Path((owner, name)): Path<(String, String)>,
    Extension(caller): Extension<Caller>,
    Json(said): Json<Said>,
) -> Result<Response, Refusal> {
    let mut state = hub.api();
    let repository = caller.reach(&state, &format!("{owner}/{name}"), Some(("checks", "write")))?;
    let (Some(check), Some(sha)) = (said.name.clone(), said.head_sha.clone()) else {
        return Err(Refusal::new(422, "Invalid request.\n\n\"name\", \"head_sha\" weren't supplied."));
    };
    if !repository.trees.contains_key(&sha) {
        return Err(Refusal::new(422, format!("No commit found for SHA: {sha}")));
    }
    let mut run = CheckRun {
        id: 0,
        repository: repository.name.clone(),
        head_sha: sha,
        app: app_of(&state, &caller),
        name: check,
        external_id: String::new(),
        status: "queued".to_owned(),
        conclusion: None,
        title: String::new(),
        summary: String::new(),
        writes: 0,
    };
    said.apply(&mut run)?;
    run.id = 90_000 + state.next_id();
    let answer = shown(&run);
    state.checks.push(run);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `PATCH /repos/{owner}/{name}/check-runs/{id}`
pub(super) async fn update(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, id)): Path<(String, String, u64)>,
    Extension(caller): Extension<Caller>,
    Json(said): Json<Said>,
) -> Result<Json<Value>, Refusal> {
    let mut state = hub.api();
    let repository =
        caller.reach(&state, &format!("{owner}/{name}"), Some(("checks", "write")))?.name.clone();
    let app = app_of(&state, &caller);
    let run = state.checks.iter_mut().find(|run| run.id == id && run.repository == repository);
    let run = run.ok_or_else(Refusal::not_found)?;
    if run.app != app {
        return Err(Refusal::new(
            403,
            "Invalid app_id - check run can only be modified by the GitHub App that created it.",
        ));
    }
    said.apply(run)?;
    Ok(Json(shown(run)))
}

/// `GET /repos/{owner}/{name}/commits/{ref}/check-runs`
pub(super) async fn of_commit(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, at)): Path<(String, String, String)>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let state = hub.api();
    let repository = caller.reach(&state, &format!("{owner}/{name}"), Some(("checks", "read")))?;
    let no_commit = || Refusal::new(422, format!("No commit found for SHA: {at}"));
    let sha = repository.commit(Some(&at)).ok_or_else(no_commit)?;
    let wanted = |run: &&CheckRun| {
        run.repository == repository.name
            && run.head_sha == sha
            && query.get("check_name").is_none_or(|name| *name == run.name)
            && query.get("app_id").is_none_or(|app| *app == run.app.to_string())
    };
    let all: Vec<Value> = state.checks.iter().filter(wanted).map(shown).collect();
    let count = all.len();
    let (these, next) = paging::by_number(&query, all);
    Ok(paging::answer(&hub.origin, &uri, &query, json!({ "total_count": count, "check_runs": these }), next))
}

impl GitHub {
    /// All check runs.
    pub fn check_runs(&self) -> Vec<CheckRun> {
        self.hub.api().checks.clone()
    }
}
