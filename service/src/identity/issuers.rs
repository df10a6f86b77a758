//! The issuers whose ID tokens are taken, and their keys, fetched when they are first needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use serde::Deserialize;
use url::Url;

use super::{IdToken, InvalidIdToken, SigningAlgorithm, keys::KeySet, token::UnverifiedToken};
use crate::config::{IssuerConfig, IssuerUrl, public_url::is_loopback};

/// Keys are fetched again when they are older than this, in seconds.
const KEYS_LIVE: i64 = 3600;
/// An unknown key or a failure leads to at most one fetch in so many seconds.
const FETCH_EVERY: i64 = 60;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// GitHub's documents have some kilobytes.
const MAX_DOCUMENT: usize = 256 * 1024;

/// All issuers that are configured.
pub struct Issuers(HashMap<String, Arc<Issuer>>);

/// No verified identity.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// The token is not to be believed.
    #[error(transparent)]
    Invalid(#[from] InvalidIdToken),
    /// Nobody can say now, since the issuer's keys cannot be had.
    #[error("the keys of the issuer {issuer} cannot be had: {cause}")]
    Unreachable {
        /// The issuer.
        issuer: IssuerUrl,
        /// Why.
        cause: Arc<FetchError>,
        /// After how many seconds it is tried again.
        retry_after: u64,
    },
}

/// An issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or a broken one.
    #[error("{url}: {source}")]
    Request {
        /// What was asked for.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer is no success. Redirections are not followed.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: Url,
        /// The answer's status.
        status: u16,
    },
    /// The answer is longer than any such document.
    #[error("{url} answered with more than {MAX_DOCUMENT} bytes")]
    TooLong {
        /// What was asked for.
        url: Url,
    },
    /// The answer is not what it should be.
    #[error("{url} answered with something else than {what}")]
    Unreadable {
        /// What was asked for.
        url: Url,
        /// What it should have been.
        what: &'static str,
    },
    /// The configuration that was found names another issuer.
    #[error("{url} says that it is the issuer {found:?}")]
    OtherIssuer {
        /// What was asked for.
        url: Url,
        /// Whom it names.
        found: String,
    },
    /// The keys' place cannot be trusted.
    #[error("the issuer's keys lie at {0}, and only https is safe")]
    Insecure(Url),
    /// The fetch ended early.
    #[error("the fetch was interrupted")]
    Interrupted,
}

impl Issuers {
    /// The issuers that are configured. Nothing is fetched yet: the service starts without them.
    ///
    /// # Errors
    /// When no TLS client can be made, for want of root certificates.
    pub fn new(configs: &[IssuerConfig]) -> Result<Self, reqwest::Error> {
        let issuers = configs.iter().map(|config| {
            let http = client(&config.url)?;
            let issuer = Issuer { config: config.clone(), http, state: Mutex::default() };
            Ok((config.url.as_str().to_owned(), Arc::new(issuer)))
        });
        issuers.collect::<Result<_, _>>().map(Self)
    }

    /// Verifies an ID token for `audience`.
    ///
    /// # Errors
    /// When it is not to be believed, or the issuer's keys cannot be had now.
    pub async fn verify(&self, token: &str, audience: &str, now: i64) -> Result<IdToken, IssuersError> {
        let token = UnverifiedToken::read(token)?;
        let Some(issuer) = self.0.get(token.issuer()) else {
            return Err(InvalidIdToken::UnknownIssuer(token.issuer().chars().take(200).collect()).into());
        };
        let algorithm = token.algorithm(&issuer.config.algorithms)?;
        let keys = issuer.keys_with(token.key_id(), algorithm, now).await?;
        let key = keys.get(token.key_id(), algorithm).ok_or(InvalidIdToken::UnknownKey)?;
        Ok(token.verify(key, algorithm, &issuer.config, audience, now)?)
    }
}

fn client(issuer: &IssuerUrl) -> Result<reqwest::Client, reqwest::Error> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(FETCH_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")));
    // A proxy cannot reach what is on this machine.
    if issuer.is_loopback() { client.no_proxy().build() } else { client.build() }
}

type Fetched = Result<Arc<KeySet>, Arc<FetchError>>;

struct Issuer {
    config: IssuerConfig,
    http: reqwest::Client,
    /// Never held while waiting.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Option<(Arc<KeySet>, i64)>,
    failure: Option<Arc<FetchError>>,
    fetched_at: Option<i64>,
    under_way: Option<Shared<BoxFuture<'static, Fetched>>>,
}

impl State {
    /// The keys, unless they are too old to be relied on.
    fn fresh(&self, now: i64) -> Option<&Arc<KeySet>> {
        self.keys
            .as_ref()
            .filter(|(_, at)| (0..KEYS_LIVE).contains(&now.saturating_sub(*at)))
            .map(|(keys, _)| keys)
    }

    /// In how many seconds a fetch may begin again, if not now.
    fn wait(&self, now: i64) -> Option<u64> {
        let since = now.saturating_sub(self.fetched_at?);
        (0..FETCH_EVERY).contains(&since).then(|| (FETCH_EVERY - since).unsigned_abs())
    }
}

impl Issuer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The issuer's keys, fetched if they are too old or lack `kid`. All who ask meanwhile wait for one fetch.
    async fn keys_with(
        self: &Arc<Self>,
        kid: &str,
        algorithm: SigningAlgorithm,
        now: i64,
    ) -> Result<Arc<KeySet>, IssuersError> {
        let fetch = {
            let mut state = self.state();
            if let Some(keys) = state.fresh(now)
                && keys.get(kid, algorithm).is_some()
            {
                return Ok(keys.clone());
            }
            match (&state.under_way, state.wait(now)) {
                (Some(fetch), _) => fetch.clone(),
                (None, Some(retry_after)) => {
                    return match (state.fresh(now), &state.failure) {
                        (Some(_), _) => Err(InvalidIdToken::UnknownKey.into()),
                        (None, Some(cause)) => Err(self.unreachable(cause.clone(), retry_after)),
                        (None, None) => Err(self.unreachable(Arc::new(FetchError::Interrupted), retry_after)),
                    };
                }
                (None, None) => {
                    state.fetched_at = Some(now);
                    let fetch = self.clone().begin_fetch(now);
                    state.under_way = Some(fetch.clone());
                    fetch
                }
            }
        };
        fetch.await.map_err(|cause| self.unreachable(cause, FETCH_EVERY.unsigned_abs()))
    }

    fn unreachable(&self, cause: Arc<FetchError>, retry_after: u64) -> IssuersError {
        IssuersError::Unreachable { issuer: self.config.url.clone(), cause, retry_after }
    }

    /// A task of its own, so that a client that goes away takes the fetch from nobody.
    fn begin_fetch(self: Arc<Self>, now: i64) -> Shared<BoxFuture<'static, Fetched>> {
        let issuer = self.clone();
        let task = tokio::spawn(async move {
            let fetched = issuer.fetch().await.map(Arc::new).map_err(Arc::new);
            issuer.take_over(&fetched, now);
            fetched
        });
        async move {
            task.await.unwrap_or_else(|_| {
                let interrupted = Err(Arc::new(FetchError::Interrupted));
                self.take_over(&interrupted, now);
                interrupted
            })
        }
        .boxed()
        .shared()
    }

    fn take_over(&self, fetched: &Fetched, now: i64) {
        let mut state = self.state();
        state.under_way = None;
        match fetched {
            Ok(keys) => {
                state.keys = Some((keys.clone(), now));
                state.failure = None;
            }
            Err(error) => {
                tracing::warn!(issuer = %self.config.url, %error, "an issuer's keys could not be fetched");
                state.failure = Some(error.clone());
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: Url,
        }
        let text =
            format!("{}/.well-known/openid-configuration", self.config.url.as_str().trim_end_matches('/'));
        let url: Url = text.parse().map_err(|_| FetchError::Interrupted)?;
        let document = self.get(url.clone()).await?;
        let discovery: Discovery = serde_json::from_slice(&document)
            .map_err(|_| FetchError::Unreadable { url: url.clone(), what: "an OpenID configuration" })?;
        if discovery.issuer != self.config.url.as_str() {
            let found = discovery.issuer.chars().take(200).collect();
            return Err(FetchError::OtherIssuer { url, found });
        }
        let place = discovery.jwks_uri;
        // Only an issuer on this machine may send us to this machine.
        let local = self.config.url.is_loopback() && is_loopback(&place);
        if !(local || place.scheme() == "https" && !is_loopback(&place)) {
            return Err(FetchError::Insecure(place));
        }
        let document = self.get(place.clone()).await?;
        KeySet::parse(&document, &self.config.algorithms)
            .map_err(|_| FetchError::Unreadable { url: place, what: "a set of keys" })
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        let failed =
            |source: reqwest::Error| FetchError::Request { url: url.clone(), source: source.without_url() };
        let mut answer = self.http.get(url.clone()).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status { url, status: answer.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > MAX_DOCUMENT {
                return Err(FetchError::TooLong { url });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}
