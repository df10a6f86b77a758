//! Ed25519 signatures in Nix's key format: `<key name>:<base64>` (`libutil/signature`).

use std::{collections::BTreeSet, fmt, str::FromStr};

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey as Ed25519Key, Verifier as _, VerifyingKey};

use crate::{NarHash, StorePath};

/// The text that Nix signs for a path: what a narinfo says that a reader must be able to rely on.
///
/// Nix keeps references as a sorted set and signs them so; in whatever order they come here.
pub fn fingerprint<'a>(
    path: &StorePath,
    nar_hash: &NarHash,
    nar_size: u64,
    references: impl IntoIterator<Item = &'a StorePath>,
) -> String {
    let references: BTreeSet<&StorePath> = references.into_iter().collect();
    let mut text = format!("1;{};{nar_hash};{nar_size};", path.absolute());
    for (position, reference) in references.into_iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&reference.absolute());
    }
    text
}

/// What is no key or signature. The text itself is left out: it may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("not a {what} in Nix's format (<name>:<base64>)")]
pub struct InvalidKey {
    what: &'static str,
}

fn split<const N: usize>(text: &str, what: &'static str) -> Result<(String, [u8; N]), InvalidKey> {
    let invalid = InvalidKey { what };
    let Some((name, base64)) = text.split_once(':') else { return Err(invalid) };
    let named = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\;,".contains(&b));
    let bytes = BASE64.decode(base64.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) if named => Ok((name.to_owned(), bytes)),
        _ => Err(invalid),
    }
}

/// A secret key with its name. It is not displayed and its `Debug` form hides it.
#[derive(Clone)]
pub struct SigningKey {
    name: String,
    key: Ed25519Key,
}

impl SigningKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// When `name` cannot stand in Nix's format, or the system has no random numbers.
    pub fn generate(name: &str) -> Result<Self, InvalidKey> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| InvalidKey { what: "random number" })?;
        Self::named(name, Ed25519Key::from_bytes(&seed))
    }

    /// Another key, to which only this one and the salt lead: whoever has both can make it again, and it tells
    /// nothing of this one.
    ///
    /// # Errors
    /// When `name` cannot stand in Nix's format.
    pub fn derive(&self, name: &str, salt: &[u8; 32]) -> Result<Self, InvalidKey> {
        let mut seed = blake3::Hasher::new_derive_key("larder 2026-11 derived signing key");
        seed.update(self.key.as_bytes()).update(salt).update(name.as_bytes());
        Self::named(name, Ed25519Key::from_bytes(seed.finalize().as_bytes()))
    }

    fn named(name: &str, key: Ed25519Key) -> Result<Self, InvalidKey> {
        split::<64>(&format!("{name}:{}", BASE64.encode(&key.to_keypair_bytes())), "key name")?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// The name before the colon.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key as `nix-store --generate-binary-cache-key` writes it. A secret.
    pub fn to_secret_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }

    /// The key by which readers check.
    pub fn public_key(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a path's fingerprint.
    pub fn sign(&self, fingerprint: &str) -> Signature {
        Signature { name: self.name.clone(), bytes: self.sign_bytes(fingerprint.as_bytes()) }
    }

    /// The bare signature of anything.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.key.sign(bytes).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}:…)", self.name)
    }
}

impl FromStr for SigningKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (name, bytes) = split::<64>(text.trim_end(), "secret key")?;
        let key = Ed25519Key::from_keypair_bytes(&bytes).map_err(|_| InvalidKey { what: "secret key" })?;
        Ok(Self { name, key })
    }
}

/// A public key with its name, as in `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// The name before the colon.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` is this key's and holds for `fingerprint`.
    pub fn verifies(&self, fingerprint: &str, signature: &Signature) -> bool {
        self.name == signature.name && self.verifies_bytes(fingerprint.as_bytes(), &signature.bytes)
    }

    /// Whether a bare signature is this key's and holds for `bytes`.
    pub fn verifies_bytes(&self, bytes: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify(bytes, &signature).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (name, bytes) = split::<32>(text, "public key")?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidKey { what: "public key" })?;
        Ok(Self { name, key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One `Sig` of a narinfo.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    name: String,
    bytes: [u8; 64],
}

impl Signature {
    /// The name of the key that made it.
    pub fn key_name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Signature {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (name, bytes) = split::<64>(text, "signature")?;
        Ok(Self { name, bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(&self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(PublicKey, Signature);
