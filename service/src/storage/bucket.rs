//! Objects in a bucket: S3, and what else the `object_store` crate knows.
//!
//! A large object is sent in parts ([`super::parts`]). Every wait has a limit: a bucket may stop answering, and keep its
//! connections.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, ObjectStore, ObjectStoreExt as _, RetryConfig,
    aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, coalesce_ranges, gcp::GoogleCloudStorageBuilder,
    multipart::MultipartStore, path::Path as Key, prefix::PrefixStore,
};

use super::{HotTier, Run, Storage, StorageError};
use crate::config::{BucketConfig, BucketWaits};

/// So many bytes of a NAR, or little more, are read at once: a request takes as long as some hundred KiB do.
pub(super) const PIECE: u64 = 1 << 20;
/// So many such pieces are asked for at once: what lies in another object, or far off, does not come later.
pub(super) const READ_AHEAD: usize = 4;
/// A piece that goes to and fro between objects more often ends sooner: all of it has one limit of time.
pub(super) const OBJECTS: usize = 4 * AT_ONCE;
/// So many objects are asked at once for one piece.
const AT_ONCE: usize = 8;
/// What lies between two runs is read with them if it is no longer: cheaper than another request.
pub(super) const GAP: u64 = 128 << 10;

/// Reading from the hot tier.
const NEAR: Duration = Duration::from_secs(2);

impl Storage {
    /// Objects in a bucket.
    ///
    /// # Errors
    /// When what is configured cannot be a bucket. Whether it answers, [`Storage::ping`] tells.
    pub fn open_bucket(bucket: &BucketConfig) -> Result<Self, StorageError> {
        Ok(Self::of_bucket(Bucket::open(bucket)?, bucket.url.as_str()))
    }
}

/// A bucket, or the folder in it that the URL names, as the crate `object_store` speaks to it.
///
/// # Errors
/// When what is configured cannot be a bucket.
pub fn connect(bucket: &BucketConfig) -> Result<Arc<dyn ObjectStore>, StorageError> {
    Ok(Bucket::open(bucket)?.store)
}

/// A bucket, or a folder in it.
#[derive(Clone)]
pub(super) struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    /// The same, for objects that are sent in parts.
    pub parts: Arc<dyn MultipartStore>,
    /// Copies of some objects on a disk of this machine.
    pub hot_tier: Option<Arc<HotTier>>,
    pub waits: BucketWaits,
}

impl Bucket {
    pub fn of(store: impl ObjectStore + MultipartStore, waits: BucketWaits) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), parts: store, hot_tier: None, waits }
    }

    fn open(bucket: &BucketConfig) -> Result<Self, StorageError> {
        let url = bucket.url.as_str();
        let folder = Key::parse(bucket.url.path().trim_matches('/')).map_err(object_store::Error::from)?;
        let waits = bucket.waits;
        let retry =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: 6, retry_timeout: waits.retry };
        let client = ClientOptions::new().with_connect_timeout(waits.connect).with_timeout(waits.request);
        macro_rules! build {
            ($builder:ty) => {{
                let builder = <$builder>::new().with_client_options(client).with_retry(retry).with_url(url);
                let options =
                    bucket.options.iter().filter_map(|(key, value)| Some((key.parse().ok()?, value)));
                let store =
                    options.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build()?;
                Self::of(PrefixStore::new(store, folder), waits)
            }};
        }
        Ok(match bucket.url.scheme() {
            "gs" => build!(GoogleCloudStorageBuilder),
            "az" | "azure" => build!(MicrosoftAzureBuilder),
            _ => build!(AmazonS3Builder),
        })
    }
}

/// Runs of which nothing is near.
fn from_afar(runs: Vec<Run>) -> Vec<(Run, Option<Bytes>)> {
    runs.into_iter().map(|run| (run, None)).collect()
}

/// Which run of all, and where it lies in the object.
type Wanted = Vec<(usize, Range<u64>)>;

impl Bucket {
    /// Reads runs, one behind the other: those from the hot tier that are there; of the rest, in each object those that lie
    /// near each other at once, and of several objects at the same time.
    pub async fn read(&self, runs: Vec<Run>) -> Result<Vec<u8>, StorageError> {
        let (mut found, mut wanted) = (vec![Bytes::new(); runs.len()], BTreeMap::<Arc<str>, Wanted>::new());
        let near = match &self.hot_tier {
            // A disk that stalls must not stand before a bucket that answers.
            Some(tier) => match tokio::time::timeout(NEAR, tier.read(runs.clone())).await {
                Ok(near) => near?,
                Err(_) => from_afar(runs),
            },
            None => from_afar(runs),
        };
        for (number, (run, bytes)) in near.into_iter().enumerate() {
            match bytes {
                Some(bytes) => found[number] = bytes,
                None => wanted.entry(run.object).or_default().push((number, run.range)),
            }
        }
        let answers = wanted.into_iter().map(|(object, wanted)| self.clone().read_object(object, wanted));
        let mut answers = stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let reading = async move {
            while let Some(answer) = answers.try_next().await? {
                for (number, bytes) in answer {
                    found[number] = bytes;
                }
            }
            match &mut found[..] {
                // Not copied where nobody else holds it.
                [one] => Ok(std::mem::take(one).into()),
                found => Ok(found.concat()),
            }
        };
        let within = self.waits.read;
        tokio::time::timeout(within, reading).await.map_err(|_| StorageError::Late(within))?
    }

    async fn read_object(
        self,
        object: Arc<str>,
        wanted: Wanted,
    ) -> Result<Vec<(usize, Bytes)>, StorageError> {
        let (numbers, ranges): (Vec<usize>, Vec<Range<u64>>) = wanted.into_iter().unzip();
        let (bucket, key) = (&self, &Key::from(&*object));
        let bytes = match coalesce_ranges(&ranges, |range| bucket.get_range(key, range), GAP).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
                return Err(self.refused(&object, end, error).await);
            }
        };
        match bytes.iter().zip(&ranges).all(|(bytes, range)| bytes.len() as u64 == range.end - range.start) {
            true => Ok(numbers.into_iter().zip(bytes).collect()),
            false => Err(StorageError::Short(object.to_string())),
        }
    }

    /// Why a part of an object, up to this end of it, could not be read.
    pub async fn refused(&self, object: &str, end: u64, error: object_store::Error) -> StorageError {
        match error {
            // A range behind the end is refused in other words by each.
            object_store::Error::Generic { .. } => match self.store.head(&Key::from(object)).await {
                Ok(found) if found.size < end => StorageError::Short(object.to_owned()),
                _ => error.into(),
            },
            object_store::Error::NotFound { .. } => StorageError::Missing(object.to_owned()),
            error => error.into(),
        }
    }

    /// Whether the hot tier has an object.
    pub async fn has_near(&self, object: &str) -> bool {
        match &self.hot_tier {
            Some(tier) => tokio::time::timeout(NEAR, tier.has(object)).await.unwrap_or(false),
            None => false,
        }
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> object_store::Result<Bytes> {
        let length = range.end - range.start;
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let answer = self.store.get_opts(key, options).await?;
        if let Some(tier) = &self.hot_tier {
            tier.missed(&self.store, key, length, answer.meta.size);
        }
        let bytes = answer.bytes().await?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            // Whoever joins ranges counts on all of each.
            false => Err(object_store::Error::Generic {
                store: "bucket",
                source: "less came than was asked for".into(),
            }),
        }
    }
}
