//! One request, made until it is answered: what failed for a moment is tried again with growing delays.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use larder_protocol::api::ErrorAnswer;
use tokio::time::{Instant, sleep};
use url::Url;

use super::{body::Parts, error::ServiceError, session::Session};
use crate::{
    progress::{Event, Progress},
    secret::Secret,
};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a body may stand still.
const STALL: Duration = Duration::from_secs(60);
/// The first delay; each is twice the one before.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay that we choose.
const LONGEST_DELAY: Duration = Duration::from_secs(15);
/// How long a request is tried again after its first failure, where the service has answered before: as long
/// as it takes to be started anew.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same where nothing was ever heard of it: the URL may be wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// After how many connections that broke while its body was sent a request is taken to be too large for a proxy in
/// between, if its body can be made smaller.
const CUTS: usize = 3;
/// The longest answer that is read.
const MAX_ANSWER: usize = 256 << 20;

/// What a body is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Json,
    Bytes,
}

/// A request.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// What it does, for people: "uploading chunks".
    pub what: &'static str,
    pub method: Method,
    pub url: Url,
    pub content: Option<Content>,
    pub body: Parts,
    /// Whether the body could be sent in smaller ones.
    pub divisible: bool,
    /// How long the answer may take once the body is sent.
    pub answer_limit: Duration,
}

impl Outgoing {
    pub(super) fn new(what: &'static str, method: Method, url: Url, answer_limit: Duration) -> Self {
        Self { what, method, url, content: None, body: Parts::default(), divisible: false, answer_limit }
    }

    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(super) fn unreadable(&self, reason: &str) -> ServiceError {
        ServiceError::Unreadable { what: self.what, origin: self.origin(), reason: reason.to_owned() }
    }
}

/// What all requests to one party share.
#[derive(Clone)]
pub(super) struct Line {
    http: reqwest::Client,
    /// Whether anything was ever answered.
    answered: Arc<AtomicBool>,
}

impl Line {
    pub(super) fn new() -> Result<Self, ServiceError> {
        Ok(Self { http: http_client()?, answered: Arc::default() })
    }

    /// A line to somebody else.
    pub(super) fn to_another(&self) -> Self {
        Self { http: self.http.clone(), answered: Arc::default() }
    }

    pub(super) fn patience(&self) -> Duration {
        if self.answered.load(Ordering::Relaxed) { PATIENCE } else { FIRST_PATIENCE }
    }
}

fn http_client() -> Result<reqwest::Client, ServiceError> {
    reqwest::Client::builder()
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        // Several connections carry several uploads further than one that is shared.
        .http1_only()
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| ServiceError::Internal(chain(&error)))
}

/// How a try ended, other than well.
pub(super) enum Failure {
    /// It may go well the next time. `cut`: the connection broke while a large body was sent, or before it was
    /// answered.
    Passing { reason: String, after: Option<Duration>, cut: bool },
    /// The token is not, or no longer, valid.
    Unauthorized(ServiceError),
    /// It will not go better.
    Final(ServiceError),
}

/// Makes the request until it is answered well, refused, or patience ends.
pub(super) async fn send_until_answered(
    line: &Line,
    request: &Outgoing,
    session: Option<&Session<'_>>,
    progress: &dyn Progress,
) -> Result<Bytes, ServiceError> {
    let mut retries = Retries::new(request.what, &request.url, progress);
    let mut renewed = false;
    let mut cuts = 0;
    loop {
        let token = match session {
            Some(session) => Some(session.token().await?),
            None => None,
        };
        match send_once(line, request, token.as_ref()).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Passing { reason, after, cut }) => {
                cuts += usize::from(cut && request.divisible);
                if cuts == CUTS {
                    return Err(ServiceError::Cut { what: request.what, reason });
                }
                retries.wait(line.patience(), reason, after).await?;
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Unauthorized(error)) => match (session, token) {
                // The session may have ended early: its service was set up anew, or the clock jumped.
                (Some(session), Some(token)) if !renewed && session.can_renew() => {
                    renewed = true;
                    session.forget(&token).await;
                }
                _ => return Err(error),
            },
        }
    }
}

/// Counts tries and waits between them.
pub(super) struct Retries<'a> {
    what: &'static str,
    origin: String,
    progress: &'a dyn Progress,
    first_failure: Option<Instant>,
    delay: Duration,
}

impl<'a> Retries<'a> {
    pub(super) fn new(what: &'static str, url: &Url, progress: &'a dyn Progress) -> Self {
        let origin = url.origin().ascii_serialization();
        Self { what, origin, progress, first_failure: None, delay: FIRST_DELAY }
    }

    /// Waits before the next try.
    pub(super) async fn wait(
        &mut self,
        patience: Duration,
        reason: String,
        after: Option<Duration>,
    ) -> Result<(), ServiceError> {
        let since = self.first_failure.get_or_insert_with(Instant::now).elapsed();
        let wait = after.unwrap_or_else(|| self.delay.mul_f64(0.5 + jitter()));
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        if since + wait > patience {
            return Err(ServiceError::Unreachable { what: self.what, origin: self.origin.clone(), reason });
        }
        self.progress.event(&Event::Retrying { what: self.what, error: &reason, wait });
        sleep(wait).await;
        Ok(())
    }
}

/// A number from 0 to 1, so that clients that failed together do not come back together.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// One try.
pub(super) async fn send_once(
    line: &Line,
    request: &Outgoing,
    token: Option<&Secret>,
) -> Result<Bytes, Failure> {
    let (body, gone) = request.body.start();
    let mut builder = line.http.request(request.method.clone(), request.url.clone());
    if let Some(token) = token {
        builder = builder.header(header::AUTHORIZATION, bearer(token)?);
    }
    if let Some(content) = request.content {
        let kind = match content {
            Content::Json => "application/json",
            Content::Bytes => "application/octet-stream",
        };
        builder = builder.header(header::CONTENT_TYPE, kind).body(reqwest::Body::wrap(body));
    }
    let total = request.body.len();
    let answered = async {
        let response = builder.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok((status, headers, read(response).await?))
    };
    let (status, headers, answer) = tokio::select! {
        answered = answered => answered.map_err(|error: reqwest::Error| passing(&error, total))?,
        reason = stalls(&gone, total, request.answer_limit) => {
            return Err(Failure::Passing { reason, after: None, cut: false });
        }
    };
    // A proxy in front of nothing answers too.
    if !status.is_server_error() {
        line.answered.store(true, Ordering::Relaxed);
    }
    match answer {
        Some(answer) if status.is_success() => Ok(answer),
        Some(answer) => Err(refusal(request, status, &headers, &answer)),
        None => Err(Failure::Final(request.unreadable("it is longer than 256 MiB"))),
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
        Failure::Final(ServiceError::Internal("the token has characters that no header can carry".to_owned()))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer's body; `None` if it is too long.
async fn read(mut response: reqwest::Response) -> Result<Option<Bytes>, reqwest::Error> {
    let mut all = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if all.len() + chunk.len() > MAX_ANSWER {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all.freeze()))
}

/// Returns when nothing has moved for too long.
async fn stalls(gone: &AtomicU64, total: u64, answer_limit: Duration) -> String {
    let mut seen = 0;
    loop {
        let limit = if seen < total { STALL.max(CONNECT) } else { answer_limit };
        // Looks more often than the limit, so that what moved late is seen as such.
        let mut still = Duration::ZERO;
        let step = Duration::from_secs(1);
        while still < limit {
            sleep(step).await;
            let now = gone.load(Ordering::Relaxed);
            if now != seen {
                seen = now;
                break;
            }
            still += step;
        }
        if still >= limit {
            return if seen < total {
                format!("the upload stood still for {} s", limit.as_secs())
            } else {
                format!("no answer within {} s", limit.as_secs())
            };
        }
    }
}

fn passing(error: &reqwest::Error, body: u64) -> Failure {
    let mut reason = chain(error);
    // A proxy that refuses a large body may just hang up, or its answer be lost with the connection.
    let cut = !error.is_connect() && body > 1 << 20;
    if cut {
        reason.push_str("; if a proxy in front limits bodies, --max-body makes them smaller");
    }
    Failure::Passing { reason, after: None, cut }
}

/// All that an error says, without the URL: it is said elsewhere.
fn chain(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_connect() => "no connection".to_owned(),
        error if error.is_timeout() => "it took too long".to_owned(),
        error if error.is_body() || error.is_request() => "the connection broke".to_owned(),
        _ => "the request failed".to_owned(),
    };
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

fn refusal(request: &Outgoing, status: StatusCode, headers: &HeaderMap, answer: &[u8]) -> Failure {
    let after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let said: Option<ErrorAnswer> = serde_json::from_slice(answer).ok();
    let lasting = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE);
    let passing = status.is_server_error() && !lasting
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY
        );
    if passing {
        let reason = match said {
            Some(said) => said.message,
            None => format!("the service or a proxy answered {status}"),
        };
        return Failure::Passing { reason, after, cut: false };
    }
    let error = match said {
        Some(answer) => ServiceError::Refused { what: request.what, status, answer: Box::new(answer) },
        None => ServiceError::Foreign { what: request.what, origin: request.origin(), status },
    };
    if status == StatusCode::UNAUTHORIZED { Failure::Unauthorized(error) } else { Failure::Final(error) }
}
