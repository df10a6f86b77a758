//! Reading: what Nix asks of a binary cache.

mod memory;
mod nar;
mod narinfo;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, Response, StatusCode, header},
    routing::get,
};
use bytes::Bytes;
use larder_protocol::{StorePathHash, store_path::STORE_DIR};

pub use memory::ReadMemory;

use crate::{
    Service,
    caches::{self, Cache},
    retention::pins,
};

/// The routes of readers.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/{cache}/{file}", get(file))
        .route("/{cache}/nar/{file}", get(nar))
        .route("/{cache}/pins/{name}", get(pin))
}

async fn file(
    State(service): State<Arc<Service>>,
    Path((cache, file)): Path<(String, String)>,
) -> Response<Body> {
    let Some(cache) = named(&service, &cache).await else { return absent() };
    let cache = &cache;
    if let Some(digits) = file.strip_suffix(".narinfo") {
        return match StorePathHash::from_digits(digits.as_bytes()) {
            Some(hash) => match narinfo::narinfo(&service, cache, hash).await {
                Some(text) => {
                    service.retention.reads.path(cache, hash);
                    found("text/x-nix-narinfo", text)
                }
                None => absent(),
            },
            None => absent(),
        };
    }
    if file == "nix-cache-info" {
        return found("text/x-nix-cache-info", info(cache));
    }
    absent()
}

async fn nar(
    State(service): State<Arc<Service>>,
    Path((cache, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(cache) = named(&service, &cache).await else { return absent() };
    let cache = &cache;
    match nar::NarFile::parse(&file) {
        Some(file) => nar::serve(&service, cache, &file, &method, &headers).await.unwrap_or_else(absent),
        None => absent(),
    }
}

/// The path that was pinned last under a name, for a host that updates itself by it.
async fn pin(
    State(service): State<Arc<Service>>,
    Path((cache, name)): Path<(String, String)>,
) -> Response<Body> {
    let Some(cache) = named(&service, &cache).await else { return absent() };
    match pins::read(&service, &cache, &name).await {
        Some(path) => {
            let mut response = found("text/plain; charset=utf-8", path.into());
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
            response
        }
        None => absent(),
    }
}

/// The cache that a URL names; none either where the database cannot tell, since Nix builds then.
async fn named(service: &Service, name: &str) -> Option<Arc<Cache>> {
    caches::find(service, &name.parse().ok()?).await.ok()?
}

/// What Nix reads first. `Priority` always stands there: without one the cache would be asked before all others,
/// with a number above the public cache's 40 it would be the last, whose failure fails a build.
fn info(cache: &Cache) -> Bytes {
    format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: {}\n", cache.config.priority).into()
}

fn found(kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// 404: what Nix takes for an answer, where 5xx would fail a build.
fn absent() -> Response<Body> {
    let mut response = Response::new(Body::from("404\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
