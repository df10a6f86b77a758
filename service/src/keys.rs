//! The caches' signing keys, one file for each cache. They never leave the service.
//!
//! `DATA_DIR/keys/CACHE.secret` has a key a line, the oldest first: as Nix writes secret keys, and behind it, where the
//! key signs for a while only, until when. All keys that still sign do so; the newest signs statements. Whoever changes
//! the file replaces it whole, and a running service reads it again: see [`Keyring`].

pub mod change;
mod file;
mod ring;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use larder_protocol::{SigningKey, api::CacheName};

pub use self::{
    file::KeptKey,
    ring::{ActiveKeys, Keyring, TAKEN_UP_WITHIN},
};
use crate::config::Config;

/// More than any file of keys has, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// No signing key could be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file or its directory cannot be read or made.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the service's user can read the key, or put another in its place.
    #[error(
        "{file}: others can reach this signing key (mode {mode:03o}), and with it sign anything. Run: chmod {remedy} \
         {file}"
    )]
    Exposed {
        /// The file, or the directory.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        remedy: &'static str,
    },
    /// The file holds no key.
    #[error("{file}: {problem}. Put back the key that readers trust, or move the file away to get a new key")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// There are keys, but none of them signs any more.
    #[error("{file}: all keys in it are retired. Make a new one: larderd key generate --cache {cache}")]
    AllRetired {
        /// The file.
        file: PathBuf,
        /// The cache.
        cache: CacheName,
    },
}

/// The directory that holds the caches' keys.
#[derive(Debug, Clone)]
pub struct KeyDir(PathBuf);

impl KeyDir {
    /// The one in the data directory.
    pub fn of(config: &Config) -> Self {
        Self(config.data_dir.join("keys"))
    }

    /// The file of a cache's keys.
    pub fn file(&self, cache: &CacheName) -> PathBuf {
        self.0.join(format!("{cache}.secret"))
    }

    /// All keys of a cache, retired ones among them, the oldest first; none if it has no file yet.
    ///
    /// # Errors
    /// When the file cannot be read, or others can.
    pub fn load(&self, cache: &CacheName) -> Result<Vec<KeptKey>, KeyError> {
        self.check()?;
        let file = self.file(cache);
        match File::open(&file) {
            Ok(open) => read(open, &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(KeyError::File { file, source }),
        }
    }

    /// The keys of a cache; a new one of that name if it has none.
    ///
    /// # Errors
    /// When they cannot be read or made, or others can read them.
    pub fn load_or_make(&self, cache: &CacheName, name: &str) -> Result<Vec<KeptKey>, KeyError> {
        let keys = self.load(cache)?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        self.change(cache, |keys| {
            // Somebody else may have made one meanwhile.
            if keys.is_empty() {
                let problem = |error: larder_protocol::signature::InvalidKey| KeyError::Unreadable {
                    file: self.file(cache),
                    problem: error.to_string(),
                };
                keys.push(KeptKey::new(SigningKey::generate(name).map_err(problem)?));
            }
            Ok(keys.clone())
        })
    }

    /// Changes a cache's keys: `change` is handed all of them, and what it leaves is written, if it does not fail.
    ///
    /// # Errors
    /// When it fails, or the file cannot be read or written.
    pub fn change<T, E: From<KeyError>>(
        &self,
        cache: &CacheName,
        change: impl FnOnce(&mut Vec<KeptKey>) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |source| KeyError::File { file: self.0.clone(), source };
        make_private_dir(&self.0).map_err(failed)?;
        // One at a time, whichever process: none must undo what another did. Given back when it is closed.
        let lock = File::open(&self.0).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut keys = self.load(cache)?;
        let before = keys.clone();
        let changed = change(&mut keys)?;
        if keys != before {
            let file = self.file(cache);
            self.write(&lock, &file, &keys).map_err(|source| KeyError::File { file, source })?;
        }
        Ok(changed)
    }

    /// Under another name first, so that a crash leaves no half of a key.
    fn write(&self, directory: &File, file: &Path, keys: &[KeptKey]) -> io::Result<()> {
        let unfinished = file.with_extension("secret.new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        hand_over(&open, &directory.metadata()?)?;
        open.write_all(file::to_text(keys).as_bytes())?;
        open.sync_all()?;
        fs::rename(&unfinished, file)?;
        directory.sync_all()
    }

    /// Whoever can write to the directory can put another key there.
    fn check(&self) -> Result<(), KeyError> {
        match fs::metadata(&self.0) {
            Ok(metadata) => closed(&self.0, metadata.permissions().mode(), "700"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(KeyError::File { file: self.0.clone(), source }),
        }
    }
}

/// What a cache's keys are called: readers know keys by name, so the name says where the cache is, and the number
/// behind it which of several it is.
pub fn base_name(config: &Config, cache: &CacheName) -> String {
    match &config.public_url {
        Some(url) if !url.is_loopback() => format!("{}-{cache}", url.host()),
        _ => format!("larder-{cache}"),
    }
}

/// The name of the next key: no key of `keys` has its number or a higher one.
pub fn next_name(base: &str, keys: &[KeptKey]) -> String {
    let number = |name: &str| name.strip_prefix(base)?.strip_prefix('-')?.parse::<u32>().ok();
    let highest = keys.iter().filter_map(|kept| number(kept.key.name())).max().unwrap_or(0);
    format!("{base}-{}", highest.saturating_add(1))
}

fn read(open: File, file: &Path) -> Result<Vec<KeptKey>, KeyError> {
    let failed = |source| KeyError::File { file: file.to_owned(), source };
    let unreadable = |problem: String| KeyError::Unreadable { file: file.to_owned(), problem };
    closed(file, open.metadata().map_err(failed)?.permissions().mode(), "600")?;
    let mut text = String::new();
    open.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    let keys = file::parse(&text).map_err(unreadable)?;
    if keys.is_empty() { Err(unreadable("it is empty".to_owned())) } else { Ok(keys) }
}

/// Refuses what others than its owner can reach.
fn closed(file: &Path, mode: u32, remedy: &'static str) -> Result<(), KeyError> {
    let mode = mode & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyError::Exposed { file: file.to_owned(), mode, remedy }) }
}

/// Gives a file that root has made to the owner of its directory: the service must be able to use it.
pub(crate) fn hand_over(file: &File, directory: &fs::Metadata) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() || file.metadata()?.uid() == directory.uid() {
        return Ok(());
    }
    fchown(file, Some(directory.uid()), Some(directory.gid()))
}

/// Makes a directory (and what is above it) that only this user can enter. One that is there stays as it is.
pub(crate) fn make_private_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
