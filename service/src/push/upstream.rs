//! Asking upstreams what they have, so that it need not be pushed.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use larder_protocol::{
    StorePathHash,
    api::{PathInfo, Upstream},
    narinfo::NarInfo,
    signature::fingerprint,
};

use crate::{Service, caches::Cache, error::ApiError};

/// How many questions are under way at once.
const PARALLEL: usize = 64;
/// How long all the questions of one push may take. What is not known by then is pushed.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest narinfo that is read.
const MAX_NARINFO: usize = 1 << 20;

/// A client of upstreams.
#[derive(Clone)]
pub struct UpstreamClient(reqwest::Client);

impl UpstreamClient {
    /// A client with time limits.
    ///
    /// # Errors
    /// When the system's TLS roots cannot be used.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10))
            .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self(client))
    }

    /// Which of `paths` an upstream of the cache has. Only what carries an upstream's valid signature is asked
    /// about: nothing else can be there, and its name is nobody's business.
    pub(super) async fn have(
        &self,
        service: &Service,
        cache: &Cache,
        paths: &[&PathInfo],
    ) -> Result<HashSet<StorePathHash>, ApiError> {
        let mut have = HashSet::new();
        for upstream in &cache.config.upstreams {
            let mut signed: Vec<&PathInfo> = Vec::new();
            for info in paths.iter().filter(|info| !have.contains(&info.path.hash())) {
                if signed_by(info, upstream) {
                    signed.push(info);
                }
                // A check takes some 50 µs, and there may be thousands: readers must not wait for all of them.
                tokio::task::yield_now().await;
            }
            if signed.is_empty() {
                continue;
            }
            let hashes: Vec<StorePathHash> = signed.iter().map(|info| info.path.hash()).collect();
            let seen = service.metadata.seen_upstream(std::slice::from_ref(&upstream.url), &hashes).await?;
            let unseen = signed.into_iter().filter(|info| !seen.contains(&info.path.hash()));
            let found = self.ask(upstream, unseen.collect()).await;
            service.metadata.note_upstream(&upstream.url, &found, service.clock.now()).await?;
            have.extend(seen);
            have.extend(found);
        }
        Ok(have)
    }

    async fn ask(&self, upstream: &Upstream, paths: Vec<&PathInfo>) -> Vec<StorePathHash> {
        let mut found = Vec::new();
        let questions: Vec<_> = paths.into_iter().map(|info| self.look_for(upstream, info)).collect();
        let mut answers = stream::iter(questions).buffer_unordered(PARALLEL);
        let collect = async {
            while let Some(answer) = answers.next().await {
                found.extend(answer);
            }
        };
        if tokio::time::timeout(PATIENCE, collect).await.is_err() {
            tracing::warn!(upstream = %upstream.url, "the upstream is slow: what it did not answer for is pushed");
        }
        found
    }

    async fn look_for(&self, upstream: &Upstream, info: &PathInfo) -> Option<StorePathHash> {
        self.has(upstream, info).await.then(|| info.path.hash())
    }

    /// Whether the upstream has the path with the same content.
    async fn has(&self, upstream: &Upstream, info: &PathInfo) -> bool {
        let url = format!("{}/{}.narinfo", upstream.url.trim_end_matches('/'), info.path.hash());
        let Ok(answer) = self.0.get(url).send().await else { return false };
        if !answer.status().is_success()
            || answer.content_length().is_some_and(|length| length > MAX_NARINFO as u64)
        {
            return false;
        }
        let mut text = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return false };
            text.extend_from_slice(&piece);
            if text.len() > MAX_NARINFO {
                return false;
            }
        }
        let narinfo = std::str::from_utf8(&text).ok().and_then(|text| NarInfo::parse(text).ok());
        narinfo.is_some_and(|narinfo| narinfo.path == info.path && narinfo.nar_hash == info.nar_hash)
    }
}

fn signed_by(info: &PathInfo, upstream: &Upstream) -> bool {
    let named = |name: &str| upstream.public_keys.iter().any(|key| key.name() == name);
    if !info.signatures.iter().any(|signature| named(signature.key_name())) {
        return false;
    }
    let text = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
    info.signatures
        .iter()
        .any(|signature| upstream.public_keys.iter().any(|key| key.verifies(&text, signature)))
}
