//! What the relay answers.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{self, HeaderName},
};
use larder_protocol::{StorePathHash, narinfo::NarInfo, store_path::STORE_DIR};
use url::Url;

use super::{Counts, Pass, Patience, breaker::Breaker};
use crate::service::ServiceError;

/// A path with 10,000 references has a narinfo of half a megabyte.
const MAX_NARINFO: usize = 8 << 20;
/// The headers of a NAR that Nix goes by.
const KEPT: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
];

pub(super) type Body = UnsyncBoxBody<Bytes, CutError>;

/// A NAR that ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutError {
    #[error("the cache ended a NAR early: {0}")]
    Upstream(#[from] reqwest::Error),
    #[error("the cache sent nothing for {} seconds", .0.as_secs())]
    Stalled(Duration),
}

/// The cache that is asked.
pub(super) struct Cache {
    pub client: reqwest::Client,
    pub upstream: Url,
    /// What is shown there, where it is private.
    pub pass: Option<Pass>,
}

/// Why the cache said nothing.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error(transparent)]
    Http(reqwest::Error),
    #[error(transparent)]
    Pass(#[from] ServiceError),
}

impl From<reqwest::Error> for Unasked {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

pub(super) struct Answerer {
    cache: Cache,
    patience: Patience,
    hosts: [String; 2],
    secret: String,
    counts: Arc<Counts>,
    breaker: Breaker,
}

/// What is asked of the relay.
#[derive(Debug, PartialEq, Eq)]
enum Question<'a> {
    CacheInfo,
    NarInfo(StorePathHash),
    Nar(&'a str),
}

impl Answerer {
    pub(super) fn new(
        cache: Cache,
        patience: Patience,
        address: SocketAddr,
        secret: String,
        counts: Arc<Counts>,
    ) -> Self {
        let hosts = [address.to_string(), format!("localhost:{}", address.port())];
        Self { cache, patience, hosts, secret, counts, breaker: Breaker::default() }
    }

    /// Answers a request. A wrong path is answered like a missing one: who cannot name the secret learns nothing.
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        // A page in a browser can make requests to loopback under a name that it controls.
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.hosts.iter().any(|own| own == host)) {
            return empty(StatusCode::FORBIDDEN);
        }
        match question(request.uri().path(), &self.secret) {
            Some(Question::CacheInfo) => text(
                "text/x-nix-cache-info",
                format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: 30\n").into(),
            ),
            Some(Question::NarInfo(hash)) => match self.narinfo(hash).await {
                Some(narinfo) => text("text/x-nix-narinfo", narinfo),
                None => empty(StatusCode::NOT_FOUND),
            },
            Some(Question::Nar(name)) => match self.nar(name, request).await {
                Some(response) => response,
                None => empty(StatusCode::NOT_FOUND),
            },
            None => empty(StatusCode::NOT_FOUND),
        }
    }

    /// The narinfo, if the cache has one that Nix can read: it throws on any other text (a proxy's login page).
    async fn narinfo(&self, hash: StorePathHash) -> Option<Bytes> {
        let asked = async {
            let response = self.cache.ask(Method::GET, &format!("{hash}.narinfo")).await?.send().await?;
            let status = response.status();
            Ok((status, collect(response, MAX_NARINFO).await?))
        };
        let (status, body) = self.ask(self.patience.narinfo, asked).await?;
        let told = self.told(status)?;
        let body = body?;
        let narinfo = std::str::from_utf8(&body).ok().and_then(|text| NarInfo::parse(text).ok());
        let fits = told && narinfo.is_some_and(|narinfo| narinfo.path.hash() == hash);
        if told && !fits {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%hash, "the cache's narinfo cannot be read; it counts as absent");
        }
        fits.then_some(body)
    }

    /// The NAR, or the range of it that was asked for, as the cache streams it.
    async fn nar(&self, name: &str, request: &Request<Incoming>) -> Option<Response<Body>> {
        let asked = async {
            let mut asked = self.cache.ask(request.method().clone(), &format!("nar/{name}")).await?;
            for condition in [header::RANGE, header::IF_RANGE] {
                if let Some(value) = request.headers().get(&condition) {
                    asked = asked.header(condition, value.clone());
                }
            }
            Ok(asked.send().await?)
        };
        let response = self.ask(self.patience.nar, asked).await?;
        let status = response.status();
        if !self.told(status)? || !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return None;
        }
        let mut answer = Response::new(Body::default());
        *answer.status_mut() = status;
        keep(response.headers(), answer.headers_mut());
        if request.method() == Method::HEAD {
            return Some(answer);
        }
        // What ends before its first byte is absent; after that, Nix resumes.
        let counts = self.counts.clone();
        let mut stream =
            Box::pin(unless_stalled(response.bytes_stream(), self.patience.stall).inspect_ok(move |bytes| {
                counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }));
        let first = match stream.next().await {
            Some(Ok(first)) => Some(Ok(first)),
            None => None,
            Some(Err(error)) => {
                tracing::debug!(%error, "a NAR failed before its first byte");
                self.failed();
                return None;
            }
        };
        if status == StatusCode::OK {
            self.counts.nars.fetch_add(1, Ordering::Relaxed);
        }
        let frames = futures_util::stream::iter(first).chain(stream).map_ok(Frame::data);
        *answer.body_mut() = StreamBody::new(frames).boxed_unsync();
        Some(answer)
    }

    /// Asks the cache, if it is not being left alone.
    async fn ask<T>(&self, limit: Duration, question: impl Future<Output = Result<T, Unasked>>) -> Option<T> {
        if !self.breaker.permits(Instant::now()) {
            return None;
        }
        match tokio::time::timeout(limit, question).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the cache cannot be asked");
                self.failed();
                None
            }
            Err(_) => {
                tracing::debug!("the cache does not answer");
                self.failed();
                None
            }
        }
    }

    /// Whether the cache told what it has: `None` if it failed instead.
    fn told(&self, status: StatusCode) -> Option<bool> {
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            self.failed();
            return None;
        }
        self.breaker.succeeded();
        Some(status.is_success())
    }

    fn failed(&self) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        self.breaker.failed(Instant::now());
    }
}

impl Cache {
    /// A request, with the pass on it.
    async fn ask(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, ServiceError> {
        let url = format!("{}/{path}", self.upstream.as_str().trim_end_matches('/'));
        let request = self.client.request(method, url);
        Ok(match &self.pass {
            Some(pass) => request.bearer_auth(pass.token().await?.expose()),
            None => request,
        })
    }
}

fn question<'a>(path: &'a str, secret: &str) -> Option<Question<'a>> {
    let (first, rest) = path.strip_prefix('/')?.split_once('/')?;
    if !same(first.as_bytes(), secret.as_bytes()) {
        return None;
    }
    if rest == "nix-cache-info" {
        return Some(Question::CacheInfo);
    }
    if let Some(hash) = rest.strip_suffix(".narinfo") {
        return hash.parse().ok().map(Question::NarInfo);
    }
    let name = rest.strip_prefix("nar/")?;
    let plain =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+=".contains(&b)) && !name.starts_with('.');
    (plain && !name.is_empty()).then_some(Question::Nar(name))
}

/// Compares without telling by its time how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

async fn collect(response: reqwest::Response, limit: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let mut stream = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(part) = stream.try_next().await? {
        if body.len() + part.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body.into()))
}

fn unless_stalled(
    stream: impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + 'static,
    limit: Duration,
) -> impl Stream<Item = Result<Bytes, CutError>> + Send {
    futures_util::stream::try_unfold(Box::pin(stream), move |mut stream| async move {
        match tokio::time::timeout(limit, stream.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some((bytes, stream))),
            Ok(Some(Err(error))) => Err(CutError::Upstream(error.without_url())),
            Ok(None) => Ok(None),
            Err(_) => Err(CutError::Stalled(limit)),
        }
    })
}

fn keep(from: &HeaderMap, to: &mut HeaderMap) {
    for name in KEPT {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

fn text(kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "s66mzxpvicwk07gjbjfw9izjfa797vsw";

    #[test]
    fn only_what_nix_reads_is_asked_of_the_cache() {
        assert_eq!(question("/s3cret/nix-cache-info", "s3cret"), Some(Question::CacheInfo));
        assert_eq!(
            question(&format!("/s3cret/{HASH}.narinfo"), "s3cret"),
            Some(Question::NarInfo(HASH.parse().unwrap()))
        );
        assert_eq!(question("/s3cret/nar/1abc-2.nar.zst", "s3cret"), Some(Question::Nar("1abc-2.nar.zst")));
        for path in [
            "/",
            "/s3cret",
            "/s3cret/",
            "/wrong/nix-cache-info",
            "//nix-cache-info",
            "/s3cret/nar/",
            "/s3cret/nar/../api/v1/token",
            "/s3cret/nar/..",
            "/s3cret/nar/a%2fb",
            "/s3cret/nar/a/b",
            "/s3cret/../nix-cache-info",
            "/s3cret/x.narinfo",
            "/s3cret/api/v1/token",
        ] {
            assert_eq!(question(path, "s3cret"), None, "{path}");
        }
    }
}
