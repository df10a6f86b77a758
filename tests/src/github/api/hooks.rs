//! Webhooks: whom they are sent to, how that went, and sending them again.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinSet;

use super::{
    Refusal,
    caller::Caller,
    model::{self, App, secret},
    paging::{self, Query},
    time,
};
use crate::github::{GitHub, Hub};

/// How long GitHub keeps deliveries, unless a test says otherwise.
const KEPT: i64 = 3 * 24 * 60 * 60;

/// Whose webhook it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOf {
    /// An App's, of that number.
    App(u64),
    /// A repository's, `owner/name`.
    Repository(String),
    /// An organisation's.
    Owner(String),
}

pub(super) struct Hook {
    id: u64,
    of: HookOf,
    url: String,
    secret: String,
    /// Whether what is sent is lost.
    lossy: bool,
    /// The newest last.
    deliveries: Vec<Delivery>,
}

/// A delivery, or an attempt at one.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The attempt's number.
    pub id: u64,
    /// The delivery's name.
    pub guid: String,
    /// Whether it was sent once before.
    pub redelivery: bool,
    /// What was answered.
    pub status_code: u16,
    event: String,
    payload: Value,
    delivered_at: i64,
}

/// What is being sent.
pub(in crate::github) type Sending = Arc<tokio::sync::Mutex<JoinSet<()>>>;

impl GitHub {
    /// A webhook that sends to this URL.
    pub fn add_hook(&self, of: HookOf, url: &str, secret: &str) -> u64 {
        let mut state = self.hub.api();
        let id = 290_000 + state.next_id();
        let (url, secret) = (url.to_owned(), secret.to_owned());
        state.hooks.push(Hook { id, of, url, secret, lossy: false, deliveries: Vec::new() });
        id
    }

    /// The webhook of an App.
    pub fn add_app_hook(&self, app: &App, url: &str, secret: &str) -> u64 {
        self.add_hook(HookOf::App(app.id), url, secret)
    }

    /// Sends an event, and tells the delivery's name. Nobody need be there to take it.
    pub async fn send_event(&self, hook: u64, event: &str, payload: &Value) -> String {
        let guid = guid();
        send(&self.hub, hook, event, payload, &guid, false).await;
        guid
    }

    /// Signs with another secret from now on.
    pub fn change_secret(&self, hook: u64, secret: &str) {
        self.change_hook(hook, |hook| secret.clone_into(&mut hook.secret));
    }

    /// Whether what is sent gets lost from now on.
    pub fn lose_attempts(&self, hook: u64, lossy: bool) {
        self.change_hook(hook, |hook| hook.lossy = lossy);
    }

    fn change_hook(&self, hook: u64, change: impl FnOnce(&mut Hook)) {
        change(self.hub.api().hooks.iter_mut().find(|known| known.id == hook).unwrap());
    }

    /// Has no page of deliveries be longer from now on, however long they are asked for.
    pub fn limit_pages(&self, longest: usize) {
        self.hub.api().longest_page = Some(longest);
    }

    /// Keeps deliveries for so many seconds, as an Enterprise Server does for seven days.
    pub fn keep_deliveries(&self, seconds: i64) {
        self.hub.api().deliveries_kept = Some(seconds);
    }

    /// An event that gets lost on its way.
    pub fn lose(&self, hook: u64, event: &str, payload: &Value) {
        note(&self.hub, hook, event, payload, &guid(), false, 502);
    }

    /// The attempts at a webhook's deliveries, in order.
    pub fn deliveries(&self, hook: u64) -> Vec<Delivery> {
        self.hub.api().hooks.iter().find(|known| known.id == hook).unwrap().deliveries.clone()
    }

    /// Waits until all that was to be delivered again was.
    pub async fn delivered(&self) {
        let sending = self.hub.api().sending.clone();
        let mut sending = sending.lock().await;
        while sending.join_next().await.is_some() {}
    }
}

/// As GitHub's: a version 4 UUID by its form.
fn guid() -> String {
    let text = secret();
    format!("{}-{}-4{}-8{}-{}", &text[..8], &text[8..12], &text[12..15], &text[15..18], &text[18..30])
}

async fn send(hub: &Arc<Hub>, hook: u64, event: &str, payload: &Value, guid: &str, redelivery: bool) {
    let (of, url, secret, lossy) = {
        let state = hub.api();
        let hook = state.hooks.iter().find(|known| known.id == hook).unwrap();
        (hook.of.clone(), hook.url.clone(), hook.secret.clone(), hook.lossy)
    };
    if lossy {
        return note(hub, hook, event, payload, guid, redelivery, 502);
    }
    let body = payload.to_string();
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(&body);
    let target = match of {
        HookOf::App(_) => "integration",
        HookOf::Repository(_) => "repository",
        HookOf::Owner(_) => "organization",
    };
    let request = reqwest::Client::new()
        .post(url)
        .header("Content-Type", "application/json")
        .header("User-Agent", "GitHub-Hookshot/044aadd")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", guid)
        .header("X-GitHub-Hook-ID", hook)
        .header("X-GitHub-Hook-Installation-Target-Type", target)
        .header("X-Hub-Signature-256", format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes())))
        .body(body);
    let status_code = request.send().await.map_or(502, |answer| answer.status().as_u16());
    note(hub, hook, event, payload, guid, redelivery, status_code);
}

fn note(hub: &Hub, hook: u64, event: &str, payload: &Value, guid: &str, redelivery: bool, status_code: u16) {
    let delivered_at = hub.clock.now();
    let mut state = hub.api();
    let id = 1_000_000 + state.next_id();
    let delivery = Delivery {
        id,
        guid: guid.to_owned(),
        redelivery,
        status_code,
        event: event.to_owned(),
        payload: payload.clone(),
        delivered_at,
    };
    state.hooks.iter_mut().find(|known| known.id == hook).unwrap().deliveries.push(delivery);
}

fn hooks(state: &model::State, of: &HookOf) -> Value {
    let these = state.hooks.iter().filter(|hook| hook.of == *of);
    these
        .map(|hook| {
            json!({
                "id": hook.id, "name": "web", "active": true, "events": ["*"],
                "config": { "url": hook.url, "content_type": "json", "secret": "********" },
            })
        })
        .collect()
}

/// A webhook's attempts, the newest first.
fn list(hub: &Hub, of: &HookOf, id: Option<u64>, uri: &Uri, query: &Query) -> Result<Response, Refusal> {
    let state = hub.api();
    let since = hub.clock.now() - state.deliveries_kept.unwrap_or(KEPT);
    let hook = state.hooks.iter().find(|hook| hook.of == *of && id.is_none_or(|id| id == hook.id));
    let hook = hook.ok_or_else(Refusal::not_found)?;
    let kept = hook.deliveries.iter().rev().filter(|delivery| delivery.delivered_at > since);
    let all = kept
        .map(|delivery| {
            json!({
                "id": delivery.id, "guid": delivery.guid, "delivered_at": time(delivery.delivered_at),
                "redelivery": delivery.redelivery, "duration": 0.27, "event": delivery.event,
                "action": delivery.payload["action"], "status_code": delivery.status_code,
                "status": if delivery.status_code < 300 { "OK" } else { "Invalid HTTP Response" },
                "installation_id": null, "repository_id": null, "throttled_at": null,
            })
        })
        .collect();
    let (these, next) = paging::by_cursor(query, state.longest_page, all);
    Ok(paging::answer(&hub.origin, uri, query, these.into(), next))
}

/// Sends one again, after having answered.
async fn attempt(hub: &Arc<Hub>, of: &HookOf, hook: Option<u64>, id: u64) -> Result<Response, Refusal> {
    let (hook, delivery, sending) = {
        let state = hub.api();
        let known = state.hooks.iter().find(|known| known.of == *of && hook.is_none_or(|id| id == known.id));
        let known = known.ok_or_else(Refusal::not_found)?;
        let delivery = known.deliveries.iter().find(|delivery| delivery.id == id);
        let delivery = delivery.cloned().ok_or_else(Refusal::not_found)?;
        (known.id, delivery, state.sending.clone())
    };
    let hub = hub.clone();
    sending.lock().await.spawn(async move {
        send(&hub, hook, &delivery.event, &delivery.payload, &delivery.guid, true).await;
    });
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}

type Of<T> = (State<Arc<Hub>>, Path<T>, Extension<Caller>);

/// `GET /app/hook/config`
pub(super) async fn config_of_app(
    State(hub): State<Arc<Hub>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let of = HookOf::App(caller.app()?);
    let state = hub.api();
    let hook = state.hooks.iter().find(|hook| hook.of == of).ok_or_else(Refusal::not_found)?;
    Ok(Json(json!({ "content_type": "json", "insecure_ssl": "0", "secret": "********", "url": hook.url })))
}

/// `GET /app/hook/deliveries`
pub(super) async fn of_app(
    State(hub): State<Arc<Hub>>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    list(&hub, &HookOf::App(caller.app()?), None, &uri, &query)
}

/// `POST /app/hook/deliveries/{id}/attempts`
pub(super) async fn attempt_of_app((hub, id, caller): Of<u64>) -> Result<Response, Refusal> {
    attempt(&hub, &HookOf::App(caller.app()?), None, id.0).await
}

/// `GET /repos/{owner}/{name}/hooks`
pub(super) async fn hooks_of_repository(
    (hub, Path((owner, name)), caller): Of<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let (state, name) = (hub.api(), format!("{owner}/{name}"));
    caller.reach(&state, &name, Some(("repository_hooks", "read")))?;
    Ok(Json(hooks(&state, &HookOf::Repository(name))))
}

/// `GET /repos/{owner}/{name}/hooks/{hook}/deliveries`
pub(super) async fn of_repository(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, hook)): Path<(String, String, u64)>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let name = format!("{owner}/{name}");
    caller.reach(&hub.api(), &name, Some(("repository_hooks", "read")))?;
    list(&hub, &HookOf::Repository(name), Some(hook), &uri, &query)
}

/// `POST /repos/{owner}/{name}/hooks/{hook}/deliveries/{id}/attempts`
pub(super) async fn attempt_of_repository(
    (hub, Path((owner, name, hook, id)), caller): Of<(String, String, u64, u64)>,
) -> Result<Response, Refusal> {
    let name = format!("{owner}/{name}");
    caller.reach(&hub.api(), &name, Some(("repository_hooks", "write")))?;
    attempt(&hub, &HookOf::Repository(name), Some(hook), id).await
}

/// `GET /orgs/{owner}/hooks`
pub(super) async fn hooks_of_owner((hub, Path(owner), caller): Of<String>) -> Result<Json<Value>, Refusal> {
    let state = hub.api();
    caller.reach_owner(&state, &owner, ("organization_hooks", "read"))?;
    Ok(Json(hooks(&state, &HookOf::Owner(owner))))
}

/// `GET /orgs/{owner}/hooks/{hook}/deliveries`
pub(super) async fn of_owner(
    State(hub): State<Arc<Hub>>,
    Path((owner, hook)): Path<(String, u64)>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    caller.reach_owner(&hub.api(), &owner, ("organization_hooks", "read"))?;
    list(&hub, &HookOf::Owner(owner), Some(hook), &uri, &query)
}

/// `POST /orgs/{owner}/hooks/{hook}/deliveries/{id}/attempts`
pub(super) async fn attempt_of_owner(
    (hub, Path((owner, hook, id)), caller): Of<(String, u64, u64)>,
) -> Result<Response, Refusal> {
    caller.reach_owner(&hub.api(), &owner, ("organization_hooks", "write"))?;
    attempt(&hub, &HookOf::Owner(owner), Some(hook), id).await
}
