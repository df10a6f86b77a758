//! `[storage]`: where objects lie, if not in a folder beside the database.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::Deserialize;
use url::Url;

use super::{ByteSize, ConfigError, Environment, environment, s3};

/// Where objects lie, checked.
#[derive(Debug, Clone, Default)]
pub enum StorageConfig {
    /// In the folder `objects` of the data directory.
    #[default]
    Folder,
    /// In a bucket.
    Bucket(Box<BucketConfig>),
}

/// The schemes of buckets.
const KNOWN: [&str; 5] = ["s3", "s3a", "gs", "az", "azure"];

/// A bucket, and how it is reached.
#[derive(Clone)]
pub struct BucketConfig {
    /// `s3://bucket`, or `s3://bucket/folder`; also `gs://` and `az://`.
    pub url: Url,
    /// What the crate `object_store` is told beside that, by its own names. Some of it is secret.
    pub options: BTreeMap<String, String>,
    /// Where copies of its objects are kept on a disk of this machine, if anywhere.
    pub hot_tier: Option<HotTierConfig>,
    /// For how long it is waited. No file says that.
    pub waits: BucketWaits,
}

/// For how long a bucket is waited that may have stopped answering, and keeps its connections.
#[derive(Debug, Clone, Copy)]
pub struct BucketWaits {
    /// To be connected.
    pub connect: Duration,
    /// One request, with its body: four parts of 5 MiB share a line of 5 Mbit/s. With `retry` it is less than the minute
    /// that `larder`, and most proxies, wait for an answer: who pushes hears of a bucket that stalls from the service.
    pub request: Duration,
    /// So long after the first attempt at something another one is made. `larder` itself tries for longer.
    pub retry: Duration,
    /// All attempts at reading something: then the reader is told to go elsewhere.
    pub read: Duration,
    /// Reading on in a NAR whose first bytes are sent. Nix waits for five minutes (`stalled-download-timeout`).
    pub read_on: Duration,
}

impl Default for BucketWaits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(40),
            retry: Duration::from_secs(15),
            read: Duration::from_secs(10),
            read_on: Duration::from_secs(60),
        }
    }
}

/// `[storage.hot_tier]`: copies of objects on a disk.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotTierConfig {
    /// The folder, which nothing else uses.
    pub folder: PathBuf,
    /// How much there may be.
    pub max_size: ByteSize,
}

impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketConfig")
            .field("url", &self.url.as_str())
            .field("options", &self.options.keys())
            .field("hot_tier", &self.hot_tier)
            .field("waits", &self.waits)
            .finish()
    }
}

/// `[storage]`, as the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    url: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) virtual_hosted: Option<bool>,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key_file: Option<PathBuf>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) profile: Option<String>,
    hot_tier: Option<HotTierConfig>,
}

impl File {
    /// What is said of S3 alone.
    fn said_of_s3(&self) -> Option<&'static str> {
        let said = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("virtual_hosted", self.virtual_hosted.is_some()),
            ("access_key_id", self.access_key_id.is_some()),
            ("secret_access_key_file", self.secret_access_key_file.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
            ("profile", self.profile.is_some()),
        ];
        said.into_iter().find_map(|(key, said)| said.then_some(key))
    }
}

impl StorageConfig {
    pub(super) fn check(file: &File, environment: &Environment) -> Result<Self, ConfigError> {
        let url = environment.get(environment::STORAGE_URL).map(|url| (environment::STORAGE_URL, url));
        let url = url.or(file.url.as_deref().map(|url| ("storage.url", url)));
        let said = file.said_of_s3().or(file.hot_tier.as_ref().map(|_| "hot_tier"));
        match (url, said) {
            (Some((said_by, url)), _) => BucketConfig::check(said_by, url, file, environment)
                .map(|bucket| Self::Bucket(Box::new(bucket))),
            (None, None) => Ok(Self::Folder),
            (None, Some(key)) => Err(ConfigError::value(
                format!("storage.{key}"),
                "is said of a bucket, and there is none. Write storage.url = \"s3://bucket\", or leave it out",
            )),
        }
    }
}

impl BucketConfig {
    /// A bucket of which the environment alone says how it is reached. `said_by` is what names its URL.
    ///
    /// # Errors
    /// When the URL is none of a bucket, or the credentials that are named cannot be read.
    pub fn of_environment(said_by: &str, url: &str, environment: &Environment) -> Result<Self, ConfigError> {
        Self::check(said_by, url, &File::default(), environment)
    }

    fn check(said_by: &str, text: &str, file: &File, environment: &Environment) -> Result<Self, ConfigError> {
        let url = Url::parse(text).ok().filter(|url| KNOWN.contains(&url.scheme()));
        let Some(url) = url else {
            // It may hold a secret.
            let shown = if text.contains('@') { String::new() } else { format!("{text:?} ") };
            let problem = format!(
                "{shown}is no storage that larderd knows. Write s3://, gs:// or az:// and the bucket's name, or leave it \
                 out for a folder in data_dir"
            );
            return Err(ConfigError::value(said_by, problem));
        };
        let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
        let has_more = !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        let Some(bucket) = bucket.filter(|_| !has_more) else {
            return Err(ConfigError::value(
                said_by,
                "is not a bucket. Write the scheme, the bucket and perhaps a folder in it: \"s3://bucket/folder\". \
                 Address and credentials are said apart from it",
            ));
        };
        let options = match url.scheme() {
            "gs" => from_environment(environment, "GOOGLE_"),
            "az" | "azure" => from_environment(environment, "AZURE_"),
            _ => s3::options(bucket, file, environment)?,
        };
        if let (false, Some(key)) = (url.scheme().starts_with("s3"), file.said_of_s3()) {
            let problem = format!(
                "is said of S3, and the bucket is {}://. Leave it out: the service takes credentials from the \
                 environment",
                url.scheme()
            );
            return Err(ConfigError::value(format!("storage.{key}"), problem));
        }
        Ok(Self { url, options, hot_tier: file.hot_tier.clone(), waits: BucketWaits::default() })
    }
}

/// What the variables say whose names begin so, by the names in `object_store`: those without capitals.
pub(super) fn from_environment(environment: &Environment, prefix: &str) -> BTreeMap<String, String> {
    environment
        .starting_with(prefix)
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}
