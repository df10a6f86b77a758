//! Tokens: random, opaque, stored as hashes.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use sha2::{Digest, Sha256};

/// What session tokens begin with, so that people and scanners recognise one that got out.
pub const SESSION_PREFIX: &str = "larder_s_";
/// What people's tokens begin with.
pub const PERSON_PREFIX: &str = "larder_t_";

const RANDOM_BYTES: usize = 32;

/// A token in the clear. Its `Debug` form hides it, and it has no `Display`.
#[derive(Clone)]
pub struct SecretToken(String);

/// The SHA-256 of a token: what is stored and looked up. Looking up a hash takes no time that depends on how much
/// of a token was guessed, since nobody can choose hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl SecretToken {
    /// A new token of 32 random bytes.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(prefix: &str) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{prefix}{}", BASE64URL_NOPAD.encode(&bytes))))
    }

    /// The token that a request brought, if it can be one at all.
    pub fn read(text: &str) -> Option<Self> {
        let random = text.strip_prefix(SESSION_PREFIX).or_else(|| text.strip_prefix(PERSON_PREFIX))?;
        let length = BASE64URL_NOPAD.encode_len(RANDOM_BYTES);
        (random.len() == length).then(|| Self(text.to_owned()))
    }

    /// What is stored of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The token itself: for the answer that hands it out, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretToken(…)")
    }
}

impl TokenHash {
    /// A few of its digits, to tell tokens apart.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..8])
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}…)", self.short())
    }
}
