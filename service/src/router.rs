//! What is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use larder_protocol::api::CacheInfo;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{Service, cache, caches::CacheInPath, error::ApiError, log, push, trust};

/// Longer than any ID token with what is around it.
const MAX_SMALL_BODY: usize = 64 * 1024;
/// For requests that carry little and ask for little. Longer than an issuer's keys may take.
const SMALL_REQUEST: Duration = Duration::from_secs(30);
const READY_WITHIN: Duration = Duration::from_secs(5);

/// The service's whole HTTP face.
pub fn router(service: Arc<Service>) -> Router {
    let small = Router::new()
        .route("/api/v1/token", post(trust::exchange_token).delete(trust::revoke_session))
        .route("/api/v1/caches/{cache}", get(cache_info))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BODY))
        .layer(middleware::from_fn(within_time));
    let router = Router::new()
        .route("/", get(root))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .merge(small)
        .merge(push::routes())
        .merge(cache::routes())
        .with_state(service);
    around(router)
}

/// What holds for every page.
fn around(router: Router) -> Router {
    router
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(async || ApiError::not_found("there is no such page"))
        .layer(CatchPanicLayer::custom(|_| ApiError::logged_already().into_response()))
        .layer(middleware::from_fn(log::request))
}

async fn within_time(request: Request, next: Next) -> Response {
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
async fn cache_info(CacheInPath(cache): CacheInPath) -> Json<CacheInfo> {
    Json(cache.info())
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
        let router = around(Router::new().route("/", get(broken)));
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("\"internal\"") && !body.contains("secret"), "{body}");
    }
}
