//! `larder push`.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use larder_protocol::{
    StorePath,
    api::{CacheName, Divergence},
};
use url::Url;

use super::{
    Exit, bars,
    quantity::{count, show_size, size, time},
};
use crate::{
    credentials::Credentials,
    output,
    push::{PathStatus, PushOptions, PushReport, push},
    store::{Closure, NixStore, StoreError},
};

/// Push store paths and all that they need
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  larder push ./result --service https://cache.example.org
  larder push --cache team $(nix-build release.nix --no-out-link)
  nix-store --query --requisites /run/current-system | larder push -

What a cache or its upstreams have already is not sent. All paths become visible
at one moment, or none does; a push that was cut short can simply be made again,
and sends only what had not arrived.

Credentials: LARDER_TOKEN or --token-file; in a GitHub workflow with the permission
`id-token: write` neither is needed.

The last line on standard output is
  pushed <N> paths (<S> sent of <T>) to <URL>/<cache> in <t> s
or, with --json, a JSON object with every path and what became of it.

Exit codes: 0 all is in the cache, 1 failed, 2 wrong usage, 3 denied,
4 some paths were skipped and the others are in the cache.")]
pub struct PushArgs {
    /// Store paths, or links to such as ./result; `-` reads a list from standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The service's URL
    #[arg(long, env = "LARDER_SERVICE", value_name = "URL")]
    service: Url,
    /// The cache to push to
    #[arg(long, env = "LARDER_CACHE", value_name = "NAME", default_value = "main")]
    cache: CacheName,
    /// A file with a token, instead of LARDER_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The root of the Nix store, as Nix's --store takes it
    #[arg(long, value_name = "DIR", default_value = "/")]
    store: PathBuf,
    /// The level of zstd, 1 to 19: higher is smaller and slower
    #[arg(long, value_name = "N", default_value_t = larder_protocol::chunk::DEFAULT_LEVEL,
        value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// The largest body to send, such as 90MB, where a proxy in front of the service limits bodies
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_body: Option<u64>,
    /// How much of the data is in memory at a time
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    window: u64,
    /// How many uploads run side by side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// How long the push may take, such as 90s, 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2h")]
    time_limit: Duration,
    /// Have these paths stand whatever the cache has in their place. Needs a token that permits `admin`
    #[arg(long)]
    replace: bool,
    /// Say what would be offered to the service, and do no more
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

impl PushArgs {
    pub(super) async fn run(self) -> Exit {
        let closure = match self.closure().await {
            Ok(closure) => closure,
            Err(error) => {
                output::note(&format!("error: {error}"));
                return match error {
                    StoreError::NotAStorePath { .. } | StoreError::NotValid { .. } => Exit::Usage,
                    _ => Exit::Failed,
                };
            }
        };
        if self.dry_run {
            return self.offer(&closure);
        }
        let credentials = match Credentials::find(self.token_file.as_deref()) {
            Ok(credentials) => credentials,
            Err(error) => {
                output::note(&format!("error: {error}"));
                return Exit::Usage;
            }
        };
        let options = PushOptions {
            level: self.level,
            max_body: self.max_body,
            window: usize::try_from(self.window).unwrap_or(usize::MAX),
            streams: self.streams.into(),
            time_limit: self.time_limit,
            replace: self.replace,
            ..PushOptions::new(self.service.clone(), self.cache.clone())
        };
        let pushed = push(&options, &credentials, closure, &*bars::for_stderr()).await;
        match pushed {
            Ok(report) => self.tell(&report),
            Err(error) => {
                output::note(&format!("error: {error}"));
                if error.is_denial() { Exit::Denied } else { Exit::Failed }
            }
        }
    }

    async fn closure(&self) -> Result<Closure, StoreError> {
        let store = NixStore::open(&self.store).await?;
        let mut roots = BTreeSet::new();
        for path in &self.paths {
            if path == Path::new("-") {
                for line in io::stdin().lock().lines() {
                    let line = line.map_err(|error| StoreError::NotAStorePath {
                        path: path.clone(),
                        reason: error.to_string(),
                    })?;
                    for word in line.split_ascii_whitespace() {
                        roots.insert(store.resolve(Path::new(word))?);
                    }
                }
            } else {
                roots.insert(store.resolve(path)?);
            }
        }
        let roots: Vec<StorePath> = roots.into_iter().collect();
        store.closure(&roots).await
    }

    fn offer(&self, closure: &Closure) -> Exit {
        if self.json {
            return print_json(&closure.paths);
        }
        for info in &closure.paths {
            output::line(&format!("{} {}", info.path.absolute(), show_size(info.nar_size)));
        }
        output::line(&format!(
            "would offer {} ({}) to {}",
            count(closure.paths.len(), "path"),
            show_size(closure.nar_bytes()),
            self.target()
        ));
        Exit::Done
    }

    fn tell(&self, report: &PushReport) -> Exit {
        for divergence in &report.divergences {
            output::note(&divergence_note(divergence));
        }
        for replacement in &report.replacements {
            output::note(&format!(
                "note: {} was in the cache with other contents, and is replaced ({} before, {} now)",
                replacement.path.absolute(),
                replacement.replaced,
                replacement.pushed
            ));
        }
        if !report.skipped.is_empty() {
            output::note(&format!("skipped {}", count(report.skipped.len(), "path")));
        }
        let exit = if report.skipped.is_empty() { Exit::Done } else { Exit::Skipped };
        if self.json {
            return match print_json(report) {
                Exit::Done => exit,
                failed => failed,
            };
        }
        let pushed = report.paths.iter().filter(|path| path.status == PathStatus::Pushed).count();
        output::line(&format!(
            "pushed {} ({} sent of {}) to {} in {:.1} s",
            count(pushed, "path"),
            show_size(report.sent_bytes),
            show_size(report.nar_bytes),
            self.target(),
            report.elapsed.as_secs_f64()
        ));
        exit
    }

    fn target(&self) -> String {
        let service = format!("{}{}", self.service.origin().ascii_serialization(), self.service.path());
        format!("{}/{}", service.trim_end_matches('/'), self.cache)
    }
}

/// What stands instead of a path that was pushed. Most such builds only give something else each time.
fn divergence_note(Divergence { path, kept, pushed, upstream }: &Divergence) -> String {
    let path = path.absolute();
    match upstream {
        Some(upstream) => format!(
            "note: {path} is refused: {} has signed it with other contents, which stand ({kept} there, {pushed} here)",
            upstream.escape_debug()
        ),
        None if kept == pushed => {
            format!("note: {path} is in the cache with other references, which stay")
        }
        None => format!(
            "note: {path} is in the cache with other contents, which stay ({kept} there, {pushed} here); a build that \
             is not reproducible does that, and nothing needs to be done"
        ),
    }
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Exit {
    match output::json(value) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::note(&format!("error: {error}"));
            Exit::Failed
        }
    }
}
