//! Pages of a list: by number, or by a cursor. What comes next is told by `Link`.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderValue, Uri},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::API;

pub(super) type Query = axum::extract::Query<BTreeMap<String, String>>;

pub(super) fn per_page(query: &Query) -> usize {
    query.get("per_page").and_then(|text| text.parse().ok()).unwrap_or(30).clamp(1, 100)
}

/// The page of that number, from 1 on.
pub(super) fn by_number(query: &Query, all: Vec<Value>) -> (Vec<Value>, Option<(&'static str, String)>) {
    let page: usize = query.get("page").and_then(|text| text.parse().ok()).unwrap_or(1).max(1);
    let per_page = per_page(query);
    let more = all.len() > page * per_page;
    let these = all.into_iter().skip((page - 1) * per_page).take(per_page).collect();
    (these, more.then(|| ("page", (page + 1).to_string())))
}

/// A list of things that have numbers, the newest first: those older than the cursor says.
pub(super) fn by_cursor(
    query: &Query,
    longest: Option<usize>,
    all: Vec<Value>,
) -> (Vec<Value>, Option<(&'static str, String)>) {
    let before = query.get("cursor").and_then(|cursor| cursor.strip_prefix("v1_")?.parse::<u64>().ok());
    let older = |value: &Value| before.is_none_or(|before| value["id"].as_u64().unwrap() < before);
    let mut these: Vec<Value> = all.into_iter().filter(older).collect();
    let per_page = per_page(query).min(longest.unwrap_or(usize::MAX));
    let more = these.len() > per_page;
    these.truncate(per_page);
    let last = these.last().and_then(|value| value["id"].as_u64()).unwrap_or_default();
    (these, more.then(|| ("cursor", format!("v1_{last}"))))
}

/// An answer that tells where the next page is. The router has taken the prefix off the page.
pub(super) fn answer(
    origin: &str,
    uri: &Uri,
    query: &Query,
    body: Value,
    next: Option<(&'static str, String)>,
) -> Response {
    let mut response = Json(body).into_response();
    if let Some((key, value)) = next {
        let mut query = query.0.clone();
        query.insert(key.to_owned(), value);
        let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let link = format!("<{origin}{API}{}?{}>; rel=\"next\"", uri.path(), query.join("&"));
        response.headers_mut().insert("link", HeaderValue::from_str(&link).unwrap());
    }
    response
}
