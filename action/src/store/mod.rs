//! The Nix store of this machine: its database and the files of its paths.

mod closure;
mod database;

use std::path::{Path, PathBuf};

pub use closure::{Closure, Skipped};
use database::Database;
pub use database::Mark;
use larder_protocol::{StorePath, api::PathInfo};

/// Why the store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no database.
    #[error("{0} is not there: is Nix installed, and is the store's root right (--store)?")]
    NoDatabase(PathBuf),
    /// The database cannot be read.
    #[error("cannot read Nix's database {path}: {reason}")]
    Unreadable {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// A row has something that Nix does not write.
    #[error("Nix's database has {what} of {path}; `nix-store --verify --repair` may mend it")]
    Malformed {
        /// The path, as it stands there.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// Paths that the store does not have.
    #[error("{} is not a valid path of the store{}", .path.absolute(), more(.others))]
    NotValid {
        /// The first of them.
        path: StorePath,
        /// How many others there are.
        others: usize,
    },
    /// Something that is not in the store.
    #[error(
        "{path} is not in the store ({reason}); give a path below /nix/store, or a link to one such as ./result"
    )]
    NotAStorePath {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

fn more(others: &usize) -> String {
    if *others == 0 { String::new() } else { format!(", and {others} others neither") }
}

/// The store path that `path` names, in the store below `root`: a path below the store's directory, or a link to
/// one. The store itself need not be there.
///
/// # Errors
/// When it leads elsewhere.
pub fn resolve(root: &Path, path: &Path) -> Result<StorePath, StoreError> {
    closure::resolve(root, path)
}

/// A Nix store on this machine.
#[derive(Debug)]
pub struct NixStore {
    root: PathBuf,
    database: Database,
}

impl NixStore {
    /// Opens the store below `root`: `/`, or another directory as in Nix's `--store DIR`, or where a
    /// container has the host's `/nix` bound.
    ///
    /// # Errors
    /// When there is no database, or it cannot be read.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let database = Database::open(&root.join("nix/var/nix/db")).await?;
        Ok(Self { root: root.to_owned(), database })
    }

    /// The newest row: what is built from now on lies above it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn high_water_mark(&self) -> Result<Mark, StoreError> {
        self.database.high_water_mark().await
    }

    /// What was built here since `mark`: rows above it that Nix marked `ultimate`, less fixed-output
    /// sources; in the order in which they came.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn built_since(&self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        self.database.built_since(mark).await
    }

    /// What came from caches since `mark`: rows above it that Nix did not mark `ultimate`, less what was added from
    /// files; in the order in which they came.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn substituted_since(&self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        self.database.substituted_since(mark).await
    }

    /// All that came into the store since `mark`, in the order in which it came.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn added_since(&mut self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        self.database.added_since(mark).await
    }

    /// `roots` and all that they need, in the order in which they became valid.
    ///
    /// # Errors
    /// When one is not valid, or the database cannot be read.
    pub async fn closure(&self, roots: &[StorePath]) -> Result<Closure, StoreError> {
        let paths = self.database.closure(roots).await?;
        Ok(Closure { paths, roots: roots.to_vec(), built: Vec::new(), store_dir: self.store_dir() })
    }

    /// Where the path's files are.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.store_dir().join(path.to_string())
    }

    /// The store path that `path` names: a path below the store's directory, or a link to one.
    ///
    /// # Errors
    /// When it leads elsewhere.
    pub fn resolve(&self, path: &Path) -> Result<StorePath, StoreError> {
        closure::resolve(&self.root, path)
    }

    fn store_dir(&self) -> PathBuf {
        self.root.join("nix/store")
    }
}
