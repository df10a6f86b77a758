//! What is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use http::{HeaderMap, Uri, header};
use larder_protocol::api::{API_VERSION, CacheInfo};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    Service, cache, caches::CacheInPath, config::ByteSize, error::ApiError, forge, log, manifests, prefetch,
    provenance, push, retention::pins, stats, trust,
};

/// For requests that carry little and ask for little. Longer than an issuer's keys may take.
const SMALL_REQUEST: Duration = Duration::from_secs(30);
const READY_WITHIN: Duration = Duration::from_secs(5);

/// The service's whole HTTP face.
pub fn router(service: Arc<Service>) -> Router {
    let small = Router::new()
        .route("/api/v1/token", post(trust::exchange_token).delete(trust::revoke_session))
        .route("/api/v1/caches/{cache}", get(cache_info))
        .route("/api/v1/caches/{cache}/pins", get(pins::pins))
        .route("/api/v1/caches/{cache}/pins/{name}", put(pins::pin).delete(pins::unpin))
        .layer(middleware::from_fn(within_time));
    let router = Router::new()
        .route("/", get(root))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .merge(small)
        .merge(push::routes())
        .merge(manifests::routes())
        .merge(forge::routes())
        .merge(prefetch::routes())
        .merge(provenance::routes())
        .merge(cache::routes())
        .with_state(service.clone());
    around(router, service.config.limits.max_head, service.stats.latencies.clone())
}

/// What holds for every page.
fn around(router: Router, max_head: ByteSize, latencies: Arc<stats::Latencies>) -> Router {
    router
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(no_such_page)
        .layer(middleware::from_fn_with_state(max_head, within_head))
        .layer(CatchPanicLayer::custom(|_| ApiError::logged_already().into_response()))
        .layer(middleware::from_fn_with_state(latencies, stats::measure))
        .layer(middleware::from_fn(log::request))
}

/// A newer client may ask for what a later release has: it is told by whom that is not known. Who was given a cache's URL in
/// place of the service's asks for the API below it.
async fn no_such_page(uri: Uri) -> ApiError {
    match uri.path().find("/api/") {
        Some(0) => ApiError::not_found(format!(
            "there is no such page in version {API_VERSION} of the API, as this larderd speaks it. If the client is newer, \
             update larderd"
        )),
        Some(_) => ApiError::not_found(
            "there is no such page: the API is at the service's own URL, without a cache's name behind it. Leave that out \
             of the service's URL, and name the cache by itself",
        ),
        None => ApiError::not_found("there is no such page"),
    }
}

/// Refuses a head that is too long. One that is far too long never comes here: the connection's own bound refuses it
/// without a word.
async fn within_head(State(max_head): State<ByteSize>, request: Request, next: Next) -> Response {
    // As on the wire: a space and a version behind the target; a colon, a space and a line's end in each header.
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target + headers.sum::<usize>() > max_head.as_usize() {
        return ApiError::head_over(max_head).into_response();
    }
    next.run(request).await
}

pub(crate) async fn within_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(SMALL_REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timed_out().into_response(),
    }
}

async fn root() -> &'static str {
    "This is Larder, a binary cache for Nix. A cache's URL ends with its name, as in /main.\n\
     What is served here was pushed by jobs that proved who they are; nobody can list it.\n"
}

/// Whether requests can be answered: for load balancers. `/healthz` says only that the process lives.
async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, ApiError> {
    let ping = async {
        service.metadata.ping().await?;
        service.storage.ping().await?;
        Ok::<_, ApiError>("ready\n")
    };
    match tokio::time::timeout(READY_WITHIN, ping).await {
        Ok(Ok(ready)) => Ok(ready),
        _ => Err(ApiError::unavailable("the database or the storage does not answer", READY_WITHIN)),
    }
}

/// `GET /api/v1/caches/{cache}`
async fn cache_info(
    CacheInPath(cache): CacheInPath,
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Json<CacheInfo> {
    // A token that is good for nothing is no error where everybody may read: a netrc's is sent to every cache.
    let grant = match headers.contains_key(header::AUTHORIZATION) {
        true => trust::grant_of_request(&service, &headers).await.ok(),
        false => None,
    };
    Json(cache.info(grant.as_ref()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_fault_in_one_handler_is_an_answer_that_leaks_nothing() {
        async fn broken() -> &'static str {
            panic!("a secret")
        }
        let router = around(Router::new().route("/", get(broken)), ByteSize::mebibytes(1), Arc::default());
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("\"internal\"") && !body.contains("secret"), "{body}");
    }
}
