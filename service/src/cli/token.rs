//! `larderd token`: tokens for people.

use std::fmt::Write;

use clap::Subcommand;
use larder_protocol::api::{CacheName, Permission};

use super::{Failure, print};
use crate::{clock::Clock, config::Config, trust::people};

const DAY: i64 = 24 * 60 * 60;
const MAX_LIFETIME: i64 = 5 * 366 * DAY;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it; it cannot be shown again
    Create {
        /// What to call it, for example anna-laptop
        name: String,
        /// The cache that it is for
        #[arg(long, default_value = "main")]
        cache: CacheName,
        /// When it ends, for example 12h, 90d or 1y
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
        expires: i64,
        /// What it permits there: some of push, pin, read and admin
        #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',', value_parser = permission,
            default_values = ["push", "read"])]
        permissions: Vec<Permission>,
    },
    /// List the tokens that have not ended
    List,
    /// End a token now
    Revoke {
        /// The name that it was made with
        name: String,
    },
}

fn permission(text: &str) -> Result<Permission, String> {
    [Permission::Push, Permission::Pin, Permission::Read, Permission::Admin]
        .into_iter()
        .find(|permission| permission.to_string() == text)
        .ok_or_else(|| "write push, pin, read or admin, with commas between several".to_owned())
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    // A token in a database that no service reads would be worth nothing.
    let metadata = super::open_existing(config).await?;
    let clock = Clock::System;
    let done = match command {
        Command::Create { name, cache, expires, permissions } => {
            if !config.caches.iter().any(|configured| configured.name == cache) {
                return Err(Failure::Other(format!("there is no cache {cache} in the configuration")));
            }
            people::create_token(&metadata, &clock, &name, &cache, expires, &permissions).await.map_err(Failure::because).map(
                |token| {
                    print::complain(&format!(
                        "This token permits {} in {} for {} days. Keep it secret; it is not shown again. `larder push` \
                         takes it as LARDER_TOKEN or from a file.",
                        permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                        cache,
                        (expires + DAY - 1) / DAY,
                    ));
                    print::out(&format!("{}\n", token.expose()));
                },
            )
        }
        Command::List => {
            let now = clock.now();
            let tokens = metadata.named_tokens(now).await.map_err(Failure::because)?;
            let mut text = String::new();
            for token in tokens {
                let days = (token.expires_at - now + DAY - 1) / DAY;
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}\tcache {}\tends in {days} d", token.name, token.cache);
            }
            print::out(&text);
            Ok(())
        }
        Command::Revoke { name } => match people::revoke_token(&metadata, &clock, &name).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(Failure::Other(format!("there is no token named {name:?}. See: larderd token list")))
            }
            Err(error) => Err(Failure::because(error)),
        },
    };
    metadata.close().await;
    done
}

/// Seconds, from a whole number and a unit.
pub(super) fn lifetime(text: &str) -> Result<i64, String> {
    let wrong = || "write a whole number and h, d, w or y, at most 5y, for example 90d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "h" => 60 * 60,
        "d" => DAY,
        "w" => 7 * DAY,
        "y" => 365 * DAY,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| i64::from(number).checked_mul(unit));
    seconds.filter(|seconds| (1..=MAX_LIFETIME).contains(seconds)).ok_or_else(wrong)
}
