//! Who brought a path into a cache, as the API tells it and as a cache states it under its signature.

use serde::{Deserialize, Serialize};

use crate::{NarHash, StorePath, api::CacheName};

/// in-toto's statement, version 1: see <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What Larder states: who pushed.
pub const PUSH_PREDICATE: &str = "https://github.com/larder-nix/larder/attestations/push/v1";
/// SLSA's provenance: what a job says that it built, within what Larder states.
pub const SLSA_PREDICATE: &str = "https://slsa.dev/provenance/v1";

/// `GET /api/v1/caches/{cache}/paths/{hash}`: who brought a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The cache.
    pub cache: CacheName,
    /// The path.
    pub path: StorePath,
    /// The SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// The derivation that it was built from, as the push said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// When it became visible, such as `2026-09-22T12:00:00Z`.
    pub pushed_at: String,
    /// By whom.
    pub pushed_by: PushedBy,
    /// Whether the job said that it built the path itself. Nobody has checked that.
    #[serde(default)]
    pub reported_built: bool,
}

/// Whose push it was, by verified claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PushedBy {
    /// A job, by the claims of its ID token.
    Job(Box<PushingJob>),
    /// Whoever an issuer that knows no repositories calls so.
    Subject {
        /// Who vouched for it.
        issuer: String,
        /// What the issuer calls it.
        subject: String,
    },
    /// A job of a repository that is not public: more is told to those alone who have a person's token with the
    /// permission `read`, and to the repository's own jobs.
    Withheld {
        /// Who vouched for the job, where that is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
    },
    /// A person, by a token.
    Person {
        /// The token's name.
        name: String,
    },
    /// The service itself: it fetched the path.
    Prefetch {
        /// Where from: an upstream's URL, or that of a flake's input. It may name a host that is nobody's business: it is
        /// told to those alone who may push to the cache or administer it, or have a person's token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
}

/// A job that pushed. All of it was written by others: see [`crate::plain`] before showing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushingJob {
    /// Who vouched for it, where that is told: to everybody if the forge is everybody's, such as github.com.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `owner/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The ref that the workflow ran on.
    #[serde(rename = "ref")]
    pub git_ref: String,
    /// What started the workflow.
    pub event: String,
    /// The workflow's file and the ref that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The run.
    pub run: u64,
    /// Which attempt at it.
    pub attempt: u64,
    /// Where people see the run, if that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_url: Option<String>,
    /// Who started the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// An in-toto statement, as far as one must read it to check what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement<P> {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// What it is about: the path.
    pub subject: Vec<Subject>,
    /// What kind of thing is said.
    pub predicate_type: String,
    /// What is said.
    pub predicate: P,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The store path, with the store's directory.
    pub name: String,
    /// Its digest.
    pub digest: SubjectDigest,
}

/// A digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectDigest {
    /// The SHA-256 of its NAR, in hexadecimal.
    pub sha256: String,
}

impl Subject {
    /// A store path with its NAR.
    pub fn of(path: &StorePath, nar_hash: &NarHash) -> Self {
        let sha256 = data_encoding::HEXLOWER.encode(&nar_hash.0);
        Self { name: path.absolute(), digest: SubjectDigest { sha256 } }
    }

    /// The store path, and its NAR's hash; `None` if it is about something else.
    pub fn path(&self) -> Option<(StorePath, NarHash)> {
        let hash =
            format!("sha256:{}", self.digest.sha256).parse().ok().filter(|_| self.digest.sha256.len() == 64);
        Some((StorePath::from_absolute(&self.name).ok()?, hash?))
    }
}
