//! Who brought a path: what is told of it, to whom, and what is stated under the cache's signature.
//!
//! The service knows who *pushed*, by verified claims. Who *built* is what that job says, and is marked as such.

mod run_url;
mod statement;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware,
    routing::get,
};
use larder_protocol::{
    StorePathHash,
    api::Permission,
    envelope::Envelope,
    provenance::{Provenance, PushedBy, PushingJob},
};

use self::statement::Place;
use crate::{
    Service,
    caches::{Cache, CacheInPath},
    clock::to_date,
    config::issuer::is_everybodys,
    error::ApiError,
    identity::Claims,
    metadata::PushedPath,
    router,
    trust::{self, Grant, GrantedTo},
};

/// The media type of an envelope with such a statement.
const STATEMENT: HeaderValue = HeaderValue::from_static("application/vnd.in-toto.push+dsse");

/// The routes of provenance.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/api/v1/caches/{cache}/paths/{hash}", get(provenance))
        .route("/api/v1/caches/{cache}/paths/{hash}/statement", get(state))
        .layer(middleware::from_fn(router::within_time))
}

async fn provenance(
    // Whoever may not read the cache gets no further than this.
    CacheInPath(cache): CacheInPath,
    State(service): State<Arc<Service>>,
    Path((_, hash)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Provenance>, ApiError> {
    let told = Told::find(&service, &cache, &hash, &headers).await?;
    Ok(Json(told.with_run(&service).provenance))
}

async fn state(
    CacheInPath(cache): CacheInPath,
    State(service): State<Arc<Service>>,
    Path((_, hash)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<([(HeaderName, HeaderValue); 1], Json<Envelope>), ApiError> {
    let told = Told::find(&service, &cache, &hash, &headers).await?;
    // An isolated cache shows its parent's paths, and its parent states who brought them.
    let stating = cache.parent().filter(|parent| *parent.name() == told.provenance.cache).unwrap_or(&cache);
    let keys = stating.signing_keys();
    let place = Place { cache_url: stating.url.clone(), stated_at: to_date(service.clock.now()) };
    let signed = tokio::task::spawn_blocking(move || {
        let Told { provenance, claims } = told.with_run(&service);
        let statement = statement::of(&provenance, claims.as_ref(), &place).map_err(ApiError::internal)?;
        let key = keys.newest().ok_or_else(|| ApiError::internal("the cache has no key"))?;
        Ok::<_, ApiError>(Envelope::sign(&statement, key))
    });
    let envelope = signed.await.map_err(|_| ApiError::internal("signing a statement panicked"))??;
    Ok(([(header::CONTENT_TYPE, STATEMENT)], Json(envelope)))
}

/// What this reader may be told of a path.
struct Told {
    provenance: Provenance,
    /// The job's verified claims, unless they are withheld.
    claims: Option<Claims>,
}

impl Told {
    /// Finds it, once it is clear that whoever asks may read the cache.
    async fn find(
        service: &Service,
        cache: &Cache,
        hash: &str,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let reader = reader(service, cache, headers).await?;
        let unknown = || ApiError::not_found("the cache has no such path");
        let hash: StorePathHash = hash.parse().map_err(|_| unknown())?;
        let pushed = service.metadata.pushed_path(&cache.names(), &hash).await?.ok_or_else(unknown)?;
        Ok(Self::to(reader.as_ref(), pushed))
    }

    fn to(reader: Option<&Grant>, pushed: PushedPath) -> Self {
        let known = may_know(reader, &pushed.identity);
        // One's own is no news either.
        let hosts = reader
            .is_some_and(|reader| reader.may_know_hosts(&pushed.cache) || knows(reader, &pushed.identity));
        let told = |issuer: &str| hosts || is_everybodys(issuer);
        let (pushed_by, claims) = match pushed.identity {
            GrantedTo::Person { name, .. } => (PushedBy::Person { name }, None),
            GrantedTo::Job(claims) if known && told(&claims.issuer) => {
                (PushedBy::Job(Box::new(job(&claims))), Some(*claims))
            }
            GrantedTo::Job(claims) if known => (PushedBy::Job(Box::new(without_host(job(&claims)))), None),
            GrantedTo::Subject { issuer, subject } if known => {
                (PushedBy::Subject { issuer, subject: subject.to_string() }, None)
            }
            GrantedTo::Job(claims) => {
                (PushedBy::Withheld { issuer: Some(claims.issuer).filter(|it| told(it)) }, None)
            }
            GrantedTo::Subject { issuer, .. } => {
                (PushedBy::Withheld { issuer: Some(issuer).filter(|it| told(it)) }, None)
            }
            GrantedTo::Prefetch { from } => (PushedBy::Prefetch { from: Some(from).filter(|_| hosts) }, None),
        };
        let provenance = Provenance {
            cache: pushed.cache,
            path: pushed.path,
            nar_hash: pushed.nar_hash,
            nar_size: pushed.nar_size,
            deriver: pushed.deriver,
            pushed_at: to_date(pushed.pushed_at),
            pushed_by,
            reported_built: pushed.reported_built,
        };
        Self { provenance, claims }
    }
}

impl Told {
    /// Adds where people see the run: which kind of server it is on, the configuration says.
    fn with_run(mut self, service: &Service) -> Self {
        if let (PushedBy::Job(job), Some(claims)) = (&mut self.provenance.pushed_by, &self.claims) {
            let issuer = service.config.issuers.iter().find(|issuer| issuer.url.as_str() == claims.issuer);
            job.run_url = run_url::of(claims, issuer.map(|issuer| issuer.kind).unwrap_or_default());
        }
        self
    }
}

/// Who asks: nobody in particular where no token is shown. One that is shown must be good, so that whoever shows it
/// is not told less without a word.
async fn reader(service: &Service, cache: &Cache, headers: &HeaderMap) -> Result<Option<Grant>, ApiError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    trust::authorize(service, headers, cache.name(), Permission::Read).await.map(Some)
}

/// Whether a reader of the path may know whose it is. That `publish = true` lets a repository that is not public push
/// to a public cache makes its outputs public, not its name, its branches and its people.
fn may_know(reader: Option<&Grant>, pusher: &GrantedTo) -> bool {
    match pusher {
        GrantedTo::Person { .. } | GrantedTo::Prefetch { .. } => true,
        GrantedTo::Job(claims) if claims.is_public() => true,
        GrantedTo::Job(_) | GrantedTo::Subject { .. } => reader.is_some_and(|reader| knows(reader, pusher)),
    }
}

/// Whether a reader is a person, whom whoever runs the service gave a token, or the pusher's own.
fn knows(reader: &Grant, pusher: &GrantedTo) -> bool {
    match (&reader.identity, pusher) {
        (GrantedTo::Person { .. }, _) => true,
        (GrantedTo::Job(reader), GrantedTo::Job(pusher)) => {
            reader.issuer == pusher.issuer && reader.repository_id == pusher.repository_id
        }
        (reader, pusher) => reader == pusher,
    }
}

fn job(claims: &Claims) -> PushingJob {
    PushingJob {
        issuer: Some(claims.issuer.clone()),
        repository: claims.repository.to_string(),
        commit: claims.sha.clone(),
        git_ref: claims.git_ref.to_string(),
        event: claims.event_name.to_string(),
        workflow: claims.workflow_ref.clone(),
        run: claims.run_id,
        attempt: claims.run_attempt,
        run_url: None,
        actor: claims.actor.clone(),
    }
}

/// The same without what may name the forge's host. (GitLab's tokens have it before the workflow's file.)
fn without_host(job: PushingJob) -> PushingJob {
    let in_repository = format!("{}/", job.repository);
    let workflow = job.workflow.filter(|workflow| workflow.starts_with(&in_repository));
    PushingJob { issuer: None, workflow, ..job }
}
