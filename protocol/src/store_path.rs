//! Store paths: `/nix/store/<hash>-<name>`.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use crate::base32;

/// The store that Larder serves. Nix refuses a cache whose store is another than its own.
pub const STORE_DIR: &str = "/nix/store";

/// The longest name that Nix takes (`libstore/path.cc`).
const MAX_NAME: usize = 211;

/// The first part of a store path's base name: 160 bits, 32 digits of Nix's base-32. Ordered as its
/// digits are, so that store paths stand in the order in which Nix signs references.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorePathHash(pub [u8; 20]);

impl Ord for StorePathHash {
    fn cmp(&self, other: &Self) -> Ordering {
        // The first digit holds the last byte's highest bits.
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl PartialOrd for StorePathHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl StorePathHash {
    /// The number of digits when written.
    pub const DIGITS: usize = 32;

    /// The hash as it stands in a store path.
    pub fn digits(&self) -> [u8; Self::DIGITS] {
        let mut text = [0; Self::DIGITS];
        base32::encode_into(&self.0, &mut text);
        text
    }

    /// Reads 32 digits.
    pub fn from_digits(digits: &[u8]) -> Option<Self> {
        base32::decode(digits).map(Self)
    }
}

impl fmt::Display for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StorePathHash {
    type Err = InvalidStorePath;

    fn from_str(text: &str) -> Result<Self, InvalidStorePath> {
        Self::from_digits(text.as_bytes())
            .ok_or_else(|| InvalidStorePath::new(text, "its hash is not 32 digits of Nix's base-32"))
    }
}

/// A store path. Displayed as its base name, `<hash>-<name>`; [`StorePath::absolute`] has the store
/// directory before it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath {
    hash: StorePathHash,
    name: Arc<str>,
}

/// What is no store path, and why.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a store path: {reason}")]
pub struct InvalidStorePath {
    text: String,
    reason: &'static str,
}

impl InvalidStorePath {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(300).collect(), reason }
    }
}

impl StorePath {
    /// Makes a store path of its parts, if `name` is one that Nix takes.
    pub fn new(hash: StorePathHash, name: &str) -> Result<Self, InvalidStorePath> {
        let invalid = |reason| Err(InvalidStorePath::new(name, reason));
        if name.is_empty() {
            return invalid("it has no name");
        }
        if name.len() > MAX_NAME {
            return invalid("its name is longer than 211 characters");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b)) {
            return invalid("its name has a character other than letters, digits and + - . _ ? =");
        }
        if name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-") {
            return invalid("its name is . or .. or begins with .- or ..-");
        }
        Ok(Self { hash, name: name.into() })
    }

    /// The first part of the base name.
    pub fn hash(&self) -> StorePathHash {
        self.hash
    }

    /// What follows the hash and its dash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path with the store directory before it.
    pub fn absolute(&self) -> String {
        format!("{STORE_DIR}/{self}")
    }

    /// Reads a path with the store directory before it. Nothing may follow the base name.
    pub fn from_absolute(text: &str) -> Result<Self, InvalidStorePath> {
        match text.strip_prefix(STORE_DIR).and_then(|rest| rest.strip_prefix('/')) {
            Some(base_name) => base_name.parse(),
            None => Err(InvalidStorePath::new(text, "it does not begin with /nix/store/")),
        }
    }
}

impl FromStr for StorePath {
    type Err = InvalidStorePath;

    /// Reads a base name, `<hash>-<name>`.
    fn from_str(base_name: &str) -> Result<Self, InvalidStorePath> {
        let invalid = |reason| InvalidStorePath::new(base_name, reason);
        let (hash, name) =
            base_name.split_at_checked(StorePathHash::DIGITS).ok_or_else(|| invalid("it is too short"))?;
        let hash = StorePathHash::from_digits(hash.as_bytes())
            .ok_or_else(|| invalid("its hash is not 32 digits of Nix's base-32"))?;
        let name = name.strip_prefix('-').ok_or_else(|| invalid("no dash follows its hash"))?;
        Self::new(hash, name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(StorePathHash, StorePath);

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "s66mzxpvicwk07gjbjfw9izjfa797vsw";

    #[test]
    fn reads_what_it_writes() {
        let path = StorePath::from_absolute(&format!("/nix/store/{HASH}-hello-2.12.1")).unwrap();
        assert_eq!(path.name(), "hello-2.12.1");
        assert_eq!(path.absolute(), format!("/nix/store/{HASH}-hello-2.12.1"));
        assert_eq!(path.to_string().parse::<StorePath>().unwrap(), path);
    }

    #[test]
    fn stands_in_the_order_of_its_text() {
        let mut paths: Vec<StorePath> = (0..=255u8)
            .map(|n| {
                StorePath::new(
                    StorePathHash(std::array::from_fn(|at| n.wrapping_mul(57 + u8::try_from(at).unwrap()))),
                    "x",
                )
            })
            .map(Result::unwrap)
            .collect();
        paths.extend(["a", "a-b", "B", "a.b"].map(|name| StorePath::new(paths[7].hash(), name).unwrap()));
        let mut texts: Vec<String> = paths.iter().map(StorePath::to_string).collect();
        paths.sort();
        texts.sort();
        assert_eq!(paths.iter().map(StorePath::to_string).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn refuses_names_that_nix_refuses() {
        for name in ["", ".", "..", "..-x", ".-x", "a/b", "a\0b", "a\nb", "a b", "ä", &"x".repeat(212)] {
            assert!(format!("{HASH}-{name}").parse::<StorePath>().is_err(), "{name:?}");
        }
        for text in ["../../etc/passwd", HASH, "", "e66mzxpvicwk07gjbjfw9izjfa797vsw-x"] {
            assert!(text.parse::<StorePath>().is_err(), "{text:?}");
        }
        for name in [".gitignore", "a?b=c", "..x", "x..", &"x".repeat(211)] {
            assert!(format!("{HASH}-{name}").parse::<StorePath>().is_ok(), "{name:?}");
        }
        assert!(StorePath::from_absolute(&format!("/nix/storex/{HASH}-x")).is_err());
        assert!(StorePath::from_absolute(&format!("/nix/store/{HASH}-x/bin")).is_err());
    }
}
