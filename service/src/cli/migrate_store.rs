//! `larderd migrate-store`: from a file and a folder to a server and a bucket.

use std::{
    fmt::Write,
    fs::{File, TryLockError},
    path::PathBuf,
    sync::atomic::Ordering,
    time::Duration,
};

use clap::Args;
use larder_protocol::{
    plain::one_line,
    quantity::{count, show_size},
};
use url::Url;

use super::{Failure, print, progress::Progress};
use crate::{
    config::{
        BucketConfig, Config, ConfigError, DatabaseConfig, DatabaseServer, Environment, StorageConfig,
        environment,
    },
    migration::{MigrationReport, State, migrate},
};

/// How often is looked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What is logged: not that it takes long to read a table.
pub(super) const LOG: &str = "warn,sqlx=error";

const AFTER_HELP: &str = "\
The service may run. Objects are copied first, while it takes pushes and serves reads. Then pushes
wait while the rows are copied, as one transaction; from that moment on the service refuses pushes
(503, which larder tries again) and serves reads, until you restart it with the lines that this
prints for larder.toml. Without --storage the objects stay where they are.

The database must be empty, and so must the bucket, or the folder in it. Whatever interrupts this,
the installation goes on as it was: run it again, and it goes on from there.

Examples:
  larderd migrate-store --to postgres://larder@db.example.org/larder \\
      --password-file /etc/larder/db-password
  LARDER_DATABASE_URL=postgres://larder:secret@db/larder larderd migrate-store
  AWS_REGION=eu-central-1 larderd migrate-store --to postgres:///larder?host=/run/postgresql \\
      --storage s3://my-larder/objects

How a bucket is reached and by whom, the variables say that AWS's programs read
(AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …). The password may also stand in ~/.pgpass, or in PGPASSWORD.

Run it as the service's user. Signing keys stay in data_dir: each replica needs the same. See
docs/operations.md.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The PostgreSQL database, without a password [default: what LARDER_DATABASE_URL says]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The file that holds the password, and nothing else
    #[arg(long, value_name = "FILE", requires = "to")]
    password_file: Option<PathBuf>,
    /// Where the objects go: s3://bucket/folder (also gs://, az://). Left out, they stay
    #[arg(long, value_name = "URL")]
    storage: Option<Url>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    arguments: Arguments,
    config: &Config,
    environment: &Environment,
) -> Result<(), Failure> {
    let server = chosen_server(&arguments, environment)?;
    if let DatabaseConfig::Server(said) = &config.database {
        return Err(Failure::Other(format!(
            "larder.toml names a server, {said}, and what is moved is larder.db in {}. Take [database] out of it until \
             that is done",
            config.data_dir.display()
        )));
    }
    if !config.data_dir.join("larder.db").exists() {
        return Err(Failure::Other(format!(
            "there is no larder.db in {} that could be moved. Say where the service's data are: --config, or \
             LARDER_DATA_DIR",
            config.data_dir.display()
        )));
    }
    let bucket = arguments
        .storage
        .as_ref()
        .map(|url| BucketConfig::of_environment("--storage", url.as_str(), environment))
        .transpose()
        .map_err(Failure::because)?;
    let _lock = lock(config)?;
    let state = State::default();
    let mut progress = Progress::new("copied");
    let mut work = std::pin::pin!(migrate(config, &server, bucket.as_ref(), &state));
    let mut told = false;
    let migrated = loop {
        tokio::select! {
            migrated = &mut work => break migrated,
            () = tokio::time::sleep(ASK_EVERY) => {
                progress.show(state.done.load(Ordering::Relaxed), state.total.load(Ordering::Relaxed));
                if state.holds.load(Ordering::Relaxed) && !told {
                    told = true;
                    progress.end();
                    print::complain("the rows are being copied; pushes wait");
                }
            }
        }
    };
    progress.end();
    let report = migrated.map_err(Failure::because)?;
    if arguments.json {
        print::json(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        print::out(&in_words(&report, &arguments, config, bucket.as_ref()));
    }
    Ok(())
}

fn chosen_server(arguments: &Arguments, environment: &Environment) -> Result<DatabaseServer, Failure> {
    let Some(to) = &arguments.to else {
        let url = environment.get(environment::DATABASE_URL).ok_or_else(|| {
            Failure::Other("where to? Say --to postgres://…, or set LARDER_DATABASE_URL".to_owned())
        })?;
        return Ok(DatabaseServer::named(environment::DATABASE_URL, url, None)?);
    };
    let has_password = Url::parse(to)
        .is_ok_and(|url| url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password"));
    if has_password {
        let problem = "has a password in it, which a list of processes shows to everybody on this machine. Leave it out, \
                       and name a file that holds it by --password-file";
        return Err(ConfigError::Value { key: "--to".to_owned(), problem: problem.to_owned() }.into());
    }
    let password_file = arguments.password_file.as_deref().map(|file| ("--password-file", file));
    Ok(DatabaseServer::named("--to", to, password_file)?)
}

/// One at a time.
fn lock(config: &Config) -> Result<File, Failure> {
    let path = config.data_dir.join("migrate-store.lock");
    let failed = |error: std::io::Error| Failure::Other(format!("{}: {error}", path.display()));
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::Other(format!(
            "another `larderd migrate-store` works on {}. Wait for it",
            config.data_dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn in_words(
    report: &MigrationReport,
    arguments: &Arguments,
    config: &Config,
    bucket: Option<&BucketConfig>,
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, report, arguments, config, bucket);
    text
}

fn write(
    text: &mut String,
    report: &MigrationReport,
    arguments: &Arguments,
    config: &Config,
    bucket: Option<&BucketConfig>,
) -> std::fmt::Result {
    for key in &report.lost {
        writeln!(text, "lost  {}", one_line(key))?;
    }
    if !report.lost.is_empty() {
        writeln!(
            text,
            "The objects that are lost were so before: larderd verify says which paths need them"
        )?;
    }
    let (from, to, storage) = (one_line(&report.from), one_line(&report.to), one_line(&report.storage));
    writeln!(
        text,
        "{}, {} and {} have moved from {from} to {to}: {} in {:.1} s, and pushes waited for {:.1} s",
        count(report.paths, "path"),
        count(report.nars, "NAR"),
        count(report.chunks, "chunk"),
        count(report.copied_rows, "row"),
        report.seconds,
        report.held_seconds,
    )?;
    let objects = format!("{} ({})", count(report.objects, "object"), show_size(report.object_bytes));
    match bucket {
        Some(_) => writeln!(
            text,
            "{objects} lie in {storage}: {} ({}) were copied now",
            report.copied_objects,
            show_size(report.copied_bytes)
        )?,
        None => writeln!(text, "{objects} stay in {storage}")?,
    }
    writeln!(text, "\nWrite into larder.toml:\n")?;
    writeln!(text, "  [database]")?;
    match &arguments.to {
        Some(url) => writeln!(text, "  url = \"{}\"", one_line(url))?,
        None => writeln!(text, "  url = \"…\"              # or LARDER_DATABASE_URL, as it is now")?,
    }
    if let Some(file) = &arguments.password_file {
        writeln!(text, "  password_file = \"{}\"", one_line(&file.display().to_string()))?;
    }
    if let Some(bucket) = bucket {
        writeln!(text, "\n  [storage]")?;
        writeln!(text, "  url = \"{}\"", one_line(bucket.url.as_str()))?;
        for (key, option) in [("endpoint", "aws_endpoint"), ("region", "aws_region")] {
            if let Some(value) = bucket.options.get(option) {
                writeln!(text, "  {key} = \"{}\"", one_line(value))?;
            }
        }
        let credentials = "access_key_id and secret_access_key_file, or the variables that this command had";
        writeln!(text, "  # {credentials}")?;
    } else if let StorageConfig::Bucket(_) = &config.storage {
        writeln!(text, "\nand leave [storage] as it is")?;
    }
    writeln!(
        text,
        "\nThen restart larderd: until then it serves reads, and refuses pushes. Each further replica needs\nthe signing keys \
         in {}. `larderd verify` says whether all is there;\nthen larder.db{} can be deleted.",
        config.data_dir.join("keys").display(),
        if bucket.is_some() { " and objects/" } else { "" },
    )
}
