//! What is written beside the objects of what each push published.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use larder_protocol::{StorePathHash, api::PathInfo};

use super::{Outcome, VerifyError, withdraw::Verifier};
use crate::{
    metadata::RecordRow,
    push::{PushRecord, RECORDS},
    random::random_hex,
};

/// No longer record is read.
const LONGEST: u64 = 1 << 28;

impl Verifier<'_> {
    /// Compares a push's record with the rows of its paths: where they differ the record is right, since it has a
    /// checksum; where it cannot be read, or was never written, it is written anew.
    pub async fn record(&self, row: &RecordRow) -> Result<(), VerifyError> {
        let Some(cache) = self.service.caches.get(&row.cache) else { return Ok(()) };
        let (metadata, storage) = (&self.service.metadata, &self.storage);
        let problem = match &row.record {
            None => "it was pushed before there were records".to_owned(),
            Some((_, key)) => match storage.get(key, LONGEST).await {
                Ok(bytes) => {
                    self.read(bytes.len() as u64);
                    match PushRecord::decode(&bytes) {
                        Ok(record) => {
                            self.report().records += 1;
                            return self.compare(row, &record).await;
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) if error.is_lost() => {
                    self.hold_storage().await?;
                    error.to_string()
                }
                Err(error) => return Err(error.into()),
            },
        };
        let Some(record) = metadata.push_record(row.push, cache.namespace()).await? else { return Ok(()) };
        let name = format!("push {}", record.push);
        let bytes = record.encode().map_err(|_| VerifyError::Panicked)?;
        let size = bytes.len() as u64;
        let folder = cache.namespace().folder();
        let key = format!("{RECORDS}/{folder}/{}", random_hex().map_err(|_| VerifyError::Random)?);
        let new = metadata.begin_compacted(&key, self.service.clock.now()).await?;
        storage.put(&key, Bytes::from(bytes)).await?;
        match metadata.replace_record(row.push, new, size).await {
            Ok(()) => self.find("record", name, problem, Outcome::Mended),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn compare(&self, row: &RecordRow, record: &PushRecord) -> Result<(), VerifyError> {
        let metadata = &self.service.metadata;
        let recorded: HashMap<StorePathHash, &PathInfo> =
            record.paths.iter().map(|path| (path.info.path.hash(), &path.info)).collect();
        let rows = metadata.paths_of_push(row.push).await?;
        // What a sweep took is recorded still, and has no row.
        let there: HashSet<StorePathHash> = rows.iter().filter_map(|(_, hash, _)| *hash).collect();
        for (id, hash, found) in rows {
            let info = hash.and_then(|hash| recorded.get(&hash).copied());
            // All but its hash may be right.
            let info = info.or_else(|| {
                let like = |info: &&PathInfo| found.as_ref().is_some_and(|found| is_like(info, found));
                recorded.values().copied().filter(like).find(|info| !there.contains(&info.path.hash()))
            });
            let Some(info) = info else {
                let name = hash.map_or_else(|| format!("row {id}"), |hash| hash.to_string());
                self.withdraw_path(id, name, "its push did not bring it").await?;
                continue;
            };
            if found.as_ref() != Some(info) {
                metadata.correct_path(id, info).await?;
                let before = found.map(|found| (row.cache.clone(), found.path));
                self.forget(
                    &before.into_iter().chain([(row.cache.clone(), info.path.clone())]).collect::<Vec<_>>(),
                );
                let problem = "its row was not what its push brought";
                self.find("path", info.path.absolute(), problem, Outcome::Mended);
            }
        }
        Ok(())
    }
}

/// Whether two paths differ in their hashes alone.
fn is_like(one: &PathInfo, other: &PathInfo) -> bool {
    one.path.name() == other.path.name() && PathInfo { path: one.path.clone(), ..other.clone() } == *one
}
