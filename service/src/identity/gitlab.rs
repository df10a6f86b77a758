//! What GitLab says of a job, in GitHub's words.
//!
//! The claims are those of <https://docs.gitlab.com/ci/secrets/id_token_authentication/>; `ref_path` and `sha` came with
//! GitLab 16.0. In the pipeline of a merge request from a fork, they are those of the fork.

use serde::Deserialize;

use super::claims::{Claims, EventName, GitRef, RepositoryName, number, optional_number, truth};

#[derive(Deserialize)]
pub(super) struct GitLabClaims {
    iss: String,
    project_path: RepositoryName,
    #[serde(deserialize_with = "number")]
    project_id: u64,
    namespace_path: String,
    #[serde(deserialize_with = "number")]
    namespace_id: u64,
    project_visibility: Option<String>,
    ref_path: GitRef,
    #[serde(default, deserialize_with = "truth")]
    ref_protected: bool,
    sha: String,
    pipeline_source: EventName,
    #[serde(deserialize_with = "number")]
    pipeline_id: u64,
    #[serde(deserialize_with = "number")]
    job_id: u64,
    ci_config_ref_uri: Option<String>,
    user_login: Option<String>,
    #[serde(default, deserialize_with = "optional_number")]
    user_id: Option<u64>,
    environment: Option<String>,
    runner_environment: Option<String>,
}

impl From<GitLabClaims> for Claims {
    fn from(said: GitLabClaims) -> Self {
        Self {
            issuer: said.iss,
            repository: said.project_path,
            repository_id: said.project_id,
            repository_owner: Some(said.namespace_path),
            repository_owner_id: Some(said.namespace_id),
            repository_visibility: said.project_visibility,
            git_ref: said.ref_path,
            ref_protected: said.ref_protected,
            base_ref: None,
            sha: said.sha,
            event_name: said.pipeline_source,
            workflow: None,
            workflow_ref: said.ci_config_ref_uri,
            job_workflow_ref: None,
            run_id: said.pipeline_id,
            // A job that is tried again gets another number.
            run_attempt: 1,
            check_run_id: Some(said.job_id),
            actor: said.user_login,
            actor_id: said.user_id,
            environment: said.environment,
            runner_environment: said.runner_environment,
        }
    }
}
