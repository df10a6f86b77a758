//! Tarballs: the API and the web pages send to where they are made.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};

use super::{
    Refusal,
    caller::Caller,
    found,
    model::{Repository, Tree},
    paging::Query,
};
use crate::github::Hub;

/// `GET /repos/{owner}/{name}/tarball/{ref}`
pub(super) async fn tarball(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, at)): Path<(String, String, String)>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let state = hub.api();
    let repository = caller.reach(&state, &format!("{owner}/{name}"), Some(("contents", "read")))?;
    // GitHub sends there without looking whether there is such a commit.
    Ok(found(codeload_of(&hub, repository, "legacy.tar.gz", &at)))
}

/// `GET https://github.com/{owner}/{name}/archive/{ref}.tar.gz`, which knows no App.
pub(super) async fn archive(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, file)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let state = hub.api();
    let at = file.strip_suffix(".tar.gz").ok_or_else(Refusal::not_found)?;
    let repository = Caller::Nobody.reach(&state, &format!("{owner}/{name}"), None)?;
    Ok(found(codeload_of(&hub, repository, "tar.gz", at)))
}

fn codeload_of(hub: &Hub, repository: &Repository, form: &str, at: &str) -> String {
    let token = match repository.private {
        true => format!("?token={}", repository.archive_token),
        false => String::new(),
    };
    format!("{}/codeload/{}/{form}/{at}{token}", hub.origin, repository.name)
}

/// `GET https://codeload.github.com/{owner}/{name}/{form}/{ref}`: asked without a credential.
pub(super) async fn codeload(
    State(hub): State<Arc<Hub>>,
    Path((owner, name, form, at)): Path<(String, String, String, String)>,
    query: Query,
) -> Result<Response, Refusal> {
    let state = hub.api();
    let repository = state.repository(&format!("{owner}/{name}")).ok_or_else(Refusal::not_found)?;
    if repository.private && query.get("token") != Some(&repository.archive_token) {
        return Err(Refusal::not_found());
    }
    let sha = repository.commit(Some(&at)).ok_or_else(Refusal::not_found)?;
    let folder = match form.as_str() {
        "legacy.tar.gz" => format!("{owner}-{name}-{}", sha.get(..7).unwrap_or(sha)),
        "tar.gz" => format!("{name}-{at}"),
        _ => return Err(Refusal::not_found()),
    };
    let packed = pack(&folder, &repository.trees[sha]);
    Ok(([(header::CONTENT_TYPE, "application/x-gzip")], packed).into_response())
}

/// A tree below one folder.
fn pack(folder: &str, tree: &Tree) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, bytes) in tree {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o664);
        header.set_mtime(1_700_000_000);
        archive.append_data(&mut header, format!("{folder}/{path}"), bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}
