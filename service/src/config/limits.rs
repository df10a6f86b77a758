//! `[limits]`: what one request or push may take.

use serde::Deserialize;

use super::{ByteSize, ConfigError, Environment, environment};

/// Bounds, checked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body that an upload may have. A proxy in front must let as much through.
    pub max_body: ByteSize,
    /// The largest NAR.
    pub max_nar_size: ByteSize,
    /// The most bytes of NARs that one push may bring.
    pub max_push_bytes: ByteSize,
    /// Memory for frames under way, for all uploads together.
    pub upload_window: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: ByteSize::bytes(100_000_000),
            max_nar_size: ByteSize::gigabytes(64),
            max_push_bytes: ByteSize::gigabytes(256),
            upload_window: ByteSize::mebibytes(32),
        }
    }
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    max_body: Option<ByteSize>,
    max_nar_size: Option<ByteSize>,
    max_push_bytes: Option<ByteSize>,
    upload_window: Option<ByteSize>,
}

impl Limits {
    pub(super) fn check(file: File, environment: &Environment) -> Result<Self, ConfigError> {
        let size = |variable, file: Option<ByteSize>, default: ByteSize| {
            let size = environment.parsed::<ByteSize>(variable, "for example \"90 MB\"")?;
            Ok::<_, ConfigError>(size.or(file).unwrap_or(default))
        };
        let default = Self::default();
        let limits = Self {
            max_body: size(environment::MAX_BODY, file.max_body, default.max_body)?,
            max_nar_size: size(environment::MAX_NAR_SIZE, file.max_nar_size, default.max_nar_size)?,
            max_push_bytes: size(environment::MAX_PUSH_BYTES, file.max_push_bytes, default.max_push_bytes)?,
            upload_window: size(environment::UPLOAD_WINDOW, file.upload_window, default.upload_window)?,
        };
        // Below these a push could not go on: one frame of the largest chunk, and a few of them under way.
        let at_least = |key: &str, size: ByteSize, least: ByteSize| {
            if size < least {
                let problem = format!("{size} is too little to work with. Write at least \"{least}\"");
                return Err(ConfigError::value(format!("limits.{key}"), problem));
            }
            Ok(())
        };
        at_least("max_body", limits.max_body, ByteSize::mebibytes(2))?;
        at_least("max_nar_size", limits.max_nar_size, ByteSize::mebibytes(1))?;
        at_least("upload_window", limits.upload_window, ByteSize::mebibytes(8))?;
        if limits.max_push_bytes < limits.max_nar_size {
            let problem = format!(
                "{} is less than limits.max_nar_size, {}: the largest NAR could not be pushed. Raise the first or \
                 lower the second",
                limits.max_push_bytes, limits.max_nar_size
            );
            return Err(ConfigError::value("limits.max_push_bytes", problem));
        }
        Ok(limits)
    }
}
