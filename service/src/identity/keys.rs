//! An issuer's public keys, as its JWKS document lists them (RFC 7517).

use std::collections::HashMap;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;

/// More keys than this no issuer has.
const MAX_KEYS: usize = 100;

/// The keys that sign RS256, by `kid`.
#[derive(Default)]
pub(super) struct KeySet(HashMap<String, DecodingKey>);

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
    n: String,
    e: String,
}

impl KeySet {
    /// Reads a JWKS document. Keys of other kinds are left out: an issuer may have them too.
    pub(super) fn parse(document: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(document)?;
        let keys = document.keys.into_iter().take(MAX_KEYS).filter_map(|key| {
            let key: Key = serde_json::from_value(key).ok()?;
            let fits = key.kty == "RSA"
                && key.usage.as_deref().is_none_or(|usage| usage == "sig")
                && key.alg.as_deref().is_none_or(|alg| alg == "RS256");
            let decoding_key = DecodingKey::from_rsa_components(&key.n, &key.e).ok()?;
            fits.then_some((key.kid, decoding_key))
        });
        Ok(Self(keys.collect()))
    }

    pub(super) fn get(&self, kid: &str) -> Option<&DecodingKey> {
        self.0.get(kid)
    }
}
