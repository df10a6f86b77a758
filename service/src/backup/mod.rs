//! Backup and restore: metadata in a file of its own ([`export`], [`import`]), and a database made anew from what is
//! written beside the objects ([`rebuild`]).

mod fresh;
mod rebuild;
mod transfer;

use std::{io, path::PathBuf};

pub use self::{
    rebuild::{RebuildReport, rebuild},
    transfer::{Exported, export, import},
};
use crate::{
    StartError,
    metadata::{ExportError, MetadataError},
    storage::StorageError,
    verification::VerifyError,
};

/// A backup or its restoring failed. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What is to be restored would take the place of something.
    #[error(
        "{0} is in use already: it holds pushes, tokens or pins. Move it away, with the files beside it whose names begin \
         alike, if it is to be replaced"
    )]
    NotEmpty(PathBuf),
    /// The database is not one that can be made in a file.
    #[error(
        "the database is on a server, {0}: restore it there by what the server's own backup gives (pg_dump, pg_restore). \
         What is made here is a file in data_dir: leave database.url and LARDER_DATABASE_URL out for that"
    )]
    OnServer(String),
    /// The export cannot be written or read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Reading an object back failed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A file cannot be used.
    #[error("{file}: {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}
