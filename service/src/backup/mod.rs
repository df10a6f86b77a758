//! Backup and restore: metadata in a file of its own ([`export`], [`import`]), and a database made anew from what is
//! written beside the objects ([`rebuild`]).

mod fresh;
mod rebuild;
mod server;
mod transfer;

use std::{io, path::PathBuf};

pub(crate) use self::server::Server;
pub use self::{
    rebuild::{RebuildReport, rebuild},
    server::ServerError,
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
    /// The server cannot take what is to be restored.
    #[error(transparent)]
    Server(#[from] ServerError),
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
