//! `larderd key`: the caches' signing keys.

use std::{
    fmt::Write,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use larder_protocol::{PublicKey, SigningKey, api::CacheName};
use serde::Serialize;

use super::{Failure, print, token::lifetime};
use crate::{
    audit::{Entry, Event, Who},
    clock::{Clock, to_date},
    config::Config,
    keys::{
        KeptKey, KeyDir, TAKEN_UP_WITHIN, base_name,
        change::{self, ChangeError},
        next_name,
    },
    open_metadata,
};

const EXAMPLES: &str = "\
Every path is signed by all keys of its cache that are not retired, and a reader needs
one of them. So a key is replaced without anybody noticing:

  larderd key rotate                 a new key; the old one signs 90 more days
  larderd key list                   the line for nix.conf, which names both
  … give that line to every reader within the 90 days …

A cache that moves here keeps the key that its readers have:

  larderd key import /etc/nix/cache-key.secret

If a key was stolen, readers must stop trusting it; that it signs no more is not enough:

  larderd key rotate --overlap 0d    sign with a new key alone from now on
  … take the old key out of every reader's nix.conf …

A service that runs takes up all of this by itself, within seconds.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Command {
    /// Make one more key, beside those that the cache has
    Generate {
        #[command(flatten)]
        of: OfCache,
        /// What to call it [default: the service's host, the cache and the next number]
        #[arg(long)]
        name: Option<String>,
    },
    /// Make a new key, and let the others sign for a while only
    Rotate {
        #[command(flatten)]
        of: OfCache,
        /// What to call the new key [default: the service's host, the cache and the next number]
        #[arg(long)]
        name: Option<String>,
        /// How long the others go on signing, for example 0d, 90d or 1y
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = overlap)]
        overlap: i64,
    },
    /// Take a key that Nix made: nix-store --generate-binary-cache-key
    Import {
        #[command(flatten)]
        of: OfCache,
        /// The file with the secret key; `-` for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the keys, retired ones too
    List {
        /// Of this cache alone
        #[arg(long)]
        cache: Option<CacheName>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a key sign no more
    Retire {
        #[command(flatten)]
        of: OfCache,
        /// The key's name
        name: String,
        /// How long it still signs, for example 0d or 30d
        #[arg(long, value_name = "DURATION", default_value = "0d", value_parser = overlap)]
        overlap: i64,
    },
    /// Forget a retired key, so that nobody can steal it
    Remove {
        #[command(flatten)]
        of: OfCache,
        /// The key's name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct OfCache {
    /// The cache
    #[arg(long, value_name = "NAME", default_value = "main")]
    cache: CacheName,
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let directory = KeyDir::of(config);
    let now = Clock::System.now();
    let (cache, events) = match command {
        Command::List { cache, json } => return list(config, &directory, cache, json, now),
        Command::Generate { of, name } => {
            let made = changed(config, &directory, &of.cache, |cache, keys| {
                let key = new_key(config, cache, keys, name)?;
                change::add(keys, key.clone())?;
                Ok(key)
            })?;
            done(&format!("Made {}, which signs beside the cache's other keys.", made.name()));
            print::out(&format!("{}\n", made.public_key()));
            (of.cache, vec![added(&made, false)])
        }
        Command::Rotate { of, name, overlap } => {
            let until = now.saturating_add(overlap);
            let (made, retired) = changed(config, &directory, &of.cache, |cache, keys| {
                let key = new_key(config, cache, keys, name)?;
                let signed: Vec<bool> = keys.iter().map(|kept| kept.signs(now)).collect();
                change::rotate(keys, key.clone(), until)?;
                let retired: Vec<Event> = keys
                    .iter()
                    .zip(signed)
                    .filter(|(_, signed)| *signed)
                    .filter_map(|(kept, _)| Some(retired(kept.key.name(), kept.signs_until?)))
                    .collect();
                Ok((key, retired))
            })?;
            done(&format!(
                "Made {}. The cache's other keys sign until {}; give readers the new one before.",
                made.name(),
                to_date(until)
            ));
            print::out(&format!("{}\n", made.public_key()));
            (of.cache, [added(&made, false)].into_iter().chain(retired).collect())
        }
        Command::Import { of, file } => {
            let key = read_secret(&file)?;
            let imported = changed(config, &directory, &of.cache, |_, keys| {
                change::add(keys, key.clone())?;
                Ok(key.public_key())
            })?;
            done(&format!("Imported {}, which signs from now on.", imported.name()));
            print::out(&format!("{imported}\n"));
            (of.cache, vec![added(&key, true)])
        }
        Command::Retire { of, name, overlap } => {
            let until = now.saturating_add(overlap);
            let until = changed(config, &directory, &of.cache, |_, keys| change::retire(keys, &name, until))?;
            done(&format!("{name} signs until {}.", to_date(until)));
            (of.cache, vec![retired(&name, until)])
        }
        Command::Remove { of, name } => {
            changed(config, &directory, &of.cache, |_, keys| change::remove(keys, &name, now))?;
            done(&format!("Forgot {name}."));
            (of.cache, vec![Event::KeyRemoved { name }])
        }
    };
    record(config, &cache, events, now).await
}

/// Writes what was done into the audit log, before the service's first start too.
async fn record(config: &Config, cache: &CacheName, events: Vec<Event>, now: i64) -> Result<(), Failure> {
    let untold = |error: &dyn std::fmt::Display| {
        Failure::Other(format!("this was done, but the audit log does not say so: {error}"))
    };
    let metadata = open_metadata(config).await.map_err(|error| untold(&error))?;
    let entries: Vec<(Entry, i64)> =
        events.into_iter().map(|event| (Entry::in_cache(cache, Who::operator(), event), now)).collect();
    let recorded = metadata.record_entries(&entries).await;
    metadata.close().await;
    recorded.map_err(|error| untold(&error))
}

fn retired(name: &str, until: i64) -> Event {
    Event::KeyRetired { name: name.to_owned(), until }
}

fn added(key: &SigningKey, imported: bool) -> Event {
    Event::KeyAdded { name: key.name().to_owned(), imported }
}

/// Says what was done, and when it holds.
fn done(what: &str) {
    print::complain(&format!(
        "{what}\nA larderd that runs takes this up within {TAKEN_UP_WITHIN} seconds, by itself."
    ));
}

/// Changes the keys of a cache that is configured.
fn changed<T>(
    config: &Config,
    directory: &KeyDir,
    cache: &CacheName,
    change: impl FnOnce(&CacheName, &mut Vec<KeptKey>) -> Result<T, ChangeError>,
) -> Result<T, Failure> {
    check_cache(config, cache)?;
    directory.change(cache, |keys| change(cache, keys)).map_err(|error: ChangeError| Failure::because(error))
}

fn check_cache(config: &Config, cache: &CacheName) -> Result<(), Failure> {
    match config.caches.iter().any(|configured| configured.name == *cache) {
        true => Ok(()),
        false => Err(Failure::Other(format!("there is no cache {cache} in the configuration"))),
    }
}

fn new_key(
    config: &Config,
    cache: &CacheName,
    keys: &[KeptKey],
    name: Option<String>,
) -> Result<SigningKey, ChangeError> {
    let name = name.unwrap_or_else(|| next_name(&base_name(config, cache), keys));
    Ok(SigningKey::generate(&name)?)
}

/// One key, as Nix writes it. No error shows what the file holds.
fn read_secret(file: &Path) -> Result<SigningKey, Failure> {
    let failed = |error: io::Error| Failure::Other(format!("{}: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        io::stdin().lock().take(4096).read_to_string(&mut text).map_err(failed)?;
    } else {
        let open = File::open(file).map_err(failed)?;
        let mode = open.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            print::complain(&format!(
                "Others can read {} (mode {mode:03o}): delete it, or run chmod 600. If somebody may have, rotate.",
                file.display()
            ));
        }
        open.take(4096).read_to_string(&mut text).map_err(failed)?;
    }
    text.trim().parse().map_err(|error| {
        Failure::Other(format!(
            "{}: {error}. It must hold one secret key, as nix-store --generate-binary-cache-key writes it",
            file.display()
        ))
    })
}

/// A key in a list.
#[derive(Serialize)]
struct Listed {
    cache: CacheName,
    name: String,
    public_key: PublicKey,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    signs_until: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Signs,
    Retiring,
    Retired,
}

fn list(
    config: &Config,
    directory: &KeyDir,
    cache: Option<CacheName>,
    json: bool,
    now: i64,
) -> Result<(), Failure> {
    if let Some(cache) = &cache {
        check_cache(config, cache)?;
    }
    let mut keys = Vec::new();
    for configured in config.caches.iter().filter(|of| cache.as_ref().is_none_or(|cache| of.name == *cache)) {
        for kept in directory.load(&configured.name).map_err(Failure::because)? {
            keys.push(Listed {
                cache: configured.name.clone(),
                name: kept.key.name().to_owned(),
                public_key: kept.key.public_key(),
                state: match kept.signs_until {
                    None => State::Signs,
                    Some(_) if kept.signs(now) => State::Retiring,
                    Some(_) => State::Retired,
                },
                signs_until: kept.signs_until.map(to_date),
            });
        }
    }
    if json {
        let text = serde_json::to_string_pretty(&keys).map_err(Failure::because)?;
        print::json(&format!("{text}\n"));
        return Ok(());
    }
    let mut text = String::new();
    for key in &keys {
        let date = key.signs_until.as_deref().unwrap_or_default();
        let state = match key.state {
            State::Signs => "signs".to_owned(),
            State::Retiring => format!("signs until {date}"),
            State::Retired => format!("retired since {date}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\tcache {}\t{state}", key.public_key, key.cache);
    }
    print::out(&text);
    let valid: Vec<String> =
        keys.iter().filter(|key| key.state != State::Retired).map(|key| key.public_key.to_string()).collect();
    if !valid.is_empty() {
        print::out(&format!("\nFor nix.conf:\n    extra-trusted-public-keys = {}\n", valid.join(" ")));
    }
    Ok(())
}

/// As a token's lifetime, and nothing at all.
fn overlap(text: &str) -> Result<i64, String> {
    if matches!(text, "0" | "0h" | "0d" | "0w" | "0y") { Ok(0) } else { lifetime(text) }
}
