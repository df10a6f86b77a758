//! An issuer's public keys, as its JWKS document lists them (RFC 7517).

use std::collections::HashMap;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;

use super::SigningAlgorithm;

/// More keys than this no issuer has.
const MAX_KEYS: usize = 100;

/// The keys that sign by an algorithm which is taken from the issuer, by `kid` and by that algorithm: what a token says
/// of its algorithm never makes a key into one of another kind.
#[derive(Default)]
pub(super) struct KeySet(HashMap<(String, SigningAlgorithm), DecodingKey>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    /// The key and the one algorithm that it is for.
    fn decoding_key(&self) -> Option<(SigningAlgorithm, DecodingKey)> {
        let Self { kty, usage, alg, crv, n, e, x, y, .. } = self;
        if usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (algorithm, key) = match (kty.as_str(), crv.as_deref()) {
            ("RSA", None) => {
                let key = DecodingKey::from_rsa_components(n.as_deref()?, e.as_deref()?);
                (SigningAlgorithm::RS256, key)
            }
            ("EC", Some("P-256")) => {
                let key = DecodingKey::from_ec_components(x.as_deref()?, y.as_deref()?);
                (SigningAlgorithm::ES256, key)
            }
            ("OKP", Some("Ed25519")) => {
                (SigningAlgorithm::EdDsa, DecodingKey::from_ed_components(x.as_deref()?))
            }
            _ => return None,
        };
        let fits = alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
        key.ok().filter(|_| fits).map(|key| (algorithm, key))
    }
}

impl KeySet {
    /// Reads a JWKS document. Keys for other algorithms are left out: an issuer may have them too.
    pub(super) fn parse(document: &[u8], algorithms: &[SigningAlgorithm]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(document)?;
        let keys = document.keys.into_iter().take(MAX_KEYS).filter_map(|key| {
            let key: Key = serde_json::from_value(key).ok()?;
            let (algorithm, decoding_key) = key.decoding_key()?;
            algorithms.contains(&algorithm).then_some(((key.kid, algorithm), decoding_key))
        });
        Ok(Self(keys.collect()))
    }

    pub(super) fn get(&self, kid: &str, algorithm: SigningAlgorithm) -> Option<&DecodingKey> {
        self.0.get(&(kid.to_owned(), algorithm))
    }
}
