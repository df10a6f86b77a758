//! Manifests: what each job wanted. Who it was, its token says; what it wanted, the job itself.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    middleware,
    routing::{get, post},
};
use larder_protocol::{
    api::CacheName,
    manifest::{MAX_MANIFEST_PATHS, Manifests, ReportManifest},
};
use serde::Deserialize;

use crate::{
    Service,
    audit::Who,
    caches,
    client::Client,
    config::ByteSize,
    error::ApiError,
    identity::{Claims, GitRef, RepositoryName},
    metadata::{NewManifest, Told},
    push, router,
    trust::{self, GrantedTo},
};

/// The longest manifest that is read: room for all the paths that one may have, at a hundred bytes or so.
const MAX_BODY: ByteSize = ByteSize::mebibytes(8);

/// The routes of manifests.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/api/v1/caches/{cache}/manifests", post(report))
        .route("/api/v1/repositories/{owner}/{name}/manifests", get(list))
        .layer(middleware::from_fn(router::within_time))
}

/// `POST /api/v1/caches/{cache}/manifests`
async fn report(
    State(service): State<Arc<Service>>,
    Path(cache): Path<String>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let cache: CacheName = cache.parse().map_err(|_| ApiError::not_found("there is no such cache"))?;
    let (grant, who) = push::authorize(&service, client, &headers, &cache).await?;
    let GrantedTo::Job(claims) = &grant.identity else {
        let refusal = ApiError::denied(
            "a manifest says what a job wanted, and this token is no job's: nothing is reported by hand",
        );
        service.audit.refused(&who, &refusal);
        return Err(refusal);
    };
    // What is fetched for it, and told of that, tells which of its paths the cache has.
    let of = caches::find(&service, &cache).await?;
    if of.is_some_and(|of| push::is_blind(&of, &grant)) {
        let refusal = ApiError::denied(
            "a private cache takes manifests only from jobs that may read it: give `read` along with `push`",
        );
        service.audit.refused(&who, &refusal);
        return Err(refusal);
    }
    let (body, _room) = service.workshop.hold(&headers, body, MAX_BODY, "8 MiB, for manifests").await?;
    let mut manifest: ReportManifest = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("the manifest cannot be read: {error}")))?;
    let paths = manifest.built.len() + manifest.substituted.len();
    if paths > MAX_MANIFEST_PATHS {
        return Err(ApiError::invalid(format!(
            "the manifest has {paths} paths, and at most {MAX_MANIFEST_PATHS} are taken"
        )));
    }
    for paths in [&mut manifest.built, &mut manifest.substituted] {
        paths.sort_unstable();
        paths.dedup();
    }
    let manifest = NewManifest {
        cache: &cache,
        owner: &grant.identity.owner(),
        claims,
        workflow: workflow(claims),
        system: manifest.system.as_str(),
        built: &manifest.built,
        substituted: &manifest.substituted,
    };
    service.metadata.store_manifest(&manifest, service.clock.now()).await?;
    tracing::info!(
        cache = %cache, repository = %claims.repository, git_ref = ?claims.git_ref, run = claims.run_id,
        built = manifest.built.len(), substituted = manifest.substituted.len(), "manifest"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// The workflow's file, without repository and ref, so that it is the same on every branch.
fn workflow(claims: &Claims) -> &str {
    let reference = claims.workflow_ref.as_deref().unwrap_or_default();
    let file = reference.split_once('@').map_or(reference, |(file, _)| file);
    file.splitn(3, '/').nth(2).unwrap_or(file)
}

#[derive(Debug, Deserialize)]
struct OfRef {
    #[serde(rename = "ref")]
    git_ref: Option<String>,
}

/// `GET /api/v1/repositories/{owner}/{name}/manifests?ref=…`
async fn list(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
    Query(OfRef { git_ref }): Query<OfRef>,
    client: Client,
    headers: HeaderMap,
) -> Result<Json<Manifests>, ApiError> {
    let read = trust::grant_to_read(&service, &headers).await;
    let grant = read.inspect_err(|refusal| service.audit.refused(&Who::default().at(client), refusal))?;
    let repository: RepositoryName = format!("{owner}/{name}")
        .parse()
        .map_err(|_| ApiError::bad_request("that is no repository's name"))?;
    let git_ref: GitRef = git_ref
        .and_then(|git_ref| git_ref.parse().ok())
        .ok_or_else(|| ApiError::bad_request("say which ref, whole, as in ?ref=refs/heads/main"))?;
    let told = told_to(&grant.identity);
    let (manifests, complete) = service.metadata.manifests(&grant.cache, &repository, &git_ref, told).await?;
    Ok(Json(Manifests { manifests, complete }))
}

/// What a reader may be told of: whose what is there is, as with the provenance of paths.
fn told_to(reader: &GrantedTo) -> Told<'_> {
    match reader {
        GrantedTo::Person { .. } => Told::All,
        GrantedTo::Job(claims) => Told::PublicAnd(&claims.issuer, claims.repository_id),
        GrantedTo::Subject { .. } | GrantedTo::Prefetch { .. } => Told::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_is_the_same_on_every_ref() {
        let mut claims: Claims = serde_json::from_value(serde_json::json!({
            "iss": "x", "repository": "acme/flake", "repository_id": 1, "ref": "refs/heads/main", "sha": "0",
            "event_name": "push", "run_id": 1, "run_attempt": 1,
        }))
        .unwrap();
        assert_eq!(workflow(&claims), "");
        for (reference, file) in [
            ("acme/flake/.github/workflows/ci.yml@refs/heads/main", ".github/workflows/ci.yml"),
            ("acme/flake/.github/workflows/ci.yml@refs/heads/a@b", ".github/workflows/ci.yml"),
            ("strange", "strange"),
        ] {
            claims.workflow_ref = Some(reference.to_owned());
            assert_eq!(workflow(&claims), file);
        }
    }
}
