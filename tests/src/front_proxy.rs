//! A proxy in front of the service, as people put one there: counts requests, and makes the trouble that
//! proxies and networks make.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

/// The proxy, until it is dropped.
pub struct FrontProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

/// What it does beside passing on.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Nothing.
    Plain,
    /// Answers larger bodies than this with 413 and a page of its own, as nginx does: at once, while it reads and
    /// throws away what comes.
    LimitsBodies(u64),
    /// Hangs up on larger bodies than this without a word.
    HangsUpOn(u64),
    /// Passes this many requests on whose page ends so, and never answers the next ones.
    Holds(&'static str, usize),
    /// Answers all requests whose page ends so with this status and a page of its own.
    Answers(&'static str, u16),
    /// Tells what is JSON of the answers in another way: it has the page, the status and the answer.
    Retells(fn(&str, &mut StatusCode, &mut Value)),
}

struct Shared {
    target: String,
    manner: Manner,
    http: reqwest::Client,
    log: Mutex<Vec<String>>,
    body_bytes: AtomicU64,
    held: watch::Sender<usize>,
}

impl FrontProxy {
    /// A proxy in front of the service at this URL.
    pub async fn start(target: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            manner,
            http: reqwest::Client::new(),
            log: Mutex::default(),
            body_bytes: AtomicU64::new(0),
            held: watch::channel(0).0,
        });
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared, server: server.abort_handle() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked for: method, a space, the page.
    pub fn requests(&self) -> Vec<String> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests there were whose page ends so.
    pub fn count(&self, end: &str) -> usize {
        self.requests().iter().filter(|request| request.ends_with(end)).count()
    }

    /// How many bytes the bodies of all requests had that were passed on.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }

    /// Waits until a request is held.
    pub async fn until_held(&self) {
        self.shared.held.subscribe().wait_for(|held| *held > 0).await.unwrap();
    }
}

impl Drop for FrontProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let page = request.uri().path().to_owned();
    let before = {
        let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(format!("{} {page}", request.method()));
        log.iter().filter(|line| line.ends_with(&page)).count() - 1
    };
    let own = |status| (status, "<html><h1>nginx</h1></html>").into_response();
    match shared.manner {
        Manner::Holds(end, passed) if page.ends_with(end) && before >= passed => {
            shared.held.send_modify(|held| *held += 1);
            return std::future::pending().await;
        }
        Manner::Answers(end, status) if page.ends_with(end) => {
            return own(StatusCode::from_u16(status).unwrap());
        }
        _ => {}
    }
    let (head, body) = request.into_parts();
    let length = head.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let is_longer = |most: u64| length.is_some_and(|length: u64| length > most);
    match shared.manner {
        Manner::LimitsBodies(most) if is_longer(most) => {
            tokio::spawn(body.into_data_stream().for_each(|_| std::future::ready(())));
            return own(StatusCode::PAYLOAD_TOO_LARGE);
        }
        // The connection ends with its task.
        Manner::HangsUpOn(most) if is_longer(most) => std::panic::resume_unwind(Box::new(())),
        _ => {}
    }
    let Ok(body) = to_bytes(body, usize::MAX).await else { return own(StatusCode::BAD_REQUEST) };
    shared.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    let url = format!("{}{}", shared.target, head.uri);
    let mut headers = head.headers;
    headers.remove("host");
    match shared.http.request(head.method, url).headers(headers).body(body).send().await {
        Ok(answer) => {
            let (mut status, mut headers) = (answer.status(), answer.headers().clone());
            let is_json = headers.get("content-type").is_some_and(|kind| kind == "application/json");
            let body = match shared.manner {
                Manner::Retells(retell) if is_json => {
                    let mut said = answer.json().await.unwrap();
                    retell(&page, &mut status, &mut said);
                    headers.remove("content-length");
                    Body::from(said.to_string())
                }
                _ => Body::from_stream(answer.bytes_stream()),
            };
            let mut passed = Response::new(body);
            *passed.status_mut() = status;
            *passed.headers_mut() = headers;
            passed
        }
        Err(_) => own(StatusCode::BAD_GATEWAY),
    }
}
