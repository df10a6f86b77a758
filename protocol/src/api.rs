//! The types of the API, version 1. JSON, but for frames ([`crate::upload`]), recipes
//! ([`crate::recipe`]) and the question which chunks are missing ([`encode_missing`]).
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /api/v1/token` | [`TokenRequest`] | [`TokenAnswer`] |
//! | `DELETE /api/v1/token` | | 204; the session token of the request is worth nothing from then on |
//! | `GET /api/v1/caches/{cache}` | | [`CacheInfo`] |
//! | `GET /api/v1/caches/{cache}/paths/{hash}` | | [`crate::provenance::Provenance`] |
//! | `GET /api/v1/caches/{cache}/paths/{hash}/statement` | | [`crate::envelope::Envelope`] |
//! | `POST /api/v1/caches/{cache}/pushes` | [`OpenPush`] | [`OpenedPush`] |
//! | `POST /api/v1/caches/{cache}/pushes/{push}/missing-chunks` | chunk names, 32 bytes each | one bit each, [`encode_missing`] |
//! | `POST /api/v1/caches/{cache}/pushes/{push}/frames` | [`crate::upload`] | [`UploadAnswer`] |
//! | `POST /api/v1/caches/{cache}/pushes/{push}/recipes` | [`crate::recipe`] | [`RecipesAnswer`] |
//! | `POST /api/v1/caches/{cache}/pushes/{push}/commit` | | [`CommittedPush`] |
//! | `GET /api/v1/caches/{cache}/pins` | | [`Pins`] |
//! | `PUT /api/v1/caches/{cache}/pins/{name}` | [`PinRequest`] | 204 |
//! | `DELETE /api/v1/caches/{cache}/pins/{name}` | | 204 |
//! | `POST /api/v1/caches/{cache}/manifests` | [`crate::manifest::ReportManifest`] | 204 |
//! | `GET /api/v1/repositories/{owner}/{name}/manifests?ref=…` | | [`crate::manifest::Manifests`] |
//! | `POST /api/v1/prefetches` | [`crate::prefetch::AskPrefetch`] | 202, [`crate::prefetch::Prefetch`] |
//! | `GET /api/v1/prefetches/{id}` | | [`crate::prefetch::Prefetch`] |
//!
//! The first needs no `Authorization: Bearer <token>`, nor do those that read from a public cache. Whatever is refused is
//! answered with an [`ErrorAnswer`].

mod cache;
mod error;
mod pins;
mod push;
mod token;

pub use self::{
    cache::{CacheInfo, CacheName, InvalidCacheName, Upstream},
    error::{ErrorAnswer, ErrorCode},
    pins::{InvalidPinName, Pin, PinName, PinRequest, Pins},
    push::{
        CommittedPush, Divergence, InvalidPushId, MAX_CHUNKS_ASKED, MAX_PUSHED_PATHS, OpenPush, OpenedPush,
        PathInfo, PushId, RecipesAnswer, RefusedPath, RejectedRecipe, Replacement, UploadAnswer,
        encode_missing, is_missing,
    },
    token::{Permission, TokenAnswer, TokenRequest},
};

/// The version of the API that this crate describes.
pub const API_VERSION: u32 = 1;
