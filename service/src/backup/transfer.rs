//! `export` and `import`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{BackupError, fresh::Fresh};
use crate::{config::Config, metadata::Metadata};

/// What was written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// How many rows.
    pub rows: u64,
    /// When it was exported, in seconds since 1970.
    pub at: i64,
}

/// Writes all rows as they are at one moment, while the service goes on, into a file that others cannot read; to stdout if
/// there is none. The file appears when it is whole.
///
/// # Errors
/// When the database fails, or the file cannot be written.
pub async fn export(metadata: &Metadata, file: Option<&Path>, now: i64) -> Result<Exported, BackupError> {
    let Some(file) = file else {
        let rows = metadata.export(io::stdout(), now).await?;
        return Ok(Exported { rows, at: now });
    };
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let at = |source| BackupError::File { file: part.clone(), source };
    let out =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(at)?;
    let rows = metadata.export(BufWriter::new(out), now).await?;
    File::open(&part).and_then(|out| out.sync_all()).map_err(at)?;
    fs::rename(&part, file).map_err(|source| BackupError::File { file: file.to_owned(), source })?;
    Ok(Exported { rows, at: now })
}

/// Makes the database of an export. Whoever calls this holds the data directory's lock.
///
/// # Errors
/// When a database is in use already, the export is of another schema, or is not whole. Then nothing is changed.
pub async fn import(config: &Config, file: &Path) -> Result<Exported, BackupError> {
    let reading = File::open(file).map_err(|source| BackupError::File { file: file.to_owned(), source })?;
    let fresh = Fresh::begin(config).await?;
    match fresh.metadata.import(BufReader::new(reading)).await {
        Ok((rows, at)) => {
            fresh.finish().await?;
            Ok(Exported { rows, at })
        }
        Err(error) => {
            fresh.abandon().await;
            Err(error.into())
        }
    }
}
