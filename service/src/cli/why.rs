//! `larderd why-alive` and `larderd why-dead`.

use std::fmt::Write;

use clap::Args;
use larder_protocol::{StorePath, api::CacheName, plain::one_line, store_path::STORE_DIR};

use super::{Failure, open_existing, print};
use crate::{
    clock::{Clock, to_date},
    config::{CacheConfig, Config},
    retention::{self, Fate},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The store path
    path: String,
    /// The cache
    #[arg(long, default_value = "main")]
    cache: CacheName,
}

/// Says why a path is kept; fails if it is not.
pub(super) async fn alive(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let (fate, cache) = fate(arguments, config).await?;
    match fate {
        Fate::Kept(way, root) => {
            let mut text = String::new();
            for (depth, path) in way.iter().rev().enumerate() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}{}", "  ".repeat(depth.min(20)), one_line(&path.absolute()));
            }
            let _ = writeln!(text, "is kept by {}: {}", one_line(&root.kind), one_line(&root.which));
            print::out(&text);
            Ok(())
        }
        other => Err(Failure::Other(not_kept(other, cache))),
    }
}

/// Says why a path is not kept, or went; fails if it is kept.
pub(super) async fn dead(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let (fate, cache) = fate(arguments, config).await?;
    match fate {
        Fate::Kept(..) => Err(Failure::Other("it is kept; `larderd why-alive` says by what".to_owned())),
        Fate::Unknown => Err(Failure::Other(not_kept(Fate::Unknown, cache))),
        other => {
            print::out(&format!("{}\n", not_kept(other, cache)));
            Ok(())
        }
    }
}

async fn fate<'a>(arguments: &Arguments, config: &'a Config) -> Result<(Fate, &'a CacheConfig), Failure> {
    let cache = config.caches.iter().find(|cache| cache.name == arguments.cache).ok_or_else(|| {
        Failure::Other(format!("there is no cache {} in the configuration", arguments.cache))
    })?;
    let name = arguments.path.strip_prefix(STORE_DIR).unwrap_or(&arguments.path).trim_start_matches('/');
    let path: StorePath = name.parse().map_err(Failure::because)?;
    let metadata = open_existing(config).await?;
    let now = Clock::System.now();
    let fate = retention::fate(&metadata, &cache.name, &cache.retention, &path.hash(), now).await;
    metadata.close().await;
    Ok((fate.map_err(Failure::because)?, cache))
}

fn not_kept(fate: Fate, cache: &CacheConfig) -> String {
    match fate {
        Fate::Kept(..) => "it is kept".to_owned(),
        Fate::Dying(None) => format!(
            "nothing keeps it; the next sweep notes that, and {} later it goes, unless somebody wants it again",
            cache.retention.grace
        ),
        Fate::Dying(Some(since)) => format!(
            "nothing keeps it since {}; the first sweep after {} takes it, unless somebody wants it again",
            to_date(since),
            to_date(since + cache.retention.grace.seconds())
        ),
        Fate::Gone(gone) => {
            let mut text = format!("a sweep took it at {}", to_date(gone.gone_at));
            if let Some(since) = gone.dead_since {
                text.push_str(&format!("; nothing kept it since {}", to_date(since)));
            }
            match gone.read_at {
                Some(read) => text.push_str(&format!("; it was last read at {}", to_date(read))),
                None => text.push_str("; it was never read"),
            }
            text.push_str(&format!("; pushed by {}", one_line(&gone.provenance)));
            text
        }
        Fate::Unknown => format!("{} does not have it, and no sweep took it in the last 90 days", cache.name),
    }
}
