//! Samples become fewer with age: every few minutes for a day, hourly for a month, daily for years.

use std::collections::BTreeMap;

use super::schedule::SHORTEST;
use crate::{
    Service,
    metadata::{MetadataError, Sample},
};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
/// What becomes what, once it is how old.
const STEPS: [(i64, i64, i64); 2] = [(SHORTEST, HOUR, DAY), (HOUR, DAY, 31 * DAY)];
/// How long days are kept.
const KEPT: i64 = 10 * 366 * DAY;

/// Thins the samples that are old enough.
///
/// # Errors
/// When the database fails.
pub async fn thin(service: &Service) -> Result<(), MetadataError> {
    let (metadata, now) = (&service.metadata, service.clock.now());
    for (span, into, age) in STEPS {
        loop {
            let old = metadata.samples_to_thin(span, into, now - age).await?;
            if old.is_empty() {
                break;
            }
            metadata.replace_samples(&old, &merge(&old, into)).await?;
        }
    }
    while metadata.forget_samples(now - KEPT).await? > 0 {}
    Ok(())
}

/// One sample for each cache and repository: what was there at the end, and all that was counted.
fn merge(samples: &[Sample], into: i64) -> Vec<Sample> {
    let mut merged: BTreeMap<(&str, &str), Sample> = BTreeMap::new();
    for sample in samples {
        let one = merged.entry((&sample.cache, &sample.repository)).or_default();
        let mut traffic = one.traffic;
        traffic += sample.traffic;
        *one = Sample {
            taken_at: sample.taken_at - sample.taken_at.rem_euclid(into),
            span: into,
            traffic,
            ..sample.clone()
        };
    }
    merged.into_values().collect()
}
