//! NARs: a recipe's frames one behind the other, as they are stored, their holes filled.

use std::{fmt, ops::Range, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
};
use larder_protocol::{NarHash, StorePathHash};

use super::frames::body;
use crate::{Service, caches::Cache, metadata::Encoding};

/// For how long, in seconds, the NAR of a path stays readable that one of higher rank has replaced: Nix asks for
/// narinfos first, and for the NARs of a large closure some time later.
const REPLACED_FOR: i64 = 60 * 60;

/// The name of a `.nar.zst` as narinfos give it: `<NarHash>-<encoding>.nar.zst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NarFile {
    /// The NAR's hash.
    pub hash: NarHash,
    /// The digest of the file's bytes.
    pub encoding: Encoding,
}

impl NarFile {
    /// Reads such a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (hash, encoding) = name.strip_suffix(".nar.zst")?.split_once('-')?;
        Some(Self {
            hash: NarHash::from_base32(hash)?,
            encoding: StorePathHash::from_digits(encoding.as_bytes())?,
        })
    }
}

impl fmt::Display for NarFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.nar.zst", self.hash.base32(), self.encoding)
    }
}

/// Answers a request for a NAR; `None` where it is not there, or cannot be served whole.
pub(super) async fn serve(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    file: &NarFile,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let nar = service
        .metadata
        .published_nar(
            &cache.names(),
            &cache.namespaces(),
            &file.hash,
            &file.encoding,
            service.clock.now() - REPLACED_FOR,
        )
        .await
        .inspect_err(|error| tracing::error!(%error, "a NAR could not be looked up"))
        .ok()??;
    service.retention.reads.nar(cache, nar.id);
    // Under another encoding the bytes are others: whoever holds some of the old ones must not add to them.
    let same = nar.encoding == file.encoding;
    let etag = format!("\"{}\"", nar.encoding);
    let asked = asked_range(headers, &etag, nar.file_size);
    let (status, range) = match asked {
        Asked::Range(_) | Asked::Unsatisfiable if !same => return None,
        Asked::Unsatisfiable => return unsatisfiable(nar.file_size),
        Asked::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Whole => (StatusCode::OK, 0..nar.file_size),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/x-nix-nar")
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .header(header::ETAG, HeaderValue::try_from(etag).ok()?);
    if same {
        response = response.header(header::ACCEPT_RANGES, "bytes");
    }
    response = match cache.is_public() {
        true if same => response.header(header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        true => response,
        false => response.header(header::CACHE_CONTROL, super::PRIVATE),
    };
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, nar.file_size);
        response = response.header(header::CONTENT_RANGE, content_range);
    }
    if method == Method::HEAD {
        return response.body(Body::empty()).ok();
    }
    let recipe = service.metadata.recipe(&nar).await;
    let recipe = recipe.inspect_err(|error| tracing::error!(%error, "a recipe could not be read")).ok()?;
    let length = recipe.iter().map(|(chunk, _)| u64::from(chunk.frame_len)).sum::<u64>();
    if length != nar.file_size {
        tracing::error!(nar = %file.hash, "a recipe's frames have another length than its NAR's row says");
        return None;
    }
    let id = nar.id;
    let count = {
        let (service, cache) = (service.clone(), cache.clone());
        move |bytes| {
            service.retention.reads.sent(&cache, id, bytes);
            service.stats.traffic.of(&cache).sent(bytes);
        }
    };
    let body = body(service.clone(), nar, recipe, range, count).await;
    let body =
        body.inspect_err(|error| tracing::error!(%error, nar = %file.hash, "a NAR cannot be read")).ok()?;
    service.retention.reads.sending(cache, id);
    service.stats.traffic.of(cache).read();
    response.body(body).ok()
}

/// What part of a file is asked for.
enum Asked {
    Whole,
    Range(Range<u64>),
    Unsatisfiable,
}

/// A range counts only if it is a single one and, where `If-Range` stands, of the same bytes.
fn asked_range(headers: &HeaderMap, etag: &str, length: u64) -> Asked {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|condition| condition != etag) {
        return Asked::Whole;
    }
    let Some(Ok(ranges)) = text(header::RANGE).map(http_range_header::parse_range_header) else {
        return Asked::Whole;
    };
    match ranges.validate(length).as_deref() {
        Ok([range]) => Asked::Range(*range.start()..range.end() + 1),
        Ok(_) => Asked::Whole,
        Err(_) => Asked::Unsatisfiable,
    }
}

fn unsatisfiable(length: u64) -> Option<Response<Body>> {
    Response::builder()
        .status(StatusCode::RANGE_NOT_SATISFIABLE)
        .header(header::CONTENT_RANGE, format!("bytes */{length}"))
        .body(Body::empty())
        .ok()
}
