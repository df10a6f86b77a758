//! One upstream: its narinfos, and its NARs. What it has not signed it does not have.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use larder_protocol::{
    ContentAddress, StorePath,
    api::{PathInfo, Upstream},
    narinfo::NarInfo,
};
use reqwest::StatusCode;
use tokio::{
    fs::File,
    sync::{AcquireError, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tokio_util::io::ReaderStream;

use super::decompress::{Compression, READ, Window};
use crate::{config::cache::CheckedUpstream, push::is_signed, upstream::client};

/// How many questions are under way at once.
const QUESTIONS: usize = 64;
/// The longest narinfo that is read.
const MAX_NARINFO: usize = 1 << 20;
/// As much as is told of a compression's name.
const MAX_NAME: usize = 40;
/// A NAR may take so long, and a second more for so many bytes.
const NAR_WITHIN: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 64 << 10;
/// After so many questions that were not answered, and none that was, it is asked nothing more.
const FAILURES: u32 = 8;
/// How much is read from a file at once.
pub(super) const PIECE: usize = 64 << 10;

/// An upstream that paths can be fetched from.
#[derive(Debug)]
pub(super) struct Source {
    upstream: Upstream,
    client: reqwest::Client,
    timeout: Duration,
    limits: Arc<Limits>,
    /// How many questions in a row were not answered.
    failures: AtomicU32,
    /// Whether windows of its NARs are larger than those that Nix makes.
    has_usual_windows: AtomicBool,
}

/// How much is asked of an upstream at once, by all caches that have it.
#[derive(Debug)]
pub(super) struct Limits {
    questions: Semaphore,
    /// One permit for each NAR that is fetched.
    connections: Semaphore,
}

impl Limits {
    /// So many NARs are fetched at once.
    pub(super) fn new(connections: u32) -> Arc<Self> {
        Arc::new(Self {
            questions: Semaphore::new(QUESTIONS),
            connections: Semaphore::new(connections as usize),
        })
    }
}

/// What an upstream says of a path.
#[derive(Debug)]
pub(super) enum Answer {
    /// It has it.
    Has(Box<Offer>),
    /// It has it not, or nothing that its keys have signed; then why.
    Lacks(Option<String>),
    /// It does not answer, and why.
    Silent(String),
}

/// What an upstream has.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// What it has signed.
    pub info: PathInfo,
    pub source: Arc<Source>,
    /// Where its NAR lies.
    url: String,
    pub compression: Compression,
    /// The length of what lies there, if it says that.
    file_size: Option<u64>,
}

/// A NAR that comes, compressed.
pub(super) type Coming = BoxStream<'static, io::Result<Bytes>>;

impl Source {
    pub(super) fn new(configured: &CheckedUpstream, limits: Arc<Limits>) -> Result<Self, reqwest::Error> {
        let client = client(&configured.upstream.url)
            .connect_timeout(configured.timeout.min(Duration::from_secs(10)))
            .read_timeout(configured.timeout)
            .build()?;
        Ok(Self {
            upstream: configured.upstream.clone(),
            client,
            timeout: configured.timeout,
            limits,
            failures: AtomicU32::new(0),
            has_usual_windows: AtomicBool::new(false),
        })
    }

    /// Waits until one more NAR may be fetched from it.
    pub(super) async fn connection(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.limits.connections.acquire().await
    }

    /// Its URL, as configured.
    pub(super) fn url(&self) -> &str {
        &self.upstream.url
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// A prefetch begins: that it was silent is forgotten.
    pub(super) fn begin(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// What it has of a path.
    pub(super) async fn ask(self: &Arc<Self>, path: &StorePath) -> Answer {
        let Ok(_turn) = self.limits.questions.acquire().await else {
            return Answer::Silent("it is not asked any more".to_owned());
        };
        if self.failures.load(Ordering::Relaxed) >= FAILURES {
            return Answer::Silent("it did not answer before".to_owned());
        }
        let text = match timeout(self.timeout, self.narinfo(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("it said nothing for {} s", self.timeout.as_secs())),
        };
        match text {
            Ok(text) => {
                self.failures.store(0, Ordering::Relaxed);
                match text.map(|text| self.offer(path, &text)) {
                    None => Answer::Lacks(None),
                    Some(Ok(offer)) => Answer::Has(Box::new(offer)),
                    Some(Err(why)) => Answer::Lacks(Some(why)),
                }
            }
            Err(why) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Answer::Silent(why)
            }
        }
    }

    /// A narinfo's text, if there is one.
    async fn narinfo(&self, path: &StorePath) -> Result<Option<Vec<u8>>, String> {
        let name = format!("{}.narinfo", path.hash());
        let mut pieces = match self.get(&name).await? {
            Some((pieces, _)) => pieces,
            None => return Ok(None),
        };
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece.map_err(|error| in_full(&error))?);
            if text.len() > MAX_NARINFO {
                return Err("its narinfo has no end".to_owned());
            }
        }
        Ok(Some(text))
    }

    /// What a narinfo offers, if it can be believed.
    fn offer(self: &Arc<Self>, path: &StorePath, text: &[u8]) -> Result<Offer, String> {
        let text = std::str::from_utf8(text).map_err(|_| "its narinfo is no text")?;
        let mut narinfo = NarInfo::parse(text).map_err(|error| error.to_string())?;
        if narinfo.path != *path {
            return Err(format!("its narinfo is of {}", narinfo.path));
        }
        narinfo.references.sort();
        narinfo.references.dedup();
        if !is_signed(&self.upstream, &narinfo.fingerprint(), &narinfo.signatures) {
            return Err("none of its configured keys has signed what it says".to_owned());
        }
        if narinfo.ca.as_ref().is_some_and(|ca| ca.parse::<ContentAddress>().is_err()) {
            return Err("its narinfo has a content address that cannot be read".to_owned());
        }
        let compression = Compression::named(narinfo.compression.as_deref())
            .ok_or_else(|| unread(narinfo.compression.as_deref().unwrap_or_default()))?;
        if !is_relative(&narinfo.url) {
            return Err("its narinfo says that the NAR lies elsewhere".to_owned());
        }
        narinfo.signatures.truncate(crate::push::MAX_SIGNATURES);
        Ok(Offer {
            source: self.clone(),
            url: narinfo.url,
            compression,
            file_size: narinfo.file_size.filter(|size| *size > 0),
            info: PathInfo {
                path: narinfo.path,
                nar_hash: narinfo.nar_hash,
                nar_size: narinfo.nar_size,
                references: narinfo.references,
                deriver: narinfo.deriver,
                ca: narinfo.ca,
                signatures: narinfo.signatures,
            },
        })
    }

    /// What lies there in pieces, with its length where that is known; none if nothing lies there.
    async fn get(&self, name: &str) -> Result<Option<(Coming, Option<u64>)>, String> {
        if let Some(folder) = self.upstream.url.strip_prefix("file://") {
            return read(&Path::new(folder).join(name)).await.map_err(|error| error.to_string());
        }
        let answer = self.client.get(format!("{}/{name}", self.upstream.url)).send();
        let answer = answer.await.map_err(|error| in_full(&error.without_url()))?;
        match answer.status() {
            StatusCode::OK => {}
            // As Nix takes them.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Ok(None);
            }
            status => return Err(format!("it answers {status}")),
        }
        let length = answer.content_length();
        let pieces = answer.bytes_stream();
        let pieces = pieces.map(|piece| piece.map_err(|error| io::Error::other(error.without_url())));
        Ok(Some((pieces.boxed(), length)))
    }
}

impl Offer {
    /// The window that its NAR most likely has. Only zstd tells Nix's own from the usual.
    pub(super) fn likely_window(&self) -> Window {
        let usual = self.source.has_usual_windows.load(Ordering::Relaxed);
        if self.compression == Compression::Zstd && !usual { Window::Small } else { Window::Usual }
    }

    /// The window that is tried next where one was too small. An upstream's NARs are most likely all alike.
    pub(super) fn larger_window(&self, window: Window) -> Option<Window> {
        self.source.has_usual_windows.store(true, Ordering::Relaxed);
        window.larger()
    }

    /// Begins to fetch the NAR.
    pub(super) async fn fetch(&self) -> Result<Coming, String> {
        let found = timeout(self.source.timeout, self.source.get(&self.url)).await;
        let found =
            found.map_err(|_| format!("it said nothing for {} s", self.source.timeout.as_secs()))??;
        let (pieces, length) = found.ok_or("it has a narinfo and no NAR")?;
        // What is not compressed, or badly, is not much longer than the NAR.
        let nar_size = self.info.nar_size;
        let most = self.file_size.unwrap_or(nar_size + nar_size / 8 + (1 << 20));
        if length.is_some_and(|length| length > most || self.file_size.is_some_and(|size| size != length)) {
            return Err("its NAR's file has another length than its narinfo says".to_owned());
        }
        Ok(bounded(pieces, most))
    }
}

/// What comes, if it is no longer than that and does not come too slowly.
fn bounded(pieces: Coming, most: u64) -> Coming {
    let deadline = Instant::now() + NAR_WITHIN + Duration::from_secs(most / SLOWEST);
    let mut left = most;
    pieces
        .map(move |piece| {
            let piece = piece?;
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| io::Error::other("the NAR's file is longer than the narinfo says"))?;
            if Instant::now() > deadline {
                return Err(io::Error::other("the NAR comes too slowly"));
            }
            Ok(piece)
        })
        .boxed()
}

/// That a NAR is compressed by what Nix reads, through libarchive, and we do not; or by nothing that is known.
fn unread(compression: &str) -> String {
    let name = compression.get(..compression.floor_char_boundary(MAX_NAME)).unwrap_or_default();
    format!("its NAR is compressed by {name:?}, which is not read here. {READ} are")
}

async fn read(file: &PathBuf) -> io::Result<Option<(Coming, Option<u64>)>> {
    let file = match File::open(file).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata().await?;
    if !about.is_file() {
        return Ok(None);
    }
    Ok(Some((ReaderStream::with_capacity(file, PIECE).boxed(), Some(about.len()))))
}

/// Whether a narinfo's `URL` stays within its cache.
fn is_relative(url: &str) -> bool {
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#');
    let path = url.split('?').next().unwrap_or_default();
    let mut parts = Path::new(path).components();
    plain
        && !url.contains("://")
        && !path.is_empty()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// An error with what caused it.
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use futures_util::{TryStreamExt as _, stream};
    use tokio::time::sleep;

    use super::*;

    /// A byte now and then, in time that is counted and does not pass.
    #[tokio::test(start_paused = true)]
    async fn a_nar_that_drips_is_waited_for_so_long() {
        let drips = |bytes: usize| {
            let drop = async |_| {
                sleep(Duration::from_secs(20)).await;
                Ok(Bytes::from_static(b"x"))
            };
            stream::iter(0..bytes).then(drop).boxed()
        };
        let begun = Instant::now();
        let ended: Result<Vec<Bytes>, _> = bounded(drips(1 << 20), 1 << 20).try_collect().await;
        assert!(ended.unwrap_err().to_string().contains("too slowly"));
        assert_eq!(begun.elapsed(), Duration::from_secs(320));
        let whole: Vec<Bytes> = bounded(drips(15), 15).try_collect().await.unwrap();
        assert_eq!(whole.len(), 15);
        let longer: Result<Vec<Bytes>, _> = bounded(drips(3), 2).try_collect().await;
        assert!(longer.unwrap_err().to_string().contains("longer than the narinfo"));
    }

    #[test]
    fn a_nar_lies_within_its_cache() {
        for url in ["nar/x.nar.xz", "x.nar", "nar/x.nar.xz?hash=abc", "a/b/c.nar.zst", "nar/./x"] {
            assert!(is_relative(url), "{url}");
        }
        for url in [
            "",
            "/nar/x",
            "../x",
            "nar/../../x",
            "https://elsewhere/x",
            "file:///etc/passwd",
            "nar/x y",
            "nar\\x",
            "?x",
            "nar/x\u{e4}",
            "nar/x#y",
            "//elsewhere/x",
        ] {
            assert!(!is_relative(url), "{url}");
        }
    }
}
