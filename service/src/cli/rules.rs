//! `larderd rules`: what the trust rules mean, and which numbers their names stand for.

use std::{collections::BTreeMap, fmt::Write};

use clap::{Args, Subcommand};
use larder_protocol::api::CacheName;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::{
    audit::Who,
    clock::Clock,
    config::Config,
    metadata::{Metadata, NameRow},
    trust::{BoundName, Numbers, TrustRule, TrustedName},
};

const DAY: i64 = 24 * 60 * 60;

/// Without a command: list the rules of all caches.
///
/// A rule trusts names, and names can become somebody else's: a repository is transferred, or deleted and made again.
/// So each name is bound to the forge's number for it, when GitHub's API says it, or else when the first token comes
/// whose claims all match. A name that is seen with another number is trusted for nothing until it is confirmed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON, an array of rules
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept what a suspended name stands for now, after a transfer that was meant
    Confirm(Selection),
    /// Forget what a name stands for; the next token that is issued and whose claims all match binds it anew
    Unbind(Selection),
}

#[derive(Debug, Args)]
struct Selection {
    /// The name as the rules show it, for example acme/flake, or acme for an owner
    name: String,
    /// In this cache alone
    #[arg(long)]
    cache: Option<CacheName>,
    /// For this issuer alone
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
}

impl Selection {
    fn takes(&self, row: &NameRow) -> bool {
        row.bound.unbound_at.is_none()
            && row.bound.name.as_str() == self.name.to_ascii_lowercase()
            && self.cache.as_ref().is_none_or(|cache| *cache == row.cache)
            && self.issuer.as_ref().is_none_or(|issuer| *issuer == row.issuer)
    }
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let metadata = super::open_existing(config).await?;
    let done = execute(arguments, config, &metadata).await;
    metadata.close().await;
    done
}

async fn execute(arguments: Arguments, config: &Config, metadata: &Metadata) -> Result<(), Failure> {
    let rows = metadata.all_bound_names().await.map_err(Failure::because)?;
    let now = Clock::System.now();
    match arguments.command {
        None if arguments.json => {
            let text = serde_json::to_string_pretty(&as_json(config, &rows)).map_err(Failure::because)?;
            print::json(&format!("{text}\n"));
        }
        None => print::out(&listing(config, &rows, now)),
        Some(Command::Unbind(selection)) => {
            let selected = select(&rows, &selection)?;
            for row in selected {
                metadata.unbind_name(row, Who::operator(), now).await.map_err(Failure::because)?;
                let NameRow { cache, bound, .. } = row;
                print::out(&format!(
                    "{} was {} to the cache {cache}, and is not bound now\n",
                    bound.name, bound.numbers
                ));
            }
        }
        Some(Command::Confirm(selection)) => {
            let mut confirmed = 0;
            for row in select(&rows, &selection)? {
                let Some(suspended) = row.bound.suspended else { continue };
                // What was shown is what is confirmed, whatever came since.
                let done = metadata.confirm_name(row, suspended.found, Who::operator(), now).await;
                if done.map_err(Failure::because)? {
                    confirmed += 1;
                    let NameRow { cache, bound, .. } = row;
                    print::out(&format!(
                        "{} was {} to the cache {cache}, and is {} now\n",
                        bound.name, bound.numbers, suspended.found
                    ));
                }
            }
            if confirmed == 0 {
                return Err(Failure::Other(format!(
                    "{} is not suspended, so there is nothing to confirm. See: larderd rules",
                    selection.name
                )));
            }
        }
    }
    Ok(())
}

fn select<'a>(rows: &'a [NameRow], selection: &Selection) -> Result<Vec<&'a NameRow>, Failure> {
    let selected: Vec<&NameRow> = rows.iter().filter(|row| selection.takes(row)).collect();
    if selected.is_empty() {
        return Err(Failure::Other(format!(
            "no name {:?} is bound there. See: larderd rules",
            selection.name
        )));
    }
    Ok(selected)
}

fn listing(config: &Config, rows: &[NameRow], now: i64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_listing(&mut text, config, rows, now);
    text
}

fn write_listing(text: &mut String, config: &Config, rows: &[NameRow], now: i64) -> std::fmt::Result {
    for cache in &config.caches {
        writeln!(text, "cache {}", cache.name)?;
        if cache.trust.is_empty() {
            writeln!(text, "  no rules: no job may push")?;
        }
        for (number, rule) in (1..).zip(cache.trust.iter()) {
            writeln!(text, "  {number}. {rule}")?;
            if config.issuers.len() > 1 {
                writeln!(text, "     by {}", rule.issuer)?;
            }
            for (name, bound) in names(rule, &cache.name, rows) {
                writeln!(text, "     {}", state(&name, bound, now))?;
            }
        }
    }
    let idle: Vec<&NameRow> = idle(config, rows).collect();
    if !idle.is_empty() {
        writeln!(text, "bound, and in no rule any more (forget them by: larderd rules unbind NAME)")?;
        for row in idle {
            writeln!(text, "  cache {}: {}", row.cache, state(&row.bound.name, Some(&row.bound), now))?;
        }
    }
    Ok(())
}

fn state(name: &TrustedName, bound: Option<&BoundName>, now: i64) -> String {
    let Some(bound) = bound else {
        return format!("{name} is not bound yet: the first token whose claims all match will bind it");
    };
    let days = |since: i64| format!("{} d ago", (now - since).max(0) / DAY);
    if let Some(unbound_at) = bound.unbound_at {
        return format!(
            "{name} was unbound {}: the first token from after that whose claims all match will bind it",
            days(unbound_at)
        );
    }
    let mut text = format!("{name} is {} (by {}, {})", bound.numbers, bound.source, days(bound.bound_at));
    if let Some(suspended) = bound.suspended {
        text.push_str(&format!(
            "\n     SUSPENDED {}: it was seen as {}. If that is meant: larderd rules confirm {name}",
            days(suspended.at),
            suspended.found
        ));
    }
    text
}

/// The names that a rule trusts, with what is known of them: those that it writes out, and those that its patterns met.
fn names<'a>(
    rule: &TrustRule,
    cache: &CacheName,
    rows: &'a [NameRow],
) -> BTreeMap<TrustedName, Option<&'a BoundName>> {
    let mut names: BTreeMap<_, _> = rule.names().into_iter().map(|name| (name, None)).collect();
    let known = rows.iter().filter(|row| is_of(row, cache, rule)).map(|row| &row.bound);
    names.extend(known.map(|bound| (bound.name.clone(), Some(bound))));
    names
}

fn is_of(row: &NameRow, cache: &CacheName, rule: &TrustRule) -> bool {
    row.cache == *cache && row.issuer == rule.issuer.as_str() && rule.trusts(&row.bound.name)
}

fn idle<'a>(config: &'a Config, rows: &'a [NameRow]) -> impl Iterator<Item = &'a NameRow> {
    rows.iter().filter(|row| {
        let mut rules =
            config.caches.iter().flat_map(|cache| cache.trust.iter().map(|rule| (&cache.name, rule)));
        row.bound.unbound_at.is_none() && !rules.any(|(cache, rule)| is_of(row, cache, rule))
    })
}

fn as_json(config: &Config, rows: &[NameRow]) -> Value {
    let rules = config.caches.iter().flat_map(|cache| {
        (1..).zip(cache.trust.iter()).map(|(number, rule): (usize, &TrustRule)| {
            let names = names(rule, &cache.name, rows);
            json!({
                "cache": cache.name,
                "number": number,
                "issuer": rule.issuer.as_str(),
                "rule": rule.to_string(),
                "permissions": rule.permissions,
                "rank": rule.rank,
                "isolate": rule.isolate,
                "publish": rule.publish,
                "names": names.iter().map(|(name, bound)| name_as_json(name, *bound)).collect::<Vec<_>>(),
            })
        })
    });
    rules.collect()
}

fn name_as_json(name: &TrustedName, bound: Option<&BoundName>) -> Value {
    let numbers = |numbers: Numbers| json!({"repository_id": numbers.repository, "owner_id": numbers.owner});
    let unbound_at = bound.and_then(|bound| bound.unbound_at);
    let bound = bound.filter(|bound| bound.unbound_at.is_none());
    let state = match bound {
        None => "unbound",
        Some(bound) if bound.suspended.is_some() => "suspended",
        Some(_) => "bound",
    };
    json!({
        "name": name.as_str(),
        "state": state,
        "numbers": bound.map(|bound| numbers(bound.numbers)),
        "source": bound.map(|bound| bound.source.to_string()),
        "bound_at": bound.map(|bound| bound.bound_at),
        "suspended_at": bound.and_then(|bound| bound.suspended).map(|suspended| suspended.at),
        "unbound_at": unbound_at,
        "found": bound.and_then(|bound| bound.suspended).map(|suspended| numbers(suspended.found)),
    })
}
