//! GitHub: its API, and its webhooks. A delivery is verified, stored, answered, and only then acted on.

mod api;
mod app;
mod checks;
mod closures;
mod contents;
mod delivery;
mod events;
mod follow;
mod github;
mod hooks;
mod inbox;
mod limits;
mod missed;
mod once;
mod payload;
mod replay;
mod report;
mod room;
mod signature;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use bytes::Bytes;
use serde_json::{Value, json};

pub use self::{
    api::Forge,
    app::Needs,
    delivery::{DeliveryCount, DeliveryOutcome, DeliveryRow, StoredDelivery},
    github::{ForgeError, GitHub},
    inbox::Inbox,
    payload::Conclusion,
    replay::{ReplayError, replay},
    report::prefetch_ended,
};
pub(crate) use self::{
    delivery::NewDelivery,
    follow::*,
    missed::ask_for_missed,
    payload::About,
    report::{note_push, report},
};
use self::{payload::Envelope, signature::Signature};
use crate::{
    Service,
    audit::{Entry, Event, Who},
    client::Client,
    error::ApiError,
};

/// What is longer is hashed and read on a thread that nobody else waits for.
const KEEPS_OTHERS_WAITING: usize = 128 << 10;
/// What is kept of a header.
const MAX_HEADER: usize = 256;
/// The headers that are kept.
const KEPT: [&str; 8] = [
    "content-type",
    "user-agent",
    "x-github-delivery",
    "x-github-enterprise-host",
    "x-github-event",
    "x-github-hook-id",
    "x-github-hook-installation-target-id",
    "x-github-hook-installation-target-type",
];

/// The routes of webhooks.
pub fn routes() -> Router<Arc<Service>> {
    Router::new().route("/webhooks/github", post(receive))
}

/// `POST /webhooks/github`
async fn receive(
    State(service): State<Arc<Service>>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let answer = take(&service, headers, body).await;
    if let Err(refusal) = &answer
        && let Some(event) = Event::of_refusal(refusal)
    {
        // Of refusals the log keeps a bounded number, whoever causes them.
        service.audit.record(Entry::of_service(Who::default().at(client), event));
    }
    let counters = &service.stats.counters;
    match &answer {
        Ok(Taken { new: true, .. }) => &counters.deliveries_stored,
        Ok(Taken { new: false, .. }) => &counters.deliveries_repeated,
        Err(_) => &counters.deliveries_refused,
    }
    .one();
    let Taken { guid, outcome, new } = answer?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "delivery": guid, "outcome": outcome, "new": new }))))
}

/// What became of a delivery.
struct Taken {
    guid: String,
    outcome: DeliveryOutcome,
    new: bool,
}

async fn take(service: &Arc<Service>, headers: HeaderMap, body: Body) -> Result<Taken, ApiError> {
    let Some(signature) = Signature::of(&headers) else {
        inbox::drain(body).await;
        return Err(not_signed());
    };
    let (body, room) = service.inbox.hold(&headers, body).await?;
    let delivery = if body.len() > KEEPS_OTHERS_WAITING {
        let service = service.clone();
        inbox::aside(move || check(&service, signature, &headers, body)).await??
    } else {
        check(service, signature, &headers, body)?
    };
    let (guid, event, about) = (delivery.guid.clone(), delivery.event.clone(), delivery.about.clone());
    let (outcome, jobs) = (delivery.outcome, delivery.jobs.len());
    let new = service.inbox.store(delivery, room).await?;
    tracing::info!(guid, event, about, outcome = outcome.as_str(), jobs, new, "delivery");
    Ok(Taken { guid, outcome, new })
}

/// Whose the delivery is, and what becomes of it. Nothing of the body is looked at before its signature holds.
fn check(
    service: &Service,
    signature: Signature,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<NewDelivery, ApiError> {
    let rules = signature.rules(&service.config.webhooks, &body);
    if rules.is_empty() {
        return Err(not_signed());
    }
    let guid = name(headers, "x-github-delivery", |b| b.is_ascii_alphanumeric() || b == b'-')?;
    let event =
        name(headers, "x-github-event", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')?;
    let envelope: Envelope = serde_json::from_slice(&body).map_err(|_| {
        ApiError::bad_request(
            "the payload cannot be read. Give the webhook the content type application/json",
        )
    })?;
    let mut about = envelope.about();
    let mut rule = rules.iter().find(|rule| rule.speaks_for(&about));
    if rule.is_none() && event == "repository" {
        // Of a repository that is called otherwise now, the secret may be for what it was called.
        if let Some(former) = events::former_name(&body).map(About::Repository) {
            rule = rules.iter().find(|rule| rule.speaks_for(&former));
            about = if rule.is_some() { former } else { about };
        }
    }
    let Some(rule) = rule else {
        tracing::info!(event, about = about.key(), "refused a delivery that its secret does not speak for");
        return Err(ApiError::denied(
            "the secret that signed this is not for what it is about. Whoever runs the service can add the \
             repository to its [[webhook]] rule in larder.toml",
        ));
    };
    let (outcome, jobs) = events::decide(&event, &envelope, &about, rule, &body, service.clock.now());
    Ok(NewDelivery {
        guid,
        about: about.key(),
        action: envelope.action.map(|action| shortened(&action).to_owned()),
        outcome,
        headers: kept(headers),
        payload: (outcome != DeliveryOutcome::Ignored).then_some(body),
        event,
        jobs,
    })
}

/// Whatever is wrong with a signature, the answer is the same.
fn not_signed() -> ApiError {
    ApiError::denied(
        "no secret that this service knows signed this. Give the webhook a secret, and the same secret to a \
         [[webhook]] rule in larder.toml",
    )
}

/// A short header of a few kinds of characters.
fn name(headers: &HeaderMap, header: &str, fits: fn(u8) -> bool) -> Result<String, ApiError> {
    headers
        .get(header)
        .and_then(|value| value.to_str().ok())
        .filter(|text| (1..=64).contains(&text.len()) && text.bytes().all(fits))
        .map(str::to_owned)
        .ok_or_else(|| {
            ApiError::bad_request(format!("the header {header} is missing, or is not what GitHub sends"))
        })
}

fn kept(headers: &HeaderMap) -> String {
    let kept: BTreeMap<&str, &str> = KEPT
        .into_iter()
        .filter_map(|name| Some((name, shortened(headers.get(name)?.to_str().ok()?))))
        .collect();
    json!(kept).to_string()
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_HEADER)).unwrap_or(text)
}
