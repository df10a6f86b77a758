//! Objects: immutable files, or what lies under a key of a bucket, by the `object_store` crate.
//!
//! An object of frames ends with an index of them, so that a lost database can be rebuilt: the upload's
//! index ([`larder_protocol::upload`]) in the order of the frames, then its length as a
//! little-endian `u64`, then `LARDEROX`.

mod bucket;
mod copying;
mod frames;
mod hot_tier;
mod inspect;
mod object;
mod parts;
mod room;
mod stretch;

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use object_store::{
    ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, multipart::MultipartStore, path::Path as Key,
};

use self::{bucket::Bucket, object::Target, parts::Parts};

pub use bucket::connect;
pub use frames::{Ingredient, Piece, have_moved};
pub use hot_tier::HotTier;
pub use inspect::IndexedFrame;
pub use object::ObjectWriter;
pub(crate) use parts::noted_by;
pub use room::Room;

use crate::config::{BucketWaits, Config, StorageConfig};

/// What `object_store` calls files.
const LOCAL: &str = "LocalFileSystem";

/// What S3 answers where there is no such bucket:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
const NO_BUCKET: &str = "NoSuchBucket";

/// Storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The bucket itself is not there.
    #[error("there is no bucket {0}. Make it, or mend storage.url")]
    NoBucket(String),
    /// The folder cannot be used.
    #[error("cannot use the storage folder {path}: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("storage failed: {0}")]
    Store(#[from] object_store::Error),
    /// There is no such object.
    #[error("object {0} is not there")]
    Missing(String),
    /// An object cannot be read.
    #[error("object {object} cannot be read: {source}")]
    Unreadable {
        /// Its key.
        object: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A thread that read ended.
    #[error("a read ended before its time: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    /// What read it ended, and left it out.
    #[error("a part of it was not read")]
    LeftOut,
    /// A bucket does not answer.
    #[error("storage did not answer within {} seconds", .0.as_secs())]
    Late(Duration),
    /// An object is not made of what was sent of it.
    #[error("a part of the object was not taken")]
    Broken,
    /// A read came back shorter than the object's row says.
    #[error("object {0} is shorter than its row says")]
    Short(String),
    /// A recipe has another number of hashes than its chunk has holes.
    #[error("a recipe does not fit a chunk in object {0}")]
    Unfilled(String),
}

impl StorageError {
    /// Whether a bucket does not answer, or refuses us: nothing is said of any object, and it may be over in a moment.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Late(_) | Self::Broken | Self::NoBucket(_) => true,
            Self::Store(object_store::Error::Generic { store, .. }) => *store != LOCAL,
            Self::Store(
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
            ) => true,
            _ => false,
        }
    }

    /// Whether the disk is full, or the quota used up.
    pub fn is_full(&self) -> bool {
        let mut error: Option<&dyn std::error::Error> = Some(self);
        while let Some(this) = error {
            let kind = this.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
                return true;
            }
            error = this.source();
        }
        false
    }
}

/// Where objects are.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    kind: Kind,
    /// The folder, or the bucket's URL.
    place: Arc<str>,
}

/// How objects are written, read and tidied.
#[derive(Clone)]
enum Kind {
    /// As files, without a detour.
    Files(LocalFileSystem),
    /// As what a bucket wants.
    Bucket(Bucket),
}

/// A run of an object's bytes.
#[derive(Clone)]
pub(crate) struct Run {
    /// The object's key.
    pub object: Arc<str>,
    /// Where the bytes lie in it.
    pub range: Range<u64>,
}

impl Storage {
    /// Objects where the configuration says that they lie.
    ///
    /// # Errors
    /// When the folder cannot be used, or what is configured cannot be a bucket.
    pub fn open(config: &Config) -> Result<Self, StorageError> {
        match &config.storage {
            StorageConfig::Folder => Self::open_folder(&config.data_dir.join("objects")),
            StorageConfig::Bucket(bucket) => Self::open_bucket(bucket),
        }
    }

    /// Objects as files below `folder`. What is written is on disk before it is acknowledged.
    ///
    /// # Errors
    /// When the folder cannot be made or is none.
    pub fn open_folder(folder: &Path) -> Result<Self, StorageError> {
        let unusable = |source| StorageError::Folder { path: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        let place = folder.display().to_string().into();
        Ok(Self { store: Arc::new(store.clone()), kind: Kind::Files(store), place })
    }

    /// Objects in any store. `place` is what messages call it.
    pub fn of(store: impl ObjectStore + MultipartStore, place: &str) -> Self {
        Self::of_bucket(Bucket::of(store, BucketWaits::default()), place)
    }

    fn of_bucket(bucket: Bucket, place: &str) -> Self {
        Self { store: bucket.store.clone(), kind: Kind::Bucket(bucket), place: place.into() }
    }

    /// The same with its hot tier, if one is configured: for a service, of which there is one, and for nothing beside it.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn with_hot_tier(mut self, config: &Config) -> Result<Self, StorageError> {
        if let (Kind::Bucket(bucket), StorageConfig::Bucket(config)) = (&mut self.kind, &config.storage) {
            bucket.hot_tier = config.hot_tier.as_ref().map(HotTier::open).transpose()?;
        }
        Ok(self)
    }

    /// The same without its hot tier: to look at what is stored, and nothing else.
    pub fn without_hot_tier(&self) -> Self {
        let mut storage = self.clone();
        if let Kind::Bucket(bucket) = &mut storage.kind {
            bucket.hot_tier = None;
        }
        storage
    }

    /// The hot tier, if there is one.
    pub fn hot_tier(&self) -> Option<&HotTier> {
        match &self.kind {
            Kind::Files(_) => None,
            Kind::Bucket(bucket) => bucket.hot_tier.as_deref(),
        }
    }

    /// Where objects are, for people: a folder, or a bucket's URL.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether storage answers: asks for an object that nobody writes.
    ///
    /// # Errors
    /// When it answers anything but that there is none, also that there is no such bucket.
    pub async fn ping(&self) -> Result<(), StorageError> {
        // What the answer to HEAD would not say.
        match self.store.get(&Key::from("ready")).await {
            Err(object_store::Error::NotFound { source, .. }) if source.to_string().contains(NO_BUCKET) => {
                Err(StorageError::NoBucket(self.place.to_string()))
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many bytes an object takes in memory while it is written.
    pub fn held(&self) -> usize {
        match self.kind {
            Kind::Files(_) => 0,
            Kind::Bucket(_) => parts::HELD,
        }
    }

    /// For how long somebody waits who is in the middle of something: only a bucket comes back.
    pub(crate) fn patience(&self) -> Duration {
        match &self.kind {
            Kind::Files(_) => Duration::ZERO,
            Kind::Bucket(bucket) => bucket.waits.read_on,
        }
    }

    /// Begins an object. Its row must be committed already.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn write(&self, key: &str) -> Result<ObjectWriter, StorageError> {
        Ok(ObjectWriter::to(self.begin(key).await?))
    }

    async fn begin(&self, key: &str) -> Result<Target, StorageError> {
        let key = Key::from(key);
        Ok(match &self.kind {
            Kind::Files(files) => Target::File(files.put_multipart(&key).await?),
            Kind::Bucket(bucket) => Target::Bucket(Box::new(Parts::new(bucket.clone(), key))),
        })
    }

    /// Writes a small object at once.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.store.put(&Key::from(key), bytes.into()).await?;
        Ok(())
    }

    /// Deletes an object, and what was left of writing it when the service was killed. It may be gone already.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        if let Kind::Bucket(bucket) = &self.kind {
            parts::give_up_noted(bucket, &Key::from(key)).await?;
            if let Some(tier) = &bucket.hot_tier {
                tier.deleted(key).await;
            }
        }
        match self.store.delete(&Key::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // What is being written lies beside its object, under the same name with `#1`, `#2`, … behind it.
        let Kind::Files(files) = &self.kind else { return Ok(()) };
        let whole = files.path_to_filesystem(&Key::from(key))?;
        for part in 1.. {
            let mut file = whole.clone().into_os_string();
            file.push(format!("#{part}"));
            match tokio::fs::remove_file(&file).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(source) => return Err(StorageError::Unreadable { object: key.to_owned(), source }),
            }
        }
        Ok(())
    }

    /// Reads runs, one behind the other. Each must be there whole.
    ///
    /// Files by itself and not by `object_store`, which zeroes a buffer for each range and leaves it to be copied.
    ///
    /// # Errors
    /// When an object is gone, too short, or cannot be read.
    pub(crate) async fn read(&self, runs: Vec<Run>) -> Result<Vec<u8>, StorageError> {
        let files = match &self.kind {
            Kind::Files(files) => files.clone(),
            Kind::Bucket(bucket) => return bucket.read(runs).await,
        };
        let reading = tokio::task::spawn_blocking(move || {
            let length = runs.iter().map(|run| run.range.end - run.range.start).sum::<u64>();
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            for Run { object, range } in runs {
                let file = files.path_to_filesystem(&Key::from(&*object))?;
                let wanted = range.end - range.start;
                let read = File::open(file).and_then(|mut file| {
                    file.seek(SeekFrom::Start(range.start))?;
                    file.take(wanted).read_to_end(&mut bytes)
                });
                match read {
                    Ok(read) if read as u64 == wanted => {}
                    Ok(_) => return Err(StorageError::Short(object.to_string())),
                    Err(source) => {
                        return Err(StorageError::Unreadable { object: object.to_string(), source });
                    }
                }
            }
            Ok(bytes)
        });
        reading.await?
    }
}
