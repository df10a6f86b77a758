//! Reading: what Nix asks of a binary cache.

mod frames;
mod memory;
mod nar;
mod narinfo;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
    routing::get,
};
use bytes::Bytes;
use larder_protocol::{StorePathHash, store_path::STORE_DIR};

pub(crate) use self::{frames::read_frames, nar::NarFile, narinfo::render};
pub use memory::ReadMemory;

use crate::{Service, caches::Cache, retention::pins, trust};

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
    headers: HeaderMap,
) -> Response<Body> {
    // Before anything of the cache is looked up, in memory or elsewhere.
    let Some(cache) = trust::readable(&service, &headers, &cache).await else { return absent() };
    let cache = &cache;
    let found = |kind, body| found(cache, kind, body);
    if let Some(digits) = file.strip_suffix(".narinfo") {
        return match StorePathHash::from_digits(digits.as_bytes()) {
            Some(hash) => match narinfo::narinfo(&service, cache, hash).await {
                Some(text) => {
                    service.retention.reads.path(cache, hash, text.len());
                    service.stats.traffic.of(cache).hit(text.len());
                    found("text/x-nix-narinfo", text)
                }
                None => {
                    service.stats.traffic.of(cache).miss();
                    absent()
                }
            },
            None => absent(),
        };
    }
    if file == "nix-cache-info" {
        return found("text/x-nix-cache-info", info(cache.config.priority));
    }
    absent()
}

/// The answer to a request for a NAR of a cache by its file's name; `None` where it is not there.
pub(crate) async fn read_nar(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    file: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    nar::serve(service, cache, &NarFile::parse(file)?, method, headers).await
}

async fn nar(
    State(service): State<Arc<Service>>,
    Path((cache, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(cache) = trust::readable(&service, &headers, &cache).await else { return absent() };
    let cache = &cache;
    read_nar(&service, cache, &file, &method, &headers).await.unwrap_or_else(absent)
}

/// The path that was pinned last under a name, for a host that updates itself by it.
async fn pin(
    State(service): State<Arc<Service>>,
    Path((cache, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(cache) = trust::readable(&service, &headers, &cache).await else { return absent() };
    match pins::read(&service, &cache, &name).await {
        Some(path) => {
            let mut response = found(&cache, "text/plain; charset=utf-8", path.into());
            let control = if cache.is_public() { "no-cache" } else { "private, no-cache" };
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
            response
        }
        None => absent(),
    }
}

/// What Nix reads first. `Priority` always stands there: without one the cache would be asked before all others,
/// with a number above the public cache's 40 it would be the last, whose failure fails a build.
pub(crate) fn info(priority: u32) -> Bytes {
    format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: {priority}\n").into()
}

fn found(cache: &Cache, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if !cache.is_public() {
        headers.insert(header::CACHE_CONTROL, PRIVATE);
    }
    response
}

/// For the one who asked alone: no proxy may keep it for others.
const PRIVATE: HeaderValue = HeaderValue::from_static("private");

/// 404: what Nix takes for an answer, where 5xx would fail a build. No proxy may keep it: another reader may be one who
/// may read the cache, and what is absent now may come.
fn absent() -> Response<Body> {
    let mut response = Response::new(Body::from("404\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
