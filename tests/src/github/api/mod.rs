//! GitHub's REST API, as far as others use it: Apps with installations and narrowed tokens, contents, tarballs, check
//! runs, hook deliveries, rate limits. It lies below `/api/v3`, as an Enterprise Server's does, and answers by
//! <https://docs.github.com/en/rest>.

mod apps;
mod archives;
mod caller;
mod checks;
mod hooks;
mod limits;
mod model;
mod paging;
mod repositories;

use std::sync::{Arc, MutexGuard, PoisonError};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use serde_json::{Value, json};

pub(super) use self::model::State;
pub use self::{
    checks::CheckRun,
    hooks::{Delivery, HookOf},
    model::{App, RepositoryId},
};
use super::{GitHub, Hub};

/// Where the API is behind the server's name.
const API: &str = "/api/v3";

/// The pages of the API, and those that it sends to.
pub(super) fn pages(hub: &Arc<Hub>) -> Router<Arc<Hub>> {
    let api = Router::new()
        .route("/app", get(apps::app))
        .route("/app/installations", get(apps::installations))
        .route("/app/installations/{id}/access_tokens", post(apps::access_token))
        .route("/app/hook/config", get(hooks::config_of_app))
        .route("/app/hook/deliveries", get(hooks::of_app))
        .route("/app/hook/deliveries/{id}/attempts", post(hooks::attempt_of_app))
        .route("/orgs/{owner}/installation", get(apps::installation_of_owner))
        .route("/users/{owner}/installation", get(apps::installation_of_account))
        .route("/installation/repositories", get(apps::covered))
        .route("/orgs/{owner}/hooks", get(hooks::hooks_of_owner))
        .route("/orgs/{owner}/hooks/{hook}/deliveries", get(hooks::of_owner))
        .route("/orgs/{owner}/hooks/{hook}/deliveries/{id}/attempts", post(hooks::attempt_of_owner))
        .route("/rate_limit", get(limits::rate_limit))
        .route("/repos/{owner}/{name}", get(repositories::repository))
        .route("/repos/{owner}/{name}/installation", get(apps::installation_of_repository))
        .route("/repos/{owner}/{name}/contents/{*path}", get(repositories::contents))
        .route("/repos/{owner}/{name}/tarball/{*at}", get(archives::tarball))
        .route("/repos/{owner}/{name}/check-runs", post(checks::create))
        .route("/repos/{owner}/{name}/check-runs/{id}", patch(checks::update))
        .route("/repos/{owner}/{name}/commits/{at}/check-runs", get(checks::of_commit))
        .route("/repos/{owner}/{name}/hooks", get(hooks::hooks_of_repository))
        .route("/repos/{owner}/{name}/hooks/{hook}/deliveries", get(hooks::of_repository))
        .route(
            "/repos/{owner}/{name}/hooks/{hook}/deliveries/{id}/attempts",
            post(hooks::attempt_of_repository),
        )
        .layer(from_fn_with_state(hub.clone(), caller::identify));
    Router::new()
        .nest(API, api)
        .route("/{owner}/{name}/archive/{file}", get(archives::archive))
        .route("/codeload/{owner}/{name}/{form}/{at}", get(archives::codeload))
}

impl GitHub {
    /// Where the API is, for a service's configuration.
    pub fn api_url(&self) -> String {
        format!("{}{API}", self.hub.origin)
    }

    /// What the API was asked, in order: who asked, the method and the page.
    pub fn api_requests(&self) -> Vec<String> {
        self.hub.api().requests.clone()
    }

    /// What the access tokens that were given out reach: repositories, and permissions.
    pub fn token_scopes(&self) -> Vec<(String, String)> {
        let state = self.hub.api();
        let name = |id: &RepositoryId| {
            state.repositories.iter().find(|known| known.id == *id).map(|known| known.name.clone()).unwrap()
        };
        let scope = |token: &model::Token| {
            let repositories = token.repositories.as_ref();
            let names: Vec<String> =
                repositories.map(|ids| ids.iter().map(name).collect()).unwrap_or_default();
            let permissions = token.permissions.iter().map(|(name, level)| format!("{name}={level}"));
            (names.join(" "), permissions.collect::<Vec<_>>().join(" "))
        };
        state.tokens.values().map(scope).collect()
    }
}

impl Hub {
    fn api(&self) -> MutexGuard<'_, State> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What GitHub answers instead of what was asked for.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    /// What an installation would need, as `X-Accepted-GitHub-Permissions` says it.
    needs: Option<String>,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, message: message.into(), needs: None }
    }

    fn not_found() -> Self {
        Self::new(404, "Not Found")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({
            "message": self.message,
            "documentation_url": "https://docs.github.com/rest",
            "status": self.status.as_str(),
        });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(needs) = self.needs {
            response.headers_mut().insert("x-accepted-github-permissions", needs.parse().unwrap());
        }
        response
    }
}

/// Seconds since 1970 as the API writes times.
fn time(seconds: i64) -> Value {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap().format("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

fn found(location: String) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

#[cfg(test)]
mod tests;
