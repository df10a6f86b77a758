//! The caches that are configured, by name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use larder_protocol::{
    PublicKey,
    api::{API_VERSION, CacheInfo, CacheName},
};

use crate::{
    Service,
    clock::Clock,
    config::{CacheConfig, Config, cache::STORE_DIR},
    error::ApiError,
    keys::{self, ActiveKeys, KeyDir, KeyError, Keyring},
    metadata::Namespace,
};

/// All caches.
#[derive(Debug, Clone)]
pub struct Caches(BTreeMap<CacheName, Arc<Cache>>);

/// One cache: its configuration and its keys.
#[derive(Debug)]
pub struct Cache {
    /// What the configuration says of it.
    pub config: CacheConfig,
    /// The keys that sign its paths.
    pub keyring: Keyring,
    /// The URL for Nix's `substituters`.
    pub url: String,
    /// Its place among the configured caches, short where its name would be long.
    pub number: u32,
}

impl Caches {
    /// The configured caches with their keys; those that have none get one.
    pub(crate) fn open(config: &Config, clock: &Clock) -> Result<Self, KeyError> {
        config
            .caches
            .iter()
            .zip(0..)
            .map(|(cache, number)| {
                let name = keys::next_name(&keys::base_name(config, &cache.name), &[]);
                let keyring = Keyring::open(KeyDir::of(config), &cache.name, &name, clock)?;
                let url = config.cache_url(cache);
                Ok((cache.name.clone(), Arc::new(Cache { config: cache.clone(), keyring, url, number })))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The cache of that name.
    pub fn get(&self, name: &CacheName) -> Option<&Arc<Cache>> {
        self.0.get(name)
    }

    /// The cache that a URL names.
    pub fn named(&self, name: &str) -> Option<&Arc<Cache>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.0.values()
    }
}

impl Cache {
    /// Its name.
    pub fn name(&self) -> &CacheName {
        &self.config.name
    }

    /// Where its chunks are: all public caches share one namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace::PUBLIC
    }

    /// The keys that sign its paths now, at least one.
    pub fn signing_keys(&self) -> Arc<ActiveKeys> {
        self.keyring.active()
    }

    /// The keys by which readers check.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.signing_keys().public_keys()
    }

    /// What readers and clients must know.
    pub fn info(&self) -> CacheInfo {
        CacheInfo {
            api: API_VERSION,
            name: self.config.name.clone(),
            url: self.url.clone(),
            store_dir: STORE_DIR.to_owned(),
            priority: self.config.priority,
            public_keys: self.public_keys(),
            upstreams: self.config.upstreams.iter().map(|upstream| upstream.upstream.clone()).collect(),
        }
    }
}

/// The `{cache}` of the route, as an argument of a handler; 404 if there is none of that name.
pub struct CacheInPath(pub Arc<Cache>);

impl FromRequestParts<Arc<Service>> for CacheInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, ApiError> {
        let name = name_in_path(parts, service).await?;
        service.caches.get(&name).cloned().map(Self).ok_or_else(no_such_cache)
    }
}

/// The name in the `{cache}` of the route, whether or not there is such a cache.
pub(crate) async fn name_in_path(parts: &mut Parts, service: &Arc<Service>) -> Result<CacheName, ApiError> {
    let path = Path::<HashMap<String, String>>::from_request_parts(parts, service).await;
    let Path(path) = path.map_err(|_| no_such_cache())?;
    path.get("cache").and_then(|name| name.parse().ok()).ok_or_else(no_such_cache)
}

fn no_such_cache() -> ApiError {
    ApiError::not_found("there is no such cache")
}
