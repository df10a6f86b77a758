//! `larderd mirror`: a cache as files, for when the service is down.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use larder_protocol::{
    PublicKey, SigningKey, StorePathHash,
    api::{CacheName, PinName},
    plain::one_line,
    quantity::{count, show_size},
};

use super::{Failure, open_existing, print, progress::Progress, serve};
use crate::{
    clock::Clock,
    config::{CacheConfig, Config, Environment},
    keys::KeyDir,
    metadata::Metadata,
    mirror::{Lock, MirrorError, MirrorReport, Mirroring, State, Target},
    retention,
    storage::Storage,
};

/// How often is looked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How many paths that are left out are printed.
const PRINTED: usize = 20;

const AFTER_HELP: &str = "\
A mirror is a static binary cache: nix-cache-info, a signed narinfo for each path, and NARs. Any web
server, bucket or CDN serves it, so that readers have their paths when the service is down. It has
the closures of what retention keeps, or of the pins and refs that you name, and nothing else: what
is not chosen any more is removed. Only what is missing is written. The service may run meanwhile.
Whenever it is interrupted, each path that is there is there with its whole closure; the next run
goes on. NARs that nothing names any more stay until the next run, for downloads under way.

Examples:
  larderd mirror --to file:///srv/mirror --dry-run
  larderd mirror --to file:///srv/mirror
  larderd mirror --to s3://bucket/folder
  larderd mirror --to file:///srv/hosts --pin web --pin db
  larderd mirror --to file:///srv/releases --repository your-name/your-flake --ref refs/heads/main

Readers name it behind the service, with the same key (larderd key list):
  substituters = https://cache.example.org/main https://mirror.example.org

How a bucket is reached and by whom, the variables say that AWS's programs read (AWS_ENDPOINT_URL,
AWS_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, …), which count for [storage], too. What is said of the mirror
alone is LARDER_MIRROR_AWS_ENDPOINT_URL and so on: where one of these is there, no AWS_… counts for it.

Run it by a timer: see docs/operations.md. It fails (1) also if something that is kept cannot be
mirrored, since it is damaged; then the rest is there.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Where: file:///srv/mirror, or s3://bucket/folder (also gs://, az://). It must be empty, or a mirror of the same cache
    #[arg(long, value_name = "URL")]
    to: String,
    /// The cache; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    cache: Option<CacheName>,
    /// The closures of the paths that are pinned so; may be repeated
    #[arg(long, value_name = "NAME")]
    pin: Vec<PinName>,
    /// The closures of what this repository's runs keep; may be repeated
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Vec<String>,
    /// Of these runs, those of this ref alone, such as refs/heads/main
    #[arg(long = "ref", value_name = "REF", requires = "repository")]
    git_ref: Option<String>,
    /// Mirror a private cache: whoever can read the mirror can read its paths, without a token
    #[arg(long)]
    allow_private: bool,
    /// Say what would be written and removed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    arguments: Arguments,
    config: &Config,
    environment: &Environment,
) -> Result<(), Failure> {
    let cache = chosen_cache(&arguments, config)?;
    let metadata = open_existing(config).await?;
    let mirrored = mirror(&arguments, config, environment, cache, &metadata).await;
    metadata.close().await;
    let report = mirrored?;
    if arguments.json {
        print::json(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        print::out(&in_words(&report));
    }
    match report.is_right() {
        true => Ok(()),
        false => Err(Failure::Other(format!(
            "{} that {} keeps could not be mirrored. `larderd verify` says what is damaged, and the next push of it \
             brings it again",
            count(report.left_out.len() as u64, "path"),
            report.cache
        ))),
    }
}

fn chosen_cache<'a>(arguments: &Arguments, config: &'a Config) -> Result<&'a CacheConfig, Failure> {
    let names = || config.caches.iter().map(|cache| cache.name.as_str()).collect::<Vec<_>>().join(", ");
    let cache = match (&arguments.cache, &config.caches[..]) {
        (None, [cache]) => cache,
        (None, _) => return Err(Failure::Other(format!("which cache? Say --cache and one of {}", names()))),
        (Some(name), caches) => caches.iter().find(|cache| cache.name == *name).ok_or_else(|| {
            Failure::Other(format!("there is no cache {name} in the configuration, which has {}", names()))
        })?,
    };
    if !cache.public && !arguments.allow_private {
        return Err(Failure::Other(format!(
            "{} is private, and a mirror asks nobody for a token: whoever can read the mirror could read its paths. If \
             that is as it should be, say --allow-private",
            cache.name
        )));
    }
    Ok(cache)
}

async fn mirror(
    arguments: &Arguments,
    config: &Config,
    environment: &Environment,
    cache: &CacheConfig,
    metadata: &Metadata,
) -> Result<MirrorReport, Failure> {
    let roots = chosen_roots(arguments, cache, metadata).await?;
    let (keys, known_keys) = keys(config, cache)?;
    let storage = Storage::open(config).map_err(Failure::because)?;
    let target = Target::open(&arguments.to, environment, arguments.dry_run).map_err(Failure::because)?;
    let mut lock = match arguments.dry_run {
        true => None,
        false => Some(lock(&target, metadata).await?),
    };
    let state = Arc::new(State::default());
    let told_to_stop = serve::told_to_stop()?;
    let stopping = tokio::spawn({
        let state = state.clone();
        async move {
            told_to_stop.await;
            state.stop();
        }
    });
    let mirroring = Mirroring {
        metadata,
        storage: &storage,
        cache,
        keys: &keys,
        known_keys: &known_keys,
        target: &target,
        dry_run: arguments.dry_run,
        state: &state,
    };
    let mut progress = Progress::new("written");
    let work = async {
        tokio::select! {
            mirrored = mirroring.mirror(&roots) => mirrored,
            () = lost(&mut lock) => Err(MirrorError::NotAlone),
        }
    };
    let mut work = std::pin::pin!(work);
    let mirrored = loop {
        tokio::select! {
            mirrored = &mut work => break mirrored,
            () = tokio::time::sleep(ASK_EVERY) => {
                progress.show(state.done.load(Ordering::Relaxed), state.total.load(Ordering::Relaxed));
            }
        }
    };
    progress.end();
    stopping.abort();
    mirrored.map_err(Failure::because)
}

async fn lock(target: &Target, metadata: &Metadata) -> Result<Lock, Failure> {
    let lock = target.lock(metadata).await.map_err(Failure::because)?;
    let lock = lock
        .ok_or_else(|| Failure::Other(format!("another `larderd mirror` writes to {target}. Wait for it")))?;
    tracing::debug!(%target, "nobody else writes there");
    Ok(lock)
}

async fn lost(lock: &mut Option<Lock>) {
    match lock {
        Some(lock) => lock.lost().await,
        None => std::future::pending().await,
    }
}

/// The keys that sign now, and all.
fn keys(config: &Config, cache: &CacheConfig) -> Result<(Vec<SigningKey>, Vec<PublicKey>), Failure> {
    let kept = KeyDir::of(config).load(&cache.name).map_err(Failure::because)?;
    let now = Clock::System.now();
    let keys: Vec<SigningKey> =
        kept.iter().filter(|kept| kept.signs(now)).map(|kept| kept.key.clone()).collect();
    if keys.is_empty() {
        return Err(Failure::Other(format!(
            "{0} has no key that signs, and readers would refuse its mirror. Make one: larderd key generate --cache {0}",
            cache.name
        )));
    }
    Ok((keys, kept.iter().map(|kept| kept.key.public_key()).collect()))
}

async fn chosen_roots(
    arguments: &Arguments,
    cache: &CacheConfig,
    metadata: &Metadata,
) -> Result<HashSet<StorePathHash>, Failure> {
    let now = Clock::System.now();
    if arguments.pin.is_empty() && arguments.repository.is_empty() {
        let roots = retention::kept_roots(metadata, &cache.name, &cache.retention, now).await;
        return roots.map_err(Failure::because);
    }
    let mut roots = HashSet::new();
    let pins = metadata.pins(&cache.name, now).await.map_err(Failure::because)?;
    for name in arguments.pin.iter().collect::<BTreeSet<_>>() {
        let before = roots.len();
        roots.extend(pins.iter().filter(|pin| pin.name == *name).map(|pin| pin.path.hash()));
        if roots.len() == before && !pins.iter().any(|pin| pin.name == *name) {
            return Err(Failure::Other(format!(
                "nothing is pinned as {name} in {}. See: larderd roots list",
                cache.name
            )));
        }
    }
    let runs =
        retention::kept(metadata, &cache.name, &cache.retention, now).await.map_err(Failure::because)?;
    for repository in &arguments.repository {
        let mut found = false;
        for run in &runs {
            let is_chosen = run.run.repository.eq_ignore_ascii_case(repository)
                && arguments.git_ref.as_ref().is_none_or(|git_ref| run.run.git_ref == *git_ref);
            if is_chosen {
                found = true;
                roots.extend(metadata.roots_of_run(run.id).await.map_err(Failure::because)?);
            }
        }
        if !found {
            let of = arguments.git_ref.as_ref().map_or_else(String::new, |git_ref| format!(" on {git_ref}"));
            return Err(Failure::Other(format!(
                "no run of {}{} keeps anything in {}. See: larderd roots list",
                one_line(repository),
                one_line(&of),
                cache.name
            )));
        }
    }
    Ok(roots)
}

fn in_words(report: &MirrorReport) -> String {
    let mut text = String::new();
    for path in report.left_out.iter().take(PRINTED) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "left out  {}: {}", path.path, path.why.in_words());
    }
    if report.left_out.len() > PRINTED {
        let _ = writeln!(text, "… and {} more; --json lists them", report.left_out.len() - PRINTED);
    }
    if report.referrers_left_out > 0 {
        let _ = writeln!(text, "left out  {} that refer to those", count(report.referrers_left_out, "path"));
    }
    if report.kept_by_mirror > 0 {
        let _ = writeln!(
            text,
            "{} stay in the mirror that {} has withdrawn as damaged: larderd verify",
            count(report.kept_by_mirror, "path"),
            report.cache
        );
    }
    if report.at_upstreams > 0 {
        let _ = writeln!(
            text,
            "{} that these refer to are left to the upstreams of {}: readers need those, too",
            count(report.at_upstreams, "path"),
            report.cache
        );
    }
    let would = if report.dry_run { "would be " } else { "" };
    let _ =
        write!(text, "{}: {} {would}in {}", report.cache, count(report.paths, "path"), one_line(&report.to));
    if report.is_unchanged() {
        text.push_str("; nothing changed");
    } else {
        let _ = write!(
            text,
            ": {} new, {} written anew, {} removed; {} ({}) written, {} ({}) removed",
            report.added,
            report.changed,
            report.removed,
            count(report.nars_written, "NAR"),
            show_size(report.nar_bytes_written),
            report.nars_removed,
            show_size(report.nar_bytes_removed)
        );
    }
    if report.nars_to_go > 0 {
        let _ = write!(text, "; {} more go with the next run", count(report.nars_to_go, "NAR"));
    }
    text.push('\n');
    text
}
