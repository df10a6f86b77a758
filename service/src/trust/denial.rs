//! Why nothing is granted.

use larder_protocol::api::CacheName;

use crate::{
    config::issuer,
    identity::{Bearer, TokenClaims},
};

/// Why nothing is granted. Says to the job what its own repository's rules want, and nothing of others'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No rule is about whoever holds the token, or there is no such cache: a stranger cannot tell which.
    #[error(
        "no trust rule lets {bearer} push to the cache {cache}. Whoever runs the service can allow it in larder.toml, \
         under the [[cache]] named {cache}:\n\n{remedy}"
    )]
    NoRule {
        /// The cache that was asked for.
        cache: CacheName,
        /// Who holds the token.
        bearer: String,
        /// A rule that would allow it.
        remedy: String,
    },
    /// A rule is about whoever holds the token, but not all of it fits.
    #[error("trust rule {number} of the cache {cache} is about {bearer}, but {}", .mismatches.join("; and "))]
    Mismatch {
        /// The cache.
        cache: CacheName,
        /// Who holds the token.
        bearer: String,
        /// The rule that came closest, counted from 1 in the configuration.
        number: usize,
        /// What does not fit, as sentences.
        mismatches: Vec<String>,
    },
}

impl Denial {
    /// For a cache without a rule about the bearer, and for a cache that does not exist.
    pub(super) fn no_rule(cache: &CacheName, claims: &TokenClaims) -> Self {
        Self::NoRule { cache: cache.clone(), bearer: claims.bearer.to_string(), remedy: remedy(claims) }
    }
}

fn remedy(claims: &TokenClaims) -> String {
    let (what, table) = match &claims.bearer {
        Bearer::Job(job) => {
            (format!("repository = \"{}\"\nref = \"refs/heads/main\"", job.repository), String::new())
        }
        Bearer::Subject { subject, .. } => {
            ("publish = true".to_owned(), format!("\n[cache.trust.claims]\nsub = {subject:?}"))
        }
    };
    let issuer = match claims.issuer() {
        issuer::GITHUB => String::new(),
        other => format!("\nissuer = {other:?}"),
    };
    format!("[[cache.trust]]\n{what}{issuer}{table}")
}
