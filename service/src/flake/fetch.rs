//! Fetching an input from its host.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use larder_protocol::{NarHash, flake_lock::LockedInput};
use reqwest::{Client, Response, StatusCode, header::LOCATION};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, sync::Semaphore, time::timeout_at};
use url::Url;

use super::{
    Internet, NotThere,
    bounds::{Bounds, Spent, Wanted},
    hosts,
    internet::NoPublicAddress,
    unpack::{UnpackError, unpack},
};
use crate::config::{Config, PrefetchConfig};

/// How long one input may take, from the question to its NAR.
const WITHIN: Duration = Duration::from_secs(15 * 60);
/// How often one is sent elsewhere.
const MAX_REDIRECTS: usize = 5;
/// How many inputs are fetched at once: each may take the space of its bounds on the disk.
const AT_ONCE: usize = 2;

/// Fetches inputs from their hosts.
pub struct Fetcher {
    client: Client,
    config: PrefetchConfig,
    /// Where what is under way lies, in files without a name.
    folder: PathBuf,
    turns: Semaphore,
}

/// An input, as it was fetched and verified.
#[derive(Debug)]
pub struct Fetched {
    /// Its NAR, from the beginning.
    pub nar: File,
    /// The NAR's length.
    pub nar_size: u64,
    /// Where it was asked for, without what a query may tell.
    pub from: String,
}

/// Why an input was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nobody says where it is, but binary caches.
    #[error("no cache has it, and only caches are asked for inputs of its kind")]
    CachesOnly,
    /// Nothing is fetched from there, or from where one is sent from there.
    #[error(transparent)]
    NotThere(#[from] NotThere),
    /// The name of its host leads to a private network.
    #[error("its host has no public address")]
    Private,
    /// Sent elsewhere too often, or nowhere.
    #[error("its host sends us in circles")]
    Redirects,
    /// The host has no such thing, or does not give it to everybody.
    #[error("its host answered {0}")]
    Status(StatusCode),
    /// It is longer than it may be.
    #[error("its archive has more than {0} ([prefetch] max_archive)")]
    TooLong(crate::config::ByteSize),
    /// The archive is damaged or not to be taken.
    #[error("its archive is not taken: {0}")]
    Archive(String),
    /// Something else than the lock file says.
    #[error("it is not what the lock file says: its NAR is {0}")]
    Other(NarHash),
    /// The host does not answer, or breaks off: it may later.
    #[error("its host does not answer: {0}")]
    NoAnswer(String),
    /// It could not be kept here.
    #[error("it cannot be kept here: {0}")]
    Here(io::Error),
}

impl InputError {
    /// Whether the same question may be answered otherwise in a while.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::Here(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

impl From<UnpackError> for InputError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Here(error) => Self::Here(error),
            error => Self::Archive(error.to_string()),
        }
    }
}

impl Fetcher {
    /// A fetcher of this configuration.
    ///
    /// # Errors
    /// When the system's TLS roots cannot be used.
    pub fn new(config: &Config, internet: &Internet) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: internet.client()?,
            config: config.prefetch.clone(),
            folder: config.data_dir.clone(),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    /// Fetches an input from its host, unpacks it, and verifies it by the lock file's `narHash`. What that costs is added
    /// to `spent` as it goes, whatever comes of it.
    ///
    /// # Errors
    /// When it is not fetched.
    pub async fn fetch(&self, input: &LockedInput, spent: &mut Spent) -> Result<Fetched, InputError> {
        let origin = input.origin.as_ref().ok_or(InputError::CachesOnly)?;
        let url = hosts::url_of(origin, &self.config.hosts)?;
        spent.asked += 1;
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let (begun, before) = (Instant::now(), spent.bytes);
        let fetched = self.fetch_counted(input, url, spent).await;
        spent.time += begun.elapsed();
        if let Err(error) = &fetched {
            spent.wasted += spent.bytes - before;
            if !error.may_pass() {
                spent.wrong.insert(input.path.clone());
            }
        }
        fetched
    }

    async fn fetch_counted(
        &self,
        input: &LockedInput,
        mut url: Url,
        spent: &mut Spent,
    ) -> Result<Fetched, InputError> {
        let until = Instant::now() + WITHIN.min(spent.time_left());
        let packed = timeout_at(until.into(), self.download(url.clone(), &mut spent.bytes))
            .await
            .map_err(|_| InputError::NoAnswer("it takes too long".to_owned()))??;
        let gone = Arc::new(AtomicBool::new(false));
        let _wanted = Wanted(gone.clone());
        let bounds = Bounds { unpacked: self.config.max_unpacked.get(), until, gone };
        let folder = self.folder.clone();
        let (nar, nar_size, hash) = tokio::task::spawn_blocking(move || {
            let contents = tempfile::tempfile_in(&folder).map_err(InputError::Here)?;
            let tree = unpack(&packed, &contents, &bounds)?;
            drop(packed);
            let mut nar = tempfile::tempfile_in(&folder).map_err(InputError::Here)?;
            let mut hash = Sha256::new();
            let nar_size = tree.write_nar(&contents, &bounds, |bytes| {
                hash.update(bytes);
                nar.write_all(bytes)
            })?;
            nar.rewind().map_err(InputError::Here)?;
            Ok::<_, InputError>((nar, nar_size, NarHash(hash.finalize().into())))
        })
        .await
        .map_err(|error| InputError::Here(io::Error::other(error)))??;
        spent.bytes += nar_size;
        if hash != input.nar_hash {
            return Err(InputError::Other(hash));
        }
        url.set_query(None);
        Ok(Fetched { nar, nar_size, from: url.into() })
    }

    /// Brings what a URL leads to into a file without a name.
    async fn download(&self, url: Url, bytes: &mut u64) -> Result<File, InputError> {
        let answer = self.ask(url).await?;
        let max = self.config.max_archive;
        if answer.content_length().is_some_and(|length| length > max.get()) {
            return Err(InputError::TooLong(max));
        }
        let folder = self.folder.clone();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(io::Error::other).flatten().map_err(InputError::Here)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut left = max.get();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(no_answer)?;
            *bytes += piece.len() as u64;
            left = left.checked_sub(piece.len() as u64).ok_or(InputError::TooLong(max))?;
            file.write_all(&piece).await.map_err(InputError::Here)?;
        }
        file.flush().await.map_err(InputError::Here)?;
        Ok(file.into_std().await)
    }

    /// The answer of a URL, or of where it sends us; each place is looked at before anybody goes there.
    async fn ask(&self, mut url: Url) -> Result<Response, InputError> {
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.client.get(url.clone()).send().await.map_err(no_answer)?;
            let status = answer.status();
            if status == StatusCode::OK {
                return Ok(answer);
            }
            if !status.is_redirection() {
                return Err(InputError::Status(status));
            }
            let next = answer.headers().get(LOCATION).and_then(|next| next.to_str().ok());
            url = url.join(next.ok_or(InputError::Redirects)?).map_err(|_| NotThere::Unreadable)?;
            hosts::check(&url, &self.config.hosts)?;
        }
        Err(InputError::Redirects)
    }
}

/// The innermost reason is what says something; the URL, which a host may have made up, is left out.
fn no_answer(error: reqwest::Error) -> InputError {
    let error = error.without_url();
    let mut reason: &dyn std::error::Error = &error;
    while let Some(source) = reason.source() {
        if source.is::<NoPublicAddress>() {
            return InputError::Private;
        }
        reason = source;
    }
    InputError::NoAnswer(reason.to_string())
}
