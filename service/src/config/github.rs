//! `[github]`: where GitHub's API is, and as which App the service speaks there.

use std::{fmt, fs, io::Read as _, os::unix::fs::PermissionsExt as _, path::PathBuf};

use jsonwebtoken::EncodingKey;
use serde::Deserialize;
use url::Url;

use super::{ConfigError, ForgeSecrets, issuer::GITHUB_API, public_url::is_loopback};

/// Longer than any such key; what is longer is another file.
const MAX_KEY: u64 = 64 << 10;
/// What nobody may do with the key's file but its owner, and its group reading.
pub(super) const TOO_OPEN: u32 = 0o037;

/// GitHub, and as whom the service speaks there.
#[derive(Debug, Clone)]
pub struct GitHubConfig {
    /// Where the API is.
    pub api_url: Url,
    /// The App, if there is one, and its key was read.
    pub app: Option<AppConfig>,
}

/// A GitHub App. `Debug` hides its key.
#[derive(Clone)]
pub struct AppConfig {
    /// Its number, or its client id.
    pub id: String,
    /// What signs its tokens.
    pub(crate) key: EncodingKey,
}

impl fmt::Debug for AppConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppConfig").field("id", &self.id).finish_non_exhaustive()
    }
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    api_url: Option<String>,
    app_id: Option<AppId>,
    private_key_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AppId {
    Number(u64),
    Text(String),
}

impl Default for GitHubConfig {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "it is one")]
        let api_url = GITHUB_API.parse().expect("GitHub's API has a URL");
        Self { api_url, app: None }
    }
}

impl GitHubConfig {
    pub(super) fn check(file: File, secrets: ForgeSecrets) -> Result<Self, ConfigError> {
        let app = match (file.app_id, file.private_key_file) {
            (None, None) => None,
            (Some(id), Some(key)) => {
                let id = id.check()?;
                match secrets {
                    ForgeSecrets::Read => Some(AppConfig { id, key: read_key(&key)? }),
                    ForgeSecrets::LeftUnread => None,
                }
            }
            (Some(_), None) => {
                let problem = "is missing, and github.app_id is there: the App's tokens are signed with its key. Make \
                               one on the App's page (\"Generate a private key\"), and write the file's place";
                return Err(ConfigError::value("github.private_key_file", problem));
            }
            (None, Some(_)) => {
                let problem = "is missing, and github.private_key_file is there: write the number that the App's page \
                               shows (\"App ID\")";
                return Err(ConfigError::value("github.app_id", problem));
            }
        };
        let api_url = file.api_url.map(|url| check_api(&url)).transpose()?;
        Ok(Self { api_url: api_url.unwrap_or(Self::default().api_url), app })
    }
}

impl AppId {
    fn check(self) -> Result<String, ConfigError> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        };
        if (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
            return Ok(text);
        }
        let problem = format!("{text:?} is no App's number. Write what its page shows (\"App ID\")");
        Err(ConfigError::value("github.app_id", problem))
    }
}

fn check_api(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok().filter(|url| {
        let safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(url);
        safe && url.query().is_none() && url.fragment().is_none() && url.username().is_empty()
    });
    url.ok_or_else(|| {
        let problem = format!(
            "{text:?} will not do. Write it with https:// and without user and query: \"{GITHUB_API}\", or \
             \"https://github.example.org/api/v3\" for an Enterprise Server"
        );
        ConfigError::value("github.api_url", problem)
    })
}

fn read_key(file: &PathBuf) -> Result<EncodingKey, ConfigError> {
    let shown = file.display();
    let refuse = |problem: String| ConfigError::value("github.private_key_file", problem);
    let unreadable = |error| {
        refuse(format!("{shown} cannot be read: {error}. Have its owner be the user that larderd runs as"))
    };
    let opened = fs::File::open(file).map_err(unreadable)?;
    let about = opened.metadata().map_err(unreadable)?;
    let mode = about.permissions().mode() & 0o777;
    if about.is_file() && mode & TOO_OPEN != 0 {
        return Err(refuse(format!(
            "{shown} has the mode {mode:03o}: others can reach it, and whoever has the key is the App. Write: chmod \
             600 {shown}"
        )));
    }
    let mut pem = Vec::new();
    opened.take(MAX_KEY + 1).read_to_end(&mut pem).map_err(unreadable)?;
    let key = EncodingKey::from_rsa_pem(&pem).ok().filter(|_| pem.len() as u64 <= MAX_KEY);
    key.ok_or_else(|| {
        refuse(format!(
            "{shown} is no RSA key in PEM. Write the place of the file that GitHub gave when the key was made \
             (\"Generate a private key\")"
        ))
    })
}
