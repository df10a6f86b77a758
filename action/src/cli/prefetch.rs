//! `larder prefetch`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use larder_protocol::{
    StorePath,
    api::CacheName,
    flake_lock::{FlakeLock, MAX_LOCK_LEN},
    plain::one_line,
    prefetch::{Prefetch, PrefetchState},
};
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

use super::{
    Exit, bars,
    push::print_json,
    quantity::{count, show_size, time},
    why::{fail, store_path},
};
use crate::{
    credentials::Credentials,
    output,
    service::{Service, ServiceError},
};

/// How often the service is asked how far it is: soon at first, then not so often, so that whoever waits is kept by a
/// small part of the time that the prefetch takes.
const FIRST: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(2);
const PART: u32 = 20;
/// How many lacking paths are shown, and how many inputs that are not asked for.
const SHOWN: usize = 20;

/// Have the cache fetch paths and all that they need from its upstreams
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  larder prefetch --wait $(nix eval --raw .#hello) --service https://cache.example.org
  larder prefetch --wait /nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-hello-2.12.1
  nix-store --query --requisites /run/current-system | larder prefetch -
  larder prefetch --wait --flake-lock --service https://cache.example.org

The paths need not be on this machine. What the cache has already is not fetched again. What
is fetched is verified by the upstream's keys and by its hash, then stored and signed as what
is pushed. Without --wait the command ends when the service has taken the order; it goes on
with it also across a restart.

With --flake-lock it asks for the inputs of a flake: each has a store path, which follows from the
`narHash` in flake.lock, and Nix takes it from a cache before it asks the input's host. They come
from the cache's upstreams alone. Inputs without `narHash`, or of this machine, are named and left out.

Credentials: LARDER_TOKEN or --token-file, a token that permits `push`; in a GitHub workflow
with the permission `id-token: write` neither is needed.

The last line on standard output is
  prefetch <ID> <STATE>: <N> of <M> paths that were missing are in <CACHE>
or, with --json, a JSON object.

Exit codes: 0 the closures are complete (without --wait: the order is taken), 1 failed,
2 wrong usage, 3 denied, 4 no upstream has some of the paths, and the others are in the cache.")]
pub struct PrefetchArgs {
    /// Store paths, or links to such as ./result; `-` reads a list from standard input. Not needed with --flake-lock
    #[arg(required_unless_present = "flake_lock", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The inputs that a flake.lock names, too; FILE may be a flake's folder [default: ./flake.lock]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "flake.lock")]
    flake_lock: Option<PathBuf>,
    /// The service's URL
    #[arg(long, env = "LARDER_SERVICE", value_name = "URL")]
    service: Url,
    /// The cache to fill
    #[arg(long, env = "LARDER_CACHE", value_name = "NAME", default_value = "main")]
    cache: CacheName,
    /// A file with a token, instead of LARDER_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as 90s, 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2h", requires = "wait")]
    time_limit: Duration,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

impl PrefetchArgs {
    pub(super) async fn run(self) -> Exit {
        let paths = match self.paths() {
            Ok(paths) => paths,
            Err(error) => return fail(&error, Exit::Usage),
        };
        let credentials = match Credentials::find(self.token_file.as_deref()) {
            Ok(credentials) => credentials,
            Err(error) => return fail(&error, Exit::Usage),
        };
        let progress = bars::for_stderr();
        let service = match Service::new(&self.service, &self.cache, &credentials, &*progress) {
            Ok(service) => service,
            Err(error) => return fail(&error, Exit::Failed),
        };
        let done = self.carry_out(&service, paths).await;
        service.end_session().await;
        match done {
            Ok(prefetch) => self.tell(&prefetch),
            Err(error) if error.is_denial() => fail(&error, Exit::Denied),
            Err(error) => fail(&error, Exit::Failed),
        }
    }

    fn paths(&self) -> Result<Vec<StorePath>, String> {
        let mut paths = BTreeSet::new();
        let mut add = |path: &Path| {
            paths.insert(store_path(path).map_err(|error| error.to_string())?);
            Ok::<_, String>(())
        };
        for path in &self.paths {
            if path == Path::new("-") {
                for line in io::stdin().lock().lines() {
                    let line = line.map_err(|error| format!("standard input cannot be read: {error}"))?;
                    line.split_ascii_whitespace().try_for_each(|word| add(Path::new(word)))?;
                }
            } else {
                add(path)?;
            }
        }
        if let Some(file) = &self.flake_lock {
            paths.extend(inputs(file)?);
        }
        Ok(paths.into_iter().collect())
    }

    async fn carry_out(
        &self,
        service: &Service<'_>,
        paths: Vec<StorePath>,
    ) -> Result<Prefetch, ServiceError> {
        let mut prefetch = service.prefetch(paths).await?;
        if !self.wait {
            return Ok(prefetch);
        }
        let begun = Instant::now();
        let deadline = begun + self.time_limit;
        let mut said = String::new();
        while !prefetch.state.has_ended() && Instant::now() < deadline {
            sleep((begun.elapsed() / PART).clamp(FIRST, LATER)).await;
            match timeout_at(deadline, service.prefetch_stands(&prefetch.id)).await {
                Ok(stands) => prefetch = stands?,
                Err(_) => break,
            }
            let how_far = how_far(&prefetch);
            if how_far != said && !self.json {
                output::note(&how_far);
                said = how_far;
            }
        }
        Ok(prefetch)
    }

    fn tell(&self, prefetch: &Prefetch) -> Exit {
        let exit = match prefetch.state {
            PrefetchState::Complete => Exit::Done,
            PrefetchState::Incomplete => Exit::Skipped,
            PrefetchState::Failed | PrefetchState::Superseded => Exit::Failed,
            PrefetchState::Waiting | PrefetchState::Running if self.wait => {
                output::note("error: it is not done within --time-limit. The service goes on with it");
                Exit::Failed
            }
            PrefetchState::Waiting | PrefetchState::Running => Exit::Done,
        };
        if let Some(error) = &prefetch.error {
            output::note(&format!("error: {}", one_line(error)));
        }
        for path in prefetch.lacking_paths.iter().take(SHOWN) {
            output::note(&format!("no upstream has {}, or what it needs", path.absolute()));
        }
        if prefetch.lacking > SHOWN as u64 {
            output::note(&format!("and {} more", prefetch.lacking - SHOWN as u64));
        }
        if prefetch.lacking > 0 {
            output::note(&format!(
                "push them (larder push), or have whoever runs the service add an upstream that has them: \
                 [[cache.upstream]] of {}",
                prefetch.cache
            ));
        }
        if self.json {
            return match print_json(prefetch) {
                Exit::Done => exit,
                failed => failed,
            };
        }
        output::line(&format!(
            "prefetch {} {}: {} of {} paths that were missing are in {}",
            one_line(&prefetch.id),
            prefetch.state.as_str(),
            prefetch.published,
            prefetch.wanted,
            prefetch.cache,
        ));
        exit
    }
}

/// The store paths of a lock file's inputs. Says which have none.
fn inputs(file: &Path) -> Result<Vec<StorePath>, String> {
    let file = if file.is_dir() { file.join("flake.lock") } else { file.to_owned() };
    let unread = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut text = Vec::new();
    let opened = File::open(&file).and_then(|file| file.take(MAX_LOCK_LEN as u64 + 1).read_to_end(&mut text));
    opened.map_err(|error| {
        format!("{}; --flake-lock takes a flake.lock, or a flake's folder", unread(&error))
    })?;
    let lock = FlakeLock::parse(&text).map_err(|error| unread(&error))?;
    for refused in lock.refused.iter().take(SHOWN) {
        output::note(&format!("the input {} is left out: {}", one_line(&refused.name), refused.why));
    }
    if lock.refused.len() > SHOWN {
        output::note(&format!("and {} more", lock.refused.len() - SHOWN));
    }
    if lock.inputs.is_empty() {
        return Err(unread(&"it names no input that a cache could have"));
    }
    Ok(lock.inputs.into_iter().map(|input| input.path).collect())
}

fn how_far(prefetch: &Prefetch) -> String {
    let Prefetch { state, closure, wanted, published, bytes, error, .. } = prefetch;
    let mut text = format!(
        "{}: {}, {wanted} of them missing, {published} fetched ({})",
        state.as_str(),
        count(usize::try_from(*closure).unwrap_or(usize::MAX), "path"),
        show_size(*bytes)
    );
    if let Some(error) = error {
        text.push_str("; it is tried again, since ");
        text.push_str(&one_line(error));
    }
    text
}
