//! The configuration: one TOML file, overridden by the environment, checked whole before anything starts.
//!
//! Every field below is a key of the file. What cannot be is refused with the key, the value and the remedy.

pub mod audit;
pub mod cache;
pub mod database;
pub mod environment;
pub mod github;
pub mod host_store;
pub mod isolated;
pub mod issuer;
pub mod limits;
mod metrics;
pub mod period;
pub mod prefetch;
mod profile;
pub mod public_url;
pub mod retention;
mod s3;
pub mod schedule;
pub mod size;
pub mod storage;
pub mod trust;
pub mod webhook;

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

pub use self::{
    audit::AuditConfig,
    cache::CacheConfig,
    database::{DatabaseConfig, DatabaseServer},
    environment::Environment,
    github::{AppConfig, GitHubConfig},
    host_store::{HostStore, HostTake},
    isolated::IsolatedLimits,
    issuer::{IssuerConfig, IssuerUrl},
    limits::{Limits, OpenPushes, Pacing},
    period::Period,
    prefetch::{PrefetchConfig, PrefetchHost},
    public_url::PublicUrl,
    retention::{CacheRetention, Retention},
    schedule::{Schedule, ScheduledPrefetch},
    size::ByteSize,
    storage::{BucketConfig, BucketWaits, HotTierConfig, StorageConfig},
    webhook::{ActsOn, WebhookRule, WebhookSecret},
};
use crate::{DATABASE, client, trust::TrustRules};

/// Where the configuration is looked for when nobody says where it is.
pub const DEFAULT_FILE: &str = "/etc/larder/larder.toml";

/// What `larderd` runs with: defaults, the file and the environment put together, and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on. Port 0 asks the system for a free one.
    pub listen: SocketAddr,
    /// The URL by which workflows and readers name the service.
    pub public_url: Option<PublicUrl>,
    /// Where the database, the signing keys and what is stored lie.
    pub data_dir: PathBuf,
    /// Where what is stored lies, if not in the data directory.
    pub storage: StorageConfig,
    /// Where rows lie: in a file there, or on a server.
    pub database: DatabaseConfig,
    /// The caches, at least one, each with a name of its own.
    pub caches: Vec<CacheConfig>,
    /// The issuers whose ID tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// What one request or push may take.
    pub limits: Limits,
    /// What is kept of the audit log.
    pub audit: AuditConfig,
    /// Whose deliveries are taken.
    pub webhooks: Vec<WebhookRule>,
    /// GitHub's API.
    pub github: GitHubConfig,
    /// How long deliveries are kept.
    pub keep_deliveries: Period,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// When the store is swept.
    pub retention: Retention,
    /// What pull requests' own caches may take.
    pub isolated: IsolatedLimits,
    /// What is fetched of flakes' inputs.
    pub prefetch: PrefetchConfig,
    /// The address on which `/metrics` is answered, apart from all else: it names private caches.
    pub metrics_listen: Option<SocketAddr>,
    /// What is taken into the host's own store.
    pub host_store: HostStore,
}

/// Whether the secrets are read by which GitHub and a running service know each other: those of webhooks, and the App's
/// key. A service manager may hand them to the service alone, as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeSecrets {
    /// They are, and must be right.
    Read,
    /// They are not: no delivery would be taken, and there is no App.
    LeftUnread,
}

/// The configuration cannot be used. The text says which key, which value and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}. Give another file by --config or LARDER_CONFIG")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML, or a key or value in it is not known.
    #[error("{file}: {source}")]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that can be read makes no sense.
    #[error("{key}: {problem}")]
    Value {
        /// The key, or the variable of the environment.
        key: String,
        /// What is wrong with which value, and the remedy.
        problem: String,
    },
}

impl ConfigError {
    pub(crate) fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { key: key.into(), problem: problem.into() }
    }
}

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, deserialize_with = "listen_address")]
    listen: Option<SocketAddr>,
    public_url: Option<PublicUrl>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    storage: storage::File,
    #[serde(default)]
    database: database::File,
    #[serde(default)]
    cache: Vec<cache::File>,
    #[serde(default)]
    issuer: Option<Vec<issuer::File>>,
    #[serde(default)]
    limits: limits::File,
    #[serde(default)]
    audit: audit::File,
    #[serde(default)]
    webhook: Vec<webhook::File>,
    #[serde(default)]
    github: github::File,
    #[serde(default)]
    deliveries: webhook::DeliveriesFile,
    trusted_proxies: Option<Vec<String>>,
    #[serde(default)]
    retention: retention::File,
    #[serde(default)]
    isolated: isolated::File,
    #[serde(default)]
    prefetch: prefetch::File,
    #[serde(default)]
    metrics: metrics::File,
    #[serde(default)]
    host_store: host_store::File,
}

fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let problem = |_| {
        D::Error::custom(format!(
            "{text:?} is not an address to listen on. Write \"127.0.0.1:8080\", or \"[::]:8080\" to be reached from \
             other machines"
        ))
    };
    text.parse().map(Some).map_err(problem)
}

fn trusted_proxies(proxies: Option<Vec<String>>) -> Result<Vec<IpNet>, ConfigError> {
    let Some(proxies) = proxies else { return Ok(client::loopback()) };
    let network = |text: String| {
        let network = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into()));
        network.map_err(|_| {
            let problem = format!("{text:?} is no network. Write \"10.0.0.0/8\", or one address");
            ConfigError::value("trusted_proxies", problem)
        })
    };
    proxies.into_iter().map(network).collect()
}

impl Config {
    /// The configuration of `larderd` as it was called: `file`, else [`DEFAULT_FILE`] if there is one, else
    /// defaults alone; each overridden by `environment`.
    ///
    /// # Errors
    /// When the file cannot be read, or anything in it or in the environment is wrong.
    pub fn load(
        file: Option<&Path>,
        environment: &Environment,
        secrets: ForgeSecrets,
    ) -> Result<Self, ConfigError> {
        let unreadable = |file: &Path| {
            let file = file.to_owned();
            move |source| ConfigError::Unreadable { file, source }
        };
        let (name, text) = match file {
            Some(file) => (file, fs::read_to_string(file).map_err(unreadable(file))?),
            None => {
                let file = Path::new(DEFAULT_FILE);
                match fs::read_to_string(file) {
                    Ok(text) => (file, text),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (file, String::new()),
                    Err(error) => return Err(unreadable(file)(error)),
                }
            }
        };
        Self::understand(name, &text, environment, secrets)
    }

    /// The configuration that `text` says, read from the file `name`, overridden by `environment`.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn parse(name: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        Self::understand(name, text, environment, ForgeSecrets::Read)
    }

    fn understand(
        name: &Path,
        text: &str,
        environment: &Environment,
        secrets: ForgeSecrets,
    ) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { file: name.to_owned(), source: Box::new(source) })?;

        let listen = environment.parsed(environment::LISTEN, "host:port, for example 127.0.0.1:8080")?;
        let public_url =
            environment.parsed(environment::PUBLIC_URL, "for example https://cache.example.org")?;
        let data_dir = match environment.get(environment::DATA_DIR).map(PathBuf::from).or(file.data_dir) {
            Some(directory) => directory,
            None => environment.default_data_dir()?,
        };
        let issuers = issuer::check(file.issuer)?;
        let caches = if file.cache.is_empty() { vec![cache::File::default()] } else { file.cache };
        let caches = caches
            .into_iter()
            .map(|file| CacheConfig::check(file, &issuers))
            .collect::<Result<Vec<_>, _>>()?;

        let prefetch = PrefetchConfig::check(file.prefetch, &issuers)?;
        let host_store = HostStore::check(file.host_store, &caches, &issuers)?;
        let config = Self {
            listen: listen.or(file.listen).unwrap_or((Ipv4Addr::LOCALHOST, 8080).into()),
            public_url: public_url.or(file.public_url),
            data_dir,
            storage: StorageConfig::check(&file.storage, environment)?,
            database: DatabaseConfig::check(file.database, environment)?,
            caches,
            issuers,
            limits: Limits::check(file.limits, environment)?,
            audit: audit::check(file.audit)?,
            webhooks: webhook::check(file.webhook, environment, secrets)?,
            github: GitHubConfig::check(file.github, secrets)?,
            keep_deliveries: file.deliveries.keep.unwrap_or(webhook::KEEP),
            trusted_proxies: trusted_proxies(file.trusted_proxies)?,
            retention: Retention::check(file.retention)?,
            isolated: IsolatedLimits::check(file.isolated)?,
            prefetch,
            metrics_listen: file.metrics.listen,
            host_store,
        };
        config.check()?;
        Ok(config)
    }

    /// Defaults, with everything in `data_dir`: for tests and for a first look.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            public_url: None,
            data_dir: data_dir.to_owned(),
            storage: StorageConfig::Folder,
            database: DatabaseConfig::default(),
            caches: vec![CacheConfig::default()],
            issuers: vec![IssuerConfig::default()],
            limits: Limits::default(),
            audit: AuditConfig::default(),
            webhooks: Vec::new(),
            github: GitHubConfig::default(),
            keep_deliveries: webhook::KEEP,
            trusted_proxies: client::loopback(),
            retention: Retention::default(),
            isolated: IsolatedLimits::default(),
            prefetch: PrefetchConfig::default(),
            metrics_listen: None,
            host_store: HostStore::default(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.metrics_listen.is_some_and(|address| address == self.listen && address.port() != 0) {
            let problem = format!(
                "{} is where everybody reads and pushes, and the numbers name private caches. Write another port, \
                 for example 127.0.0.1:9182",
                self.listen
            );
            return Err(ConfigError::value("metrics.listen", problem));
        }
        let mut names = HashSet::new();
        for cache in &self.caches {
            if cache.name.isolation().is_some() {
                let problem = format!(
                    "{} is a name that the service gives to a pull request's own cache. Choose one without \"~\"",
                    cache.name
                );
                return Err(ConfigError::value("cache.name", problem));
            }
            if !names.insert(&cache.name) {
                let problem = format!(
                    "there are two caches named {}. Put what you say of it in one [[cache]], or rename one",
                    cache.name
                );
                return Err(ConfigError::value("cache.name", problem));
            }
        }
        // Without it the audience would be what a client says, and a token for another service would do.
        if self.public_url.is_none() && self.caches.iter().any(|cache| !cache.trust.is_empty()) {
            return Err(ConfigError::value(
                "public_url",
                "is missing, and a trust rule needs it: ID tokens must be made for this service alone. Write the \
                 URL that workflows will name, for example public_url = \"https://cache.example.org\"",
            ));
        }
        Ok(())
    }

    /// The URL that people and programs reach the service by, without a slash at its end.
    ///
    /// Where none is configured, the address that is listened on, as seen from this machine.
    pub fn base_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.origin().to_owned(),
            None if self.listen.ip().is_unspecified() => format!("http://127.0.0.1:{}", self.listen.port()),
            None => format!("http://{}", self.listen),
        }
    }

    /// Where the database is, for messages: its file, or its server without the password.
    pub fn database_place(&self) -> String {
        match &self.database {
            DatabaseConfig::File => self.data_dir.join(DATABASE).display().to_string(),
            DatabaseConfig::Server(server) => server.to_string(),
        }
    }

    /// The URL of a cache, as for Nix's `substituters`.
    pub fn cache_url(&self, cache: &CacheConfig) -> String {
        format!("{}/{}", self.base_url(), cache.name)
    }
}

impl CacheConfig {
    fn check(file: cache::File, issuers: &[IssuerConfig]) -> Result<Self, ConfigError> {
        let key = format!("cache {:?}", file.name.as_str());
        let rules = file
            .trust
            .into_iter()
            .enumerate()
            .map(|(position, rule)| {
                trust::check(rule, &format!("{key}, trust rule {}", position + 1), file.public, issuers)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let trust = TrustRules::new(file.name.clone(), file.public, rules);
        Ok(Self {
            public: file.public,
            priority: cache::check_priority(&key, file.priority)?,
            upstreams: cache::check_upstreams(&key, file.upstream)?,
            retention: CacheRetention::check(&key, file.retention)?,
            max_size: retention::max_size(&key, file.max_size)?,
            name: file.name,
            trust,
        })
    }
}

#[cfg(test)]
mod tests;
