//! Who asks: an App by its own token, an installation by its access token, or nobody in particular.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::header::{AUTHORIZATION, USER_AGENT},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::Value;

use super::{
    API, Refusal,
    model::{self, Repository, Token},
};
use crate::github::Hub;

/// The longest that an App's own token may live.
const MAX_JWT: i64 = 600;

/// Whose request it is.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    Nobody,
    App(u64),
    Installation(Token),
}

#[derive(Deserialize)]
struct AppClaims {
    iss: Value,
    iat: i64,
    exp: i64,
}

/// Looks who asks, and whether they may still ask.
pub(super) async fn identify(State(hub): State<Arc<Hub>>, mut request: Request, next: Next) -> Response {
    let page = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let page = page.strip_prefix(API).unwrap_or(&page).to_owned();
    if !request.headers().contains_key(USER_AGENT) {
        return Refusal::new(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header").into_response();
    }
    let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let now = hub.clock.now();
    let (caller, limit) = {
        let mut state = hub.api();
        let caller = match caller(&state, sent.as_deref(), now) {
            Ok(caller) => caller,
            Err(refusal) => {
                state.requests.push(format!("nobody known: {} {page}", request.method()));
                return refusal.into_response();
            }
        };
        let who = match &caller {
            Caller::Nobody => "nobody".to_owned(),
            Caller::App(_) => "app".to_owned(),
            Caller::Installation(token) => format!("installation {}", token.installation),
        };
        state.requests.push(format!("{who}: {} {page}", request.method()));
        if state.limits.broken {
            return Refusal::new(502, "Server Error").into_response();
        }
        let limit = state.limits.take(&who, matches!(caller, Caller::Nobody), now);
        (caller, limit)
    };
    if let Some(refused) = limit.refusal() {
        return refused;
    }
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    limit.tell(response.headers_mut());
    response
}

fn caller(state: &model::State, sent: Option<&str>, now: i64) -> Result<Caller, Refusal> {
    let Some(sent) = sent else { return Ok(Caller::Nobody) };
    let token = match sent.split_once(' ') {
        Some((scheme, token)) if ["bearer", "token"].contains(&scheme.to_ascii_lowercase().as_str()) => token,
        _ => return Err(Refusal::new(401, "Bad credentials")),
    };
    if token.matches('.').count() == 2 {
        return app(state, token, now).map(Caller::App);
    }
    match state.tokens.get(token) {
        Some(token) if token.expires_at > now => Ok(Caller::Installation(token.clone())),
        _ => Err(Refusal::new(401, "Bad credentials")),
    }
}

/// The App that made a token: signed RS256 with its key, made not in the future, and for ten minutes at most.
fn app(state: &model::State, token: &str, now: i64) -> Result<u64, Refusal> {
    let mut validation = Validation::new(Algorithm::RS256);
    // By the stand-in's own clock, below.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "iss"]);
    for app in &state.apps {
        let key = DecodingKey::from_rsa_pem(app.key.public_pem().as_bytes()).unwrap();
        let Ok(data) = decode::<AppClaims>(token, &key, &validation) else { continue };
        let AppClaims { iss, iat, exp } = data.claims;
        let id = app.id.to_string();
        if iss.as_str() != Some(&id) && iss.as_u64() != Some(app.id) {
            continue;
        }
        if exp <= now {
            return Err(Refusal::new(
                401,
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
            ));
        }
        if exp > now + MAX_JWT {
            return Err(Refusal::new(401, "'Expiration time' claim ('exp') is too far in the future"));
        }
        if iat > now {
            return Err(Refusal::new(
                401,
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            ));
        }
        return Ok(app.id);
    }
    Err(Refusal::new(401, "A JSON web token could not be decoded"))
}

impl Caller {
    /// The App, where its own token is asked for.
    pub(super) fn app(&self) -> Result<u64, Refusal> {
        match self {
            Self::App(id) => Ok(*id),
            _ => Err(Refusal::new(401, "A JSON web token could not be decoded")),
        }
    }

    /// The repository, where whoever asks may do that with it. `None`: everybody may who sees it.
    pub(super) fn reach<'a>(
        &self,
        state: &'a model::State,
        name: &str,
        needs: Option<(&str, &str)>,
    ) -> Result<&'a Repository, Refusal> {
        let repository = state.repository(name).ok_or_else(Refusal::not_found)?;
        let Self::Installation(token) = self else {
            let seen = !repository.private && matches!(self, Self::Nobody);
            let for_all = needs.is_none_or(|needs| needs == ("contents", "read"));
            return match (seen, for_all) {
                (true, true) => Ok(repository),
                (true, false) => Err(Refusal::new(401, "Requires authentication")),
                (false, _) => Err(Refusal::not_found()),
            };
        };
        let installation = state.installations.iter().find(|known| known.id == token.installation);
        let covered = installation.is_some_and(|known| known.owner.eq_ignore_ascii_case(repository.owner()))
            && token.repositories.as_ref().is_none_or(|covered| covered.contains(&repository.id));
        let permitted = needs.is_none_or(|needs| token.permits(needs));
        match (covered, permitted) {
            (true, true) => Ok(repository),
            // What everybody may, it may too.
            _ if !repository.private && needs == Some(("contents", "read")) => Ok(repository),
            (false, _) if repository.private => Err(Refusal::not_found()),
            _ => Err(forbidden(needs)),
        }
    }

    /// That an organisation's installation may do that.
    pub(super) fn reach_owner(
        &self,
        state: &model::State,
        owner: &str,
        needs: (&str, &str),
    ) -> Result<(), Refusal> {
        let Self::Installation(token) = self else { return Err(Refusal::not_found()) };
        let installation = state.installations.iter().find(|known| known.id == token.installation);
        if !installation.is_some_and(|known| known.owner.eq_ignore_ascii_case(owner)) {
            return Err(Refusal::not_found());
        }
        if token.permits(needs) { Ok(()) } else { Err(forbidden(Some(needs))) }
    }
}

fn forbidden(needs: Option<(&str, &str)>) -> Refusal {
    let mut refusal = Refusal::new(403, "Resource not accessible by integration");
    refusal.needs = needs.map(|(name, level)| format!("{name}={level}"));
    refusal
}

impl Token {
    fn permits(&self, (name, level): (&str, &str)) -> bool {
        self.permissions.get(name).is_some_and(|has| has == "write" || has == level)
    }
}
