//! The caches' signing keys, one file for each cache. They never leave the service.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use larder_protocol::{SigningKey, api::CacheName};

use crate::config::Config;

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
    /// Others than the service's user can read the key.
    #[error(
        "{file}: others can read this signing key (mode {mode:03o}), and with it sign anything. Run: chmod 600 {file}"
    )]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds no key.
    #[error("{file}: {problem}. Put back the key that readers trust, or move the file away to get a new key")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
}

/// The keys of `cache`: the file's, one a line, of which all sign; or a new one if there is no file.
pub(crate) fn load_or_make(config: &Config, cache: &CacheName) -> Result<Vec<SigningKey>, KeyError> {
    let directory = config.data_dir.join("keys");
    make_private_dir(&directory).map_err(|source| KeyError::File { file: directory.clone(), source })?;
    let file = directory.join(format!("{cache}.secret"));
    let failed = |source| KeyError::File { file: file.clone(), source };
    match File::open(&file) {
        Ok(open) => read(open, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let unreadable = |problem: String| KeyError::Unreadable { file: file.clone(), problem };
            let key =
                SigningKey::generate(&name(config, cache)).map_err(|error| unreadable(error.to_string()))?;
            write(&directory, &file, &key).map_err(failed)?;
            Ok(vec![key])
        }
        Err(error) => Err(failed(error)),
    }
}

/// Readers know keys by name, so the name says where the cache is, and which of several it is.
fn name(config: &Config, cache: &CacheName) -> String {
    match &config.public_url {
        Some(url) if !url.is_loopback() => format!("{}-{cache}-1", url.host()),
        _ => format!("larder-{cache}-1"),
    }
}

fn read(mut open: File, file: &Path) -> Result<Vec<SigningKey>, KeyError> {
    let failed = |source| KeyError::File { file: file.to_owned(), source };
    let unreadable = |problem: String| KeyError::Unreadable { file: file.to_owned(), problem };
    let mode = open.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { file: file.to_owned(), mode });
    }
    let mut text = String::new();
    open.read_to_string(&mut text).map_err(failed)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let keys: Result<Vec<SigningKey>, _> = lines.map(str::parse).collect();
    match keys {
        Ok(keys) if keys.is_empty() => Err(unreadable("it is empty".to_owned())),
        Ok(keys) => Ok(keys),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// Under another name first, so that a crash leaves no half of a key.
fn write(directory: &Path, file: &Path, key: &SigningKey) -> io::Result<()> {
    let unfinished = file.with_extension("secret.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(open, "{}", key.to_secret_text())?;
    open.sync_all()?;
    fs::rename(&unfinished, file)?;
    File::open(directory)?.sync_all()
}

/// Makes a directory (and what is above it) that only this user can enter. One that is there stays as it is.
pub(crate) fn make_private_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
