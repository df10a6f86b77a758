//! `[[issuer]]`: who may say by ID tokens who a job is.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use url::Url;

use super::{ConfigError, public_url::is_loopback};
use crate::identity::{IssuerKind, SigningAlgorithm};

/// GitHub's issuer, the one that is trusted when none is configured.
pub const GITHUB: &str = "https://token.actions.githubusercontent.com";
/// Its API.
pub(super) const GITHUB_API: &str = "https://api.github.com";

/// The one of GitLab's own instance.
const GITLAB: &str = "https://gitlab.com";

/// An issuer's URL, exactly as its tokens say it in `iss`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerUrl {
    text: String,
    loopback: bool,
}

/// Who may say by ID tokens who a job is, checked.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// Its URL.
    pub url: IssuerUrl,
    /// Whose words its tokens use.
    pub kind: IssuerKind,
    /// How its tokens may be signed, at least one.
    pub algorithms: Vec<SigningAlgorithm>,
    /// Where GitHub's API for its repositories is, if it can be asked.
    pub api_url: Option<Url>,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            url: IssuerUrl::default(),
            kind: IssuerKind::GitHub,
            algorithms: vec![SigningAlgorithm::RS256],
            api_url: Url::parse(GITHUB_API).ok(),
        }
    }
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

/// Whether an issuer's host is known to everybody: github.com's, for whichever enterprise, or gitlab.com's. Any other may
/// be one that strangers need not hear of.
pub(crate) fn is_everybodys(url: &str) -> bool {
    url == GITLAB || url.strip_prefix(GITHUB).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    url: IssuerUrl,
    #[serde(default)]
    kind: IssuerKind,
    algorithms: Option<Vec<SigningAlgorithm>>,
    api_url: Option<Url>,
}

/// The issuers, with GitHub's where the file says nothing.
pub(super) fn check(issuers: Option<Vec<File>>) -> Result<Vec<IssuerConfig>, ConfigError> {
    let Some(issuers) = issuers else { return Ok(vec![IssuerConfig::default()]) };
    let mut checked: Vec<IssuerConfig> = Vec::new();
    for File { url, kind, algorithms, api_url } in issuers {
        if checked.iter().any(|other| other.url == url) {
            return Err(ConfigError::value("issuer.url", format!("{url} stands there twice. Take one away")));
        }
        let algorithms = algorithms.unwrap_or_else(|| vec![SigningAlgorithm::RS256]);
        if algorithms.is_empty() {
            let problem = format!(
                "is empty, so that no token of {url} could be taken. Leave it out for RS256, or write \"ES256\" or \
                 \"EdDSA\" if the issuer signs so"
            );
            return Err(ConfigError::value("issuer.algorithms", problem));
        }
        let api_url = check_api(api_url, &url, kind)?;
        checked.push(IssuerConfig { url, kind, algorithms, api_url });
    }
    Ok(checked)
}

/// GitHub's own API is known; an Enterprise Server's is not, and often wants a token that nobody has.
fn check_api(api: Option<Url>, issuer: &IssuerUrl, kind: IssuerKind) -> Result<Option<Url>, ConfigError> {
    let refuse = |problem: String| Err(ConfigError::value("issuer.api_url", problem));
    let Some(api) = api else {
        let own =
            issuer.as_str().strip_prefix(GITHUB).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        return Ok(if kind == IssuerKind::GitHub && own { Url::parse(GITHUB_API).ok() } else { None });
    };
    if kind != IssuerKind::GitHub {
        return refuse(format!("{api} is said of {issuer}, and only GitHub's API is spoken. Leave it out"));
    }
    let safe = api.scheme() == "https" || api.scheme() == "http" && is_loopback(&api);
    if !safe || api.query().is_some() || api.fragment().is_some() || !api.username().is_empty() {
        return refuse(format!(
            "{api} will not do. Write it with https:// and without user and query, for example \
             \"https://github.example.org/api/v3\""
        ));
    }
    Ok(Some(api))
}
