//! Check runs: what GitHub shows beside a commit.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    app::{Needs, Place},
    github::{Answer, ForgeError, GitHub, Question},
};
use crate::identity::RepositoryName;

/// Its name.
pub(super) const NAME: &str = "larder / cache";

/// What a check run says.
#[derive(Debug)]
pub(super) struct CheckRun {
    /// By which it is found again.
    pub(super) external_id: String,
    pub(super) sha: String,
    /// Whether all went well.
    pub(super) well: bool,
    pub(super) title: String,
    /// Markdown.
    pub(super) summary: String,
}

#[derive(Deserialize)]
struct Known {
    id: u64,
    #[serde(default)]
    external_id: Option<String>,
}

#[derive(Deserialize)]
struct List {
    check_runs: Vec<Known>,
}

#[derive(Deserialize)]
struct Repository {
    default_branch: String,
}

impl CheckRun {
    fn body(&self) -> Value {
        // What failed here is no reason to keep anybody from merging.
        let conclusion = if self.well { "success" } else { "neutral" };
        json!({
            "name": NAME, "external_id": self.external_id, "status": "completed", "conclusion": conclusion,
            "output": { "title": self.title, "summary": self.summary },
        })
    }
}

impl GitHub {
    /// Writes a check run: into the one that is known, else into the one that an earlier attempt made and did not hear of,
    /// else into a new one. Its number.
    pub(super) async fn write_check_run(
        &self,
        repository: &RepositoryName,
        run: &CheckRun,
        known: Option<u64>,
    ) -> Result<u64, ForgeError> {
        let known = match known {
            Some(known) => Some(known),
            None => self.find_check_run(repository, run).await?,
        };
        if let Some(id) = known {
            let page = format!("/repos/{repository}/check-runs/{id}");
            let answer =
                self.ask_of_checks(repository, Question::new(Method::PATCH, page).with(&run.body())).await?;
            match answer.status {
                StatusCode::OK => return Ok(id),
                // Another App's, or gone: GitHub keeps them for 400 days.
                StatusCode::NOT_FOUND => {}
                status => return Err(ForgeError::Status(status)),
            }
        }
        let mut body = run.body();
        body["head_sha"] = json!(run.sha);
        let question = Question::new(Method::POST, format!("/repos/{repository}/check-runs")).with(&body);
        let answer = self.ask_of_checks(repository, question).await?;
        if answer.status != StatusCode::CREATED {
            return Err(ForgeError::Status(answer.status));
        }
        Ok(answer.json::<Known>()?.id)
    }

    async fn find_check_run(
        &self,
        repository: &RepositoryName,
        run: &CheckRun,
    ) -> Result<Option<u64>, ForgeError> {
        let name: String = form_urlencoded::byte_serialize(NAME.as_bytes()).collect();
        let page = format!(
            "/repos/{repository}/commits/{}/check-runs?check_name={name}&filter=all&per_page=100",
            run.sha
        );
        let answer = self.ask_of_checks(repository, Question::get(page)).await?;
        match answer.status {
            StatusCode::OK => {
                let runs = answer.json::<List>()?.check_runs;
                let ours = |known: &Known| known.external_id.as_deref() == Some(&run.external_id);
                Ok(runs.into_iter().find(ours).map(|known| known.id))
            }
            status => Err(ForgeError::Status(status)),
        }
    }

    /// The repository's default branch, as a whole ref.
    pub(super) async fn default_branch(&self, repository: &RepositoryName) -> Result<String, ForgeError> {
        let answer = self.ask_of_checks(repository, Question::get(format!("/repos/{repository}"))).await?;
        match answer.status {
            StatusCode::OK => Ok(format!("refs/heads/{}", answer.json::<Repository>()?.default_branch)),
            status => Err(ForgeError::Status(status)),
        }
    }

    async fn ask_of_checks(
        &self,
        repository: &RepositoryName,
        question: Question,
    ) -> Result<Answer, ForgeError> {
        self.ask_at(&Place::repository(repository), Needs::Checks, question).await
    }
}
