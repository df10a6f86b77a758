//! `flake.lock`: what a flake's inputs are, as somebody wrote it down. A stranger's list of URLs: it is read within
//! bounds, and what is in it is typed before anybody goes anywhere for it.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::{NarHash, StorePath, content_address::source_path};

/// The longest lock file that is read. Those with a hundred inputs have some hundred kilobytes.
pub const MAX_LOCK_LEN: usize = 1 << 20;
/// The most inputs, those of inputs among them.
pub const MAX_LOCK_NODES: usize = 2000;
/// The versions that Nix has written since flakes were first in a release.
const VERSIONS: std::ops::RangeInclusive<u64> = 5..=7;
/// What Nix calls the store path of every input.
const NAME: &str = "source";
/// The longest name of an owner or a repository that is taken.
const MAX_NAME: usize = 255;

/// What a lock file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlakeLock {
    /// Inputs that Nix looks for by a store path, each path once, in the order of the paths.
    pub inputs: Vec<LockedInput>,
    /// The others, and why nothing is fetched for them, in the order of their names.
    pub refused: Vec<RefusedInput>,
}

/// An input with its store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedInput {
    /// Its name in the lock file, as it is written there.
    pub name: String,
    /// Its contents.
    pub nar_hash: NarHash,
    /// Where Nix has it, named `source`.
    pub path: StorePath,
    /// Where it may be had beside binary caches.
    pub origin: Option<Origin>,
}

/// An archive at a forge, or anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A commit of a repository at GitHub, or at an Enterprise Server.
    GitHub(Commit),
    /// A commit of a project at GitLab.
    GitLab(Commit),
    /// An archive at a URL, just as it is written.
    Tarball(String),
}

/// A commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The host, where the lock names one.
    pub host: Option<String>,
    /// The owner; at GitLab there may be slashes in it. Else letters, digits, '-', '_' and '.', no part of dots alone.
    pub owner: String,
    /// The repository, of the same characters.
    pub repository: String,
    /// The commit, in hexadecimal.
    pub revision: String,
}

/// An input for which nothing is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedInput {
    /// Its name in the lock file, as it is written there.
    pub name: String,
    /// Why.
    pub why: Refused,
}

/// Why nothing is fetched for an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing says what its contents are.
    #[error("it has no narHash, or one that is no SHA-256. Lock it anew: nix flake update")]
    NoNarHash,
    /// It is a path, a file, or a repository that needs a key: of one machine, or private.
    #[error("it is of a kind that no cache fetches (path, file, ssh)")]
    Local,
    /// Its owner, repository or revision is none.
    #[error("what it names is no repository and commit")]
    Origin,
}

/// What is no lock file, or too much of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFlakeLock {
    /// It is too long.
    #[error("it has more than {MAX_LOCK_LEN} bytes")]
    TooLong,
    /// It is of a version that is not known.
    #[error("it is of version {0}, and versions 5 to 7 are known")]
    Version(u64),
    /// It is something else.
    #[error("it is no flake.lock: {0}")]
    Unreadable(String),
}

#[derive(Deserialize)]
struct File {
    version: u64,
    nodes: Nodes,
}

struct Nodes(Vec<(String, Node)>);

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    locked: Option<Locked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    #[serde(rename = "type")]
    kind: String,
    nar_hash: Option<String>,
    host: Option<String>,
    owner: Option<String>,
    repo: Option<String>,
    rev: Option<String>,
    url: Option<String>,
}

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Nodes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of inputs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Nodes, A::Error> {
                let mut nodes = Vec::new();
                while let Some(name) = map.next_key()? {
                    if nodes.len() == MAX_LOCK_NODES {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format_args!(
                            "it has more than {MAX_LOCK_NODES} inputs"
                        )));
                    }
                    nodes.push((name, map.next_value()?));
                }
                Ok(Nodes(nodes))
            }
        }
        deserializer.deserialize_map(Bounded)
    }
}

impl FlakeLock {
    /// Reads a lock file.
    ///
    /// # Errors
    /// When it is none, of a version that is not known, or larger than it may be. One input that is wrong does not
    /// make the others so: see [`FlakeLock::refused`].
    pub fn parse(text: &[u8]) -> Result<Self, InvalidFlakeLock> {
        if text.len() > MAX_LOCK_LEN {
            return Err(InvalidFlakeLock::TooLong);
        }
        let file: File =
            serde_json::from_slice(text).map_err(|error| InvalidFlakeLock::Unreadable(error.to_string()))?;
        if !VERSIONS.contains(&file.version) {
            return Err(InvalidFlakeLock::Version(file.version));
        }
        let mut inputs: HashMap<StorePath, LockedInput> = HashMap::new();
        let mut refused = Vec::new();
        for (name, node) in file.nodes.0 {
            // The flake itself has none.
            let Some(locked) = node.locked else { continue };
            match locked.read(&name) {
                Ok(input) => {
                    let known = inputs.entry(input.path.clone()).or_insert_with(|| input.clone());
                    // Of those that say where to have it, the first.
                    if known.origin.is_none() {
                        *known = input;
                    }
                }
                Err(why) => refused.push(RefusedInput { name, why }),
            }
        }
        let mut inputs: Vec<LockedInput> = inputs.into_values().collect();
        inputs.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        refused.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { inputs, refused })
    }
}

impl Locked {
    fn read(&self, name: &str) -> Result<LockedInput, Refused> {
        let url = self.url.as_deref().unwrap_or_default();
        // Not asked of caches, either: the hash of what is private is nobody's business.
        let is_local = match self.kind.as_str() {
            "path" | "file" | "indirect" => true,
            "git" | "hg" => !(url.starts_with("https://") || url.starts_with("http://")),
            _ => url.starts_with("file:") || url.starts_with("ssh:"),
        };
        if is_local {
            return Err(Refused::Local);
        }
        let nar_hash: NarHash =
            self.nar_hash.as_deref().and_then(|hash| hash.parse().ok()).ok_or(Refused::NoNarHash)?;
        let origin = match self.kind.as_str() {
            "github" => Some(Origin::GitHub(self.commit(false)?)),
            "gitlab" => Some(Origin::GitLab(self.commit(true)?)),
            "tarball" => Some(Origin::Tarball(self.url.clone().ok_or(Refused::Origin)?)),
            // What git makes of a repository is not made again here: caches may have it.
            _ => None,
        };
        let path = source_path(NAME, nar_hash).map_err(|_| Refused::NoNarHash)?;
        Ok(LockedInput { name: name.to_owned(), nar_hash, path, origin })
    }

    fn commit(&self, nested: bool) -> Result<Commit, Refused> {
        let owner = self.owner.as_deref().ok_or(Refused::Origin)?;
        let repository = self.repo.as_deref().ok_or(Refused::Origin)?;
        let revision = self.rev.as_deref().ok_or(Refused::Origin)?;
        // Nix writes a subgroup as it stands in a URL.
        let owner = if nested { owner.replace("%2F", "/").replace("%2f", "/") } else { owner.to_owned() };
        let is_owner = if nested { owner.split('/').all(is_name) } else { is_name(&owner) };
        let is_revision =
            matches!(revision.len(), 40 | 64) && revision.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_owner || owner.len() > MAX_NAME || !is_name(repository) || !is_revision {
            return Err(Refused::Origin);
        }
        Ok(Commit {
            host: self.host.clone(),
            owner,
            repository: repository.to_owned(),
            revision: revision.to_ascii_lowercase(),
        })
    }
}

/// What can be one part of a URL's path and no other.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.bytes().any(|b| b != b'.')
}
