//! Rate limits: so many requests an hour of each caller, and a pause for whoever asks too much at once.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Refusal, caller::Caller};
use crate::github::{GitHub, Hub};

const HOUR: i64 = 60 * 60;

#[derive(Debug, Default)]
pub(super) struct Limits {
    callers: BTreeMap<String, Left>,
    /// What callers that come first have from now on, if a test says so.
    remaining: Option<u64>,
    /// Until when everybody must wait, and whether they are told how long.
    pause: Option<(i64, bool)>,
    /// Whether nothing is answered.
    pub(super) broken: bool,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    limit: u64,
    used: u64,
    reset: i64,
}

/// What a caller is told of its limit.
pub(super) struct Told {
    left: Left,
    /// Too many in this hour.
    spent: bool,
    /// Too many at once: wait so long, if that is said.
    pause: Option<Option<i64>>,
}

impl Limits {
    /// Counts a request.
    pub(super) fn take(&mut self, who: &str, anonymous: bool, now: i64) -> Told {
        let limit = self.remaining.unwrap_or(if anonymous { 60 } else { 5000 });
        let fresh = Left { limit, used: 0, reset: now + HOUR };
        let left = self.callers.entry(who.to_owned()).or_insert(fresh);
        if left.reset <= now {
            *left = Left { limit: if anonymous { 60 } else { 5000 }, used: 0, reset: now + HOUR };
        }
        let pause = self.pause.filter(|(until, _)| *until > now);
        let pause = pause.map(|(until, told)| told.then_some(until - now));
        let spent = left.used >= left.limit;
        if !spent {
            left.used += 1;
        }
        Told { left: *left, spent, pause }
    }
}

impl Told {
    pub(super) fn refusal(&self) -> Option<Response> {
        let mut response = if let Some(wait) = self.pause {
            let refusal = Refusal::new(
                403,
                "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            );
            let mut response = refusal.into_response();
            if let Some(wait) = wait {
                response.headers_mut().insert("retry-after", wait.into());
            }
            response
        } else if self.spent {
            Refusal::new(403, "API rate limit exceeded for this installation.").into_response()
        } else {
            return None;
        };
        self.tell(response.headers_mut());
        Some(response)
    }

    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let Left { limit, used, reset } = self.left;
        headers.insert("x-ratelimit-limit", limit.into());
        headers.insert("x-ratelimit-remaining", (limit - used).into());
        headers.insert("x-ratelimit-used", used.into());
        headers.insert("x-ratelimit-reset", reset.into());
        headers.insert("x-ratelimit-resource", "core".parse().unwrap());
    }
}

/// `GET /rate_limit`
pub(super) async fn rate_limit(State(hub): State<Arc<Hub>>, Extension(_): Extension<Caller>) -> Json<Value> {
    let state = hub.api();
    let left = state.limits.callers.values().next().copied();
    let core = left.map(|left| {
        json!({ "limit": left.limit, "used": left.used, "remaining": left.limit - left.used, "reset": left.reset })
    });
    Json(json!({ "resources": { "core": core }, "rate": core }))
}

impl GitHub {
    /// Lets every caller make so many more requests, for an hour from its next one.
    pub fn limit_requests(&self, remaining: u64) {
        let mut state = self.hub.api();
        state.limits.callers.clear();
        state.limits.remaining = Some(remaining);
    }

    /// Lets an installation make no more requests for an hour.
    pub fn spend_requests_of(&self, installation: u64) {
        let left = Left { limit: 5000, used: 5000, reset: self.hub.clock.now() + HOUR };
        self.hub.api().limits.callers.insert(format!("installation {installation}"), left);
    }

    /// Answers nothing any more, as when something is broken.
    pub fn break_down(&self) {
        self.hub.api().limits.broken = true;
    }

    /// Has everybody wait for so many seconds. Whether they are told by `Retry-After` is the test's choice; GitHub does
    /// not always.
    pub fn pause_requests(&self, seconds: i64, told: bool) {
        let until = self.hub.clock.now() + seconds;
        self.hub.api().limits.pause = Some((until, told));
    }
}
