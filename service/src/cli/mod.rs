//! `larderd` on the command line.

mod audit;
mod backup;
mod check_config;
mod deliveries;
mod divergences;
mod isolated;
mod jobs;
mod key;
mod migrate_store;
mod mirror;
mod print;
mod progress;
mod roots;
mod rules;
mod serve;
mod stats;
mod sweep;
mod token;
mod verify;
mod welcome;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    config::{Config, ConfigError, DatabaseConfig, Environment, ForgeSecrets, environment},
    log::{self, LogFormat},
    metadata::Metadata,
    open_metadata,
};

const FAILED: u8 = 1;
/// As in sysexits.h, so that systemd's RestartPreventExitStatus=78 can tell.
const CONFIGURATION_REFUSED: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  larderd
      Start with defaults: a cache named main on http://127.0.0.1:8080. It makes what it
      needs, and prints the lines for nix.conf and for your workflow.

  larderd --config larder.toml
      Start as that file says. The smallest that lets a repository push:

          public_url = \"https://cache.example.org\"

          [[cache]]
          name = \"main\"

          [[cache.trust]]
          repository = \"your-name/your-flake\"
          ref = \"refs/heads/main\"

  larderd check-config --config larder.toml
      Say whether the file is right, and what it means, without starting anything.

  larderd token create anna-laptop --cache main --for 30d
      Print a token by which a person may push and read. Jobs need none.

  larderd key rotate --cache main
      Sign with a new key, and with the old one for 90 more days.

  larderd rules
      Say what the rules mean, and what the names in them stand for. After a transfer:
      larderd rules confirm your-name/your-flake

  larderd audit --since 2d --repository your-name/your-flake
      Say what that repository's jobs were granted and refused, and what they pushed.

  larderd mirror --to file:///srv/mirror
      Write what the cache keeps as files that Nix reads when the service is down.

Environment (each wins over the file):
  LARDER_LISTEN, LARDER_PUBLIC_URL, LARDER_DATA_DIR      as the keys of the file
  LARDER_DATABASE_URL, LARDER_STORAGE_URL                as `url` under [database] and [storage]
  LARDER_MAX_BODY, LARDER_MAX_NAR_SIZE,
  LARDER_MAX_PUSH_BYTES, LARDER_UPLOAD_WINDOW            as the keys under [limits]
  LARDER_LOG (or RUST_LOG)                               info, or warn,larder_service=debug

Exit codes:
  0   done, or stopped as it was told
  1   failed; the last line says why
  2   the command line was wrong
  78  the configuration was refused";

/// A binary cache for Nix that needs no secret in CI.
///
/// It takes what GitHub workflows built, once they proved who they are by their OIDC token, and serves it, signed, to
/// every Nix machine.
#[derive(Debug, Parser)]
#[command(name = "larderd", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Global {
    /// The configuration's file [default: /etc/larder/larder.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = environment::CONFIG, hide_env_values = true)]
    config: Option<PathBuf>,
    /// How the log on stderr is written
    #[arg(long, global = true, value_name = "FORMAT", env = environment::LOG_FORMAT, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (also without a command)
    Serve,
    /// Say whether the configuration is right, and what it means
    CheckConfig,
    /// Make, list and end tokens for people and machines
    #[command(subcommand)]
    Token(token::Command),
    /// Make, list, rotate and import the caches' signing keys
    #[command(subcommand)]
    Key(key::Command),
    /// Say what the trust rules mean, and which numbers their names stand for
    Rules(rules::Arguments),
    /// Say who was granted what, who was refused, and who pushed
    Audit(audit::Arguments),
    /// Give space back now, or say what would go
    Sweep(sweep::Arguments),
    /// Say how the size goes, when it will be full, and who holds how much
    Stats(stats::Arguments),
    /// Say whether what is stored is still right, and mend what is not
    Verify(verify::Arguments),
    /// Write what a cache keeps as files that Nix reads with no service at all
    Mirror(mirror::Arguments),
    /// Move to PostgreSQL, and to a bucket, while the service serves reads
    MigrateStore(migrate_store::Arguments),
    /// Write what the database knows into a file, while the service runs
    Export(backup::Export),
    /// Make the database of an export
    Import(backup::Import),
    /// Make a lost database anew from the objects
    Rebuild(backup::Rebuild),
    /// List what keeps closures, and let go of a branch
    #[command(subcommand)]
    Roots(roots::Command),
    /// Say what keeps a path
    WhyAlive(why::Arguments),
    /// Say why nothing keeps a path, or when and why it went
    WhyDead(why::Arguments),
    /// List and drop pull requests' own caches
    #[command(subcommand)]
    Isolated(isolated::Command),
    /// Say what was brought with another content than what stood, and by whom
    Divergences(divergences::Arguments),
    /// List and show the webhooks that were received, and act on one once more
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// List what the service does in the background, and have what failed tried again
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Print a completion script, for example: larderd completions bash
    Completions {
        /// The shell that it is for
        shell: Shell,
    },
}

/// What ends a command. The text is shown as the last line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn because(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

/// Runs `larderd` as it was called.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    match execute(cli, &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::complain(&format!("larderd: {failure}"));
            match failure {
                Failure::Config(_) => ExitCode::from(CONFIGURATION_REFUSED),
                Failure::Other(_) => ExitCode::from(FAILED),
            }
        }
    }
}

fn execute(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    if let Some(Command::Completions { shell }) = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "larderd", &mut script);
        print::raw(&String::from_utf8_lossy(&script));
        return Ok(());
    }
    let secrets = match cli.command {
        None | Some(Command::Serve | Command::CheckConfig) => ForgeSecrets::Read,
        Some(_) => ForgeSecrets::LeftUnread,
    };
    let file = cli.global.config.as_deref();
    let config = match cli.command {
        // What this variable says is where to move to.
        Some(Command::MigrateStore(_)) => {
            Config::load(file, &environment.without(environment::DATABASE_URL), secrets)?
        }
        _ => Config::load(file, environment, secrets)?,
    };
    match cli.command {
        None | Some(Command::Serve) => {
            let guard = log::init(cli.global.log_format, environment, log::SERVICE)?;
            let served = runtime(true)?.block_on(serve::serve(config));
            drop(guard);
            served
        }
        Some(Command::CheckConfig) => {
            check_config::report(&config);
            Ok(())
        }
        Some(Command::Key(command)) => runtime(false)?.block_on(key::run(command, &config)),
        Some(Command::Token(command)) => runtime(false)?.block_on(token::run(command, &config)),
        Some(Command::Rules(arguments)) => runtime(false)?.block_on(rules::run(arguments, &config)),
        Some(Command::Audit(arguments)) => runtime(false)?.block_on(audit::run(arguments, &config)),
        Some(Command::Sweep(arguments)) => {
            let _guard = log::init(cli.global.log_format, environment, log::COMMAND)?;
            runtime(true)?.block_on(sweep::run(arguments, config))
        }
        Some(Command::Stats(arguments)) => runtime(false)?.block_on(stats::run(arguments, &config)),
        Some(Command::Verify(arguments)) => runtime(true)?.block_on(verify::run(arguments, config)),
        Some(Command::Mirror(arguments)) => {
            let _guard = log::init(cli.global.log_format, environment, log::COMMAND)?;
            runtime(true)?.block_on(mirror::run(arguments, &config, environment))
        }
        Some(Command::MigrateStore(arguments)) => {
            let _guard = log::init(cli.global.log_format, environment, migrate_store::LOG)?;
            runtime(true)?.block_on(migrate_store::run(arguments, &config, environment))
        }
        Some(Command::Export(arguments)) => runtime(true)?.block_on(backup::export(arguments, &config)),
        Some(Command::Import(arguments)) => runtime(true)?.block_on(backup::import(arguments, &config)),
        Some(Command::Rebuild(arguments)) => runtime(true)?.block_on(backup::rebuild(arguments, &config)),
        Some(Command::Roots(command)) => runtime(false)?.block_on(roots::run(command, &config)),
        Some(Command::WhyAlive(arguments)) => runtime(false)?.block_on(why::alive(&arguments, &config)),
        Some(Command::WhyDead(arguments)) => runtime(false)?.block_on(why::dead(&arguments, &config)),
        Some(Command::Isolated(command)) => runtime(false)?.block_on(isolated::run(command, &config)),
        Some(Command::Divergences(arguments)) => {
            runtime(false)?.block_on(divergences::run(arguments, &config))
        }
        Some(Command::Deliveries(command)) => runtime(false)?.block_on(deliveries::run(command, &config)),
        Some(Command::Jobs(command)) => runtime(false)?.block_on(jobs::run(command, &config)),
        Some(Command::Completions { .. }) => Ok(()),
    }
}

/// The database of a service that has run before.
async fn open_existing(config: &Config) -> Result<Metadata, Failure> {
    if matches!(config.database, DatabaseConfig::File) && !config.data_dir.join("larder.db").exists() {
        return Err(Failure::Other(format!(
            "there is no larder.db in {}. Start larderd there once, or say where its data are: --config, or \
             LARDER_DATA_DIR",
            config.data_dir.display()
        )));
    }
    open_metadata(config).await.map_err(Failure::because)
}

fn runtime(all_cores: bool) -> Result<tokio::runtime::Runtime, Failure> {
    use tokio::runtime::Builder;
    let mut builder = if all_cores { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_all().build().map_err(Failure::because)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// The help's example must be one that works.
    #[test]
    fn the_example_in_the_help_is_a_configuration() {
        let example: String = EXAMPLES
            .lines()
            .skip_while(|line| !line.contains("public_url"))
            .take_while(|line| line.is_empty() || line.starts_with("          "))
            .collect::<Vec<_>>()
            .join("\n");
        let environment = Environment::from([("LARDER_DATA_DIR", "/tmp/larder")]);
        let config = Config::parse("example.toml".as_ref(), &example, &environment).unwrap();
        assert_eq!(config.caches[0].trust.iter().count(), 1);
    }
}
