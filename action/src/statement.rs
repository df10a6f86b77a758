//! Statements about paths, as `larder why --json` prints them: what they must be to be believed.

use larder_protocol::{
    NarHash, PublicKey, StorePath,
    envelope::{Envelope, EnvelopeError},
    provenance::{PUSH_PREDICATE, Provenance, STATEMENT_TYPE, Statement},
};
use serde::Deserialize;

/// Why a statement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// It is no envelope.
    #[error("it is not what `larder why --json` prints ({0})")]
    Envelope(serde_json::Error),
    /// Nobody trusted has signed it.
    #[error(transparent)]
    Signature(#[from] EnvelopeError),
    /// It was signed, and says something else than who pushed a path.
    #[error("a trusted key has signed it, but it does not say who pushed a path ({0})")]
    Other(String),
}

/// A statement that a trusted key has signed.
#[derive(Debug)]
pub struct Checked {
    /// What it is about.
    pub path: StorePath,
    /// The NAR that was pushed.
    pub nar_hash: NarHash,
    /// Who pushed it.
    pub provenance: Provenance,
    /// The key.
    pub key: PublicKey,
}

/// What is stated, and what only a statement has.
#[derive(Deserialize)]
struct Predicate {
    #[serde(flatten)]
    provenance: Provenance,
    /// What the job said of itself.
    #[serde(default)]
    reported: Option<serde_json::Value>,
}

/// Checks a statement by `keys`. Nothing of it is looked at before its signature holds.
///
/// # Errors
/// When none of the keys has signed it, or it is about something else.
pub fn check(text: &[u8], keys: &[PublicKey]) -> Result<Checked, StatementError> {
    let envelope: Envelope = serde_json::from_slice(text).map_err(StatementError::Envelope)?;
    let (payload, key) = envelope.verify(keys)?;
    let other = |what: &str| StatementError::Other(what.to_owned());
    let statement: Statement<Predicate> =
        serde_json::from_slice(&payload).map_err(|error| other(&error.to_string()))?;
    if statement.kind != STATEMENT_TYPE || statement.predicate_type != PUSH_PREDICATE {
        return Err(other("it is of another type"));
    }
    let [subject] = statement.subject.as_slice() else { return Err(other("it is not about one path")) };
    let (path, nar_hash) = subject.path().ok_or_else(|| other("its subject is no store path"))?;
    let Predicate { mut provenance, reported } = statement.predicate;
    if provenance.path != path || provenance.nar_hash != nar_hash {
        return Err(other("its parts are about different paths"));
    }
    provenance.reported_built = reported.is_some();
    Ok(Checked { path, nar_hash, provenance, key: key.clone() })
}
