//! Pins: paths that are kept under a name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::StorePath;

/// A pin's name: 1 to 64 of letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PinName(String);

/// What is no pin's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a pin's name (1 to 64 of a-z, A-Z, 0-9, '-', '_', '.', beginning with a letter or digit)"
)]
pub struct InvalidPinName(String);

impl FromStr for PinName {
    type Err = InvalidPinName;

    fn from_str(text: &str) -> Result<Self, InvalidPinName> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidPinName(text.chars().take(100).collect())) }
    }
}

impl PinName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(PinName);

/// Has a path kept under a name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// The path, which the cache must have.
    pub path: StorePath,
    /// For how many seconds. Without it, until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
    /// How many of the paths that were pinned under this name stay pinned, this one included.
    #[serde(default = "one")]
    pub keep: u32,
}

fn one() -> u32 {
    1
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name. Several paths may be pinned by one: the first that is listed is the newest.
    pub name: PinName,
    /// What it keeps.
    pub path: StorePath,
    /// When it was made, in seconds since 1970.
    pub pinned_at: i64,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// The pins of a cache, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pins {
    /// Of each name the newest first.
    pub pins: Vec<Pin>,
}
