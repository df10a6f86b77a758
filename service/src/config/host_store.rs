//! `[host_store]`: what is brought into the `/nix/store` of the machine that the service runs on. Nothing, unless it says so.

use std::path::PathBuf;

use larder_protocol::api::CacheName;
use serde::Deserialize;

use super::{ByteSize, CacheConfig, ConfigError, IssuerConfig, IssuerUrl};
use crate::identity::{GitRef, RepositoryName};

/// Where Nix's daemon listens.
const SOCKET: &str = "/nix/var/nix/daemon-socket/socket";
const MAX_SIZE: ByteSize = ByteSize::gigabytes(50);
const MAX_TAKEN: usize = 100;

/// Whose outputs are taken into the host's store.
#[derive(Debug, Clone)]
pub struct HostStore {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The largest closure of one run.
    pub max_size: ByteSize,
    /// Of whom.
    pub take: Vec<HostTake>,
}

/// A protected ref of a repository, whose runs' outputs are taken from a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTake {
    /// The cache.
    pub cache: CacheName,
    /// Who vouches for its jobs.
    pub issuer: IssuerUrl,
    /// The repository.
    pub repository: RepositoryName,
    /// The ref. It must be protected.
    pub git_ref: GitRef,
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    socket: Option<PathBuf>,
    max_size: Option<ByteSize>,
    #[serde(default)]
    take: Vec<TakeFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TakeFile {
    cache: CacheName,
    issuer: Option<IssuerUrl>,
    repository: RepositoryName,
    #[serde(rename = "ref")]
    git_ref: GitRef,
}

impl Default for HostStore {
    fn default() -> Self {
        Self { socket: SOCKET.into(), max_size: MAX_SIZE, take: Vec::new() }
    }
}

impl HostStore {
    pub(super) fn check(
        file: File,
        caches: &[CacheConfig],
        issuers: &[IssuerConfig],
    ) -> Result<Self, ConfigError> {
        if file.take.len() > MAX_TAKEN {
            let problem = format!("there are {}, and at most {MAX_TAKEN} can be", file.take.len());
            return Err(ConfigError::value("host_store.take", problem));
        }
        let default = Self::default();
        let take = file.take.into_iter().map(|take| take.check(caches, issuers)).collect::<Result<_, _>>()?;
        Ok(Self {
            socket: file.socket.unwrap_or(default.socket),
            max_size: file.max_size.unwrap_or(default.max_size),
            take,
        })
    }
}

impl TakeFile {
    fn check(self, caches: &[CacheConfig], issuers: &[IssuerConfig]) -> Result<HostTake, ConfigError> {
        if !caches.iter().any(|cache| cache.name == self.cache) {
            let problem = format!("there is no cache {}. Name one that is configured", self.cache);
            return Err(ConfigError::value("host_store.take.cache", problem));
        }
        let issuer = self.issuer.unwrap_or_default();
        if !issuers.iter().any(|known| known.url == issuer) {
            let problem = format!(
                "{} is not configured as an [[issuer]]. Name the one whose repository {} is",
                issuer.as_str(),
                self.repository
            );
            return Err(ConfigError::value("host_store.take.issuer", problem));
        }
        if self.git_ref.as_str().starts_with("refs/pull/") {
            let problem = "is a pull request's, and these are never taken. Name a protected branch";
            return Err(ConfigError::value("host_store.take.ref", problem));
        }
        Ok(HostTake { cache: self.cache, issuer, repository: self.repository, git_ref: self.git_ref })
    }
}
