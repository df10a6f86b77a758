//! The SHA-256 of a NAR.

use std::{fmt, str::FromStr};

use crate::base32;

/// The SHA-256 of a NAR, by which Larder names it. Written as Nix does in a narinfo: `sha256:` and
/// 52 digits of base-32; read in that form, in hexadecimal, and as SRI (`sha256-…`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NarHash(pub [u8; 32]);

/// What is no `NarHash`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a SHA-256 as Nix writes it (sha256: and 52 base-32 or 64 hexadecimal digits)")]
pub struct InvalidNarHash(String);

impl NarHash {
    /// The hash alone, in Nix's base-32.
    pub fn base32(&self) -> String {
        base32::encode(&self.0)
    }

    /// Reads the hash alone, in Nix's base-32.
    pub fn from_base32(text: &str) -> Option<Self> {
        base32::decode(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; base32::encoded_len(32)];
        base32::encode_into(&self.0, &mut text);
        f.write_str("sha256:")?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NarHash {
    type Err = InvalidNarHash;

    fn from_str(text: &str) -> Result<Self, InvalidNarHash> {
        let bytes = if let Some(base64) = text.strip_prefix("sha256-") {
            data_encoding::BASE64.decode(base64.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok())
        } else if let Some(digits) = text.strip_prefix("sha256:") {
            match digits.len() {
                52 => base32::decode(digits.as_bytes()),
                64 => data_encoding::HEXLOWER
                    .decode(digits.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok()),
                _ => None,
            }
        } else {
            None
        };
        bytes.map(Self).ok_or_else(|| InvalidNarHash(text.chars().take(100).collect()))
    }
}

crate::serde_as_text!(NarHash);
