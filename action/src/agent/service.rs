//! What the agent asks of the service beside its pushes: what a cache is, and whether somebody has a path.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use larder_protocol::{
    StorePath,
    api::{CacheInfo, CacheName, Permission},
    store_path::STORE_DIR,
};
use url::Url;

use super::messages::{NoCache, Start};
use crate::{
    progress::Silent,
    relay::Pass,
    secret::Secret,
    service::{Granted, Service, ServiceError, check_description},
};

/// One question's limit.
const LIMIT: Duration = Duration::from_secs(5);
/// The limit of an exchange, in which an issuer and the service are asked.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);
/// How often the cache's description is asked for.
const TRIES: u32 = 3;
/// Questions for narinfos that run side by side.
const SIDE_BY_SIDE: usize = 16;
/// The longest description of a cache.
const MAX_ANSWER: usize = 1 << 20;

/// Why the cache cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No answer.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// What was asked.
        url: Url,
        /// What went wrong.
        reason: String,
    },
    /// An answer of another kind.
    #[error("{url} answers {status}{}", remedy(*.status))]
    Refused {
        /// What was asked.
        url: Url,
        /// The answer.
        status: reqwest::StatusCode,
    },
    /// It speaks another version of the API.
    #[error(transparent)]
    Version(#[from] ServiceError),
    /// Something that is no service of this kind.
    #[error("{url} does not answer like a Larder service ({reason}); is the input `service` right?")]
    Strange {
        /// What was asked.
        url: Url,
        /// Why not.
        reason: String,
    },
}

impl AskError {
    /// Whether the cache may be there for others: to whoever may not read it, it looks like none.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if matches!(status.as_u16(), 401 | 403 | 404))
    }
}

fn remedy(status: reqwest::StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 | 404 => ": there is no such cache, or it is private; is the input `service` right?",
        _ => "",
    }
}

/// The cache's URL for Nix: the cache is the first part of the path behind the service's.
pub fn cache_url(service: &Url, cache: &CacheName) -> Url {
    below(service, cache.as_str())
}

fn below(url: &Url, rest: &str) -> Url {
    let mut below = url.clone();
    below.set_path(&format!("{}/{rest}", url.path().trim_end_matches('/')));
    below
}

/// Asks the service what the cache is.
///
/// # Errors
/// When it does not answer in time, or not as this client understands.
pub async fn cache_info(service: &Url, cache: &CacheName) -> Result<CacheInfo, AskError> {
    let url = below(service, &format!("api/v1/caches/{cache}"));
    let client = client(&url)?;
    let mut attempt = 1;
    loop {
        let answer = ask_cache_info(&client, &url, cache).await;
        let again = match &answer {
            Err(AskError::Unreachable { .. }) => true,
            Err(AskError::Refused { status, .. }) => status.is_server_error(),
            _ => false,
        };
        if !again || attempt == TRIES {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(500) * attempt).await;
        attempt += 1;
    }
}

/// What the agent knows of the job's cache.
pub struct Known {
    /// What it is, or why that is not known.
    pub cache: Result<CacheInfo, NoCache>,
    /// What the job may do there, where it asked.
    pub permissions: Option<Vec<Permission>>,
    /// Lets the relay read it, where it is private and the job may.
    pub pass: Option<Pass>,
}

/// Finds the job's cache: one that everybody may read, or the one that the job's identity opens. A pull request's own,
/// if it has one, comes first: only its jobs are told of it.
pub async fn find_cache(start: &Start) -> Known {
    let mut asked = None;
    if start.pull_request && start.push {
        asked = grant(start).await;
        let special = |granted: &Granted| !granted.cache.public || granted.cache.name.isolation().is_some();
        match asked.take() {
            Some(Ok((service, granted))) if special(&granted) => return known(service, granted).await,
            Some(Ok((service, _))) => service.end_session().await,
            refused => asked = refused,
        }
    }
    let error = match cache_info(&start.service, &start.cache).await {
        Ok(cache) => return Known { cache: Ok(cache), permissions: None, pass: None },
        Err(error) => error,
    };
    if !error.is_closed() {
        return unknown(NoCache::Unasked(error.to_string()));
    }
    let asked = match asked {
        None => grant(start).await,
        asked => asked,
    };
    match asked {
        Some(Ok((service, granted))) => known(service, granted).await,
        Some(Err(reason)) => unknown(NoCache::Closed(format!("{error} The job's own identity: {reason}"))),
        None => unknown(NoCache::Closed(error.to_string())),
    }
}

fn unknown(why: NoCache) -> Known {
    Known { cache: Err(why), permissions: None, pass: None }
}

/// Keeps the session for the relay, if that needs one.
async fn known(service: Service<'static>, granted: Granted) -> Known {
    let Granted { cache, permissions } = granted;
    let pass = match !cache.public && permissions.contains(&Permission::Read) {
        true => Some(Pass::new(service)),
        false => {
            service.end_session().await;
            None
        }
    };
    Known { cache: Ok(cache), permissions: Some(permissions), pass }
}

/// Exchanges the job's identity for whatever its rules grant; none if it has no identity.
async fn grant(start: &Start) -> Option<Result<(Service<'static>, Granted), String>> {
    let credentials = start.identity.as_ref()?.credentials();
    let service = match Service::new(&start.service, &start.cache, &credentials, &Silent) {
        Ok(service) => service.with_any_grant(),
        Err(error) => return Some(Err(error.to_string())),
    };
    let granted = match tokio::time::timeout(EXCHANGE_LIMIT, service.granted()).await {
        Ok(Ok(Some(granted))) => Ok(granted.clone()),
        Ok(Ok(None)) => Err("it has no identity to exchange".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing came within {} seconds", EXCHANGE_LIMIT.as_secs())),
    };
    Some(granted.map(|granted| (service, granted)))
}

async fn ask_cache_info(
    client: &reqwest::Client,
    url: &Url,
    cache: &CacheName,
) -> Result<CacheInfo, AskError> {
    let unreachable =
        |error: reqwest::Error| AskError::Unreachable { url: url.clone(), reason: cause(&error) };
    let strange = |reason: String| AskError::Strange { url: url.clone(), reason };
    let mut response = client.get(url.clone()).send().await.map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(AskError::Refused { url: url.clone(), status: response.status() });
    }
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(unreachable)? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(strange("its answer is too long".into()));
        }
        body.extend_from_slice(&part);
    }
    check_description(&body)?;
    let info: CacheInfo = serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))?;
    if info.name != *cache {
        return Err(strange(format!("it was asked for the cache {cache} and tells of {}", info.name)));
    }
    if info.store_dir != STORE_DIR {
        return Err(strange(format!("its store directory is {:?}, not {STORE_DIR}", info.store_dir)));
    }
    Ok(info)
}

/// Those of `paths` that none of the caches has, or of which none says so. What is shown to each stands beside it.
pub async fn nobody_has(
    paths: Vec<StorePath>,
    caches: Vec<(Url, Option<Secret>)>,
) -> Result<HashSet<StorePath>, AskError> {
    let Some((first, _)) = caches.first() else { return Ok(paths.into_iter().collect()) };
    let client = client(first)?;
    let caches = &caches;
    let absent = stream::iter(paths).map(|path| {
        let client = client.clone();
        async move {
            for (cache, token) in caches {
                let mut question = client.get(below(cache, &format!("{}.narinfo", path.hash())));
                if let Some(token) = token {
                    question = question.bearer_auth(token.expose());
                }
                if question.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    return None;
                }
            }
            Some(path)
        }
    });
    Ok(absent.buffer_unordered(SIDE_BY_SIDE).filter_map(|absent| async { absent }).collect().await)
}

fn client(url: &Url) -> Result<reqwest::Client, AskError> {
    reqwest::Client::builder()
        .timeout(LIMIT)
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| AskError::Unreachable { url: url.clone(), reason: cause(&error) })
}

/// What lies at the bottom of an error: "connection refused" rather than "error sending request".
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("nothing came within {} seconds", LIMIT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_first_part_of_the_path_behind_the_services() {
        let cache = "main".parse().unwrap();
        for (service, url) in [
            ("https://x.org", "https://x.org/main"),
            ("https://x.org/", "https://x.org/main"),
            ("https://x.org/larder/", "https://x.org/larder/main"),
        ] {
            assert_eq!(cache_url(&service.parse().unwrap(), &cache).as_str(), url);
        }
    }
}
