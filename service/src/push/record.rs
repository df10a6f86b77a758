//! What a push published, written beside its objects: by these records, the recipes and the indexes of frames a lost
//! database is rebuilt, and damaged rows are mended.
//!
//! ```text
//! "LARDERP1"  zstd of JSON: a PushRecord  the BLAKE3 of all before: [u8; 32]
//! ```

use std::io::Read as _;

use bytes::Bytes;
use larder_protocol::{
    StorePathHash,
    api::{CacheName, PathInfo, PushId},
};
use serde::{Deserialize, Serialize};

use crate::{
    Service,
    caches::Cache,
    error::ApiError,
    metadata::{ObjectId, PushingRun},
    random::random_hex,
};

const MAGIC: &[u8; 8] = b"LARDERP1";
/// The longest JSON that is read: a push of 50,000 paths that name much.
const LONGEST: u64 = 1 << 30;
/// The folder of records, beside `frames` and `recipes`.
pub const FOLDER: &str = "paths";

/// What a push published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    /// Its name.
    pub push: PushId,
    /// Its row, by which those that were committed in the same second are in order.
    pub row: i64,
    /// The cache.
    pub cache: CacheName,
    /// Where its chunks lie.
    pub namespace: i64,
    /// Whose it is.
    pub owner: String,
    /// The verified claims, as JSON.
    pub provenance: String,
    /// The run that it is of.
    pub run: Option<PushingRun>,
    /// When it was opened, in seconds since 1970.
    pub opened_at: i64,
    /// When it was committed.
    pub committed_at: i64,
    /// What is to be kept.
    pub roots: Vec<StorePathHash>,
    /// Its paths.
    pub paths: Vec<RecordedPath>,
}

/// A path of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPath {
    /// What its narinfo says.
    #[serde(flatten)]
    pub info: PathInfo,
    /// By which rank it stands.
    pub rank: i64,
    /// Whether an admin had it stand.
    #[serde(default)]
    pub ordered: bool,
    /// Whether the job says that it built it.
    #[serde(default)]
    pub built: bool,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a push's record cannot be read: {0}")]
pub struct InvalidRecord(String);

impl PushRecord {
    /// As it is written.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub fn encode(&self) -> Result<Vec<u8>, InvalidRecord> {
        let invalid = |error: &dyn std::fmt::Display| InvalidRecord(error.to_string());
        let mut out = MAGIC.to_vec();
        let mut encoder = zstd::Encoder::new(&mut out, 3).map_err(|error| invalid(&error))?;
        serde_json::to_writer(&mut encoder, self).map_err(|error| invalid(&error))?;
        encoder.finish().map_err(|error| invalid(&error))?;
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        Ok(out)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When a single bit of it is another than was written.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        let invalid = |what: &str| InvalidRecord(what.to_owned());
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or_else(|| invalid("it is too short"))?;
        if blake3::hash(body) != *digest {
            return Err(invalid("it is not as it was written"));
        }
        let compressed =
            body.strip_prefix(MAGIC).ok_or_else(|| invalid("it does not begin with LARDERP1"))?;
        let decoder = zstd::Decoder::new(compressed).map_err(|error| InvalidRecord(error.to_string()))?;
        serde_json::from_reader(std::io::BufReader::new(decoder.take(LONGEST)))
            .map_err(|error| InvalidRecord(error.to_string()))
    }
}

/// Writes the record of a push that is about to be committed. `None` where nobody needs one: a pull request's cache is
/// not rebuilt, and of a push that has ended meanwhile the commit says so.
pub(super) async fn write(
    service: &Service,
    cache: &Cache,
    push: i64,
    now: i64,
) -> Result<Option<(ObjectId, u64)>, ApiError> {
    if cache.isolation.is_some() {
        return Ok(None);
    }
    let Some(mut record) = service.metadata.push_record(push, cache.namespace()).await? else {
        return Ok(None);
    };
    record.committed_at = now;
    let encode = service.workshop.work(move |_| record.encode());
    let bytes = encode.await?.map_err(ApiError::internal)?;
    let key = format!("{FOLDER}/{}/{}", cache.namespace().folder(), random_hex()?);
    let object = match service.metadata.begin_object(&key, push, now).await {
        Ok(object) => object,
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = bytes.len() as u64;
    service.storage.put(&key, Bytes::from(bytes)).await?;
    Ok(Some((object, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_another_bit_is_refused() {
        let record = PushRecord {
            push: PushId([7; 16]),
            row: 3,
            cache: "main".parse().unwrap(),
            namespace: 0,
            owner: "person anna".to_owned(),
            provenance: "{}".to_owned(),
            run: None,
            opened_at: 1,
            committed_at: 2,
            roots: vec![StorePathHash([1; 20])],
            paths: Vec::new(),
        };
        let bytes = record.encode().unwrap();
        assert_eq!(PushRecord::decode(&bytes).unwrap(), record);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(PushRecord::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(PushRecord::decode(&[]).is_err());
    }
}
