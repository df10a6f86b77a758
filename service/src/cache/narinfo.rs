//! A path's narinfo: rendered and signed once, then served from memory.

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::{SigningKey, StorePathHash, narinfo::NarInfo};

use super::{memory::Recalled, nar::NarFile};
use crate::{Service, caches::Cache, keys::ActiveKeys, metadata::PublishedPath};

/// How long a reader waits for a database that cannot answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until it is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// The narinfo of a path, if the cache has it. When the database cannot answer, the reader waits some seconds
/// and then is told that the path is absent: Nix builds it, where an error would fail the build.
pub(super) async fn narinfo(service: &Service, cache: &Cache, hash: StorePathHash) -> Option<Bytes> {
    if let Some(parent) = cache.parent() {
        // Nothing that is remembered is asked about what a pull request brought.
        let own = look_up(service, cache, hash, &cache.signing_keys()).await;
        return if own.is_some() { own } else { Box::pin(narinfo(service, parent, hash)).await };
    }
    if cache.is_public() && !service.metadata.may_have(&hash) {
        return None;
    }
    let keys = cache.signing_keys();
    match service.reads.recall(cache, hash, keys.generation) {
        Recalled::Fresh(known) => known,
        Recalled::Old(known) if service.metadata.fails() => known,
        Recalled::Old(known) => {
            look_up(service, cache, hash, &keys).await.or(known.filter(|_| service.metadata.fails()))
        }
        Recalled::Nothing => look_up(service, cache, hash, &keys).await,
    }
}

async fn look_up(service: &Service, cache: &Cache, hash: StorePathHash, keys: &ActiveKeys) -> Option<Bytes> {
    let look_up = async {
        loop {
            let epoch = service.reads.epoch();
            match service.metadata.published_path(cache.name(), &hash).await {
                Ok(path) => {
                    let text = path.map(|path| render(&keys.keys, path));
                    service.reads.remember(cache, hash, text.clone(), keys.generation, epoch);
                    return text;
                }
                Err(error) => {
                    tracing::error!(%error, cache = %cache.name(), "a narinfo could not be looked up");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, look_up).await;
    service.metadata.note_answer(found.is_ok());
    found.unwrap_or_default()
}

/// The narinfo of a path, signed by these keys.
pub(crate) fn render(keys: &[SigningKey], path: PublishedPath) -> Bytes {
    let PublishedPath { info, encoding, file_size } = path;
    let mut narinfo = NarInfo {
        url: format!("nar/{}", NarFile { hash: info.nar_hash, encoding }),
        compression: Some("zstd".to_owned()),
        file_hash: None,
        file_size: Some(file_size),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references,
        deriver: info.deriver,
        signatures: Vec::new(),
        ca: info.ca,
        path: info.path,
    };
    let text = narinfo.fingerprint();
    narinfo.signatures = keys.iter().map(|key| key.sign(&text)).chain(info.signatures).collect();
    narinfo.to_string().into()
}
