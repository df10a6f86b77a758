//! `larderd token`: tokens for people and machines.

use std::fmt::Write;

use clap::Subcommand;
use larder_protocol::api::{CacheName, Permission};
use serde_json::json;

use super::{Failure, print};
use crate::{
    clock::Clock,
    config::{CacheConfig, Config, Period},
    metadata::tokens::NamedToken,
    trust::{
        Rank,
        people::{self, NewToken},
    },
};

const DAY: i64 = 24 * 60 * 60;
const MAX_LIFETIME: i64 = 5 * 366 * DAY;

const AFTER_CREATE: &str = "\
The token is the only thing on standard output. It is for one cache and ends by itself. `larder push`
takes it as LARDER_TOKEN or by --token-file; Nix takes one that permits `read` as the password in its
netrc. A token is larder_t_ and 49 letters and digits, the last six of which are a checksum.

Whoever may read the cache is told a token's name with what was pushed by it (`larder why`): choose one
that may be known.

Examples:
  larderd token create anna-laptop
  larderd token create build-host --cache team --permission read --for 1y
  larderd token create importer --cache team --permission push --rank -10 --for 12h";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it; it cannot be shown again
    #[command(after_help = AFTER_CREATE)]
    Create {
        /// What to call it, for example anna-laptop
        name: String,
        /// The one cache that it is for
        #[arg(long, default_value = "main")]
        cache: CacheName,
        /// What it permits there: some of push, pin, read and admin
        #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',',
            value_parser = permission, default_values = ["push", "read"])]
        permissions: Vec<Permission>,
        /// When it ends, for example 12h, 90d or 1y
        #[arg(long = "for", value_name = "PERIOD", default_value = "90d", value_parser = lifetime)]
        lifetime: i64,
        /// How much what is pushed by it counts against what others push, from -999 to 1000
        #[arg(long, value_name = "NUMBER", default_value = "0", allow_negative_numbers = true, value_parser = rank)]
        rank: Rank,
    },
    /// List the tokens that have not ended
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
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
        Command::Create { name, cache, mut permissions, lifetime, rank } => {
            let Some(config) = config.caches.iter().find(|configured| configured.name == cache) else {
                return Err(Failure::Other(format!("there is no cache {cache} in the configuration")));
            };
            permissions.sort();
            permissions.dedup();
            let hint = hint(config, &permissions, lifetime);
            let new = NewToken { name: &name, cache: &cache, permissions, rank, lifetime };
            people::create_token(&metadata, &clock, new).await.map_err(Failure::because).map(|token| {
                print::complain(&hint);
                print::out(&format!("{}\n", token.expose()));
            })
        }
        Command::List { json } => {
            let now = clock.now();
            let tokens = metadata.named_tokens(now).await.map_err(Failure::because)?;
            print::out(&if json { as_json(&tokens) } else { as_text(&tokens, now) });
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

fn hint(cache: &CacheConfig, permissions: &[Permission], lifetime: i64) -> String {
    let mut hint = format!(
        "This token permits {} in the cache {} for {} days. Keep it secret; it is not shown again.",
        list(permissions),
        cache.name,
        (lifetime + DAY - 1) / DAY
    );
    if permissions.contains(&Permission::Push) {
        hint.push_str(" `larder push` takes it as LARDER_TOKEN or from a file.");
        if !cache.public && !permissions.contains(&Permission::Read) {
            hint.push_str(
                " Since it does not permit reading, it is told of nothing that the cache has: every push sends all.",
            );
        }
    }
    match (permissions.contains(&Permission::Read), cache.public) {
        (true, false) => hint.push_str(" Nix takes it as the password in its netrc."),
        (true, true) if permissions.len() == 1 => hint.push_str(" (Everybody can read this cache without.)"),
        _ => {}
    }
    hint
}

fn as_text(tokens: &[NamedToken], now: i64) -> String {
    let mut text = String::new();
    for NamedToken { name, cache, permissions, rank, expires_at, .. } in tokens {
        let days = (expires_at - now + DAY - 1) / DAY;
        let permissions = list(permissions);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}\tcache {cache}\t{permissions}\trank {rank}\tends in {days} d");
    }
    text
}

fn as_json(tokens: &[NamedToken]) -> String {
    let tokens: Vec<_> = tokens
        .iter()
        .map(|NamedToken { name, cache, permissions, rank, created_at, expires_at }| {
            json!({ "name": name, "cache": cache, "permissions": permissions, "rank": rank,
                "created_at": created_at, "expires_at": expires_at })
        })
        .collect();
    format!("{:#}\n", json!(tokens))
}

fn list(permissions: &[Permission]) -> String {
    permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn rank(text: &str) -> Result<Rank, String> {
    let wrong = || "write a whole number from -999 to 1000".to_owned();
    let number: i64 = text.parse().map_err(|_| wrong())?;
    Rank::try_from(number).map_err(|_| wrong())
}

/// Seconds, from a whole number and a unit.
pub(super) fn lifetime(text: &str) -> Result<i64, String> {
    let seconds = text.parse::<Period>().ok().map(Period::seconds);
    seconds
        .filter(|seconds| *seconds <= MAX_LIFETIME)
        .ok_or_else(|| "write a whole number and h, d, w or y, at most 5y, for example 90d".to_owned())
}
