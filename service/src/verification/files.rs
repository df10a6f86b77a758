//! Files without a row. (Rows without a file are found where the file is read.)

use futures_util::TryStreamExt as _;

use super::{Outcome, VerifyError, withdraw::Verifier};
use crate::storage::noted_by;

/// How many files are looked up at once.
const BATCH: usize = 500;

impl Verifier<'_> {
    /// Looks for files that no row names. A row is written before its file and deleted after it, so that a file which was
    /// there before its row was looked for, and has none, belongs to nobody.
    pub async fn files(&self) -> Result<(), VerifyError> {
        let mut files = Box::pin(self.storage.list(""));
        let mut batch: Vec<(String, u64)> = Vec::with_capacity(BATCH);
        loop {
            let file = files.try_next().await?;
            let ended = file.is_none();
            batch.extend(file);
            if batch.len() == BATCH || ended {
                self.strays(&batch).await?;
                batch.clear();
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn strays(&self, files: &[(String, u64)]) -> Result<(), VerifyError> {
        // What notes an upload in parts is its object's.
        let object = |key: &str| noted_by(key).unwrap_or(key).to_owned();
        let keys: Vec<String> = files.iter().map(|(key, _)| object(key)).collect();
        let known = self.service.metadata.known_objects(&keys).await?;
        for (key, size) in files.iter().filter(|(key, _)| !known.contains(&object(key))) {
            let mut report = self.report();
            report.unreferenced += 1;
            report.unreferenced_bytes += size;
            drop(report);
            self.find("file", key, format!("no row names it ({size} bytes)"), Outcome::Left);
        }
        Ok(())
    }
}
