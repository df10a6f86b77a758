//! The algorithms that ID tokens may be signed with.

use std::fmt;

use jsonwebtoken::Algorithm;
use serde::Deserialize;

/// A way of signing in which who can check cannot sign: the ones that issuers of ID tokens use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum SigningAlgorithm {
    /// RSA with SHA-256, PKCS #1 v1.5: what GitHub and GitLab use.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    const ALL: [Self; 3] = [Self::RS256, Self::ES256, Self::EdDsa];

    /// The algorithm of that name, compared with case, as RFC 7515 wants.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name in tokens and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) fn of_library(self) -> Algorithm {
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::ES256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
