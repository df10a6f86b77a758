//! `[[issuer]]`: who may say by ID tokens who a job is.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use url::Url;

use super::{ConfigError, public_url::is_loopback};

/// GitHub's issuer, the one that is trusted when none is configured.
pub const GITHUB: &str = "https://token.actions.githubusercontent.com";

/// An issuer's URL, exactly as its tokens say it in `iss`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerUrl {
    text: String,
    loopback: bool,
}

/// What is no issuer.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} cannot be an issuer: {why}")]
pub struct InvalidIssuerUrl {
    url: String,
    why: &'static str,
}

impl IssuerUrl {
    /// The URL as configured, to be compared byte for byte.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is this machine; then http will do.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl Default for IssuerUrl {
    fn default() -> Self {
        Self { text: GITHUB.to_owned(), loopback: false }
    }
}

impl FromStr for IssuerUrl {
    type Err = InvalidIssuerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidIssuerUrl> {
        let refuse = |why| InvalidIssuerUrl { url: text.to_owned(), why };
        let url = Url::parse(text).map_err(|_| refuse("write its URL, as tokens say it in `iss`"))?;
        let loopback = is_loopback(&url);
        if !(url.scheme() == "https" || url.scheme() == "http" && loopback) {
            return Err(refuse("write https://, since whoever can change its answers can push"));
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(refuse("leave user, query and fragment out"));
        }
        Ok(Self { text: text.to_owned(), loopback })
    }
}

impl TryFrom<String> for IssuerUrl {
    type Error = InvalidIssuerUrl;

    fn try_from(text: String) -> Result<Self, InvalidIssuerUrl> {
        text.parse()
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    url: IssuerUrl,
}

/// The issuers, with GitHub's where the file says nothing.
pub(super) fn check(issuers: Option<Vec<File>>) -> Result<Vec<IssuerUrl>, ConfigError> {
    let Some(issuers) = issuers else { return Ok(vec![IssuerUrl::default()]) };
    let mut urls: Vec<IssuerUrl> = Vec::new();
    for File { url } in issuers {
        if urls.contains(&url) {
            return Err(ConfigError::value("issuer.url", format!("{url} stands there twice. Take one away")));
        }
        urls.push(url);
    }
    Ok(urls)
}
