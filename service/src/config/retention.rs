//! `[retention]` and `[cache.retention]`: what is kept, and how long after nothing keeps it any more it goes.

use serde::Deserialize;

use super::{ByteSize, ConfigError, Period, period::InvalidPeriod};
use crate::{storage::Room, trust::RefPattern};

/// When a store is swept, checked.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How often.
    pub sweep_every: Period,
    /// An open push that was silent for so long is given up.
    pub abandon_after: Period,
    /// How often all that is stored is looked at, by and by. None: never.
    pub scrub_every: Option<Period>,
    /// How much all caches may hold together.
    pub max_size: Option<ByteSize>,
    /// How much of the disk is to stay free; unless said, a twentieth of it, and no more than a gigabyte.
    pub min_free: Option<ByteSize>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            sweep_every: Period::hours(6),
            abandon_after: Period::hours(6),
            scrub_every: Some(Period::days(30)),
            max_size: None,
            min_free: None,
        }
    }
}

impl Retention {
    /// How much of a disk is to stay free.
    pub fn min_free(&self, room: Room) -> u64 {
        let usual = || ByteSize::gigabytes(1).get().min(room.size / 20);
        self.min_free.map_or_else(usual, ByteSize::get)
    }
}

/// What a cache keeps, checked.
#[derive(Debug, Clone)]
pub struct CacheRetention {
    /// Of each repository, ref and workflow of the main line: so many runs that pushed.
    pub keep_runs_main: u32,
    /// The same of all other refs.
    pub keep_runs: u32,
    /// Which refs are of the main line. Protected ones always are.
    pub main_refs: Vec<RefPattern>,
    /// A ref that is not of the main line and from which nothing was pushed for so long is taken for deleted.
    pub idle_refs: Period,
    /// What was pushed or read within so many days is kept.
    pub keep_days: u32,
    /// What nothing keeps any more goes after so long.
    pub grace: Period,
}

const MAIN_REFS: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

impl Default for CacheRetention {
    fn default() -> Self {
        Self {
            keep_runs_main: 5,
            keep_runs: 2,
            main_refs: MAIN_REFS.iter().filter_map(|pattern| pattern.parse().ok()).collect(),
            idle_refs: Period::days(30),
            keep_days: 7,
            grace: Period::days(1),
        }
    }
}

/// `[retention]`, as the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    sweep_every: Option<Period>,
    abandon_after: Option<Period>,
    max_size: Option<ByteSize>,
    min_free: Option<ByteSize>,
    scrub_every: Option<ScrubEvery>,
}

/// A period, or `"never"`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct ScrubEvery(Option<Period>);

impl TryFrom<String> for ScrubEvery {
    type Error = InvalidPeriod;

    fn try_from(text: String) -> Result<Self, InvalidPeriod> {
        if text == "never" { Ok(Self(None)) } else { Ok(Self(Some(text.parse()?))) }
    }
}

/// `[cache.retention]`, as the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheFile {
    keep_runs_main: Option<u32>,
    keep_runs: Option<u32>,
    main_refs: Option<Vec<RefPattern>>,
    idle_refs: Option<Period>,
    keep_days: Option<u32>,
    grace: Option<Period>,
}

impl Retention {
    pub(super) fn check(file: File) -> Result<Self, ConfigError> {
        let default = Self::default();
        let checked = Self {
            sweep_every: file.sweep_every.unwrap_or(default.sweep_every),
            abandon_after: file.abandon_after.unwrap_or(default.abandon_after),
            scrub_every: file.scrub_every.map_or(default.scrub_every, |every| every.0),
            max_size: max_size("retention", file.max_size)?,
            min_free: file.min_free,
        };
        let at_least = |key: &str, span: Period, least: Period, why: &str| {
            if span < least {
                let problem = format!("{span} is too short: {why}. Write at least \"{least}\"");
                return Err(ConfigError::value(format!("retention.{key}"), problem));
            }
            Ok(())
        };
        at_least("sweep_every", checked.sweep_every, Period::hours(1), "it would sweep all the time")?;
        // One upload may take an hour.
        let why = "pushes would be given up while they are under way";
        at_least("abandon_after", checked.abandon_after, Period::hours(2), why)?;
        Ok(checked)
    }
}

/// A budget, which is for something.
pub(super) fn max_size(key: &str, size: Option<ByteSize>) -> Result<Option<ByteSize>, ConfigError> {
    if size.is_some_and(|size| size.get() == 0) {
        let problem =
            "0 leaves room for nothing. Write a size such as \"50 GB\", or leave it out for no limit";
        return Err(ConfigError::value(format!("{key}, max_size"), problem));
    }
    Ok(size)
}

impl CacheRetention {
    pub(super) fn check(key: &str, file: CacheFile) -> Result<Self, ConfigError> {
        /// A century.
        const MOST_DAYS: u32 = 36_600;
        let default = Self::default();
        let checked = Self {
            keep_runs_main: file.keep_runs_main.unwrap_or(default.keep_runs_main),
            keep_runs: file.keep_runs.unwrap_or(default.keep_runs),
            main_refs: file.main_refs.unwrap_or(default.main_refs),
            idle_refs: file.idle_refs.unwrap_or(default.idle_refs),
            keep_days: file.keep_days.unwrap_or(default.keep_days),
            grace: file.grace.unwrap_or(default.grace),
        };
        if checked.keep_days > MOST_DAYS {
            let problem =
                format!("{} days are more than a century. Write at most {MOST_DAYS}", checked.keep_days);
            return Err(ConfigError::value(format!("{key}, retention.keep_days"), problem));
        }
        Ok(checked)
    }
}
