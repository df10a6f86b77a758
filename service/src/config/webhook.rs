//! `[[webhook]]`: whose deliveries are taken, and by which secrets they are known. `[deliveries]`: how long they are
//! kept.

use std::{fmt, fs, path::PathBuf};

use serde::Deserialize;

use super::{ConfigError, Environment, ForgeSecrets, Period};
use crate::{forge::About, trust::RepositoryPattern};

/// As many rules as a delivery can be compared with in good time.
const MAX_RULES: usize = 64;
/// The secret in use and the one that replaces it.
const MAX_SECRETS: usize = 2;
/// A shorter secret might be guessed from one signature.
const MIN_SECRET: usize = 16;
/// Longer than any secret; what is longer is another file.
const MAX_SECRET: usize = 4096;
/// How long what is gone may come back, unless the file says otherwise.
const GRACE: Period = Period::days(1);
const HOW_TO_MAKE: &str = "Make one by `openssl rand -hex 32`, and give the same to GitHub";

/// Whose deliveries are taken by which secrets.
#[derive(Debug, Clone)]
pub struct WebhookRule {
    /// The repositories that its secrets speak for, at least one.
    pub repositories: Vec<RepositoryPattern>,
    /// One secret, or two while one replaces the other. None where they were [left unread](ForgeSecrets).
    pub secrets: Vec<WebhookSecret>,
    /// Whether what their jobs wanted is prefetched when something comes to a ref, or a run is over.
    pub prefetch: bool,
    /// The events that are acted on. `None`: all from which anything follows.
    pub on: Option<Vec<ActsOn>>,
    /// How long what a branch, a pull request or a repository needed is kept after it is gone: it may come back.
    pub grace: Period,
}

/// An event that a rule may act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActsOn {
    /// A branch or a tag is gone, or there again.
    Delete,
    /// A pull request was closed, or opened again.
    PullRequest,
    /// Commits came to a ref.
    Push,
    /// A release was published, or taken back.
    Release,
    /// A repository was deleted, renamed or transferred.
    Repository,
    /// A run is over.
    WorkflowRun,
}

impl WebhookRule {
    /// Whether anything is to follow from this event.
    pub(crate) fn acts_on(&self, event: &str) -> bool {
        let Some(on) = &self.on else { return true };
        let wanted = match event {
            "create" | "delete" => ActsOn::Delete,
            "pull_request" => ActsOn::PullRequest,
            "push" => ActsOn::Push,
            "release" => ActsOn::Release,
            "repository" => ActsOn::Repository,
            "workflow_run" => ActsOn::WorkflowRun,
            _ => return true,
        };
        on.contains(&wanted)
    }

    /// Whether its secrets are for what a delivery is about.
    pub(crate) fn speaks_for(&self, about: &About) -> bool {
        match about {
            About::Repository(repository) => {
                self.repositories.iter().any(|pattern| pattern.matches(repository))
            }
            About::Owner(owner) => {
                self.repositories.iter().any(|pattern| pattern.owner().eq_ignore_ascii_case(owner))
            }
            About::Nobody => true,
        }
    }
}

/// What a delivery is signed with. `Debug` hides it.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// The key for the HMAC.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    repositories: Vec<RepositoryPattern>,
    #[serde(default)]
    secrets: Vec<Source>,
    #[serde(default)]
    on: Option<Vec<ActsOn>>,
    #[serde(default)]
    grace: Option<Period>,
    prefetch: Option<bool>,
}

/// Where a secret lies: never in the configuration itself, which many may read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Source {
    File(PathBuf),
    Env(String),
}

/// The rules with their secrets.
pub(super) fn check(
    files: Vec<File>,
    environment: &Environment,
    secrets: ForgeSecrets,
) -> Result<Vec<WebhookRule>, ConfigError> {
    if files.len() > MAX_RULES {
        let problem = format!("there are {} of them, and at most {MAX_RULES} can be. Join some", files.len());
        return Err(ConfigError::value("webhook", problem));
    }
    let rule = |(position, file)| rule(file, position + 1, environment, secrets);
    files.into_iter().enumerate().map(rule).collect()
}

fn rule(
    file: File,
    number: usize,
    environment: &Environment,
    secrets: ForgeSecrets,
) -> Result<WebhookRule, ConfigError> {
    let key = format!("webhook rule {number}");
    if file.repositories.is_empty() {
        let problem = "names no repository, so that nothing would be taken. Write repositories = [\"owner/name\"], or \
                       [\"owner/*\"]";
        return Err(ConfigError::value(key, problem));
    }
    if !(1..=MAX_SECRETS).contains(&file.secrets.len()) {
        let problem = format!(
            "has {} secrets, and it takes one, or two while one replaces the other. Write secrets = [{{ file = \
             \"/run/secrets/larder-webhook\" }}], or {{ env = \"NAME\" }}",
            file.secrets.len()
        );
        return Err(ConfigError::value(key, problem));
    }
    let key = format!("{key}, secrets");
    let secrets = match secrets {
        ForgeSecrets::Read => {
            file.secrets.iter().map(|source| source.read(&key, environment)).collect::<Result<_, _>>()?
        }
        ForgeSecrets::LeftUnread => Vec::new(),
    };
    let (grace, prefetch) = (file.grace.unwrap_or(GRACE), file.prefetch.unwrap_or(true));
    Ok(WebhookRule { repositories: file.repositories, secrets, on: file.on, grace, prefetch })
}

impl Source {
    fn read(&self, key: &str, environment: &Environment) -> Result<WebhookSecret, ConfigError> {
        let refuse = |problem: String| ConfigError::value(key, problem);
        let (place, text) = match self {
            Self::File(file) => {
                let place = format!("the file {}", file.display());
                let text = fs::read(file)
                    .map_err(|error| refuse(format!("{place} cannot be read: {error}. {HOW_TO_MAKE}")))?;
                (place, text)
            }
            Self::Env(name) => {
                let place = format!("the environment's {name}");
                let text = environment
                    .get(name)
                    .ok_or_else(|| refuse(format!("{place} is missing or empty. {HOW_TO_MAKE}")))?;
                (place, text.as_bytes().to_owned())
            }
        };
        // Files end with a line's end, and secrets do not.
        let secret = text.trim_ascii_end();
        if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) {
            return Err(refuse(format!(
                "{place} has {} bytes, and a secret has {MIN_SECRET} to {MAX_SECRET}. {HOW_TO_MAKE}",
                secret.len()
            )));
        }
        Ok(WebhookSecret(secret.to_owned()))
    }
}

/// `[deliveries]`, as the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeliveriesFile {
    pub(super) keep: Option<Period>,
}

/// How long deliveries are kept unless the file says otherwise: GitHub keeps them three days, Enterprise Server seven.
pub(super) const KEEP: Period = Period::days(7);

/// As a sentence, for whoever runs the service.
impl fmt::Display for WebhookRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.repositories.iter().map(ToString::to_string).collect();
        let secrets = match self.secrets.len() {
            1 => "by one secret",
            _ => "by two secrets, one of which replaces the other",
        };
        write!(f, "{}, {secrets}", names.join(", "))
    }
}
