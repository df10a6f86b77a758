//! NARs, read back from their frames.

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::{Counts, Outcome, VerifyError, withdraw::Verifier};
use crate::{
    metadata::NarRow,
    push::verify::{ReadBack, ReadBackError},
    storage::Ingredient,
};

/// How many NARs are read at a time.
const PARALLEL: usize = 2;
/// How often a NAR is read again that was moved meanwhile.
const TRIES: usize = 5;

impl Verifier<'_> {
    /// Verifies NARs side by side.
    pub async fn nars(&self, nars: Vec<NarRow>) -> Result<(), VerifyError> {
        let checks: Vec<_> = nars.into_iter().map(|nar| self.nar(nar).boxed()).collect();
        let mut checks = stream::iter(checks).buffer_unordered(PARALLEL);
        while checks.try_next().await?.is_some() {}
        Ok(())
    }

    /// Verifies a NAR: its frames give a NAR of this hash, size and encoding.
    pub async fn nar(&self, mut nar: NarRow) -> Result<(), VerifyError> {
        let metadata = &self.service.metadata;
        for attempt in 0..TRIES {
            let recipe = metadata.recipe(&nar.stored()).await?;
            let size = recipe.iter().map(|(chunk, _)| u64::from(chunk.content_len)).sum::<u64>();
            let reading = ReadBack { storage: &self.storage, ..self.service.into() };
            let read = reading.nar(&recipe).await;
            let problem = match read {
                Ok(Ok(contents)) if contents.hash == nar.hash => {
                    self.count(&nar, size, contents.file_size);
                    if (size, contents.encoding, contents.file_size)
                        != (nar.size, nar.encoding, nar.file_size)
                    {
                        metadata.correct_nar(nar.id, size, &contents.encoding, contents.file_size).await?;
                        self.forget(&metadata.paths_of_nar(nar.id).await?);
                        let problem = "its row said another length or encoding than its frames have";
                        self.find("nar", nar.hash, problem, Outcome::Mended);
                    }
                    return Ok(());
                }
                Ok(Ok(_)) => "its SHA-256 is another".to_owned(),
                Ok(Err(problem)) => problem,
                Err(ReadBackError::Storage(error)) if error.is_lost() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            // Perhaps it went, or was moved or mended while it was read.
            match metadata.nar_row(nar.id).await? {
                None => return Ok(()),
                Some(now) if now.hash != nar.hash || now.encoding != nar.encoding => {
                    nar = now;
                    continue;
                }
                Some(_) => {}
            }
            let again = metadata.recipe(&nar.stored()).await?;
            if !same(&recipe, &again) {
                continue;
            }
            let chunks: Vec<i64> = recipe.iter().map(|(chunk, _)| chunk.id).collect();
            let frames = metadata.frames_by_row(&chunks).await?;
            let withdrawn = self.frames(&frames).await?;
            if withdrawn > 0 {
                return Ok(());
            }
            // All its frames are right, or were corrected just now.
            if attempt > 0 {
                return self.withdraw_nar(nar.id, nar.hash, &problem).await;
            }
        }
        Ok(())
    }

    fn count(&self, nar: &NarRow, size: u64, file_size: u64) {
        self.read(file_size);
        let mut report = self.report();
        report.nars += 1;
        report.nar_bytes += size;
        drop(report);
        Counts::add(&self.service.verification.counts.nars, 1);
        tracing::trace!(nar = %nar.hash, "verified");
    }
}

/// Whether two recipes are of the same frames in the same places.
fn same(one: &[Ingredient], other: &[Ingredient]) -> bool {
    let place = |(chunk, hashes): &Ingredient| {
        (chunk.id, chunk.object.clone(), chunk.frame_offset, chunk.frame_len, hashes.clone())
    };
    one.iter().map(place).eq(other.iter().map(place))
}
