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

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ChunkId, NarHash, PublicKey, Signature, StorePath, StorePathHash};

/// The version of the API that this crate describes.
pub const API_VERSION: u32 = 1;

/// The most chunks that one question or one upload may name.
pub const MAX_CHUNKS_ASKED: usize = 65_536;

/// The most paths that one push may have.
pub const MAX_PUSHED_PATHS: usize = 50_000;

/// A cache's name: 1 to 64 of lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or
/// digit. That of a pull request's own cache has `~<repository id>-pr-<number>` behind its parent's; the service
/// alone makes such names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheName(String);

/// What is no cache name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a cache name (1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit)")]
pub struct InvalidCacheName(String);

impl FromStr for CacheName {
    type Err = InvalidCacheName;

    fn from_str(text: &str) -> Result<Self, InvalidCacheName> {
        let fits = match text.split_once('~') {
            None => is_plain_name(text),
            Some((parent, pull_request)) => is_plain_name(parent) && is_pull_request(pull_request),
        };
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidCacheName(text.chars().take(100).collect())) }
    }
}

fn is_plain_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b"-_.".contains(&b))
        && text != "api"
}

/// `<repository id>-pr-<number>`, written in the only way that these numbers have.
fn is_pull_request(text: &str) -> bool {
    let number = |digits: &str| {
        !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.parse::<u64>().is_ok()
    };
    text.split_once("-pr-")
        .is_some_and(|(repository, pull_request)| number(repository) && number(pull_request))
}

impl CacheName {
    /// The name of a pull request's own cache. The repository is meant by its numeric id.
    ///
    /// # Errors
    /// When `parent` is such a cache itself, or a number is 0.
    pub fn isolated(parent: &Self, repository_id: u64, pull_request: u64) -> Result<Self, InvalidCacheName> {
        format!("{parent}~{repository_id}-pr-{pull_request}").parse()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a pull request's own cache: the name of its parent, and what stands behind it.
    pub fn isolation(&self) -> Option<(&str, &str)> {
        self.0.split_once('~')
    }
}

impl std::borrow::Borrow<str> for CacheName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A push's name: 16 random bytes in hexadecimal. Only the identity that opened it can use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushId(pub [u8; 16]);

/// What is no push's name.
#[derive(Debug, thiserror::Error)]
#[error("not a push's name (32 hexadecimal digits)")]
pub struct InvalidPushId;

impl FromStr for PushId {
    type Err = InvalidPushId;

    fn from_str(text: &str) -> Result<Self, InvalidPushId> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidPushId)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPushId)
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pin's name: 1 to 64 of letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PinName(String);

/// What is no pin's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a pin's name (1 to 64 of a-z, A-Z, 0-9, '-', '_', '.', beginning with a letter or digit)"
)]
pub struct InvalidPinName(String);

impl FromStr for PinName {
    type Err = InvalidPinName;

    fn from_str(text: &str) -> Result<Self, InvalidPinName> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidPinName(text.chars().take(100).collect())) }
    }
}

impl PinName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(CacheName, PinName, PushId);

/// Asks for a session token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The ID token of the job, for the service's audience.
    pub id_token: String,
    /// The cache to push to.
    pub cache: CacheName,
}

/// A session token and what it may do.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// Opaque; a secret. To be sent as `Authorization: Bearer`.
    pub token: String,
    /// Seconds until the token ends.
    pub expires_in: u64,
    /// What the token permits in the cache.
    pub permissions: Vec<Permission>,
    /// The cache that the token is for.
    pub cache: CacheInfo,
}

/// What a grant may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Bring paths into the cache.
    Push,
    /// Have the cache keep paths, and let them go again.
    Pin,
    /// Read from a cache that is not public.
    Read,
    /// Change what the cache has on purpose: replace a path, for one.
    Admin,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Pin => "pin",
            Self::Read => "read",
            Self::Admin => "admin",
        })
    }
}

/// What a reader or a client must know of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// The version of the API that the service speaks.
    pub api: u32,
    /// The cache's name.
    pub name: CacheName,
    /// Whether everybody may read it; if not, Nix needs a token, as password in its netrc.
    #[serde(default = "everybody_reads")]
    pub public: bool,
    /// The URL for Nix's `substituters`, without a slash at its end.
    pub url: String,
    /// As in `nix-cache-info`.
    pub store_dir: String,
    /// As in `nix-cache-info`.
    pub priority: u32,
    /// The keys that sign the cache's paths, for Nix's `trusted-public-keys`.
    pub public_keys: Vec<PublicKey>,
    /// The binary caches whose paths need not be pushed here.
    pub upstreams: Vec<Upstream>,
}

/// Unless a service says otherwise.
fn everybody_reads() -> bool {
    true
}

/// Another binary cache that paths may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its URL, as in Nix's `substituters`.
    pub url: String,
    /// The keys that sign its paths.
    pub public_keys: Vec<PublicKey>,
}

/// What a narinfo says of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// The store paths that it refers to, itself included if it does, sorted.
    pub references: Vec<StorePath>,
    /// The derivation that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// The content address, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What others have signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

/// Opens a push. (A service passes over fields that it does not know: clients may be newer.)
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct OpenPush {
    /// The whole closure: every path that a root needs and an upstream does not surely have.
    pub paths: Vec<PathInfo>,
    /// What retention shall keep: paths of the closure.
    pub roots: Vec<StorePath>,
    /// Paths of the closure that are to stand whatever the cache has in their place. Needs the permission `admin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replace: Vec<StorePath>,
    /// What of the closure the job says that it built itself. Kept with the paths, as said and not checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub built: Vec<StorePathHash>,
}

/// An open push, and what the service has of it. From here on all that it has is leased.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenedPush {
    /// The name for the requests that follow.
    pub push: PushId,
    /// Paths whose NARs are to be sent: recipes, and the chunks that are missing.
    pub missing: Vec<StorePathHash>,
    /// Paths that the cache lacks but whose NARs it has: nothing is to be sent.
    pub reused: Vec<StorePathHash>,
    /// Paths that the cache has. (With another NAR hash: see `divergences` at commit.)
    pub present: Vec<StorePathHash>,
    /// Paths that an upstream has. (With another NAR hash: see `divergences` at commit.)
    pub upstream: Vec<StorePathHash>,
    /// Paths that are not what they claim to be, and are not taken. What refers to them cannot be published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPath>,
    /// The largest body that the service takes, in bytes.
    pub max_body: u64,
    /// Present if nothing was missing, and the push therefore is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommittedPush>,
}

/// A path that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPath {
    /// The path.
    pub path: StorePath,
    /// Why, as a sentence.
    pub reason: String,
}

/// What of an upload is durable.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UploadAnswer {
    /// Chunks that came with this body and are now stored.
    pub stored: u64,
    /// Chunks of this body that were here already.
    pub present: u64,
}

/// Which recipes hold.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RecipesAnswer {
    /// NARs that were read back and have the structure, size and SHA-256 that were claimed.
    pub verified: Vec<NarHash>,
    /// NARs that are not, each with its reason.
    pub rejected: Vec<RejectedRecipe>,
}

/// A recipe that does not hold.
#[derive(Debug, Serialize, Deserialize)]
pub struct RejectedRecipe {
    /// The NAR that it was for.
    pub nar_hash: NarHash,
    /// Why, as a sentence.
    pub reason: String,
    /// Chunks that it names and nobody has; at most 1,000 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_chunks: Vec<ChunkId>,
}

/// What a push published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedPush {
    /// How many paths became visible by this push.
    pub published: u64,
    /// The cache's signatures of the paths that this push published.
    pub signatures: BTreeMap<StorePath, Vec<Signature>>,
    /// Paths that the cache has with another content and keeps as they were, or that an upstream has signed with
    /// another content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divergences: Vec<Divergence>,
    /// Paths that the cache had with another content, which this push has replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replacements: Vec<Replacement>,
}

/// A path that was pushed with another content, or other references, than what stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The path.
    pub path: StorePath,
    /// The NAR that stands. The same as was pushed where the references alone differ.
    pub kept: NarHash,
    /// The NAR that was pushed.
    pub pushed: NarHash,
    /// The URL of the upstream that has signed `kept`; none where the cache has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

/// A path that the cache had with another content, brought by a push of lower rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The path.
    pub path: StorePath,
    /// The NAR that the cache had.
    pub replaced: NarHash,
    /// The NAR that it has now.
    pub pushed: NarHash,
}

/// Has a path kept under a name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// The path, which the cache must have.
    pub path: StorePath,
    /// For how many seconds. Without it, until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
    /// How many of the paths that were pinned under this name stay pinned, this one included.
    #[serde(default = "one")]
    pub keep: u32,
}

fn one() -> u32 {
    1
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name. Several paths may be pinned by one: the first that is listed is the newest.
    pub name: PinName,
    /// What it keeps.
    pub path: StorePath,
    /// When it was made, in seconds since 1970.
    pub pinned_at: i64,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// The pins of a cache, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pins {
    /// Of each name the newest first.
    pub pins: Vec<Pin>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// For programs.
    pub error: ErrorCode,
    /// For people: what is wrong and what to do about it.
    pub message: String,
    /// References that neither the cache, nor the push, nor an upstream has; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_references: Vec<StorePath>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// 400: the request cannot be read.
    BadRequest,
    /// 401: no token, or one that is not valid (any more).
    Unauthorized,
    /// 403: the token is valid, but nothing grants this.
    Denied,
    /// 404: no such cache, push or page.
    NotFound,
    /// 409: the push is in a state in which this cannot be.
    Conflict,
    /// 413: the body is larger than `max_body`.
    TooLarge,
    /// 422: what was sent does not hold: a wrong hash, size, structure, a missing reference.
    Invalid,
    /// 429: too many requests of this kind; never on reads.
    TooMany,
    /// 500: a fault of the service.
    Internal,
    /// 503: the service cannot now; `Retry-After` says when.
    Unavailable,
    /// 507: the service has no room for what is sent; trying again soon is of no use.
    NoSpace,
    /// Of a newer service.
    #[serde(other)]
    Other,
}

/// One bit for each chunk that was asked about, set where it is missing; the first chunk in the lowest bit of
/// the first byte.
pub fn encode_missing(missing: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut bits = vec![0u8; missing.len().div_ceil(8)];
    for (position, missing) in missing.enumerate() {
        bits[position / 8] |= u8::from(missing) << (position % 8);
    }
    bits
}

/// Whether the chunk at `position` of the question is missing; `None` beyond the answer's end.
pub fn is_missing(bits: &[u8], position: usize) -> Option<bool> {
    bits.get(position / 8).map(|byte| byte >> (position % 8) & 1 == 1)
}
