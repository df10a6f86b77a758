//! Tokens: random, opaque, stored as hashes.

use std::fmt;

use data_encoding::HEXLOWER;
use larder_protocol::token::{self, NotAToken, RANDOM};
pub(super) use larder_protocol::token::{NAMED_PREFIX, SESSION_PREFIX};
use sha2::{Digest, Sha256};

/// A token in the clear. Its `Debug` form hides it, and it has no `Display`.
#[derive(Clone)]
pub struct SecretToken(String);

/// The SHA-256 of a token: what is stored and looked up. Looking up a hash takes no time that depends on how much
/// of a token was guessed, since nobody can choose hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl SecretToken {
    /// A new token.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(prefix: &str) -> Result<Self, getrandom::Error> {
        loop {
            // Some are of no use; twice as many as are needed suffice but once in 10^40 times.
            let mut bytes = [0; 2 * RANDOM];
            getrandom::fill(&mut bytes)?;
            if let Some(token) = token::make(prefix, bytes) {
                return Ok(Self(token));
            }
        }
    }

    /// The token that a request brought, if it can be one at all.
    ///
    /// # Errors
    /// Whether it is something else, or was mistyped.
    pub fn read(text: &str) -> Result<Self, NotAToken> {
        token::check(text).map(|()| Self(text.to_owned()))
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
