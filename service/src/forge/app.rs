//! The service as a GitHub App: its own tokens, and those of its installations, narrowed to what is needed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::github::{Asking, ForgeError, GitHub, Question};
use crate::{clock::from_date, config::AppConfig, identity::RepositoryName};

/// How long an App's own token lives, in seconds: ten minutes at most, for clocks that differ.
const JWT_LIVES: i64 = 9 * 60;
/// How long before now it is made, for the same reason.
const JWT_SINCE: i64 = 60;
/// How long before its end an installation's token is no longer used, in seconds.
const RENEW: i64 = 5 * 60;
/// How long it is believed where the App is installed.
const INSTALLATION_LIVES: i64 = 60 * 60;
/// As many of each are remembered.
const REMEMBERED: usize = 1000;

/// What is done with GitHub's API as an App, and the permission that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Reading files.
    Contents,
    /// Writing check runs.
    Checks,
    /// Reading a repository's webhooks, and having them deliver again.
    RepositoryHooks,
    /// The same of an organisation's.
    OrganizationHooks,
    /// Reading which repositories there are.
    Metadata,
}

impl Needs {
    /// As the API calls it, and the level.
    fn permission(self) -> (&'static str, &'static str) {
        match self {
            Self::Contents => ("contents", "read"),
            Self::Checks => ("checks", "write"),
            Self::RepositoryHooks => ("repository_hooks", "write"),
            Self::OrganizationHooks => ("organization_hooks", "write"),
            Self::Metadata => ("metadata", "read"),
        }
    }

    /// As the App's page calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Contents => "Repository permissions, Contents: Read-only",
            Self::Checks => "Repository permissions, Checks: Read and write",
            Self::RepositoryHooks => "Repository permissions, Webhooks: Read and write",
            Self::OrganizationHooks => "Organization permissions, Webhooks: Read and write",
            Self::Metadata => "Repository permissions, Metadata: Read-only",
        }
    }
}

/// Where a token reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// In lower case.
    Repository(String),
    /// An organisation, in lower case.
    Owner(String),
    /// A user or an organisation, in lower case.
    Account(String),
}

impl Place {
    pub(super) fn repository(name: &RepositoryName) -> Self {
        Self::Repository(name.as_str().to_ascii_lowercase())
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Repository(name) | Self::Owner(name) | Self::Account(name) => name,
        }
    }
}

/// The App, and what it was given.
pub(super) struct App {
    config: AppConfig,
    installations: Mutex<HashMap<Place, (u64, i64)>>,
    tokens: Mutex<HashMap<(Place, Needs), Token>>,
}

#[derive(Clone)]
struct Token {
    secret: String,
    installation: u64,
    expires_at: i64,
}

#[derive(Serialize)]
struct AppClaims<'a> {
    iss: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct NewToken {
    token: String,
    expires_at: String,
}

impl App {
    pub(super) fn new(config: AppConfig) -> Self {
        Self { config, installations: Mutex::default(), tokens: Mutex::default() }
    }

    /// Whoever asks as the App itself.
    pub(super) fn itself(&self, now: i64) -> Result<Asking, ForgeError> {
        let AppConfig { id, key } = &self.config;
        let claims = AppClaims { iss: id, iat: now - JWT_SINCE, exp: now + JWT_LIVES };
        // Signing fails for a key that was read only where memory does.
        let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, key);
        Ok(Asking::App(token.map_err(|_| ForgeError::Unreadable)?))
    }

    /// Whoever asks as the App's installation, with a token that reaches no further than needed.
    pub(super) async fn at(
        &self,
        github: &GitHub,
        place: &Place,
        needs: Needs,
    ) -> Result<Asking, ForgeError> {
        let now = github.clock.now();
        let key = (place.clone(), needs);
        let known = lock(&self.tokens).get(&key).filter(|token| token.expires_at - RENEW > now).cloned();
        let token = match known {
            Some(token) => token,
            None => {
                let token = self.new_token(github, place, needs).await?;
                let mut tokens = lock(&self.tokens);
                make_room(&mut tokens, |token| token.expires_at - RENEW > now);
                tokens.insert(key, token.clone());
                token
            }
        };
        Ok(Asking::Installation(token.installation, token.secret))
    }

    /// Forgets a token that GitHub does not take any more.
    pub(super) fn forget(&self, place: &Place, needs: Needs) {
        lock(&self.tokens).remove(&(place.clone(), needs));
        lock(&self.installations).remove(place);
    }

    /// Forgets everything.
    pub(super) fn look_again(&self) {
        lock(&self.tokens).clear();
        lock(&self.installations).clear();
    }

    async fn new_token(&self, github: &GitHub, place: &Place, needs: Needs) -> Result<Token, ForgeError> {
        let installation = self.installation(github, place).await?;
        let (permission, level) = needs.permission();
        let mut narrowed = json!({ "permissions": { permission: level } });
        if let Place::Repository(name) = place {
            narrowed["repositories"] = json!([name.rsplit('/').next()]);
        }
        let page = format!("/app/installations/{installation}/access_tokens");
        let question = Question::new(Method::POST, page).with(&narrowed);
        let answer = github.ask(&self.itself(github.clock.now())?, question).await?;
        match answer.status {
            StatusCode::CREATED => {
                let NewToken { token, expires_at } = answer.json()?;
                let expires_at = from_date(&expires_at).ok_or(ForgeError::Unreadable)?;
                Ok(Token { secret: token, installation, expires_at })
            }
            // It covers the place no more, or may not do that there.
            StatusCode::NOT_FOUND => {
                lock(&self.installations).remove(place);
                Err(ForgeError::NotInstalled(place.name().to_owned()))
            }
            StatusCode::UNPROCESSABLE_ENTITY if answer.message().contains("permission") => {
                Err(ForgeError::NotPermitted { needs, place: place.name().to_owned() })
            }
            StatusCode::UNPROCESSABLE_ENTITY => {
                lock(&self.installations).remove(place);
                Err(ForgeError::NotInstalled(place.name().to_owned()))
            }
            status => Err(ForgeError::Status(status)),
        }
    }

    /// The installation that covers the place.
    async fn installation(&self, github: &GitHub, place: &Place) -> Result<u64, ForgeError> {
        let now = github.clock.now();
        if let Some((id, _)) = lock(&self.installations).get(place).filter(|(_, until)| *until > now) {
            return Ok(*id);
        }
        let page = match place {
            Place::Repository(name) => format!("/repos/{name}/installation"),
            Place::Owner(name) => format!("/orgs/{name}/installation"),
            // Organisations are among them.
            Place::Account(name) => format!("/users/{name}/installation"),
        };
        let answer = github.ask(&self.itself(now)?, Question::get(page)).await?;
        match answer.status {
            StatusCode::OK => {
                let Installation { id } = answer.json()?;
                let mut installations = lock(&self.installations);
                make_room(&mut installations, |(_, until)| *until > now);
                installations.insert(place.clone(), (id, now + INSTALLATION_LIVES));
                Ok(id)
            }
            StatusCode::NOT_FOUND | StatusCode::MOVED_PERMANENTLY => {
                Err(ForgeError::NotInstalled(place.name().to_owned()))
            }
            StatusCode::UNAUTHORIZED => Err(ForgeError::NotTheApp),
            status => Err(ForgeError::Status(status)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what is over, and all if that is not enough.
fn make_room<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, lives: impl Fn(&V) -> bool) {
    if map.len() >= REMEMBERED {
        map.retain(|_, value| lives(value));
    }
    if map.len() >= REMEMBERED {
        map.clear();
    }
}
