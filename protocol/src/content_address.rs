//! Content addresses: what a narinfo's `CA` says, which store path it gives, and whether a NAR is what it says
//! (`libstore/content-address.cc`, `libstore/store-api.cc`).

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::{
    NarHash, StorePath, StorePathHash, base32,
    store_path::{InvalidStorePath, STORE_DIR},
};

/// How often a NAR may name its own path where its content address leaves that out: each time is 8 bytes of memory.
const MAX_OWN_NAMES: usize = 1 << 20;

/// The store path of that name whose contents have this NAR, and that refers to nothing: what Nix makes of a source
/// that it fetches, by its SHA-256 (`makeFixedOutputPath`).
///
/// # Errors
/// When Nix takes no such name.
pub fn source_path(name: &str, nar: NarHash) -> Result<StorePath, InvalidStorePath> {
    made("source", &HEXLOWER.encode(&nar.0), name)
}

/// A content address as Nix writes it: `text:sha256:…`, `fixed:[r:|git:]<algorithm>:…`, the hash in Nix's base-32.
/// Nix refuses a whole narinfo over one in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentAddress {
    /// Of what the hash is.
    pub method: Method,
    /// The hash.
    pub hash: ContentHash,
}

/// Of what a content address is the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A file's bytes, by SHA-256; the file may refer to other paths.
    Text,
    /// A file's bytes.
    Flat,
    /// The NAR, with the path's own hash in it replaced by zeros.
    Nar,
    /// A tree as git hashes it.
    Git,
}

/// A hash by one of the algorithms that Nix takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ContentHash {
    Md5([u8; 16]),
    Sha1([u8; 20]),
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// What is no content address.
#[derive(Debug, thiserror::Error)]
#[error("not a content address (text:sha256:… or fixed:[r:]<algorithm>:…, with a hash in Nix's base-32)")]
pub struct InvalidContentAddress;

/// Why a path does not have the content address that it claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The store path of that address is another.
    #[error("its content address is that of {0}")]
    Path(StorePath),
    /// No path with such an address refers to others, or to itself.
    #[error("no path with such a content address has references like these")]
    References,
    /// Hashes of git trees are not computed here.
    #[error("content addresses by git's hash cannot be checked here")]
    Git,
    /// The NAR has another hash than the address says.
    #[error("its contents are not those of its content address")]
    Contents,
}

impl ContentHash {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Md5(_) => "md5",
            Self::Sha1(_) => "sha1",
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Md5(bytes) => bytes,
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }
}

impl FromStr for ContentHash {
    type Err = InvalidContentAddress;

    fn from_str(text: &str) -> Result<Self, InvalidContentAddress> {
        let (algorithm, digits) = text.split_once(':').ok_or(InvalidContentAddress)?;
        let digits = digits.as_bytes();
        match algorithm {
            "md5" => base32::decode(digits).map(Self::Md5),
            "sha1" => base32::decode(digits).map(Self::Sha1),
            "sha256" => base32::decode(digits).map(Self::Sha256),
            "sha512" => base32::decode(digits).map(Self::Sha512),
            _ => None,
        }
        .ok_or(InvalidContentAddress)
    }
}

impl FromStr for ContentAddress {
    type Err = InvalidContentAddress;

    fn from_str(text: &str) -> Result<Self, InvalidContentAddress> {
        let (method, hash) = if let Some(hash) = text.strip_prefix("text:") {
            (Method::Text, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:r:") {
            (Method::Nar, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:git:") {
            (Method::Git, hash)
        } else {
            (Method::Flat, text.strip_prefix("fixed:").ok_or(InvalidContentAddress)?)
        };
        let hash = hash.parse()?;
        match (method, &hash) {
            (Method::Text, ContentHash::Md5(_) | ContentHash::Sha1(_) | ContentHash::Sha512(_)) => {
                Err(InvalidContentAddress)
            }
            _ => Ok(Self { method, hash }),
        }
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Text => "text:",
            Method::Flat => "fixed:",
            Method::Nar => "fixed:r:",
            Method::Git => "fixed:git:",
        };
        write!(f, "{method}{}:{}", self.hash.algorithm(), base32::encode(self.hash.bytes()))
    }
}

impl ContentAddress {
    /// The address of a path by its whole NAR, for one that does not name itself.
    pub fn of_nar(hash: NarHash) -> Self {
        Self { method: Method::Nar, hash: ContentHash::Sha256(hash.0) }
    }

    /// Checks that `path` is the store path that this address, its name and its references give. `references` are
    /// sorted, and have the path itself where it refers to itself.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_path(&self, path: &StorePath, references: &[StorePath]) -> Result<(), Misfit> {
        let refers_to_itself = references.contains(path);
        let (mut kind, inner) = match (self.method, &self.hash) {
            (Method::Text, _) if refers_to_itself => return Err(Misfit::References),
            (Method::Text, hash) => ("text".to_owned(), HEXLOWER.encode(hash.bytes())),
            (Method::Nar, ContentHash::Sha256(hash)) => ("source".to_owned(), HEXLOWER.encode(hash)),
            (Method::Git, _) => return Err(Misfit::Git),
            (Method::Flat | Method::Nar, _) if !references.is_empty() => return Err(Misfit::References),
            (method, hash) => {
                let recursive = if method == Method::Nar { "r:" } else { "" };
                let hex = HEXLOWER.encode(hash.bytes());
                let outer = format!("fixed:out:{recursive}{}:{hex}:", hash.algorithm());
                ("output:out".to_owned(), HEXLOWER.encode(&Sha256::digest(outer)))
            }
        };
        for reference in references.iter().filter(|reference| *reference != path) {
            kind.push(':');
            kind.push_str(&reference.absolute());
        }
        if refers_to_itself {
            kind.push_str(":self");
        }
        match made(&kind, &inner, path.name()) {
            Ok(right) if right == *path => Ok(()),
            Ok(right) => Err(Misfit::Path(right)),
            // A path's name is one that Nix takes.
            Err(_) => Err(Misfit::References),
        }
    }
}

/// The store path of a name and of what its hash is made of (`makeStorePath`).
fn made(kind: &str, inner: &str, name: &str) -> Result<StorePath, InvalidStorePath> {
    let fingerprint = format!("{kind}:sha256:{inner}:{STORE_DIR}:{name}");
    StorePath::new(compress(&Sha256::digest(fingerprint).into()), name)
}

/// A SHA-256 folded to the length of a store path's hash (`compressHash`).
fn compress(hash: &[u8; 32]) -> StorePathHash {
    let mut folded = [0; 20];
    for (position, byte) in hash.iter().enumerate() {
        folded[position % 20] ^= byte;
    }
    StorePathHash(folded)
}

/// Checks that a NAR, whose bytes come in pieces of any length, has the contents that a content address says, in
/// memory that does not grow with it. It takes the NAR to be well-formed: see [`crate::nar::NarChecker`].
pub struct ContentChecker {
    expected: ContentHash,
    of: Of,
}

enum Of {
    File(Box<FileHasher>),
    Nar(Box<Hasher>),
    Modulo(Box<ModuloHasher>),
}

impl ContentChecker {
    /// For the contents of `path`, which claims `address`.
    ///
    /// # Errors
    /// When such an address cannot be checked.
    pub fn new(address: &ContentAddress, path: &StorePath) -> Result<Self, Misfit> {
        let hasher = || Hasher::new(&address.hash);
        let of = match address.method {
            Method::Text | Method::Flat => Of::File(Box::new(FileHasher::new(hasher()))),
            Method::Nar if matches!(address.hash, ContentHash::Sha256(_)) => {
                Of::Modulo(Box::new(ModuloHasher::new(hasher(), path.hash())))
            }
            // Of these none refers to itself.
            Method::Nar => Of::Nar(Box::new(hasher())),
            Method::Git => return Err(Misfit::Git),
        };
        Ok(Self { expected: address.hash.clone(), of })
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.of {
            Of::File(file) => file.feed(bytes),
            Of::Nar(hasher) => hasher.update(bytes),
            Of::Modulo(hasher) => hasher.feed(bytes),
        }
    }

    /// Ends the NAR.
    ///
    /// # Errors
    /// When its contents are others.
    pub fn finish(self) -> Result<(), Misfit> {
        let hash = match self.of {
            Of::File(file) => file.finish(),
            Of::Nar(hasher) => Some(hasher.finish()),
            Of::Modulo(hasher) => hasher.finish(),
        };
        if hash.as_ref() == Some(&self.expected) { Ok(()) } else { Err(Misfit::Contents) }
    }
}

/// A hash under way.
enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(like: &ContentHash) -> Self {
        match like {
            ContentHash::Md5(_) => Self::Md5(Md5::new()),
            ContentHash::Sha1(_) => Self::Sha1(Sha1::new()),
            ContentHash::Sha256(_) => Self::Sha256(Sha256::new()),
            ContentHash::Sha512(_) => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> ContentHash {
        match self {
            Self::Md5(hasher) => ContentHash::Md5(hasher.finalize().into()),
            Self::Sha1(hasher) => ContentHash::Sha1(hasher.finalize().into()),
            Self::Sha256(hasher) => ContentHash::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => ContentHash::Sha512(hasher.finalize().into()),
        }
    }
}

/// Hashes the bytes of the one file that a NAR holds. Nix has no such path that is executable, so that the NAR of a
/// file begins always in the same way.
struct FileHasher {
    hasher: Hasher,
    /// What was seen of the NAR's beginning.
    head: Vec<u8>,
    /// Bytes of the file that are still to come, once the beginning was seen.
    left: Option<u64>,
    is_other: bool,
}

impl FileHasher {
    /// `nix-archive-1 ( type regular contents`, each with its length before it and zeros behind.
    const HEAD: &[u8; 88] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
        \x04\0\0\0\0\0\0\0type\0\0\0\0\x07\0\0\0\0\0\0\0regular\0\x08\0\0\0\0\0\0\0contents";

    fn new(hasher: Hasher) -> Self {
        Self { hasher, head: Vec::new(), left: None, is_other: false }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        if self.left.is_none() {
            let missing = Self::HEAD.len() + 8 - self.head.len();
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.head.extend_from_slice(more);
            bytes = rest;
            if let Some((head, len)) = self.head.split_first_chunk::<88>()
                && let Ok(len) = len.try_into()
            {
                self.is_other = head != Self::HEAD;
                self.left = Some(u64::from_le_bytes(len));
            }
        }
        if let Some(left) = &mut self.left {
            let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            self.hasher.update(&bytes[..now]);
            *left -= now as u64;
        }
    }

    fn finish(self) -> Option<ContentHash> {
        (!self.is_other && self.left == Some(0)).then(|| self.hasher.finish())
    }
}

/// Hashes a NAR as Nix does where it may name its own path: with zeros in place of its own hash, and behind it where
/// that stood (`HashModuloSink`).
struct ModuloHasher {
    hasher: Hasher,
    own: [u8; StorePathHash::DIGITS],
    /// The last bytes, in which a name may have begun.
    tail: Vec<u8>,
    /// Where the tail begins.
    offset: u64,
    found: Vec<u64>,
}

impl ModuloHasher {
    fn new(hasher: Hasher, own: StorePathHash) -> Self {
        Self { hasher, own: own.digits(), tail: Vec::new(), offset: 0, found: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let mut text = std::mem::take(&mut self.tail);
        text.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(at) = text[from..].windows(self.own.len()).position(|window| window == self.own) {
            let at = from + at;
            // One more is too many, and is not counted any further.
            if self.found.len() <= MAX_OWN_NAMES {
                self.found.push(self.offset + at as u64);
            }
            from = at + self.own.len();
            text[at..from].fill(0);
        }
        let kept = text.len().min(self.own.len() - 1);
        let (done, tail) = text.split_at(text.len() - kept);
        self.hasher.update(done);
        self.offset += done.len() as u64;
        self.tail = tail.to_vec();
    }

    fn finish(mut self) -> Option<ContentHash> {
        self.hasher.update(&self.tail);
        for position in &self.found {
            self.hasher.update(format!("|{position}").as_bytes());
        }
        (self.found.len() <= MAX_OWN_NAMES).then(|| self.hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nix_writes_and_nothing_else() {
        let sha256 = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        let sha1 = "sha1:0c5q2gw0gbm5mzj5qmihj2bzn8kbbdv3";
        for address in ["text:", "fixed:", "fixed:r:", "fixed:git:"].map(|kind| format!("{kind}{sha256}")) {
            assert_eq!(address.parse::<ContentAddress>().unwrap().to_string(), address);
        }
        assert!(format!("fixed:{sha1}").parse::<ContentAddress>().is_ok());
        for address in
            ["", "text", "fixed:", "fixed:sha256:", "fixed:x:y", "fixed:r:sha256:0", &format!("text:{sha1}")]
        {
            assert!(address.parse::<ContentAddress>().is_err(), "{address}");
        }
        assert!(format!("fixed:{sha256}\nSig: x").parse::<ContentAddress>().is_err());
    }
}
