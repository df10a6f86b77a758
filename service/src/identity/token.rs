//! An ID token (RFC 7519), read and verified.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;

use super::{IssuerKind, SigningAlgorithm, TokenClaims};
use crate::config::IssuerConfig;

/// GitHub's tokens have about two kilobytes.
const MAX_TOKEN: usize = 16 * 1024;
const MAX_ID: usize = 256;
/// How far clocks may differ, in seconds.
const LEEWAY: i64 = 60;

/// A verified ID token.
#[derive(Debug, Clone)]
pub struct IdToken {
    /// What it says.
    pub claims: TokenClaims,
    /// Its `jti`: with the issuer, what makes it usable once.
    pub id: String,
    /// When it was issued. Seconds since 1970.
    pub issued_at: i64,
    /// From when on it could not be used any more, leeway included.
    pub ends_at: i64,
}

/// Why an ID token is not believed. May be shown to whoever sent it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIdToken {
    /// No token at all.
    #[error(
        "that is not an ID token (three parts of base64url with dots between, at most {MAX_TOKEN} bytes)"
    )]
    Malformed,
    /// Not signed as its issuer signs.
    #[error("the ID token is signed by {found:?}; only {wanted} is taken from its issuer")]
    Algorithm {
        /// What its header says.
        found: String,
        /// What is configured.
        wanted: String,
    },
    /// The header demands what is not understood.
    #[error("the ID token has critical extensions, and none is understood")]
    Critical,
    /// The issuer is not among those configured.
    #[error(
        "the ID token is from {0:?}, which this service does not trust. Whoever runs the service can configure it as \
         [[issuer]]"
    )]
    UnknownIssuer(String),
    /// The issuer has no such key.
    #[error("the ID token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the ID token's signature does not hold")]
    Signature,
    /// A claim is missing or of the wrong kind.
    #[error("the ID token does not say what it must: {0}")]
    Claims(String),
    /// The audience is another.
    #[error(
        "the ID token is for the audience {found}, and this service takes {wanted:?} alone. Name the service by that \
         URL in the workflow"
    )]
    Audience {
        /// Whom it is for.
        found: String,
        /// Whom it should be for.
        wanted: String,
    },
    /// Too late.
    #[error("the ID token ended {0} seconds ago. Ask for a new one and exchange it at once")]
    Expired(i64),
    /// Too early.
    #[error(
        "the ID token is from the future, by {0} seconds. Is the service's clock right? (`timedatectl` says whether it \
         is synchronised)"
    )]
    Early(i64),
    /// For too long.
    #[error("the ID token lives {0} seconds; at most {1} are taken")]
    Lifetime(i64, i64),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

#[derive(Deserialize)]
struct Registered {
    aud: serde_json::Value,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
    jti: String,
}

/// A token that has not been verified: good for finding the key by which it may be.
pub(super) struct UnverifiedToken<'a> {
    text: &'a str,
    algorithm: String,
    key_id: String,
    issuer: String,
    payload: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, InvalidIdToken> {
        if text.len() > MAX_TOKEN {
            return Err(InvalidIdToken::Malformed);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidIdToken::Malformed);
        };
        let decode =
            |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| InvalidIdToken::Malformed);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| InvalidIdToken::Malformed)?;
        // What the header says is only ever compared. Keys in it (`jwk`, `jku`, `x5u`, `x5c`) are not even read.
        if header.crit.is_some() {
            return Err(InvalidIdToken::Critical);
        }
        let key_id = header.kid.ok_or(InvalidIdToken::UnknownKey)?;
        let payload = decode(payload)?;
        let Issuer { iss } = read_claims(&payload)?;
        Ok(Self { text, algorithm: header.alg, key_id, issuer: iss, payload })
    }

    /// Who is said to have made it.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key that is said to have signed it.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The algorithm that is said to have signed it, if it is one of these.
    pub(super) fn algorithm(&self, taken: &[SigningAlgorithm]) -> Result<SigningAlgorithm, InvalidIdToken> {
        let algorithm =
            SigningAlgorithm::named(&self.algorithm).filter(|algorithm| taken.contains(algorithm));
        algorithm.ok_or_else(|| InvalidIdToken::Algorithm {
            found: self.algorithm.chars().take(20).collect(),
            wanted: taken.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(" or "),
        })
    }

    /// `issuer` is the configured one that the key for `algorithm` is from.
    pub(super) fn verify(
        self,
        key: &DecodingKey,
        algorithm: SigningAlgorithm,
        issuer: &IssuerConfig,
        audience: &str,
        now: i64,
    ) -> Result<IdToken, InvalidIdToken> {
        let mut signature_alone = Validation::new(algorithm.of_library());
        // The library would ask the system's clock, take an array of audiences, and miss `iat`.
        signature_alone.validate_exp = false;
        signature_alone.validate_aud = false;
        signature_alone.required_spec_claims.clear();
        jsonwebtoken::decode::<serde::de::IgnoredAny>(self.text, key, &signature_alone)
            .map_err(|_| InvalidIdToken::Signature)?;

        let Registered { aud, exp, iat, nbf, jti } = read_claims(&self.payload)?;
        if self.issuer != issuer.url.as_str() {
            return Err(InvalidIdToken::UnknownIssuer(self.issuer));
        }
        if aud.as_str() != Some(audience) {
            let found = aud.to_string().chars().take(200).collect();
            return Err(InvalidIdToken::Audience { found, wanted: audience.to_owned() });
        }
        let ends_at = exp.saturating_add(LEEWAY);
        if ends_at <= now {
            return Err(InvalidIdToken::Expired(now.saturating_sub(exp)));
        }
        let begins_at = nbf.map_or(iat, |nbf| nbf.max(iat));
        if begins_at > now.saturating_add(LEEWAY) {
            return Err(InvalidIdToken::Early(begins_at.saturating_sub(now)));
        }
        let lifetime = exp.saturating_sub(iat);
        let longest = issuer.kind.longest_life();
        if lifetime > longest {
            return Err(InvalidIdToken::Lifetime(lifetime, longest));
        }
        if jti.is_empty() || jti.len() > MAX_ID {
            return Err(InvalidIdToken::Claims(format!("jti must have 1 to {MAX_ID} bytes")));
        }
        Ok(IdToken { claims: understand(issuer.kind, &self.payload)?, id: jti, issued_at: iat, ends_at })
    }
}

fn understand(kind: IssuerKind, payload: &[u8]) -> Result<TokenClaims, InvalidIdToken> {
    TokenClaims::read(kind, payload).map_err(|error| InvalidIdToken::Claims(error.to_string()))
}

fn read_claims<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, InvalidIdToken> {
    serde_json::from_slice(payload).map_err(|error| InvalidIdToken::Claims(error.to_string()))
}
