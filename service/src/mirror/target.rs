//! Where a mirror is written: a folder, or a bucket.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, WriteMultipart,
    local::LocalFileSystem, memory::InMemory, path::Path as Key,
};
use url::Url;

use super::{MirrorError, refusal};
use crate::{
    config::{BucketConfig, ConfigError, Environment},
    metadata::{Lead, Metadata},
    storage::{self, StorageError},
};

/// What Nix reads first.
pub(super) const CACHE_INFO: &str = "nix-cache-info";
/// The folder of NARs.
pub(super) const NARS: &str = "nar";
/// How long one request to a bucket may take: several parts of NARs share a slow line.
const REQUEST: &str = "300 seconds";
/// No narinfo that larderd writes is longer.
const LONGEST: u64 = 16 << 20;

/// A target that cannot be one. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// It is no URL of a kind that is known.
    #[error(
        "--to: this is no place for a mirror. Write file:///srv/mirror for a folder, or s3://bucket/folder (or gs://, \
         az://) for a bucket"
    )]
    Unknown,
    /// It is no bucket's, or how the bucket is reached cannot be understood.
    #[error(transparent)]
    Bucket(#[from] ConfigError),
    /// The bucket's library refuses what it is told.
    #[error("{url}: {source}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        source: StorageError,
    },
    /// The folder cannot be used.
    #[error("{folder}: {source}. The folder above it must be there, and this user must be able to write")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store's library refuses.
    #[error("{url}: {source}")]
    Store {
        /// The URL.
        url: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Where a mirror is.
#[derive(Clone)]
pub struct Target {
    store: Arc<dyn ObjectStore>,
    /// Present if it is a folder.
    folder: Option<PathBuf>,
    url: String,
}

/// Held by whoever writes to a target.
pub struct Lock(Held);

enum Held {
    Folder { _folder: File },
    Bucket(Lead),
}

impl Lock {
    /// Waits until somebody else may write there, too.
    pub async fn lost(&mut self) {
        match &mut self.0 {
            Held::Folder { .. } => std::future::pending().await,
            Held::Bucket(lead) => lead.lost().await,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Target {
    /// Opens what a URL names. A folder is made if it is not there, and what is above it is; but not for a dry run, to
    /// which it is an empty one.
    ///
    /// # Errors
    /// When it cannot be a target.
    pub fn open(url: &str, environment: &Environment, dry_run: bool) -> Result<Self, InvalidTarget> {
        let parsed = Url::parse(url).map_err(|_| InvalidTarget::Unknown)?;
        match parsed.scheme() {
            "file" => {}
            "s3" | "s3a" | "gs" | "az" | "azure" => return Self::open_bucket(url, environment),
            _ => return Err(InvalidTarget::Unknown),
        }
        let folder = parsed.to_file_path().map_err(|()| InvalidTarget::Unknown)?;
        if dry_run && !folder.exists() {
            return Ok(Self { store: Arc::new(InMemory::new()), folder: None, url: url.to_owned() });
        }
        let unusable = |source| InvalidTarget::Folder { folder: folder.clone(), source };
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
            _ => {}
        }
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|source| InvalidTarget::Store { url: url.to_owned(), source })?
            // A power cut must not leave a narinfo without its NAR.
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), folder: Some(folder), url: url.to_owned() })
    }

    fn open_bucket(url: &str, environment: &Environment) -> Result<Self, InvalidTarget> {
        let mut bucket = BucketConfig::of_environment("--to", url, &environment.of_mirror())?;
        let url = bucket.url.as_str().trim_end_matches('/').to_owned();
        // The library's default is meant for small objects.
        bucket.options.entry("timeout".to_owned()).or_insert_with(|| REQUEST.to_owned());
        let store = storage::connect(&bucket)
            .map_err(|source| InvalidTarget::Connect { url: url.clone(), source })?;
        Ok(Self { store, folder: None, url })
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// Has nobody else write there meanwhile: what one removes, another may be about to need. `None` where somebody does.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn lock(&self, metadata: &Metadata) -> Result<Option<Lock>, MirrorError> {
        let Some(folder) = &self.folder else {
            let lead = metadata.try_lead_mirroring(&self.url).await?;
            return Ok(lead.map(|lead| Lock(Held::Bucket(lead))));
        };
        let locked = File::open(folder).map_err(TryLockError::Error).and_then(|folder| {
            folder.try_lock()?;
            Ok(folder)
        });
        match locked {
            Ok(folder) => Ok(Some(Lock(Held::Folder { _folder: folder }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.failed_in_folder("", error)),
        }
    }

    pub(super) fn failed(&self, name: &str, error: object_store::Error) -> MirrorError {
        let problem = match &self.folder {
            Some(_) => error.to_string(),
            None => refusal::in_words(&error),
        };
        let place = if name.is_empty() { self.url.clone() } else { format!("{}/{name}", self.url) };
        MirrorError::Target { place, problem }
    }

    fn failed_in_folder(&self, name: &str, error: io::Error) -> MirrorError {
        self.failed(name, object_store::Error::Generic { store: "folder", source: Box::new(error) })
    }

    pub(super) fn refuse(&self, problem: String) -> MirrorError {
        MirrorError::Refused { target: self.url.clone(), problem }
    }

    /// A small file; `None` where there is none, or one that larderd cannot have written.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>, MirrorError> {
        let failed = |source| self.failed(name, source);
        match self.store.get(&Key::from(name)).await {
            Ok(found) if found.meta.size > LONGEST => Ok(None),
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Writes a file at once. Whoever reads it meanwhile finds the old one or the new one, whole.
    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), MirrorError> {
        let options = PutOptions { attributes: self.attributes(name), ..PutOptions::default() };
        let put = self.store.put_opts(&Key::from(name), bytes.into(), options).await;
        put.map_err(|source| self.failed(name, source))?;
        tracing::debug!(%name, "written");
        Ok(())
    }

    /// The same, unless it is there already.
    pub(super) async fn put_changed(&self, name: &str, bytes: Bytes) -> Result<(), MirrorError> {
        if self.get(name).await?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.put(name, bytes).await
    }

    /// Begins a long file, in parts of so many bytes. Nobody sees it before it is whole.
    pub(super) async fn begin(&self, name: &str, part: usize) -> Result<WriteMultipart, MirrorError> {
        let options =
            PutMultipartOptions { attributes: self.attributes(name), ..PutMultipartOptions::default() };
        let upload = self.store.put_multipart_opts(&Key::from(name), options).await;
        let upload = upload.map_err(|source| self.failed(name, source))?;
        Ok(WriteMultipart::new_with_chunk_size(upload, part))
    }

    /// Ends a long file: from now on it is seen.
    pub(super) async fn finish(&self, name: &str, upload: WriteMultipart) -> Result<(), MirrorError> {
        upload.finish().await.map_err(|source| self.failed(name, source))?;
        tracing::debug!(%name, "written");
        Ok(())
    }

    /// Removes a file. It may be gone already.
    pub(super) async fn delete(&self, name: &str) -> Result<(), MirrorError> {
        match self.store.delete(&Key::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(self.failed(name, source)),
        }
        tracing::debug!(%name, "removed");
        Ok(())
    }

    /// Removes what was left in a folder by writing that was killed: it lies beside its file, with `#1`, `#2`, … behind the
    /// same name, and is seen by no reader.
    pub(super) fn tidy(&self) -> Result<(), MirrorError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        for (folder, below) in [(folder.clone(), ""), (folder.join(NARS), "nar/")] {
            let failed = |error| self.failed_in_folder(below, error);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let Some((whole, part)) = name.to_str().and_then(|name| name.rsplit_once('#')) else {
                    continue;
                };
                let is_ours = super::listing::Named::of(&format!("{below}{whole}")).is_some();
                if is_ours && !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit()) {
                    fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// What a web server is to say of a file: buckets keep that, a folder's server says it by itself.
    fn attributes(&self, name: &str) -> Attributes {
        if self.folder.is_some() {
            return Attributes::new();
        }
        let (kind, control) = match name {
            // Its bytes never change.
            _ if name.ends_with(".nar.zst") => {
                ("application/x-nix-nar", "public, max-age=31536000, immutable")
            }
            _ if name.ends_with(".narinfo") => ("text/x-nix-narinfo", "public, max-age=300"),
            CACHE_INFO => ("text/x-nix-cache-info", "public, max-age=300"),
            _ => ("application/json", "no-cache"),
        };
        Attributes::from_iter([(Attribute::ContentType, kind), (Attribute::CacheControl, control)])
    }
}
