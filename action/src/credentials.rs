//! Who the client is: a static token, or a job that can prove its identity to GitHub's issuer.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use url::Url;

use crate::secret::Secret;

/// The environment variable that holds a static token.
pub const TOKEN_VARIABLE: &str = "LARDER_TOKEN";
/// Where a job asks for ID tokens; set by GitHub where the job has `permissions: id-token: write`.
pub const REQUEST_URL_VARIABLE: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
/// What a job shows when it asks.
pub const REQUEST_TOKEN_VARIABLE: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// What the client proves its identity with.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A token that the service gave to a person.
    Static(Secret),
    /// A job of GitHub's (or of what speaks like it), which gets ID tokens and exchanges them.
    Job {
        /// Where ID tokens are asked for. It has a query already.
        request_url: Url,
        /// What is shown there.
        request_token: Secret,
    },
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Neither a token nor a job's environment.
    #[error(
        "no credentials: set LARDER_TOKEN or give --token-file FILE (`larderd token create` makes a token); \
         in a GitHub workflow, give the job `permissions: id-token: write`"
    )]
    None,
    /// The token file cannot be read.
    #[error("cannot read the token file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The token file has nothing in it.
    #[error("the token file {0} is empty")]
    EmptyFile(PathBuf),
    /// The job's environment makes no sense.
    #[error(
        "ACTIONS_ID_TOKEN_REQUEST_URL is not a URL; it is set by GitHub's runner and should not be changed"
    )]
    RequestUrl,
}

impl Credentials {
    /// The token of `token_file`, else of `LARDER_TOKEN`, else the job's identity.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub fn find(token_file: Option<&Path>) -> Result<Self, CredentialsError> {
        if let Some(path) = token_file {
            let text = fs::read_to_string(path)
                .map_err(|source| CredentialsError::File { path: path.to_owned(), source })?;
            let token = Secret::new(&text);
            return if token.is_empty() {
                Err(CredentialsError::EmptyFile(path.to_owned()))
            } else {
                Ok(Self::Static(token))
            };
        }
        match variable(TOKEN_VARIABLE) {
            Some(token) => Ok(Self::Static(token)),
            None => Self::of_job()?.ok_or(CredentialsError::None),
        }
    }

    /// The job's identity, where the environment has one: a pull request of a fork has none.
    ///
    /// # Errors
    /// When the environment makes no sense.
    pub fn of_job() -> Result<Option<Self>, CredentialsError> {
        let (Some(url), Some(request_token)) =
            (variable(REQUEST_URL_VARIABLE), variable(REQUEST_TOKEN_VARIABLE))
        else {
            return Ok(None);
        };
        let request_url = url.expose().parse().map_err(|_| CredentialsError::RequestUrl)?;
        Ok(Some(Self::Job { request_url, request_token }))
    }
}

fn variable(name: &str) -> Option<Secret> {
    let text = env::var_os(name).as_deref().and_then(OsStr::to_str).map(Secret::new);
    text.filter(|secret| !secret.is_empty())
}
