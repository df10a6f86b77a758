//! A whole verification, as it is asked for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Outcome, Scope, VerifyError, VerifyReport, withdraw::Verifier};
use crate::{
    Service,
    metadata::{Metadata, MetadataError},
    random::random_bytes,
};

/// How often is looked whether a verification is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often is written how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// How long is waited after one that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How many waiting paths are listed, and looked for at upstreams.
pub(super) const WAITING: u32 = 1000;

/// Asks for a verification, and tells its number.
///
/// # Errors
/// When the database fails.
pub async fn ask(metadata: &Metadata, scope: &Scope, now: i64) -> Result<i64, MetadataError> {
    metadata.ask_for_verification(&serde_json::to_string(scope).unwrap_or_default(), now).await
}

/// Verifies now; after the one that is under way, if one is.
///
/// # Errors
/// When database or storage fail in a way that says nothing of what is stored.
pub async fn verify(service: &Service, scope: Scope) -> Result<VerifyReport, VerifyError> {
    let id = ask(&service.metadata, &scope, service.clock.now()).await?;
    verify_asked(service, id, scope).await
}

/// Does the verification that was asked for.
///
/// # Errors
/// When database or storage fail in a way that says nothing of what is stored.
pub async fn verify_asked(service: &Service, id: i64, scope: Scope) -> Result<VerifyReport, VerifyError> {
    let _alone = service.verification.verifying.lock().await;
    let verifier = Verifier::new(service, scope);
    let ended = Whole { verifier: &verifier, id, noted: Instant::now(), total: 0 }.run().await;
    let mut report = verifier.into_report();
    if let Err(error) = &ended {
        // Whoever asked is told; it is not done again and again.
        report.failed = Some(error.to_string());
    }
    let text = serde_json::to_string(&report).unwrap_or_default();
    service.metadata.end_verification(id, &text, service.clock.now()).await?;
    ended?;
    tracing::info!(
        nars = report.nars,
        bytes = report.bytes,
        mended = report.mended,
        withdrawn = report.withdrawn,
        lost = report.lost,
        "verified"
    );
    Ok(report)
}

/// Does what is asked for, until it is dropped, which it may be at any moment.
pub(crate) async fn run(service: Arc<Service>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let asked = service.metadata.next_verification().await;
        let done = match asked {
            Ok(None) => continue,
            Ok(Some((id, scope))) => match serde_json::from_str(&scope) {
                Ok(scope) => verify_asked(&service, id, scope).await.map(drop),
                Err(error) => {
                    let report = VerifyReport { failed: Some(error.to_string()), ..VerifyReport::default() };
                    let text = serde_json::to_string(&report).unwrap_or_default();
                    let now = service.clock.now();
                    service.metadata.end_verification(id, &text, now).await.map_err(VerifyError::from)
                }
            },
            Err(error) => Err(error.into()),
        };
        if let Err(error) = done {
            tracing::error!(%error, "a verification failed");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

struct Whole<'a> {
    verifier: &'a Verifier<'a>,
    id: i64,
    noted: Instant,
    total: u64,
}

impl Whole<'_> {
    async fn run(&mut self) -> Result<(), VerifyError> {
        let since = match self.verifier.scope {
            // Many are lost at a time: for what waited before, the scrub looks.
            Scope::Object(_) => self.verifier.service.clock.now(),
            _ => 0,
        };
        match self.verifier.scope.clone() {
            Scope::Path(hash) => self.one(&hash).await?,
            Scope::Object(key) => self.object(&key).await?,
            Scope::All | Scope::Sample(_) => self.all().await?,
        }
        let waiting = self.verifier.service.metadata.waiting_paths(since, WAITING).await?;
        let fetching = self.verifier.fetch(&waiting).await?;
        let mut report = self.verifier.report();
        report.fetching = fetching;
        report.waiting = waiting.iter().map(|it| format!("{} {}", it.cache, it.path.absolute())).collect();
        Ok(())
    }

    async fn all(&mut self) -> Result<(), VerifyError> {
        let (verifier, metadata) = (self.verifier, &self.verifier.service.metadata);
        let (objects, nars) = metadata.extent_to_verify().await?;
        self.total = match verifier.scope {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "for a progress bar"
            )]
            Scope::Sample(percent) => ((objects + nars) as f64 * percent / 100.0) as u64,
            _ => objects + nars,
        };
        self.note(true).await?;
        for fault in metadata.faults().await? {
            verifier.find("database", "larder.db", fault, Outcome::Lost);
        }
        self.objects("frames/").await?;
        let mut after = 0;
        loop {
            let mut nars = metadata.nars_after(after).await?;
            let Some(last) = nars.last() else { break };
            after = last.id;
            nars.retain(|_| self.takes());
            while !nars.is_empty() {
                let rest = nars.split_off(nars.len().min(16));
                verifier.nars(std::mem::replace(&mut nars, rest)).await?;
                self.note(false).await?;
            }
        }
        self.objects("recipes/").await?;
        self.records().await?;
        after = 0;
        loop {
            let paths = metadata.paths_after(after).await?;
            let Some((last, _)) = paths.last() else { break };
            after = *last;
            verifier.paths(&paths).await?;
            self.note(false).await?;
        }
        if verifier.scope == Scope::All {
            verifier.files().await?;
        }
        Ok(())
    }

    /// Verifies the objects of a folder: frames or recipes.
    async fn objects(&mut self, folder: &str) -> Result<(), VerifyError> {
        let mut after = 0;
        loop {
            let objects = self.verifier.service.metadata.objects_after(after).await?;
            let Some(last) = objects.last() else { return Ok(()) };
            after = last.id.0;
            for object in objects.iter().filter(|object| object.key.starts_with(folder)) {
                if !self.takes() {
                    continue;
                }
                match folder {
                    "frames/" => self.verifier.object(object).await?,
                    _ => self.verifier.recipes(object).await?,
                }
                self.note(false).await?;
            }
        }
    }

    async fn records(&mut self) -> Result<(), VerifyError> {
        let mut after = 0;
        loop {
            let records = self.verifier.service.metadata.records_after(after).await?;
            let Some(last) = records.last() else { return Ok(()) };
            after = last.push;
            for record in &records {
                if self.takes() {
                    self.verifier.record(record).await?;
                }
            }
            self.note(false).await?;
        }
    }

    /// Verifies one path wherever it is visible.
    async fn one(&mut self, hash: &larder_protocol::StorePathHash) -> Result<(), VerifyError> {
        let metadata = &self.verifier.service.metadata;
        let found = metadata.paths_of_hash(hash).await?;
        if found.is_empty() {
            let problem = "no cache has it";
            self.verifier.find("path", hash, problem, Outcome::Lost);
        }
        for (row, nar) in found {
            if let Some(nar) = metadata.nar_row(nar).await? {
                self.total += nar.file_size * 2;
                self.note(true).await?;
                let chunks: Vec<i64> =
                    metadata.recipe(&nar.stored()).await?.iter().map(|(chunk, _)| chunk.id).collect();
                self.verifier.frames(&metadata.frames_by_row(&chunks).await?).await?;
                if let Some(nar) = metadata.nar_row(nar.id).await? {
                    self.verifier.nar(nar).await?;
                }
            }
            let records = metadata.records_after(row.push - 1).await?;
            if let Some(record) = records.first().filter(|record| record.push == row.push) {
                self.verifier.record(record).await?;
            }
            // As it is now: it may have been withdrawn or corrected.
            let now = metadata.paths_after(row.id - 1).await?;
            let now: Vec<_> = now.into_iter().filter(|(id, _)| *id == row.id).collect();
            self.verifier.paths(&now).await?;
        }
        Ok(())
    }

    /// Verifies one object of frames, if it is there still.
    async fn object(&mut self, key: &str) -> Result<(), VerifyError> {
        match self.verifier.service.metadata.object_of_key(key).await? {
            Some(object) if key.starts_with("frames/") => self.verifier.object(&object).await,
            _ => Ok(()),
        }
    }

    /// Whether the next object or NAR is of the sample.
    fn takes(&self) -> bool {
        match self.verifier.scope {
            Scope::All => true,
            // Without random numbers it is verified.
            ref sample => random_bytes().map_or(true, |random| sample.takes(random)),
        }
    }

    async fn note(&mut self, now: bool) -> Result<(), MetadataError> {
        if !now && self.noted.elapsed() < NOTE_EVERY {
            return Ok(());
        }
        self.noted = Instant::now();
        let done = self.verifier.done.load(Ordering::Relaxed).min(self.total);
        let service = self.verifier.service;
        service.metadata.note_verification(self.id, done, self.total, service.clock.now()).await
    }
}
