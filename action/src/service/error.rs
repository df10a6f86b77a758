//! Why the service could not be had, or what it refused; each with what to do about it.

use http::StatusCode;
use larder_protocol::api::{API_VERSION, ErrorAnswer, ErrorCode, Permission};

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A token would go over an open line.
    #[error(
        "{0} is neither https nor on this machine's loopback: tokens are not sent there; use an https:// URL"
    )]
    Insecure(String),
    /// A user name or password in the URL.
    #[error(
        "the service's URL has a user name or password in it; give the token by LARDER_TOKEN or --token-file"
    )]
    UserInfo,
    /// No answer, in spite of several tries.
    #[error("{what} failed: {reason}{}", hint(.origin))]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// Where: an origin.
        origin: String,
        /// How it failed the last time.
        reason: String,
    },
    /// The connection broke again and again while a body was sent that can be made smaller.
    #[error("{what} failed: {reason}")]
    Cut {
        /// What was tried.
        what: &'static str,
        /// How it failed the last time.
        reason: String,
    },
    /// The service says no.
    #[error("{what} was refused: {}{}", .answer.message, list(.answer))]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The status.
        status: StatusCode,
        /// What the service says.
        answer: Box<ErrorAnswer>,
    },
    /// An answer that is not of Larder's making: of a proxy in front, or of something else altogether.
    #[error("{what} was answered {status} by something that is not larderd: {}", foreign(*.status, .origin))]
    Foreign {
        /// What was tried.
        what: &'static str,
        /// Where: an origin.
        origin: String,
        /// The status.
        status: StatusCode,
    },
    /// An answer that cannot be read.
    #[error(
        "{what}: the answer of {origin} cannot be read ({reason}); are larderd and larder of the same version? (this is larder {}, API {API_VERSION})",
        env!("CARGO_PKG_VERSION")
    )]
    Unreadable {
        /// What was tried.
        what: &'static str,
        /// Where: an origin.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another version of the API.
    #[error("{}", versions(*.0))]
    Version(u32),
    /// No ID token.
    #[error("cannot get an ID token for this job: {0}; is the job's `permissions: id-token: write` missing?")]
    IdToken(String),
    /// The grant does not permit what is to be done.
    #[error(
        "the token does not permit to {needs} in {cache}: the trust rule that grants it needs the permission `{needs}`"
    )]
    NotPermitted {
        /// What it would have to permit.
        needs: Permission,
        /// Where.
        cache: String,
    },
    /// The client's own fault.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ServiceError {
    /// Whether the service, or what is in front of it, denies who we are or what we may do.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::NotPermitted { .. } | Self::IdToken(_) => true,
            Self::Refused { status, .. } | Self::Foreign { status, .. } => {
                matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            }
            _ => false,
        }
    }

    /// Whether a service that has no such page, or answers there in another way, may be the reason.
    pub(super) fn may_be_of_a_version(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Foreign { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::NOT_FOUND,
            _ => false,
        }
    }

    /// Whether the service no longer knows the push, or cannot go on with it.
    pub fn push_is_lost(&self) -> bool {
        matches!(self, Self::Refused { answer, .. }
            if matches!(answer.error, ErrorCode::NotFound | ErrorCode::Conflict))
    }

    /// Whether a body was too large, or seems to be.
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Cut { .. } => true,
            Self::Refused { status, .. } | Self::Foreign { status, .. } => {
                *status == StatusCode::PAYLOAD_TOO_LARGE
            }
            _ => false,
        }
    }
}

/// Whether a service that speaks `version` is one that we can talk to.
pub(super) fn check_version(version: u32) -> Result<(), ServiceError> {
    if version == API_VERSION { Ok(()) } else { Err(ServiceError::Version(version)) }
}

/// Whether the description of a cache is one of a service that we can talk to. Of another version it says that, and perhaps
/// nothing else that we know.
///
/// # Errors
/// When it says another version.
pub(crate) fn check_description(description: &[u8]) -> Result<(), ServiceError> {
    /// What every version says.
    #[derive(serde::Deserialize)]
    struct Version {
        api: u32,
    }
    match serde_json::from_slice(description) {
        Ok(Version { api }) => check_version(api),
        Err(_) => Ok(()),
    }
}

fn versions(service: u32) -> String {
    let older = if service < API_VERSION { "service" } else { "client (larder, or the action)" };
    format!(
        "the service speaks version {service} of the API, and larder {} speaks {API_VERSION}: update the {older}",
        env!("CARGO_PKG_VERSION")
    )
}

fn hint(origin: &str) -> String {
    format!(" (is larderd running at {origin}, and is --service right?)")
}

fn foreign(status: StatusCode, origin: &str) -> String {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            "the proxy in front limits bodies; raise its limit, or use --max-body".to_owned()
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            format!("the proxy in front of {origin} lets nobody through; let it pass /api/v1/ on")
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!("is {origin} a Larder service, and of this version? (--service)")
        }
        status if status.is_redirection() => {
            "tokens do not follow redirects; name the service's final URL".to_owned()
        }
        _ => format!("see the log of the proxy in front of {origin}"),
    }
}

fn list(answer: &ErrorAnswer) -> String {
    const SHOWN: usize = 10;
    let mut text = String::new();
    for path in answer.missing_references.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(&path.absolute());
    }
    if answer.missing_references.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", answer.missing_references.len() - SHOWN));
    }
    text
}
