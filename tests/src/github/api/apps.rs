//! Apps, where they are installed, and the tokens of their installations.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Refusal,
    caller::Caller,
    model::{self, Installation, Permissions, RepositoryId, Token, secret},
    paging::{self, Query},
    time,
};
use crate::github::Hub;

const HOUR: i64 = 60 * 60;

/// `GET /app`
pub(super) async fn app(
    State(hub): State<Arc<Hub>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let id = caller.app()?;
    let state = hub.api();
    let app = state.apps.iter().find(|app| app.id == id).ok_or_else(Refusal::not_found)?;
    Ok(Json(json!({ "id": id, "slug": "larder", "name": "Larder", "permissions": app.permissions })))
}

/// `GET /app/installations`
pub(super) async fn installations(
    State(hub): State<Arc<Hub>>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let id = caller.app()?;
    let state = hub.api();
    let all = state.installations.iter().filter(|known| known.app == id).map(shown).collect();
    let (these, next) = paging::by_number(&query, all);
    Ok(paging::answer(&hub.origin, &uri, &query, these.into(), next))
}

/// `GET /repos/{owner}/{name}/installation`
pub(super) async fn installation_of_repository(
    State(hub): State<Arc<Hub>>,
    Path((owner, name)): Path<(String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let id = caller.app()?;
    let state = hub.api();
    let repository = state.repository(&format!("{owner}/{name}")).ok_or_else(Refusal::not_found)?;
    let covers = |known: &&Installation| {
        known.app == id
            && known.owner.eq_ignore_ascii_case(repository.owner())
            && known.repositories.as_ref().is_none_or(|covered| covered.contains(&repository.id))
    };
    state.installations.iter().find(covers).map(|known| Json(shown(known))).ok_or_else(Refusal::not_found)
}

/// `GET /orgs/{owner}/installation`
pub(super) async fn installation_of_owner(
    hub: State<Arc<Hub>>,
    owner: Path<String>,
    caller: Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    if hub.api().users.contains(&owner.0) {
        return Err(Refusal::not_found());
    }
    installation_of_account(hub, owner, caller).await
}

/// `GET /installation/repositories`
pub(super) async fn covered(
    State(hub): State<Arc<Hub>>,
    uri: Uri,
    query: Query,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let Caller::Installation(token) = caller else {
        return Err(Refusal::new(403, "Requires an installation"));
    };
    let state = hub.api();
    let known = state.installations.iter().find(|known| known.id == token.installation);
    let owner = known.map(|known| known.owner.clone()).ok_or_else(Refusal::not_found)?;
    let kind = if state.users.contains(&owner) { "User" } else { "Organization" };
    let covered = state.repositories.iter().filter(|repository| {
        repository.owner().eq_ignore_ascii_case(&owner)
            && token.repositories.as_ref().is_none_or(|covered| covered.contains(&repository.id))
    });
    let all: Vec<Value> = covered
        .map(|repository| {
            json!({
                "id": repository.id, "full_name": repository.name, "private": repository.private,
                "owner": { "login": owner, "type": kind },
            })
        })
        .collect();
    let count = all.len();
    let (these, next) = paging::by_number(&query, all);
    Ok(paging::answer(
        &hub.origin,
        &uri,
        &query,
        json!({ "total_count": count, "repositories": these }),
        next,
    ))
}

/// `GET /users/{owner}/installation`, which knows organisations too.
pub(super) async fn installation_of_account(
    State(hub): State<Arc<Hub>>,
    Path(owner): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let id = caller.app()?;
    let state = hub.api();
    let of = |known: &&Installation| known.app == id && known.owner.eq_ignore_ascii_case(&owner);
    state.installations.iter().find(of).map(|known| Json(shown(known))).ok_or_else(Refusal::not_found)
}

fn shown(known: &Installation) -> Value {
    let selection = if known.repositories.is_some() { "selected" } else { "all" };
    json!({
        "id": known.id,
        "app_id": known.app,
        "account": { "login": known.owner },
        "repository_selection": selection,
        "permissions": known.permissions,
        "suspended_at": known.suspended_at.map(time),
    })
}

/// What a token is to be narrowed to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Narrowed {
    #[serde(default)]
    repositories: Option<Vec<String>>,
    #[serde(default)]
    repository_ids: Option<BTreeSet<RepositoryId>>,
    #[serde(default)]
    permissions: Option<Permissions>,
}

/// `POST /app/installations/{id}/access_tokens`
pub(super) async fn access_token(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<u64>,
    Extension(caller): Extension<Caller>,
    narrowed: Option<Json<Narrowed>>,
) -> Result<Response, Refusal> {
    let app = caller.app()?;
    let now = hub.clock.now();
    let mut state = hub.api();
    let installation = state.installations.iter().find(|known| known.id == id && known.app == app);
    let installation = installation.cloned().ok_or_else(Refusal::not_found)?;
    if installation.suspended_at.is_some() {
        return Err(Refusal::new(403, "This installation has been suspended"));
    }
    let narrowed = narrowed.map(|Json(narrowed)| narrowed).unwrap_or_default();
    let repositories = narrow(&state, &installation, &narrowed)?;
    let permissions = narrowed.permissions.unwrap_or_else(|| installation.permissions.clone());
    let granted =
        permissions.iter().map(|(name, level)| (name.as_str(), level.as_str())).all(|(name, level)| {
            // That much every App may.
            (name, level) == ("metadata", "read")
                || installation.permissions.get(name).is_some_and(|has| has == "write" || has == level)
        });
    if !granted {
        return Err(Refusal::new(422, "The permissions requested are not granted to this installation."));
    }
    let token = format!("ghs_{}", secret());
    let expires_at = now + HOUR;
    let answer = json!({
        "token": token,
        "expires_at": time(expires_at),
        "permissions": permissions,
        "repository_selection": if repositories.is_some() { "selected" } else { "all" },
    });
    state.tokens.insert(token, Token { installation: id, repositories, permissions, expires_at });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn narrow(
    state: &model::State,
    installation: &Installation,
    narrowed: &Narrowed,
) -> Result<Option<BTreeSet<RepositoryId>>, Refusal> {
    let unknown = || {
        Refusal::new(
            422,
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        )
    };
    let mut wanted = narrowed.repository_ids.clone();
    if let Some(names) = &narrowed.repositories {
        let number = |name: &String| {
            let name = format!("{}/{name}", installation.owner);
            state.repository(&name).map(|repository| repository.id).ok_or_else(unknown)
        };
        wanted.get_or_insert_default().extend(names.iter().map(number).collect::<Result<BTreeSet<_>, _>>()?);
    }
    let Some(wanted) = wanted else { return Ok(installation.repositories.clone()) };
    let accessible = |id: &RepositoryId| {
        let repository = state.repositories.iter().find(|repository| repository.id == *id);
        repository.is_some_and(|repository| repository.owner().eq_ignore_ascii_case(&installation.owner))
            && installation.repositories.as_ref().is_none_or(|covered| covered.contains(id))
    };
    if wanted.iter().all(accessible) { Ok(Some(wanted)) } else { Err(unknown()) }
}
