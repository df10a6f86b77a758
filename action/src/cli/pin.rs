//! `larder pin`.

use std::{path::PathBuf, time::Duration};

use chrono::DateTime;
use clap::{Args, Subcommand};
use larder_protocol::api::{CacheName, Permission, Pin, PinName, PinRequest};
use serde_json::json;
use url::Url;

use super::{
    Exit, bars,
    push::print_json,
    quantity::period,
    why::{fail, store_path},
};
use crate::{
    credentials::Credentials,
    output,
    service::{Service, ServiceError},
};

/// Keep a path under a name, from which hosts can update themselves
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  larder push ./result && larder pin web ./result --keep 3
  larder pin release-1.2 ./result --for 1y
  larder pin list
  larder pin remove release-1.2

The cache must have the path already: push it first. It is kept with all that it needs,
until it is no longer among the last --keep paths of that name, or --for is over, or the
pin is removed.

Whoever may read the cache is told at <URL>/<cache>/pins/<name> which path was pinned
last, so that a host updates itself without evaluating anything:

  system=$(curl -sf https://cache.example.org/main/pins/web) &&
  nix-env --profile /nix/var/nix/profiles/system --set \"$system\" &&
  \"$system/bin/switch-to-configuration\" switch

Credentials: LARDER_TOKEN or --token-file, a token that permits `pin` (`larderd token create
NAME --permission pin`); in a GitHub workflow with `id-token: write` neither is needed if
the trust rule's `permissions` have \"pin\".

Exit codes: 0 done, 1 failed or there is no such path or pin, 2 wrong usage, 3 denied."
)]
pub struct PinArgs {
    #[command(subcommand)]
    command: Option<PinCommand>,
    /// The name
    #[arg(required = true, value_name = "NAME")]
    name: Option<PinName>,
    /// A store path, or a link to one such as ./result
    #[arg(required = true, value_name = "PATH")]
    path: Option<PathBuf>,
    /// How long it is kept, such as 12h, 30d, 4w or 1y; for ever if it is left out
    #[arg(long = "for", value_name = "TIME", value_parser = period)]
    lifetime: Option<Duration>,
    /// How many of the paths that were pinned under this name stay, this one included
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep: u32,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// List what is pinned, of each name the newest first
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Remove a name and let go of all that it keeps
    Remove {
        /// The name
        #[arg(value_name = "NAME")]
        name: PinName,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Target {
    /// The service's URL
    #[arg(long, required = true, env = "LARDER_SERVICE", value_name = "URL")]
    service: Option<Url>,
    /// The cache
    #[arg(long, env = "LARDER_CACHE", value_name = "NAME", default_value = "main")]
    cache: CacheName,
    /// A file with a token, instead of LARDER_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is to be done.
enum Order {
    Pin(PinName, PinRequest),
    List,
    Remove(PinName),
}

impl PinArgs {
    pub(super) async fn run(self) -> Exit {
        let (order, target) = match (self.command, self.name, self.path) {
            (Some(PinCommand::List { target }), ..) => (Order::List, target),
            (Some(PinCommand::Remove { name, target }), ..) => (Order::Remove(name), target),
            (None, Some(name), Some(path)) => {
                let path = match store_path(&path) {
                    Ok(path) => path,
                    Err(error) => return fail(&error, Exit::Usage),
                };
                let lifetime = self.lifetime.map(|lifetime| lifetime.as_secs());
                (Order::Pin(name, PinRequest { path, lifetime, keep: self.keep }), self.target)
            }
            (None, ..) => return fail(&"give a name and a path", Exit::Usage),
        };
        let Some(url) = &target.service else { return fail(&"give --service", Exit::Usage) };
        let credentials = match Credentials::find(target.token_file.as_deref()) {
            Ok(credentials) => credentials,
            Err(error) => return fail(&error, Exit::Usage),
        };
        let progress = bars::for_stderr();
        let service = match Service::new(url, &target.cache, &credentials, &*progress) {
            Ok(service) => service.that_may(Permission::Pin),
            Err(error) => return fail(&error, Exit::Failed),
        };
        let done = order.carry_out(&service, url, target.json).await;
        service.end_session().await;
        match done {
            Ok(exit) => exit,
            Err(error) if error.is_denial() => fail(&error, Exit::Denied),
            Err(error) => fail(&error, Exit::Failed),
        }
    }
}

impl Order {
    async fn carry_out(self, service: &Service<'_>, url: &Url, json: bool) -> Result<Exit, ServiceError> {
        match self {
            Self::Pin(name, pin) => {
                service.pin(&name, &pin).await?;
                let readable = readable_at(url, service.cache(), &name);
                if json {
                    return Ok(print_json(&json!({
                        "name": name, "cache": service.cache(), "path": pin.path.absolute(),
                        "lifetime": pin.lifetime, "keep": pin.keep, "url": readable,
                    })));
                }
                output::line(&format!("pinned {} as {name}: {readable}", pin.path.absolute()));
            }
            Self::List => {
                let pins = service.pins().await?.pins;
                if json {
                    return Ok(print_json(&pins.iter().map(in_json).collect::<Vec<_>>()));
                }
                table(&pins).iter().for_each(|line| output::line(line));
            }
            Self::Remove(name) => {
                service.unpin(&name).await?;
                if json {
                    return Ok(print_json(
                        &json!({ "name": name, "cache": service.cache(), "removed": true }),
                    ));
                }
                output::line(&format!("removed {name} from {}", service.cache()));
            }
        }
        Ok(Exit::Done)
    }
}

/// Where hosts read a pin.
fn readable_at(service: &Url, cache: &CacheName, name: &PinName) -> String {
    let service = format!("{}{}", service.origin().ascii_serialization(), service.path());
    format!("{}/{cache}/pins/{name}", service.trim_end_matches('/'))
}

fn in_json(pin: &Pin) -> serde_json::Value {
    json!({
        "name": pin.name, "path": pin.path.absolute(), "pinned_at": date(pin.pinned_at),
        "expires_at": pin.expires_at.map(date),
    })
}

/// The pins, for people.
fn table(pins: &[Pin]) -> Vec<String> {
    let width = pins.iter().map(|pin| pin.name.as_str().len()).max().unwrap_or_default();
    let line = |Pin { name, path, pinned_at, expires_at }: &Pin| {
        let until = expires_at.map_or_else(String::new, |ends| format!("  until {}", date(ends)));
        format!("{:<width$}  {}  {}{until}", name.as_str(), date(*pinned_at), path.absolute())
    };
    pins.iter().map(line).collect()
}

/// A moment, as `larderd` writes it too.
fn date(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).map_or_else(
        || seconds.to_string(),
        |moment| moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    )
}
