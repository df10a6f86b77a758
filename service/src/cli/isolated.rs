//! `larderd isolated`: pull requests' own caches.

use std::fmt::Write;

use clap::Subcommand;
use larder_protocol::{api::CacheName, quantity::count};
use serde::Serialize;

use super::{Failure, open_existing, print};
use crate::{
    audit::Who,
    clock::{Clock, to_date},
    config::Config,
    metadata::{IsolatedCache, Metadata},
};

const EXAMPLES: &str = "\
A trust rule with isolate = true gives each pull request a cache of its own, such as
main~610214307-pr-7: pull request 7 of the repository with that number, beside main.
It goes when no job has used it for some time (isolated.keep in the configuration).

  larderd isolated list
  larderd isolated drop main~610214307-pr-7    it goes now; the next job gets a new one";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Command {
    /// List them, those first that were used last
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Have one removed, with all that was pushed to it
    Drop {
        /// Its name, as the list shows it
        name: CacheName,
    },
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let done = match command {
        Command::List { json } => list(&metadata, json).await,
        Command::Drop { name } => drop_cache(&metadata, &name).await,
    };
    metadata.close().await;
    done
}

/// A cache in the list for programs.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a CacheName,
    issuer: &'a str,
    created_at: String,
    used_at: String,
    bytes: u64,
    paths: u64,
    dropped: bool,
}

impl<'a> Listed<'a> {
    fn of(cache: &'a IsolatedCache) -> Self {
        Self {
            name: &cache.name,
            issuer: &cache.issuer,
            created_at: to_date(cache.created_at),
            used_at: to_date(cache.used_at),
            bytes: cache.bytes,
            paths: cache.paths,
            dropped: cache.dropped,
        }
    }
}

async fn list(metadata: &Metadata, json: bool) -> Result<(), Failure> {
    let caches = metadata.isolated_caches().await.map_err(Failure::because)?;
    let mut text = String::new();
    if json {
        let listed: Vec<Listed<'_>> = caches.iter().map(Listed::of).collect();
        text = serde_json::to_string_pretty(&listed).map_err(Failure::because)?;
        text.push('\n');
    } else {
        for cache in &caches {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{}\tused {}\t{}\t{:.1} MB",
                cache.name,
                to_date(cache.used_at),
                count(cache.paths, "path"),
                cache.bytes as f64 / 1e6
            );
            text.push_str(if cache.dropped { "\tbeing removed\n" } else { "\n" });
        }
    }
    print::out(&text);
    Ok(())
}

async fn drop_cache(metadata: &Metadata, name: &CacheName) -> Result<(), Failure> {
    let (who, now) = (Who::operator(), Clock::System.now());
    let dropped = metadata.drop_isolated(name, &who, "larderd isolated drop", now).await;
    if dropped.map_err(Failure::because)? {
        print::complain(&format!(
            "{name} is not served any more. A running larderd removes what is in it within a minute, and its files two \
             hours later"
        ));
        return Ok(());
    }
    Err(Failure::Other(format!("no pull request has a cache named {name}. See: larderd isolated list")))
}
