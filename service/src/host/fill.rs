//! The job that takes what a run published into the host's store.

use std::{collections::HashSet, io, sync::Arc};

use axum::body::Body;
use futures_util::TryStreamExt as _;
use http::{HeaderMap, Method};
use larder_protocol::{StorePath, StorePathHash, api::PathInfo, signature::fingerprint};
use tokio::io::{AsyncRead, DuplexStream};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    closure::{NotTaken, closure},
    daemon::{Daemon, DaemonError},
    roots::Line,
};
use crate::{
    Service, cache,
    caches::Cache,
    config::{HostTake, IssuerUrl},
    identity::RepositoryName,
    metadata::{MetadataError, PublishedPath, PushedRun},
    queue::Performed,
};

/// How much of a NAR waits between who reads it and who sends it.
const PIECE: usize = 256 << 10;

/// Why something is not in the host's store.
#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("{0}")]
    NotTaken(#[from] NotTaken),
    #[error("its roots cannot be kept in the data directory: {0}")]
    Roots(#[from] io::Error),
    #[error("{0} cannot be read")]
    Unreadable(StorePath),
    #[error("{0} paths that it refers to are neither in the cache nor in the host's store, {1} among them")]
    Lacking(usize, StorePath),
    #[error("its closure has {0} bytes, which is more than {1} (host_store.max_size)")]
    TooLarge(u64, crate::config::ByteSize),
}

impl FillError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Metadata(_) | Self::Roots(_) | Self::Unreadable(_) | Self::Lacking(..) => true,
            Self::Daemon(error) => error.may_pass(),
            Self::NotTaken(NotTaken::Metadata(_)) => true,
            Self::NotTaken(_) | Self::TooLarge(..) => false,
        }
    }
}

/// Takes what a run published, if its ref is one whose outputs are taken.
///
/// # Errors
/// Why it is not there, for people. It is tried again.
pub(crate) async fn fill(
    service: &Arc<Service>,
    repository: &RepositoryName,
    run: u64,
) -> Result<Performed, String> {
    let takes = service.config.host_store.take.iter();
    for take in takes.filter(|take| RepositoryName::same(take.repository.as_str(), repository.as_str())) {
        let Some(cache) = service.caches.get(&take.cache) else { continue };
        let runs = service.metadata.pushed_runs(&take.cache).await.map_err(|error| error.to_string())?;
        for pushed in runs.iter().filter(|pushed| is_of(pushed, take, run)) {
            match take_run(service, cache, take, pushed, run).await {
                Ok(()) => {}
                Err(error) if error.may_pass() => return Err(error.to_string()),
                Err(error) => tracing::error!(
                    %repository, git_ref = %take.git_ref, run, cache = %take.cache, %error,
                    "what a run published is not taken into the host's store"
                ),
            }
        }
    }
    Ok(Performed::Done)
}

/// Whether that is the run, and its token said that it ran on the ref, and that the ref is protected.
fn is_of(pushed: &PushedRun, take: &HostTake, run: u64) -> bool {
    let of = &pushed.run;
    let issuer: &IssuerUrl = &take.issuer;
    of.issuer == issuer.as_str()
        && RepositoryName::same(&of.repository, take.repository.as_str())
        && of.git_ref == take.git_ref.as_str()
        && of.ref_protected
        && of.run_id == run.to_string()
}

async fn take_run(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    take: &HostTake,
    pushed: &PushedRun,
    run: u64,
) -> Result<(), FillError> {
    let line = Line::of(&service.config, take, &pushed.run.workflow);
    // An older run that is concluded later changes nothing.
    if line.newest()?.is_some_and(|newest| newest > run) {
        return Ok(());
    }
    let roots = service.metadata.roots_of_run(pushed.id).await?;
    if roots.is_empty() {
        return Ok(());
    }
    let closure = closure(service, cache, &pushed.run, &roots).await?;
    let max = service.config.host_store.max_size;
    if closure.size > max.get() {
        return Err(FillError::TooLarge(closure.size, max));
    }
    let mut daemon = Daemon::connect(&service.config.host_store.socket).await?;
    // From here on until the roots are made.
    daemon.keep(&closure.paths).await?;
    daemon.keep(&closure.elsewhere).await?;
    let there = daemon.valid(&closure.elsewhere).await?;
    let mut lacking = closure.elsewhere.iter().filter(|path| !there.contains(*path));
    if let Some(first) = lacking.next() {
        return Err(FillError::Lacking(lacking.count() + 1, first.clone()));
    }
    let there = daemon.valid(&closure.paths).await?;
    let mut added = 0u64;
    for path in closure.paths.iter().filter(|path| !there.contains(*path)) {
        add(service, cache, &mut daemon, path).await?;
        added += 1;
    }
    // A newer one may have come meanwhile.
    if line.newest()?.is_some_and(|newest| newest > run) {
        return Ok(());
    }
    let roots: HashSet<StorePathHash> = roots.into_iter().collect();
    let paths: Vec<StorePath> =
        closure.paths.iter().filter(|path| roots.contains(&path.hash())).cloned().collect();
    for link in line.make(run, &paths)? {
        let link = std::path::absolute(link)?;
        let link = link.to_str().ok_or_else(|| io::Error::other("the data directory's name is no text"))?;
        daemon.add_root(link).await?;
    }
    line.drop_before(run)?;
    tracing::info!(
        repository = %take.repository, git_ref = %take.git_ref, run, cache = %take.cache,
        paths = closure.paths.len(), added, bytes = closure.size, "what a run published is in the host's store"
    );
    Ok(())
}

async fn add(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    daemon: &mut Daemon,
    path: &StorePath,
) -> Result<(), FillError> {
    let published = service.metadata.published_path(cache.name(), &path.hash()).await?;
    let unreadable = || FillError::Unreadable(path.clone());
    let PublishedPath { info, encoding, .. } = published.ok_or_else(unreadable)?;
    let file = format!("{}-{encoding}.nar.zst", info.nar_hash.base32());
    let body = cache::read_nar(service, cache, &file, &Method::GET, &HeaderMap::new()).await;
    let nar = decompressed(body.ok_or_else(unreadable)?.into_body());
    let statement = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
    let keys = cache.signing_keys();
    let signatures =
        keys.keys.iter().map(|key| key.sign(&statement)).chain(info.signatures.iter().cloned()).collect();
    Ok(daemon.add(&PathInfo { signatures, ..info }, nar).await?)
}

/// What is compressed, as it is without. What cannot be read ends too early, which its hash shows.
fn decompressed(body: Body) -> impl AsyncRead + Unpin {
    let (out, nar): (DuplexStream, DuplexStream) = tokio::io::duplex(PIECE);
    let packed = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let packed = SyncIoBridge::new(Box::pin(packed));
    let mut out = SyncIoBridge::new(out);
    tokio::task::spawn_blocking(move || {
        let copied = zstd::Decoder::new(packed).and_then(|mut packed| io::copy(&mut packed, &mut out));
        // Who reads it may have been refused.
        copied.and_then(|_| out.shutdown())
    });
    nar
}
