//! Pushing: what opens a push, and what each of its requests is answered.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ChunkId, NarHash, Signature, StorePath, StorePathHash};

/// The most chunks that one question or one upload may name.
pub const MAX_CHUNKS_ASKED: usize = 65_536;

/// The most paths that one push may have.
pub const MAX_PUSHED_PATHS: usize = 50_000;

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

crate::serde_as_text!(PushId);

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
