//! DSSE envelopes, by which a cache signs statements: see
//! <https://github.com/secure-systems-lab/dsse/blob/master/envelope.md>.
//!
//! What is signed begins with `DSSEv1`, and a path's fingerprint with `1;`, so that one key can do both and nobody can
//! take the one for the other.

use data_encoding::{BASE64, BASE64URL};
use serde::{Deserialize, Serialize};

use crate::{PublicKey, SigningKey};

/// The payload type of in-toto's statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// More signatures than this nobody makes, and checking takes time.
const MAX_SIGNATURES: usize = 16;

/// A payload with signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The payload, in base64.
    pub payload: String,
    /// Signatures of both.
    pub signatures: Vec<EnvelopeSignature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// The key's name, as in `trusted-public-keys`. A hint and no more: nothing signs it.
    #[serde(default)]
    pub keyid: String,
    /// The Ed25519 signature, in base64.
    pub sig: String,
}

/// An envelope that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is something else.
    #[error("its payload is of the type {0:?}, not {IN_TOTO}")]
    Type(String),
    /// The payload is not base64.
    #[error("its payload is not base64")]
    Payload,
    /// No signature of a trusted key holds.
    #[error("none of the trusted keys has signed it as it is")]
    Signature,
}

impl Envelope {
    /// Signs an in-toto statement.
    pub fn sign(statement: &[u8], key: &SigningKey) -> Self {
        let sig = BASE64.encode(&key.sign_bytes(&to_sign(IN_TOTO, statement)));
        Self {
            payload_type: IN_TOTO.to_owned(),
            payload: BASE64.encode(statement),
            signatures: vec![EnvelopeSignature { keyid: key.name().to_owned(), sig }],
        }
    }

    /// The statement, and the name of the key among `keys` that has signed it.
    ///
    /// # Errors
    /// When none has, or it is no statement.
    pub fn verify<'a>(&self, keys: &'a [PublicKey]) -> Result<(Vec<u8>, &'a PublicKey), EnvelopeError> {
        if self.payload_type != IN_TOTO {
            return Err(EnvelopeError::Type(self.payload_type.chars().take(100).collect()));
        }
        let statement = from_base64(&self.payload).ok_or(EnvelopeError::Payload)?;
        let signed = to_sign(&self.payload_type, &statement);
        for signature in self.signatures.iter().take(MAX_SIGNATURES) {
            let Some(bytes) = from_base64(&signature.sig) else { continue };
            if let Some(key) = keys.iter().find(|key| key.verifies_bytes(&signed, &bytes)) {
                return Ok((statement, key));
            }
        }
        Err(EnvelopeError::Signature)
    }
}

/// DSSE's pre-authentication encoding: the lengths keep type and payload apart.
fn to_sign(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Both alphabets are allowed.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).or_else(|_| BASE64URL.decode(text.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_those_of_the_specification() {
        // The specification's own example.
        let bytes = to_sign("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn only_what_was_signed_by_a_trusted_key_holds() {
        let (key, other) = (SigningKey::generate("a-1").unwrap(), SigningKey::generate("a-1").unwrap());
        let envelope = Envelope::sign(b"{}", &key);
        let keys = [other.public_key(), key.public_key()];
        let (statement, by) = envelope.verify(&keys).unwrap();
        assert_eq!((statement.as_slice(), by), (&b"{}"[..], &keys[1]));
        assert_eq!(
            envelope.verify(&keys[..1]),
            Err(EnvelopeError::Signature),
            "another key of the same name"
        );
        assert_eq!(envelope.verify(&[]), Err(EnvelopeError::Signature));

        let with = |change: fn(&mut Envelope)| {
            let mut changed = envelope.clone();
            change(&mut changed);
            changed.verify(&keys).map(|_| ())
        };
        assert_eq!(with(|it| it.payload = "e30g".into()), Err(EnvelopeError::Signature));
        assert_eq!(with(|it| it.payload = "{}".into()), Err(EnvelopeError::Payload));
        assert_eq!(with(|it| it.signatures[0].sig = BASE64.encode(&[0; 64])), Err(EnvelopeError::Signature));
        assert_eq!(with(|it| it.signatures[0].sig.clear()), Err(EnvelopeError::Signature));
        assert_eq!(with(|it| it.signatures.clear()), Err(EnvelopeError::Signature));
        assert!(matches!(with(|it| it.payload_type = "text/plain".into()), Err(EnvelopeError::Type(_))));
        assert_eq!(with(|it| it.signatures[0].keyid = "who".into()), Ok(()), "the name is a hint");
    }
}
