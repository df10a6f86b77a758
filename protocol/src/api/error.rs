//! How a request is refused.

use serde::{Deserialize, Serialize};

use crate::StorePath;

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
