//! `[[cache]]`: a named set of store paths with its own keys and rules.

use std::{path::Path, time::Duration};

use larder_protocol::{
    PublicKey,
    api::{CacheName, Upstream},
};
use serde::Deserialize;
use url::Url;

use super::{ByteSize, CacheRetention, ConfigError, retention, trust};
use crate::trust::TrustRules;

/// Where every store path of every cache lies.
pub const STORE_DIR: &str = "/nix/store";

/// The URL of the public cache.
const PUBLIC_CACHE: &str = "https://cache.nixos.org";
/// The public cache's priority is 40. A number above it would make this cache the last that Nix asks, and
/// Nix fails a build when the last substituter errs.
const LAST_PRIORITY: u32 = 40;
const DEFAULT_PRIORITY: u32 = 30;

/// One cache, checked.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The first part of its URL.
    pub name: CacheName,
    /// Whether everybody may read it. A private one shares nothing with any other.
    pub public: bool,
    /// As in `nix-cache-info`; lower is asked first.
    pub priority: u32,
    /// Other binary caches whose paths need not be pushed here.
    pub upstreams: Vec<CheckedUpstream>,
    /// Who may push.
    pub trust: TrustRules,
    /// What is kept.
    pub retention: CacheRetention,
    /// How much it may hold.
    pub max_size: Option<ByteSize>,
}

/// An upstream, and what it is asked about.
#[derive(Debug, Clone)]
pub struct CheckedUpstream {
    /// The upstream.
    pub upstream: Upstream,
    /// Whether it is asked about every path that is pushed, so that nobody pushes something else in the place of what
    /// it has signed.
    pub check: bool,
    /// How many NARs are fetched from it side by side.
    pub connections: u32,
    /// How long it may be silent while something is fetched from it.
    pub timeout: Duration,
}

impl CheckedUpstream {
    /// An upstream that is asked about every path, with the usual bounds.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, check: true, connections: DEFAULT_CONNECTIONS, timeout: DEFAULT_TIMEOUT }
    }

    /// Whether it is the public cache, of which everybody knows.
    pub fn is_everybodys(&self) -> bool {
        self.upstream.url == PUBLIC_CACHE
    }

    /// The folder that it is, where it is one on this machine.
    pub fn folder(&self) -> Option<&Path> {
        self.upstream.url.strip_prefix("file://").map(Path::new)
    }
}

/// As many as Nix substitutes at once.
const DEFAULT_CONNECTIONS: u32 = 16;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for CacheConfig {
    fn default() -> Self {
        let name = default_name();
        Self {
            trust: TrustRules::new(name.clone(), true, Vec::new()),
            name,
            public: true,
            priority: DEFAULT_PRIORITY,
            upstreams: default_upstreams(),
            retention: CacheRetention::default(),
            max_size: None,
        }
    }
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: CacheName,
    #[serde(default = "always")]
    pub(super) public: bool,
    #[serde(default = "default_priority")]
    pub(super) priority: u32,
    #[serde(default)]
    pub(super) upstream: Option<Vec<UpstreamFile>>,
    #[serde(default)]
    pub(super) trust: Vec<trust::File>,
    #[serde(default)]
    pub(super) retention: retention::CacheFile,
    pub(super) max_size: Option<ByteSize>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            name: default_name(),
            public: true,
            priority: DEFAULT_PRIORITY,
            upstream: None,
            trust: Vec::new(),
            retention: retention::CacheFile::default(),
            max_size: None,
        }
    }
}

/// `[[cache.upstream]]`, as the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamFile {
    url: String,
    public_keys: Vec<PublicKey>,
    /// Whether to ask it about every path, not only those that carry its signature.
    #[serde(default = "always")]
    check: bool,
    connections: Option<u32>,
    /// In seconds.
    timeout: Option<u64>,
}

#[expect(clippy::expect_used, reason = "constants, which a test reads")]
fn default_name() -> CacheName {
    "main".parse().expect("a cache name")
}

fn always() -> bool {
    true
}

fn default_priority() -> u32 {
    DEFAULT_PRIORITY
}

#[expect(clippy::expect_used, reason = "constants, which a test reads")]
fn default_upstreams() -> Vec<CheckedUpstream> {
    let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let upstream =
        Upstream { url: PUBLIC_CACHE.to_owned(), public_keys: vec![key.parse().expect("a public key")] };
    vec![CheckedUpstream::new(upstream)]
}

pub(super) fn check_priority(key: &str, priority: u32) -> Result<u32, ConfigError> {
    if priority > LAST_PRIORITY {
        let problem = format!(
            "{priority} is above {LAST_PRIORITY}, where the public cache stands: Nix would ask this cache last, and \
             it fails a build when the last cache that it asks is down. Write {LAST_PRIORITY} or less (30 if you \
             leave it out)"
        );
        return Err(ConfigError::value(format!("{key}, priority"), problem));
    }
    Ok(priority)
}

/// The upstreams, with the public cache where the file says nothing. An empty list means none.
pub(super) fn check_upstreams(
    key: &str,
    upstreams: Option<Vec<UpstreamFile>>,
) -> Result<Vec<CheckedUpstream>, ConfigError> {
    let Some(upstreams) = upstreams else { return Ok(default_upstreams()) };
    upstreams
        .into_iter()
        .map(|upstream| {
            let url = upstream.url.trim_end_matches('/').to_owned();
            let fits = Url::parse(&url).is_ok_and(|url| {
                let place = match url.scheme() {
                    "https" | "http" => true,
                    "file" => url.host().is_none() && url.path() != "/",
                    _ => false,
                };
                place && url.query().is_none() && url.username().is_empty()
            });
            if !fits {
                let problem = format!(
                    "{:?} is not the URL of a binary cache. Write it as in Nix's substituters, for example \
                     \"https://cache.nixos.org\"",
                    upstream.url
                );
                return Err(ConfigError::value(format!("{key}, upstream.url"), problem));
            }
            if upstream.public_keys.is_empty() {
                let problem = format!(
                    "is empty, so that nothing from {url} could be checked. Write the keys that it signs with, as \
                     in Nix's trusted-public-keys"
                );
                return Err(ConfigError::value(format!("{key}, upstream.public_keys"), problem));
            }
            let (check, bounds) = (upstream.check, format!("{key}, upstream {url}"));
            let connections = match upstream.connections.unwrap_or(DEFAULT_CONNECTIONS) {
                connections @ 1..=128 => connections,
                other => {
                    let problem = format!("{other} cannot be. Write a number from 1 to 128 (16 if you leave it out)");
                    return Err(ConfigError::value(format!("{bounds}, connections"), problem));
                }
            };
            let timeout = match upstream.timeout.unwrap_or(DEFAULT_TIMEOUT.as_secs()) {
                seconds @ 1..=600 => Duration::from_secs(seconds),
                other => {
                    let problem = format!("{other} cannot be. Write seconds, from 1 to 600 (30 if you leave it out)");
                    return Err(ConfigError::value(format!("{bounds}, timeout"), problem));
                }
            };
            let upstream = Upstream { url, public_keys: upstream.public_keys };
            Ok(CheckedUpstream { upstream, check, connections, timeout })
        })
        .collect()
}
