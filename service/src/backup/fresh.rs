//! A database that is made beside the place where it will be, and put there when it is whole: whatever ends this
//! before leaves nothing that anybody takes for a database. If its place is a server, its rows go there in one
//! transaction.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{BackupError, server::Server};
use crate::{
    DATABASE,
    config::{Config, DatabaseConfig},
    metadata::Metadata,
};

/// A database in the making.
pub(super) struct Fresh {
    /// The database.
    pub metadata: Metadata,
    making: PathBuf,
    place: Place,
}

/// Where it will be.
enum Place {
    File(PathBuf),
    Server(Box<Server>),
}

/// The database's file and those that SQLite keeps beside it.
fn files(database: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

fn remove(file: &Path) -> Result<(), BackupError> {
    match fs::remove_file(file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BackupError::File { file: file.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Fresh {
    /// Begins, where no database is in use yet. Whoever calls this holds the data directory's lock.
    pub async fn begin(config: &Config) -> Result<Self, BackupError> {
        let place = match &config.database {
            DatabaseConfig::File => Place::File(free_place(config).await?),
            DatabaseConfig::Server(server) => {
                let metadata = crate::open_metadata(config).await?;
                Place::Server(Box::new(Server::take(metadata, server, None).await?))
            }
        };
        let making = config.data_dir.join(format!("{DATABASE}.new"));
        for file in files(&making) {
            remove(&file)?;
        }
        let metadata = crate::open_database(&config.data_dir, &making).await?;
        Ok(Self { metadata, making, place })
    }

    /// Puts the database in its place.
    pub async fn finish(self) -> Result<(), BackupError> {
        match self.place {
            Place::File(place) => {
                self.metadata.close().await;
                put(&self.making, &place)
            }
            Place::Server(mut server) => {
                let copied = server.copy_from(&self.metadata, None).await;
                server.metadata.close().await;
                abandon(&self.metadata, &self.making).await;
                copied?;
                Ok(())
            }
        }
    }

    /// Gives the database up.
    pub async fn abandon(self) {
        abandon(&self.metadata, &self.making).await;
    }
}

async fn abandon(metadata: &Metadata, making: &Path) {
    metadata.close().await;
    for file in files(making) {
        // It is removed by the next attempt else.
        let _ = remove(&file);
    }
}

/// The database's file, where none is in use yet.
async fn free_place(config: &Config) -> Result<PathBuf, BackupError> {
    let place = config.data_dir.join(DATABASE);
    if place.exists() {
        let there = Metadata::open(&place).await?;
        let used = there.is_used().await;
        there.close().await;
        if used? {
            return Err(BackupError::NotEmpty(place));
        }
    }
    Ok(place)
}

/// Puts a file that is closed in its place.
fn put(making: &Path, place: &Path) -> Result<(), BackupError> {
    let at = |file: &Path| {
        let file = file.to_owned();
        move |source| BackupError::File { file, source }
    };
    // SQLite has put all of its log into the file; what is left of the one before must not be taken for its log.
    let [_, log, shared] = files(place);
    remove(&log)?;
    remove(&shared)?;
    File::open(making).and_then(|file| file.sync_all()).map_err(at(making))?;
    fs::rename(making, place).map_err(at(place))?;
    let folder = place.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}
