//! The caches that are configured, by name, and what a cache is.

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
    isolated,
    keys::{self, ActiveKeys, KeyDir, KeyError, Keyring},
    metadata::Namespace,
    trust::{self, Grant},
};

/// All caches.
#[derive(Debug, Clone)]
pub struct Caches(BTreeMap<CacheName, Arc<Cache>>);

/// One cache: its configuration and its keys.
#[derive(Debug)]
pub struct Cache {
    /// Its name.
    name: CacheName,
    /// What the configuration says of it, or of its parent.
    pub config: Arc<CacheConfig>,
    keys: Keys,
    /// The URL for Nix's `substituters`.
    pub url: String,
    /// Its place among the configured caches, short where its name would be long. None for a pull request's: nothing
    /// of it is remembered where others would have to make way.
    pub number: Option<u32>,
    namespace: Namespace,
    /// Present if it is a pull request's own.
    pub isolation: Option<Isolation>,
}

/// Where a cache has its keys from.
#[derive(Debug)]
enum Keys {
    /// Its file.
    Kept(Keyring),
    /// Its parent's keys.
    Derived(Arc<ActiveKeys>),
}

/// What makes a cache a pull request's own: it reads through to its parent, and writes nothing there.
#[derive(Debug)]
pub struct Isolation {
    /// Its row.
    pub id: i64,
    /// The cache that it reads through to.
    pub parent: Arc<Cache>,
}

impl Caches {
    /// The configured caches with their keys; those that have none get one.
    ///
    /// `namespaces` are where their chunks are, in the configuration's order.
    pub(crate) fn open(config: &Config, namespaces: &[Namespace], clock: &Clock) -> Result<Self, KeyError> {
        config
            .caches
            .iter()
            .zip(namespaces)
            .zip(0..)
            .map(|((cache, namespace), number)| {
                let key_name = keys::next_name(&keys::base_name(config, &cache.name), &[]);
                let keyring = Keyring::open(KeyDir::of(config), &cache.name, &key_name, clock)?;
                let url = config.cache_url(cache);
                let name = cache.name.clone();
                let cache = Cache {
                    name: name.clone(),
                    config: Arc::new(cache.clone()),
                    keys: Keys::Kept(keyring),
                    url,
                    number: Some(number),
                    namespace: *namespace,
                    isolation: None,
                };
                Ok((name, Arc::new(cache)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The cache of that name.
    pub fn get(&self, name: &CacheName) -> Option<&Arc<Cache>> {
        self.0.get(name)
    }

    /// The configured cache that a URL names.
    pub fn named(&self, name: &str) -> Option<&Arc<Cache>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.0.values()
    }
}

impl Cache {
    /// A pull request's own cache.
    pub(crate) fn isolated(name: CacheName, keys: ActiveKeys, id: i64, parent: Arc<Self>) -> Self {
        let base = parent.url.strip_suffix(parent.name.as_str()).unwrap_or_default();
        Self {
            url: format!("{base}{name}"),
            name,
            config: parent.config.clone(),
            keys: Keys::Derived(Arc::new(keys)),
            number: None,
            namespace: Namespace::of_isolated(id),
            isolation: Some(Isolation { id, parent }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &CacheName {
        &self.name
    }

    /// The cache that it reads through to, where it is a pull request's own.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.isolation.as_ref().map(|isolation| &isolation.parent)
    }

    /// Whose paths its readers see: its own first.
    pub fn names(&self) -> Vec<&CacheName> {
        let parent = self.parent().map(|parent| &parent.name);
        [&self.name].into_iter().chain(parent).collect()
    }

    /// Whether everybody may read it: a pull request's own, whether everybody may read its parent.
    pub fn is_public(&self) -> bool {
        self.config.public
    }

    /// Where its chunks are written: all public caches share one namespace, each private one has its own.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Where its chunks and NARs may lie: its own namespace first.
    pub fn namespaces(&self) -> Vec<Namespace> {
        let parent = self.parent().map(|parent| parent.namespace());
        [self.namespace()].into_iter().chain(parent).collect()
    }

    /// The keys that sign its paths now, at least one.
    pub fn signing_keys(&self) -> Arc<ActiveKeys> {
        match &self.keys {
            Keys::Kept(keyring) => keyring.active(),
            Keys::Derived(keys) => keys.clone(),
        }
    }

    /// The keys by which readers check: its own first.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let parents = self.parent().map(|parent| parent.signing_keys().public_keys());
        self.signing_keys().public_keys().into_iter().chain(parents.into_iter().flatten()).collect()
    }

    /// What readers and clients must know. Which other caches than everybody's are its upstreams, strangers are not told:
    /// see `Grant::may_know_hosts`.
    pub fn info(&self, grant: Option<&Grant>) -> CacheInfo {
        let hosts = grant.is_some_and(|grant| grant.may_know_hosts(&self.name));
        CacheInfo {
            api: API_VERSION,
            name: self.name.clone(),
            public: self.is_public(),
            url: self.url.clone(),
            store_dir: STORE_DIR.to_owned(),
            priority: self.config.priority,
            public_keys: self.public_keys(),
            // A folder on the service's machine is nothing to them.
            upstreams: self
                .config
                .upstreams
                .iter()
                .filter(|upstream| upstream.folder().is_none() && (hosts || upstream.is_everybodys()))
                .map(|upstream| upstream.upstream.clone())
                .collect(),
        }
    }
}

/// The name in the `{cache}` of the route, whether or not there is such a cache.
pub(crate) async fn name_in_path(parts: &mut Parts, service: &Arc<Service>) -> Result<CacheName, ApiError> {
    let path = Path::<HashMap<String, String>>::from_request_parts(parts, service).await;
    let Path(path) = path.map_err(|_| no_such_cache())?;
    path.get("cache").and_then(|name| name.parse().ok()).ok_or_else(no_such_cache)
}

pub(crate) fn no_such_cache() -> ApiError {
    ApiError::not_found(
        "there is no such cache, or it is private and the request brought no token that may read it",
    )
}

/// The cache of that name: a configured one, or a pull request's own.
///
/// # Errors
/// When the database fails.
pub async fn find(service: &Service, name: &CacheName) -> Result<Option<Arc<Cache>>, ApiError> {
    match name.isolation() {
        None => Ok(service.caches.get(name).cloned()),
        Some(_) => isolated::find(service, name).await,
    }
}

/// The `{cache}` of the route, as an argument of a handler that reads: a public one for everybody, any other for whoever
/// brings a token that permits reading it. Also whether a pull request has a cache, and by which keys it signs, is told
/// to that pull request's jobs alone. 404 otherwise, and nothing is looked up before.
pub struct CacheInPath(pub Arc<Cache>);

impl FromRequestParts<Arc<Service>> for CacheInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, ApiError> {
        let name = name_in_path(parts, service).await?;
        let public = service.caches.get(&name).is_some_and(|cache| cache.is_public());
        if !public && !trust::permits_reading(service, &parts.headers, &name).await {
            return Err(no_such_cache());
        }
        find(service, &name).await?.map(Self).ok_or_else(no_such_cache)
    }
}
