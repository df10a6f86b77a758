//! Closures, and finding the store path that a command line means.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Component, Path, PathBuf},
};

use larder_protocol::{StorePath, api::PathInfo, store_path::STORE_DIR};
use serde::Serialize;

use super::StoreError;

/// Store paths with all that they refer to.
#[derive(Debug, Clone)]
pub struct Closure {
    /// The paths, in the order in which they became valid.
    pub paths: Vec<PathInfo>,
    /// What was asked for.
    pub roots: Vec<StorePath>,
    /// What of it was built by whoever pushes it, as far as that is known.
    pub built: Vec<StorePath>,
    /// The directory that holds the paths' files.
    pub store_dir: PathBuf,
}

/// A path that cannot be had with a closure, and is left out of it.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    /// The path.
    pub path: StorePath,
    /// Why, as a sentence.
    pub reason: String,
}

impl Closure {
    /// Where the path's files are.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.store_dir.join(path.to_string())
    }

    /// The sum of the NARs' lengths in bytes.
    pub fn nar_bytes(&self) -> u64 {
        self.paths.iter().map(|path| path.nar_size).sum()
    }

    /// Leaves out the paths of `reasons`, all that needs them, and what no root needs any more; returns
    /// those that were left out for a reason, each with it.
    pub(crate) fn leave_out(&mut self, mut reasons: HashMap<StorePath, String>) -> Vec<Skipped> {
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        for info in &self.paths {
            for reference in &info.references {
                referrers.entry(reference).or_default().push(&info.path);
            }
        }
        let mut unseen: Vec<StorePath> = reasons.keys().cloned().collect();
        while let Some(path) = unseen.pop() {
            for referrer in referrers.get(&path).into_iter().flatten() {
                if !reasons.contains_key(*referrer) {
                    reasons.insert(
                        (*referrer).clone(),
                        format!("it needs {}, which is not pushed", path.absolute()),
                    );
                    unseen.push((*referrer).clone());
                }
            }
        }
        self.roots.retain(|root| !reasons.contains_key(root));
        self.keep_reachable();
        let mut skipped: Vec<Skipped> =
            reasons.into_iter().map(|(path, reason)| Skipped { path, reason }).collect();
        skipped.sort_by(|one, other| one.path.cmp(&other.path));
        skipped
    }

    fn keep_reachable(&mut self) {
        let references: HashMap<&StorePath, &[StorePath]> =
            self.paths.iter().map(|info| (&info.path, info.references.as_slice())).collect();
        let mut kept: HashSet<StorePath> = self.roots.iter().cloned().collect();
        let mut unseen = self.roots.clone();
        while let Some(path) = unseen.pop() {
            for reference in references.get(&path).into_iter().copied().flatten() {
                if kept.insert(reference.clone()) {
                    unseen.push(reference.clone());
                }
            }
        }
        self.paths.retain(|info| kept.contains(&info.path));
        self.built.retain(|path| kept.contains(path));
    }
}

/// How many links are followed, as Linux does.
const MAX_LINKS: usize = 40;

/// Follows links until something below the store's directory is named. What the store itself has as a
/// link stays: a store path may be one.
pub(super) fn resolve(root: &Path, given: &Path) -> Result<StorePath, StoreError> {
    let fail = |reason: &str| StoreError::NotAStorePath { path: given.to_owned(), reason: reason.to_owned() };
    let real_store = root.join("nix/store");
    let mut path = std::path::absolute(given).map_err(|error| fail(&error.to_string()))?;
    for _ in 0..MAX_LINKS {
        if let Some(store_path) = below(&path, Path::new(STORE_DIR)).or_else(|| below(&path, &real_store)) {
            return store_path
                .parse()
                .map_err(|error: larder_protocol::store_path::InvalidStorePath| fail(&error.to_string()));
        }
        path = follow(&path)
            .map_err(|error| fail(&error.to_string()))?
            .ok_or_else(|| fail("it leads elsewhere"))?;
    }
    Err(fail("too many links"))
}

/// The first part of `path` below `directory`.
fn below(path: &Path, directory: &Path) -> Option<String> {
    match path.strip_prefix(directory).ok()?.components().next()? {
        Component::Normal(name) => name.to_str().map(str::to_owned),
        _ => None,
    }
}

/// Replaces the first link in `path` by what it points to; `None` when there is none.
fn follow(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        match component {
            Component::ParentDir => {
                walked.pop();
                continue;
            }
            other => walked.push(other),
        }
        if fs::symlink_metadata(&walked)?.is_symlink() {
            let target = fs::read_link(&walked)?;
            walked.pop();
            return Ok(Some(walked.join(target).join(components.as_path())));
        }
    }
    Ok(None)
}
