//! `larderd roots`: what keeps closures, and letting go of a branch.

use std::fmt::Write;

use clap::Subcommand;
use larder_protocol::{api::CacheName, plain::one_line};
use serde_json::json;

use super::{Failure, open_existing, print};
use crate::{
    audit::Who,
    clock::{Clock, to_date},
    config::Config,
    metadata::Metadata,
    retention,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the runs and pins that keep closures
    List {
        /// Print a JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Let go of what a repository's runs keep, as when its branch is deleted; the paths go after the cache's grace
    Drop {
        /// The repository
        #[arg(value_name = "OWNER/NAME")]
        repository: String,
        /// The ref, such as refs/heads/topic; all of them if it is left out
        #[arg(long = "ref", value_name = "REF")]
        git_ref: Option<String>,
        /// The cache
        #[arg(long, default_value = "main")]
        cache: CacheName,
    },
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let done = execute(command, config, &metadata).await;
    metadata.close().await;
    done
}

async fn execute(command: Command, config: &Config, metadata: &Metadata) -> Result<(), Failure> {
    let now = Clock::System.now();
    match command {
        Command::List { json } => {
            let mut text = String::new();
            for cache in &config.caches {
                let (name, rules) = (&cache.name, &cache.retention);
                let runs = retention::kept(metadata, name, rules, now).await.map_err(Failure::because)?;
                for run in runs {
                    let of = &run.run;
                    // Writing to a string cannot fail.
                    let _ = if json {
                        writeln!(
                            text,
                            "{}",
                            json!({
                                "cache": name, "kind": "run", "repository": of.repository, "ref": of.git_ref,
                                "workflow": of.workflow, "run": of.run_id, "pushed_at": to_date(run.pushed_at),
                            })
                        )
                    } else {
                        writeln!(
                            text,
                            "{name}  run   {}  {} {} {}  run {}",
                            to_date(run.pushed_at),
                            one_line(&of.repository),
                            one_line(&of.git_ref),
                            one_line(&of.workflow),
                            one_line(&of.run_id)
                        )
                    };
                }
                for pin in metadata.pins(name, now).await.map_err(Failure::because)? {
                    let ends = pin.expires_at.map(to_date);
                    let _ = if json {
                        writeln!(
                            text,
                            "{}",
                            json!({
                                "cache": name, "kind": "pin", "name": pin.name, "path": pin.path.absolute(),
                                "pinned_at": to_date(pin.pinned_at), "expires_at": ends,
                            })
                        )
                    } else {
                        let ends = ends.map_or_else(String::new, |ends| format!(", until {ends}"));
                        let path = pin.path.absolute();
                        writeln!(text, "{name}  pin   {}  {}: {path}{ends}", to_date(pin.pinned_at), pin.name)
                    };
                }
            }
            if json {
                print::json(&text)
            } else {
                print::out(&text)
            }
            Ok(())
        }
        Command::Drop { repository, git_ref, cache } => {
            if !config.caches.iter().any(|configured| configured.name == cache) {
                return Err(Failure::Other(format!("there is no cache {cache} in the configuration")));
            }
            let dropped = metadata
                .drop_roots(&cache, &repository, git_ref.as_deref(), &Who::operator(), now)
                .await
                .map_err(Failure::because)?;
            if dropped == 0 {
                return Err(Failure::Other(
                    "no run of that repository and ref keeps anything. See: larderd roots list".to_owned(),
                ));
            }
            print::out(&format!("{dropped} runs keep nothing any more\n"));
            Ok(())
        }
    }
}
