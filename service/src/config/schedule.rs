//! `[[prefetch.schedule]]`: what is prefetched by the clock.

use std::fmt;

use chrono::{DateTime, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::Deserialize;

use super::ConfigError;
use crate::identity::{GitRef, RepositoryName};

/// As many as anybody may want.
const MAX_SCHEDULES: usize = 100;

/// A prefetch by the clock, checked.
#[derive(Debug, Clone)]
pub struct ScheduledPrefetch {
    /// Whose jobs' manifests say what.
    pub repository: RepositoryName,
    /// On which ref.
    pub git_ref: GitRef,
    /// When, in UTC.
    pub schedule: Schedule,
}

/// When something is done again and again, as cron says it, in UTC.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl Schedule {
    /// The first time after `now`, in seconds since 1970; none if there is none any more.
    pub fn next(&self, now: i64) -> Option<i64> {
        let now = DateTime::<Utc>::from_timestamp(now, 0)?;
        Some(self.cron.find_next_occurrence(&now, false).ok()?.timestamp())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    repository: RepositoryName,
    #[serde(rename = "ref")]
    git_ref: GitRef,
    at: String,
}

/// The schedules, each of which comes again.
pub(super) fn check(files: Vec<File>) -> Result<Vec<ScheduledPrefetch>, ConfigError> {
    if files.len() > MAX_SCHEDULES {
        let problem = format!("there are {} of them, and at most {MAX_SCHEDULES} can be", files.len());
        return Err(ConfigError::value("prefetch.schedule", problem));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    files
        .into_iter()
        .map(|File { repository, git_ref, at: text }| {
            let refuse = |why: &str| {
                let problem = format!(
                    "{text:?} {why}. Write minute, hour, day of the month, month and day of the week, in UTC: \"0 4 * * \
                     *\" is four o'clock each day"
                );
                ConfigError::value(format!("prefetch.schedule of {repository}, at"), problem)
            };
            let cron = parser.parse(&text).map_err(|_| refuse("is no schedule"))?;
            let schedule = Schedule { text: text.clone(), cron };
            // From a day whose date does not matter.
            schedule.next(0).ok_or_else(|| refuse("never comes"))?;
            Ok(ScheduledPrefetch { repository, git_ref, schedule })
        })
        .collect()
}
