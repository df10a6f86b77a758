//! Repositories, and the files in them.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64_MIME;
use serde_json::{Value, json};

use super::{Refusal, caller::Caller, paging::Query};
use crate::github::Hub;

/// What is longer, GitHub does not give in this way.
const MAX_FILE: usize = 100 << 20;

/// `GET /repos/{owner}/{name}`
pub(super) async fn repository(
    State(hub): State<Arc<Hub>>,
    Path((owner, name)): Path<(String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let state = hub.api();
    let repository = caller.reach(&state, &format!("{owner}/{name}"), None)?;
    Ok(Json(json!({
        "id": repository.id,
        "full_name": repository.name,
        "private": repository.private,
        "default_branch": "main",
        "owner": { "login": repository.owner(), "id": 5_917_224 },
    })))
}

/// `GET /repos/{owner}/{name}/contents/{path}`
pub(super) async fn contents(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, path)): Path<(String, String, String)>,
    query: Query,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let state = hub.api();
    let repository = caller.reach(&state, &format!("{owner}/{name}"), Some(("contents", "read")))?;
    let at = query.get("ref").map(String::as_str);
    let no_commit = || Refusal::new(404, format!("No commit found for the ref {}", at.unwrap_or("main")));
    let sha = repository.commit(at).ok_or_else(no_commit)?;
    let file = repository.trees[sha].get(&path).ok_or_else(Refusal::not_found)?;
    if file.len() > MAX_FILE {
        return Err(Refusal::new(403, "This API returns blobs up to 100 MB in size."));
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.starts_with("application/vnd.github.") && accept.contains("raw") {
        let kind = [(header::CONTENT_TYPE, "application/vnd.github.raw+json; charset=utf-8")];
        return Ok((kind, file.clone()).into_response());
    }
    let answer = json!({
        "type": "file", "encoding": "base64", "size": file.len(), "path": path, "name": path.rsplit('/').next(),
        "content": BASE64_MIME.encode(file).replace("\r\n", "\n"),
    });
    Ok(Json(answer).into_response())
}
