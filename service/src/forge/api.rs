//! GitHub, by its API: what a name stands for.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use octocrab::Octocrab;
use serde::Deserialize;
use url::Url;

use super::github::{ForgeError, no_answer};
use crate::{
    config::public_url::is_loopback,
    identity::RepositoryName,
    trust::{Numbers, TrustedName},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// GitHub's answers about a repository have some kilobytes.
const MAX_ANSWER: usize = 256 * 1024;

/// GitHub's API, asked without a credential.
pub struct Forge(Octocrab);

#[derive(Deserialize)]
struct Repository {
    id: u64,
    full_name: String,
    owner: Owner,
}

#[derive(Deserialize)]
struct Owner {
    id: u64,
    login: String,
}

impl Forge {
    /// The API at this URL.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(api: &Url) -> Result<Self, ForgeError> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // Where a name was moved to is not what the name stands for.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")));
        // A proxy cannot reach what is on this machine.
        let client = if is_loopback(api) { client.no_proxy().build()? } else { client.build()? };
        let builder = Octocrab::builder().base_uri(api.as_str()).map_err(no_answer)?;
        builder.build_with_reqwest(client).map(Self).map_err(no_answer)
    }

    /// What the name stands for. `None` if GitHub does not say: there is no such name, it is not public, or it was
    /// moved elsewhere.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub async fn numbers_of(&self, name: &TrustedName) -> Result<Option<Numbers>, ForgeError> {
        // Names have letters, digits, '-', '_', '.' and '/' alone, and no part of dots.
        let page = match name {
            TrustedName::Repository(name) => format!("/repos/{name}"),
            TrustedName::Owner(name) => format!("/users/{name}"),
        };
        let answer = self.0._get(page).await.map_err(no_answer)?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND || status.is_redirection() {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(ForgeError::Status(status));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| ForgeError::Unreadable)?.to_bytes();
        let unreadable = |_| ForgeError::Unreadable;
        let (found, numbers) = match name {
            TrustedName::Repository(_) => {
                let Repository { id, full_name, owner } =
                    serde_json::from_slice(&body).map_err(unreadable)?;
                (full_name, Numbers { repository: Some(id), owner: owner.id })
            }
            TrustedName::Owner(_) => {
                let Owner { id, login } = serde_json::from_slice(&body).map_err(unreadable)?;
                (login, Numbers { repository: None, owner: id })
            }
        };
        Ok(RepositoryName::same(&found, name.as_str()).then_some(numbers))
    }
}
