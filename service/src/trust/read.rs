//! Who may read a cache.

use std::sync::Arc;

use http::HeaderMap;
use larder_protocol::api::{CacheName, Permission};

use super::authorize;
use crate::{
    Service,
    caches::{self, Cache},
};

/// The cache of that name, if this request may read it: a public one always, a private one with a token that permits
/// it. A pull request's own is what its parent is.
///
/// Nothing of a cache is looked up before. Who may not read a private cache cannot tell it from none at all: for both
/// the same is done, the token (if one was brought) looked up, and the same is answered.
pub async fn readable(service: &Service, headers: &HeaderMap, name: &str) -> Option<Arc<Cache>> {
    let name: CacheName = name.parse().ok()?;
    let configured = name.isolation().map_or(name.as_str(), |(parent, _)| parent);
    let public = service.caches.named(configured).is_some_and(|cache| cache.is_public());
    if !public && !permits_reading(service, headers, &name).await {
        return None;
    }
    // None either where the database cannot tell, since Nix builds then.
    caches::find(service, &name).await.ok()?
}

/// Whether the request brought a token that permits reading a cache of that name, whether or not there is one.
pub async fn permits_reading(service: &Service, headers: &HeaderMap, name: &CacheName) -> bool {
    // Nix sends what its netrc has for the host to every cache there: a token that is good for nothing is no error.
    // Whatever goes wrong with it is logged where it arises.
    authorize(service, headers, name, Permission::Read).await.is_ok()
}
