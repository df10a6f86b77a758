//! Asking upstreams what they have: so that it need not be pushed, and so that nobody pushes something else in its
//! place.
//!
//! What goes over the wire is a path's hash, as in any question of Nix to a binary cache: not its name.

mod asking;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use futures_util::StreamExt as _;
use larder_protocol::{
    NarHash, PublicKey, Signature, StorePath, StorePathHash,
    api::{CacheName, PathInfo, PushId, Upstream},
    narinfo::NarInfo,
    signature::fingerprint,
};
use quick_cache::sync::Cache as QuickCache;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};

use self::asking::{Answer, Heard, PATIENCE, ask_all, patience};
use crate::{
    Service,
    caches::Cache,
    config::{Config, cache::CheckedUpstream},
    error::ApiError,
    metadata::{Among, Namespace, UpstreamPath},
    upstream::client,
};

/// How long connecting to one may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When the client comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an upstream that answered nothing is asked nothing more, in seconds.
const PAUSE: i64 = 60;
/// The longest narinfo that is read.
const MAX_NARINFO: usize = 1 << 20;
/// How long it is remembered, in seconds, that an upstream has a path: as long as Nix remembers it.
const PRESENT_FOR: i64 = 30 * 24 * 60 * 60;
/// A push that was opened at the end of that time may still be committed.
const PUSHED_WITHIN: i64 = 24 * 60 * 60;
/// How long it is remembered, in seconds, that it has not, and of how many paths.
const ABSENT_FOR: i64 = 15 * 60;
const ABSENT: usize = 200_000;

/// A client of upstreams.
pub struct UpstreamClient {
    /// Each by its URL and keys: what other keys have signed it does not have.
    known: Vec<(Upstream, Known)>,
}

/// An upstream, and what is remembered of it.
struct Known {
    client: reqwest::Client,
    /// Paths that it has not, and until when that holds.
    absent: QuickCache<(Namespace, StorePathHash), i64>,
    /// Until when it is not asked.
    silent_until: AtomicI64,
}

impl Known {
    fn is_absent(&self, among: Among, hash: StorePathHash, now: i64) -> bool {
        let Among::Namespace(namespace) = among else { return false };
        self.absent.get(&(namespace, hash)).is_some_and(|until| until > now)
    }

    fn note_absent(&self, among: Among, hash: StorePathHash, now: i64) {
        if let Among::Namespace(namespace) = among {
            self.absent.insert((namespace, hash), now + ABSENT_FOR);
        }
    }

    async fn look_for(&self, upstream: &Upstream, hash: StorePathHash) -> (StorePathHash, Answer) {
        (hash, self.answer(upstream, hash).await)
    }

    async fn answer(&self, upstream: &Upstream, hash: StorePathHash) -> Answer {
        if let Some(folder) = upstream.url.strip_prefix("file://") {
            let file = Path::new(folder).join(format!("{hash}.narinfo"));
            return match tokio::fs::read(file).await {
                Ok(text) => signed(upstream, hash, &text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Answer::Absent,
                Err(_) => Answer::None,
            };
        }
        let url = format!("{}/{hash}.narinfo", upstream.url.trim_end_matches('/'));
        let Ok(answer) = self.client.get(url).send().await else { return Answer::None };
        match answer.status() {
            status if status.is_success() => {}
            // As Nix takes them.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Answer::Absent;
            }
            _ => return Answer::None,
        }
        let mut text = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return Answer::None };
            text.extend_from_slice(&piece);
            if text.len() > MAX_NARINFO {
                return Answer::Absent;
            }
        }
        signed(upstream, hash, &text)
    }
}

/// Among whom it is remembered what an upstream said to a push. A pull request's own cache is no source for its parent,
/// but what it asks upstreams is the same, and whoever pushes there may read that.
pub(super) fn among(cache: &Cache, push: PushId, blind: bool) -> Among {
    match blind {
        true => Among::Push(push),
        false => Among::Namespace(cache.parent().map_or(cache, |parent| parent.as_ref()).namespace()),
    }
}

/// What upstreams say of paths that somebody wants to push.
#[derive(Debug, Default)]
pub(super) struct UpstreamSays {
    /// They have them just so.
    pub same: HashSet<StorePathHash>,
    /// They have signed something else: which NAR, and the upstream's URL.
    pub other: HashMap<StorePathHash, (NarHash, String)>,
    /// How many they were not asked about, or did not answer for.
    pub unasked: u64,
}

/// Of which paths no upstream says that it has them.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Those that none has.
    pub absent: HashSet<StorePath>,
    /// Those that none has of which answered, and one did not answer.
    pub unanswered: HashSet<StorePath>,
}

/// Since when what was seen at an upstream counts for references.
pub(crate) fn counts_since(now: i64) -> i64 {
    now - PRESENT_FOR - PUSHED_WITHIN
}

impl UpstreamClient {
    /// A client with time limits, for the upstreams of a configuration.
    ///
    /// # Errors
    /// When the system's TLS roots cannot be used.
    pub fn new(config: &Config) -> Result<Self, reqwest::Error> {
        let mut known: Vec<(Upstream, Known)> = Vec::new();
        for CheckedUpstream { upstream, .. } in config.caches.iter().flat_map(|cache| &cache.upstreams) {
            if !known.iter().any(|(other, _)| other == upstream) {
                let client =
                    client(&upstream.url).connect_timeout(CONNECT_TIMEOUT).timeout(PATIENCE).build()?;
                let silent_until = AtomicI64::new(i64::MIN);
                let new = Known { client, absent: QuickCache::new(ABSENT), silent_until };
                known.push((upstream.clone(), new));
            }
        }
        Ok(Self { known })
    }

    /// Compares paths with what the cache's upstreams have signed. An upstream that is not to be asked about all
    /// (`check = false`) is asked about those that carry its valid signature.
    pub(super) async fn compare(
        &self,
        service: &Service,
        cache: &Cache,
        among: Among,
        paths: &[&PathInfo],
    ) -> Result<UpstreamSays, ApiError> {
        let now = service.clock.now();
        let mut says = UpstreamSays::default();
        for configured in &cache.config.upstreams {
            let upstream = &configured.upstream;
            let mut signed = HashSet::new();
            let mut open: Vec<&PathInfo> = Vec::new();
            for info in paths {
                let hash = info.path.hash();
                if says.same.contains(&hash) || says.other.contains_key(&hash) {
                    continue;
                }
                let is_signed = is_signed(upstream, &statement_of(info), &info.signatures);
                if is_signed {
                    signed.insert(hash);
                }
                if is_signed || configured.check {
                    open.push(info);
                }
                // A check takes some 50 µs, and there may be thousands: readers must not wait for all of them.
                tokio::task::yield_now().await;
            }
            let hashes: Vec<StorePathHash> = open.iter().map(|info| info.path.hash()).collect();
            let mut found =
                service.metadata.seen_upstream(among, upstream, &hashes, now - PRESENT_FOR).await?;
            open.retain(|info| !found.contains_key(&info.path.hash()));
            let asked = open.iter().map(|info| info.path.hash());
            let (new, unanswered, heard) = self.ask(among, upstream, asked, now).await;
            service.metadata.note_upstream(among, upstream, &new, now, counts_since(now)).await?;
            found.extend(new.into_iter().map(|path| (path.path.hash(), path)));
            // What the upstream itself has signed cannot be in the place of what it has signed.
            let unasked = unanswered.iter().filter(|hash| !signed.contains(hash)).count();
            // Else one forged path could hide among so many that nobody comes to it. What was answered is remembered,
            // so that each try has fewer to ask, and the last ones are asked alone.
            if unasked > 0 && heard == Heard::Some {
                return Err(come_again(upstream, cache.name(), unasked));
            }
            if unasked > 0 {
                tracing::warn!(
                    upstream = %upstream.url, cache = %cache.name(), paths = unasked,
                    "the upstream does not answer: what it may have signed otherwise is pushed unchecked"
                );
                says.unasked += unasked as u64;
            }
            for info in paths {
                let hash = info.path.hash();
                let Some(path) = found.get(&hash) else { continue };
                if path.path == info.path && path.statement == digest(&statement_of(info)) {
                    says.same.insert(hash);
                } else if !signed.contains(&hash) {
                    says.other.insert(hash, (path.nar_hash, upstream.url.clone()));
                }
            }
        }
        Ok(says)
    }

    /// Which of these paths none of the cache's upstreams has, and which may be there, as one did not answer. Asks about
    /// those that were not seen there lately.
    pub(crate) async fn lacking(
        &self,
        service: &Service,
        cache: &Cache,
        paths: HashSet<StorePath>,
    ) -> Result<Lacking, ApiError> {
        let now = service.clock.now();
        let among = Among::Namespace(cache.parent().map_or(cache, |parent| parent.as_ref()).namespace());
        let mut lacking = Lacking { absent: paths, unanswered: HashSet::new() };
        for configured in &cache.config.upstreams {
            if lacking.absent.is_empty() {
                break;
            }
            let upstream = &configured.upstream;
            let (seen, since) = ([upstream].into_iter(), counts_since(now));
            let there = service.metadata.at_upstreams(among, seen, &lacking.absent, since).await?;
            lacking.absent.retain(|path| !there.contains(path));
            let hashes: Vec<StorePathHash> = lacking.absent.iter().map(StorePath::hash).collect();
            let (found, unanswered, _) = match configured.check {
                true => self.ask(among, upstream, hashes.iter().copied(), now).await,
                false => (Vec::new(), hashes.into_iter().collect(), Heard::Nothing),
            };
            service.metadata.note_upstream(among, upstream, &found, now, counts_since(now)).await?;
            lacking.absent.retain(|path| !found.iter().any(|found| found.path == *path));
            let silent = lacking.absent.iter().filter(|path| unanswered.contains(&path.hash()));
            lacking.unanswered.extend(silent.cloned());
        }
        lacking.unanswered.retain(|path| lacking.absent.remove(path));
        Ok(lacking)
    }

    /// Those of these paths that one of the cache's upstreams has with the same NAR.
    pub(crate) async fn having(
        &self,
        service: &Service,
        cache: &Cache,
        paths: &[(StorePath, NarHash)],
    ) -> Result<Vec<StorePath>, ApiError> {
        let now = service.clock.now();
        let among = Among::Namespace(cache.namespace());
        let mut there = HashSet::new();
        for configured in cache.config.upstreams.iter().filter(|upstream| upstream.check) {
            let upstream = &configured.upstream;
            let hashes: Vec<StorePathHash> = paths.iter().map(|(path, _)| path.hash()).collect();
            let seen = service.metadata.seen_upstream(among, upstream, &hashes, now - PRESENT_FOR).await?;
            let open = hashes.into_iter().filter(|hash| !seen.contains_key(hash));
            let (found, ..) = self.ask(among, upstream, open, now).await;
            service.metadata.note_upstream(among, upstream, &found, now, counts_since(now)).await?;
            there.extend(seen.into_values().chain(found).map(|found| (found.path, found.nar_hash)));
        }
        let mut having: Vec<StorePath> =
            paths.iter().filter(|path| there.contains(*path)).map(|(path, _)| path.clone()).collect();
        having.sort_unstable();
        having.dedup();
        Ok(having)
    }

    /// What an upstream has of paths, and of which it does not say whether it has them.
    async fn ask(
        &self,
        among: Among,
        upstream: &Upstream,
        hashes: impl Iterator<Item = StorePathHash>,
        now: i64,
    ) -> (Vec<UpstreamPath>, HashSet<StorePathHash>, Heard) {
        let Some((_, known)) = self.known.iter().find(|(known, _)| known == upstream) else {
            return (Vec::new(), hashes.collect(), Heard::Nothing);
        };
        let mut open: HashSet<StorePathHash> =
            hashes.filter(|hash| !known.is_absent(among, *hash, now)).collect();
        let mut found = Vec::new();
        if known.silent_until.load(Ordering::Relaxed) > now {
            return (found, open, Heard::Nothing);
        }
        let put = |hash| known.look_for(upstream, hash);
        let note = |hash, answer| match answer {
            Answer::Signed(path) => found.push(path),
            Answer::Absent => known.note_absent(among, hash, now),
            Answer::None => {}
        };
        let heard = ask_all(&mut open, patience(among), put, note).await;
        if heard == Heard::Nothing {
            known.silent_until.store(now + PAUSE, Ordering::Relaxed);
        }
        (found, open, heard)
    }
}

/// The URL is logged, and not told: it may name a host or a folder inside, and a job prints what it is told where
/// everybody may read it.
fn come_again(upstream: &Upstream, cache: &CacheName, unasked: usize) -> ApiError {
    tracing::warn!(
        upstream = %upstream.url, %cache, paths = unasked,
        "the upstream did not answer in time about all of a push's paths: the client comes again for the rest"
    );
    let message = format!(
        "an upstream has not yet answered for {unasked} of the paths. Try again: it goes on with those"
    );
    ApiError::unavailable(message, AGAIN)
}

/// What a narinfo says, if the upstream's keys have signed it.
fn signed(upstream: &Upstream, hash: StorePathHash, text: &[u8]) -> Answer {
    let narinfo = std::str::from_utf8(text).ok().and_then(|text| NarInfo::parse(text).ok());
    // What the upstream's keys have not signed no reader takes for the upstream's.
    let Some(narinfo) = narinfo.filter(|narinfo| {
        narinfo.path.hash() == hash && is_signed(upstream, &narinfo.fingerprint(), &narinfo.signatures)
    }) else {
        return Answer::Absent;
    };
    let statement = digest(&narinfo.fingerprint());
    Answer::Signed(UpstreamPath { path: narinfo.path, nar_hash: narinfo.nar_hash, statement })
}

/// What a signature of the path signs.
fn statement_of(info: &PathInfo) -> String {
    fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references)
}

pub(crate) fn digest(statement: &str) -> [u8; 32] {
    Sha256::digest(statement).into()
}

/// Whether one of the upstream's keys has signed a statement.
pub(crate) fn is_signed(upstream: &Upstream, statement: &str, signatures: &[Signature]) -> bool {
    let verifies = |signature: &Signature, key: &PublicKey| {
        key.name() == signature.key_name() && key.verifies(statement, signature)
    };
    signatures.iter().any(|signature| upstream.public_keys.iter().any(|key| verifies(signature, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_to_come_again_is_told_no_upstreams_url() {
        for url in ["https://cache.inside.example", "file:///srv/inside"] {
            let upstream = Upstream { url: url.to_owned(), public_keys: Vec::new() };
            let told = format!("{:?}", come_again(&upstream, &"main".parse().unwrap(), 7));
            assert!(told.contains("an upstream has not yet answered for 7 of the paths"), "{told}");
            assert!(!told.contains("inside") && !told.contains("://"), "{told}");
        }
    }
}
