//! `[audit]`: how long and how much of the audit log is kept.

use serde::Deserialize;

use super::{ConfigError, Period};

/// What is kept of the audit log.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// How long.
    pub keep: Period,
    /// How many rows; a row takes some half a kilobyte.
    pub max_rows: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { keep: Period::days(400), max_rows: 2_000_000 }
    }
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    keep: Option<Period>,
    max_rows: Option<u64>,
}

pub(super) fn check(file: File) -> Result<AuditConfig, ConfigError> {
    let default = AuditConfig::default();
    let config = AuditConfig {
        keep: file.keep.unwrap_or(default.keep),
        max_rows: file.max_rows.unwrap_or(default.max_rows),
    };
    if config.max_rows < 1000 {
        let problem = format!("{} rows say nothing of the past. Write at least 1000", config.max_rows);
        return Err(ConfigError::value("audit.max_rows", problem));
    }
    Ok(config)
}
