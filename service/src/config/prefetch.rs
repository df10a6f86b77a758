//! `[prefetch]`: from where the inputs of flakes are fetched, and how much of them; what is prefetched by the clock.

use std::str::FromStr;

use serde::Deserialize;
use url::{Host, Url};

use super::{
    ByteSize, ConfigError, IssuerConfig,
    schedule::{self, ScheduledPrefetch},
};

/// Where most inputs are.
const HOSTS: [&str; 3] = ["github.com", "gitlab.com", "releases.nixos.org"];
const MAX_HOSTS: usize = 64;

/// A host that archives may be fetched from, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefetchHost(String);

/// What is no such host.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no host's name. Write it as in a URL, without scheme, port or path: \"git.example.org\"")]
pub struct InvalidHost(String);

impl PrefetchHost {
    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PrefetchHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(text.chars().take(300).collect());
        // Addresses are not taken: a name is what a certificate is for.
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| invalid())?;
        let Some(Host::Domain(host)) = url.host() else { return Err(invalid()) };
        if host.eq_ignore_ascii_case(text) { Ok(Self(host.to_owned())) } else { Err(invalid()) }
    }
}

/// What is fetched of flakes' inputs from elsewhere than binary caches.
#[derive(Debug, Clone)]
pub struct PrefetchConfig {
    /// The hosts, for https alone.
    pub hosts: Vec<PrefetchHost>,
    /// The longest archive.
    pub max_archive: ByteSize,
    /// The longest that an archive may be unpacked.
    pub max_unpacked: ByteSize,
    /// What is prefetched by the clock.
    pub schedules: Vec<ScheduledPrefetch>,
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    hosts: Option<Vec<String>>,
    max_archive: Option<ByteSize>,
    max_unpacked: Option<ByteSize>,
    #[serde(default)]
    schedule: Vec<schedule::File>,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self {
            hosts: HOSTS.map(|host| PrefetchHost(host.to_owned())).to_vec(),
            max_archive: ByteSize::mebibytes(256),
            max_unpacked: ByteSize::gigabytes(2),
            schedules: Vec::new(),
        }
    }
}

impl PrefetchConfig {
    pub(super) fn check(file: File, issuers: &[IssuerConfig]) -> Result<Self, ConfigError> {
        let default = Self::default();
        let hosts = match file.hosts {
            None => default.hosts,
            Some(hosts) if hosts.len() > MAX_HOSTS => {
                let problem = format!("there are {}, and at most {MAX_HOSTS} can be", hosts.len());
                return Err(ConfigError::value("prefetch.hosts", problem));
            }
            Some(hosts) => hosts
                .iter()
                .map(|host| host.parse())
                .collect::<Result<_, InvalidHost>>()
                .map_err(|error| ConfigError::value("prefetch.hosts", error.to_string()))?,
        };
        Ok(Self {
            hosts,
            max_archive: file.max_archive.unwrap_or(default.max_archive),
            max_unpacked: file.max_unpacked.unwrap_or(default.max_unpacked),
            schedules: schedule::check(file.schedule, issuers)?,
        })
    }
}
