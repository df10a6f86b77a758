//! The scrub: the same as a verification of everything, by and by, and going on where it was after a restart.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Counts, Outcome, Scope, VerifyError, run::WAITING, withdraw::Verifier};
use crate::{Service, metadata::ScrubPosition};

/// How many times as long as the work each rest takes: a twentieth of the time is worked.
const REST: u32 = 19;
/// The longest rest.
const LONGEST: Duration = Duration::from_secs(120);
/// How long until is looked again where there is nothing to be done.
const IDLE: Duration = Duration::from_secs(60);
/// How many NARs, or rows, are looked at in one step.
const STEP: usize = 8;

/// What is looked at, one after the other.
const STAGES: [&str; 5] = ["frames", "nars", "recipes", "records", "paths"];

/// Scrubs until it is dropped, which it may be at any moment.
pub(crate) async fn run(service: Arc<Service>) {
    loop {
        let begun = Instant::now();
        let rest = match scrub_step(&service).await {
            Ok(true) => (begun.elapsed() * REST).clamp(Duration::from_millis(50), LONGEST),
            Ok(false) => IDLE,
            Err(error) => {
                tracing::error!(%error, "the scrub could not go on; it tries again");
                IDLE
            }
        };
        tokio::time::sleep(rest).await;
    }
}

/// Looks at one more object, or a few NARs or rows. `false` if the round is over and the next is not due.
///
/// # Errors
/// When database or storage fail in a way that says nothing of what is stored.
pub async fn scrub_step(service: &Service) -> Result<bool, VerifyError> {
    let Some(every) = service.config.retention.scrub_every else { return Ok(false) };
    let (metadata, now) = (&service.metadata, service.clock.now());
    let first = ScrubPosition { began_at: now, stage: STAGES[0].to_owned(), position: 0, finished_at: None };
    let mut at = match metadata.scrub_position().await? {
        Some(at) if at.finished_at.is_none() && STAGES.contains(&at.stage.as_str()) => at,
        Some(at) if at.finished_at.is_some() && at.began_at + every.seconds() > now => return Ok(false),
        _ => first,
    };
    let _alone = service.verification.verifying.lock().await;
    let verifier = Verifier::new(service, Scope::All);
    match step(&verifier, &at).await? {
        Some(position) => at.position = position,
        None => match STAGES.iter().skip_while(|stage| **stage != at.stage).nth(1) {
            Some(next) => (at.stage, at.position) = ((*next).to_owned(), 0),
            None => {
                for fault in metadata.faults().await? {
                    verifier.find("database", "larder.db", fault, Outcome::Lost);
                }
                at.finished_at = Some(service.clock.now());
                Counts::add(&service.verification.counts.rounds, 1);
                tracing::info!(began_at = at.began_at, "everything that is stored was looked at once more");
            }
        },
    }
    if at.finished_at.is_some() || verifier.report().withdrawn > 0 {
        verifier.fetch(&metadata.waiting_paths(0, WAITING).await?).await?;
    }
    metadata.note_scrub(&at).await?;
    Ok(at.finished_at.is_none())
}

/// One step of a stage: the last row that was looked at, or `None` where there is none left.
async fn step(verifier: &Verifier<'_>, at: &ScrubPosition) -> Result<Option<i64>, VerifyError> {
    let metadata = &verifier.service.metadata;
    match at.stage.as_str() {
        "frames" | "recipes" => {
            let objects = metadata.objects_after(at.position).await?;
            let Some(last) = objects.last() else { return Ok(None) };
            let Some(object) = objects.iter().find(|object| object.key.starts_with(&at.stage)) else {
                return Ok(Some(last.id.0));
            };
            match at.stage.as_str() {
                "frames" => verifier.object(object).await?,
                _ => verifier.recipes(object).await?,
            }
            Ok(Some(object.id.0))
        }
        "nars" => {
            let mut nars = metadata.nars_after(at.position).await?;
            nars.truncate(STEP);
            let last = nars.last().map(|nar| nar.id);
            verifier.nars(nars).await?;
            Ok(last)
        }
        "records" => {
            let mut records = metadata.records_after(at.position).await?;
            records.truncate(STEP);
            for record in &records {
                verifier.record(record).await?;
            }
            Ok(records.last().map(|record| record.push))
        }
        _ => {
            let paths = metadata.paths_after(at.position).await?;
            verifier.paths(&paths).await?;
            Ok(paths.last().map(|(id, _)| *id))
        }
    }
}
