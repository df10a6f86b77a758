//! `larderd export`, `import` and `rebuild`.

use std::{
    fmt::Write,
    io::{IsTerminal as _, stdout},
    path::PathBuf,
};

use clap::Args;
use larder_protocol::plain::one_line;

use super::{Failure, open_existing, print, serve};
use crate::{
    backup,
    clock::{Clock, to_date},
    config::Config,
};

const EXPORT_HELP: &str = "\
The export holds what the database knows: pushes, paths, tokens (as hashes), pins, the audit log.
It does not hold the objects and the signing keys. The service goes on meanwhile.

A backup of a service that runs, in this order:
  larderd export /backup/larder.export
  rsync -a /var/lib/larder/keys /backup/
  rsync -a /var/lib/larder/objects /backup/
The copy of the objects must be done within an hour of the export. Where it takes longer, as the first
time, copy the objects before, too. See docs/operations.md.";

const IMPORT_HELP: &str = "\
Stop the service first, with all replicas, and have the objects and keys in their places. Then:
  larderd import /backup/larder.export
  larderd verify";

const REBUILD_HELP: &str = "\
For a lost database, where the objects are there. It reads all of them once. Stop the service first,
with all replicas.
Published paths come back with who pushed them; tokens, pins, the audit log and pull requests' caches do
not. See docs/operations.md. Then:
  larderd verify";

#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub(super) struct Export {
    /// Where it is written; stdout if it is left out
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(super) struct Import {
    /// The export
    file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = REBUILD_HELP)]
pub(super) struct Rebuild {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn export(arguments: Export, config: &Config) -> Result<(), Failure> {
    if arguments.file.is_none() && stdout().is_terminal() {
        return Err(Failure::Other(
            "an export is not for a terminal. Name a file, or send it into one: larderd export > larder.export"
                .to_owned(),
        ));
    }
    let metadata = open_existing(config).await?;
    let now = Clock::System.now();
    let exported = backup::export(&metadata, arguments.file.as_deref(), now).await;
    metadata.close().await;
    let exported = exported.map_err(Failure::because)?;
    print::complain(&format!(
        "{} rows were exported as they were at {}. Copy the objects and keys now, within an hour",
        exported.rows,
        to_date(exported.at)
    ));
    Ok(())
}

pub(super) async fn import(arguments: Import, config: &Config) -> Result<(), Failure> {
    let _lock = lock(config)?;
    let imported = backup::import(config, &arguments.file).await.map_err(Failure::because)?;
    print::out(&format!(
        "{} rows were imported, as they were at {}. `larderd verify` says whether their objects are there\n",
        imported.rows,
        to_date(imported.at)
    ));
    Ok(())
}

pub(super) async fn rebuild(arguments: Rebuild, config: &Config) -> Result<(), Failure> {
    let _lock = lock(config)?;
    let report = backup::rebuild(config, Clock::System.now()).await.map_err(Failure::because)?;
    if arguments.json {
        print::json(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
        return Ok(());
    }
    let mut text = String::new();
    for object in &report.unreadable {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "unreadable  {}", one_line(object));
    }
    let _ = writeln!(
        text,
        "{} paths of {} pushes came back, with {} NARs, {} chunks and {} objects",
        report.paths, report.pushes, report.nars, report.chunks, report.objects
    );
    if report.paths_lost + report.nars_lost > 0 {
        let _ = writeln!(
            text,
            "{} paths and {} NARs did not: they went before, or are damaged. The next push brings them",
            report.paths_lost, report.nars_lost
        );
    }
    print::out(&text);
    Ok(())
}

fn lock(config: &Config) -> Result<std::fs::File, Failure> {
    serve::try_lock(config)?.ok_or_else(|| {
        Failure::Other(format!("a larderd runs on {}. Stop it first", config.data_dir.display()))
    })
}
