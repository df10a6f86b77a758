//! A job in a workflow, as GitHub vouches for it.

use data_encoding::HEXLOWER;
use serde_json::json;

use super::key::Claims;

/// What GitHub knows of a job. Ids are numbers here and strings in claims, as with GitHub.
#[derive(Debug, Clone)]
pub struct Job {
    /// `owner/name`.
    pub repository: String,
    /// The repository's numeric id.
    pub repository_id: u64,
    /// The owner's numeric id.
    pub owner_id: u64,
    /// `public`, `private` or `internal`.
    pub visibility: String,
    /// The whole ref: `refs/heads/main`.
    pub git_ref: String,
    /// Whether a branch protection rule or ruleset covers the ref.
    pub ref_protected: bool,
    /// The commit.
    pub sha: String,
    /// What started the workflow.
    pub event: String,
    /// Of a pull request, the branch that it comes from and the one that it goes to.
    pub head_and_base: Option<(String, String)>,
    /// The workflow's file below `.github/workflows/`.
    pub workflow_file: String,
    /// The workflow's `name:`, which its author chooses freely.
    pub workflow: String,
    /// The environment that the job names.
    pub environment: Option<String>,
    /// The run.
    pub run_id: u64,
    /// The run's number among the workflow's.
    pub run_number: u64,
    /// Which attempt at the run.
    pub run_attempt: u64,
    /// The job within the attempt.
    pub check_run_id: u64,
    /// Who did what started the workflow.
    pub actor: String,
    /// That person's numeric id.
    pub actor_id: u64,
    /// Whether `sub` has numeric ids in it, as for repositories that are new or were renamed since July 2026.
    pub sub_with_ids: bool,
}

impl Default for Job {
    fn default() -> Self {
        Self::push("acme/flake", "main")
    }
}

impl Job {
    /// A push to a branch that is not protected.
    pub fn push(repository: &str, branch: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            repository_id: 610_214_307,
            owner_id: 5_917_224,
            visibility: "public".to_owned(),
            git_ref: format!("refs/heads/{branch}"),
            ref_protected: false,
            sha: "4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11".to_owned(),
            event: "push".to_owned(),
            head_and_base: None,
            workflow_file: "build.yml".to_owned(),
            workflow: "Build".to_owned(),
            environment: None,
            run_id: 18_204_417_093,
            run_number: 118,
            run_attempt: 1,
            check_run_id: 51_839_266_450,
            actor: "rosa".to_owned(),
            actor_id: 1_284_551,
            sub_with_ids: false,
        }
    }

    /// A pull request from a branch of the same repository. (From a fork, a job has no ID token at all.)
    pub fn pull_request(repository: &str, number: u64) -> Self {
        Self {
            git_ref: format!("refs/pull/{number}/merge"),
            event: "pull_request".to_owned(),
            head_and_base: Some(("topic".to_owned(), "main".to_owned())),
            ..Self::push(repository, "main")
        }
    }

    /// `sub`, in GitHub's default form.
    fn sub(&self) -> String {
        let repository = match (self.repository.split_once('/'), self.sub_with_ids) {
            (Some((owner, name)), true) => {
                format!("{owner}@{}/{name}@{}", self.owner_id, self.repository_id)
            }
            _ => self.repository.clone(),
        };
        let context = match &self.environment {
            Some(environment) => format!("environment:{environment}"),
            None if self.event == "pull_request" => "pull_request".to_owned(),
            None => format!("ref:{}", self.git_ref),
        };
        format!("repo:{repository}:{context}")
    }

    /// The claims of an ID token that is made `now` (seconds since 1970) and lives five minutes. Every call
    /// gives another `jti`.
    pub fn claims(&self, issuer: &str, audience: &str, now: i64) -> Claims {
        let owner = self.repository.split('/').next().unwrap_or_default();
        let workflow_ref =
            format!("{}/.github/workflows/{}@{}", self.repository, self.workflow_file, self.git_ref);
        let (head, base) = self.head_and_base.clone().unwrap_or_default();
        let claims = json!({
            "iss": issuer,
            "aud": audience,
            "sub": self.sub(),
            "jti": new_jti(),
            "iat": now,
            "nbf": now - 300,
            "exp": now + 300,
            "actor": self.actor,
            "actor_id": self.actor_id.to_string(),
            "repository": self.repository,
            "repository_id": self.repository_id.to_string(),
            "repository_owner": owner,
            "repository_owner_id": self.owner_id.to_string(),
            "repository_visibility": self.visibility,
            "ref": self.git_ref,
            "ref_type": if self.git_ref.starts_with("refs/tags/") { "tag" } else { "branch" },
            // A string, as ids are.
            "ref_protected": self.ref_protected.to_string(),
            "sha": self.sha,
            "head_ref": head,
            "base_ref": base,
            "event_name": self.event,
            "workflow": self.workflow,
            "workflow_ref": workflow_ref,
            "workflow_sha": self.sha,
            "job_workflow_ref": workflow_ref,
            "job_workflow_sha": self.sha,
            "run_id": self.run_id.to_string(),
            "run_number": self.run_number.to_string(),
            "run_attempt": self.run_attempt.to_string(),
            "runner_environment": "github-hosted",
            "check_run_id": self.check_run_id.to_string(),
        });
        let serde_json::Value::Object(mut claims) = claims else { unreachable!("an object was written") };
        if let Some(environment) = &self.environment {
            claims.insert("environment".to_owned(), environment.as_str().into());
        }
        claims
    }
}

/// A GUID, as GitHub's are.
fn new_jti() -> String {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).unwrap();
    let hex = HEXLOWER.encode(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
