//! `larder agent push`: what pushes. A process of its own, so that its end (a crash, a lack of memory)
//! does not disturb who reads through the relay.

use std::{
    collections::HashSet,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use larder_protocol::{
    StorePath,
    api::{CacheInfo, Upstream},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use url::Url;

use super::{
    manifest,
    messages::{Finish, Start, Told, to_line},
    outputs,
    report::{LeftOut, Report},
    service,
};
use crate::{
    output,
    progress::{Event, Progress},
    push::{PushError, PushOptions, push_by},
    secret::Secret,
    service::Service,
    store::{Mark, NixStore, StoreError},
    workflow::{
        inputs::What,
        wording::{bytes, count},
    },
};

/// What the agent hands to the child by standard input. It holds secrets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    /// As main gave it.
    pub start: Start,
    /// The newest row when the job began.
    pub mark: Mark,
    /// What the service said of the cache, if it could be asked.
    pub cache: Option<CacheInfo>,
    /// The order.
    pub finish: Finish,
}

/// Pushes what the job built, and prints what happens as lines of JSON. The last one says how it ended.
pub async fn run(root: &Path, work: Work) {
    let (notes, receiver) = unbounded_channel();
    let printer = tokio::spawn(print(receiver));
    let told = match carry_out(root, work, &notes).await {
        Ok(report) => Told::Done(Box::new(report)),
        Err(error) => Told::Failed(error.to_string()),
    };
    let _ = notes.send(told);
    drop(notes);
    let _ = printer.await;
}

async fn print(mut told: UnboundedReceiver<Told>) {
    while let Some(told) = told.recv().await {
        if let Ok(line) = to_line(&told) {
            output::raw(line.trim_end());
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Pushes. However that ends, its session is given back.
async fn carry_out(root: &Path, work: Work, notes: &UnboundedSender<Told>) -> Result<Report, Failure> {
    let identity = work.start.identity.as_ref().ok_or("the job has no identity to push with")?;
    let progress = Notes::new(notes.clone());
    let Start { service, cache, .. } = &work.start;
    let service = Service::new(service, cache, &identity.credentials(), &progress)?;
    let done = push_outputs(root, &work, &service, &progress).await;
    service.end_session().await;
    done
}

async fn push_outputs(
    root: &Path,
    work: &Work,
    service: &Service<'_>,
    progress: &Notes,
) -> Result<Report, Failure> {
    let Work { start, mark, cache, finish } = work;
    let mark = *mark;
    let began = Instant::now();
    let limit = Duration::from_secs(finish.seconds);
    let note = |text: String| progress.note(text);

    let needs_upstreams = start.shared || start.what == What::New;
    let cache = match cache {
        None if needs_upstreams => Some(late_cache(start, service).await?),
        cache => cache.clone(),
    };
    let mut upstreams = cache.as_ref().map(|cache| cache.upstreams.clone()).unwrap_or_default();
    if start.what == What::New && finish.paths.is_none() && !start.shared {
        upstreams = all_upstreams(service, upstreams, limit.saturating_sub(began.elapsed())).await;
    }
    let mut store = NixStore::open(root).await.map_err(|error| match error {
        StoreError::NoDatabase(_) => {
            "there is no Nix store at /nix, or it was never used; has the job another one?".into()
        }
        other => Failure::from(other),
    })?;
    let roots = match &finish.paths {
        Some(paths) => paths.clone(),
        // Nobody can tell which of the new paths are this job's.
        None if start.shared => Vec::new(),
        None => outputs::built(&mut store, mark, start.what, &upstreams).await?,
    };
    let wanted = roots.len();
    let manifest = manifest::of(&store, mark, &roots, start.shared).await?;
    let (mut closure, mut left_out) = outputs::closure(&mut store, roots).await?;
    if start.shared {
        let above = store.added_since(mark).await?.into_iter().map(|row| row.path).collect();
        let mut strangers = outputs::strangers(&closure, &above, &upstreams);
        if !strangers.is_empty() {
            upstreams = all_upstreams(service, upstreams, limit.saturating_sub(began.elapsed())).await;
            strangers = outputs::strangers(&closure, &above, &upstreams);
        }
        let own = match cache.as_ref().filter(|cache| !cache.public) {
            Some(_) => Some(service.token().await?),
            None => None,
        };
        let name = cache.as_ref().map_or(&start.cache, |cache| &cache.name);
        let absent = absent((super::cache_url(&start.service, name), own), strangers, &upstreams).await?;
        let (kept, others) = outputs::without(&closure, &absent);
        left_out.extend(others);
        if kept.len() < closure.roots.len() {
            closure = store.closure(&kept).await?;
        }
    }
    closure.built = outputs::built_of(&closure, &store, mark, start.shared).await?;
    drop(store);
    for LeftOut { path, reason } in &left_out {
        note(format!("left out: {path}: {reason}"));
    }
    let roots = closure.roots.clone();
    let report_manifest = async || {
        let remaining = limit.saturating_sub(began.elapsed());
        // What a pull request wants is nothing to prepare for: others' code may have asked for it.
        if !start.pull_request
            && let Err(reason) = manifest::report(service, &manifest, remaining).await
        {
            note(format!("what the job wanted was not reported: {reason}"));
        }
    };
    if roots.is_empty() {
        // Whoever did not answer when the job began is not waited for.
        if cache.is_some() {
            report_manifest().await;
        }
        return Ok(Report { roots: wanted, left_out, elapsed: began.elapsed(), ..Report::default() });
    }
    if cache.is_none() {
        // A service that did not answer when the job began, and still does not, is not waited for.
        late_cache(start, service).await?;
    }
    note(format!(
        "{} to push, {} with all that they need ({})",
        count(roots.len(), "path"),
        closure.paths.len(),
        bytes(closure.nar_bytes())
    ));
    let mut options = PushOptions::new(start.service.clone(), start.cache.clone());
    options.level = start.level;
    options.max_body = start.max_body;
    options.time_limit = limit.saturating_sub(began.elapsed());
    let pushed = push_by(service, &options, closure, progress).await;
    // Also where the push failed.
    report_manifest().await;
    let push = match pushed {
        // Here the limit is an input, not an option.
        Err(PushError::TimeLimit(_)) => {
            return Err(
                "it took longer than the input `time-limit` allows; what was sent is kept for the next push"
                    .into(),
            );
        }
        pushed => pushed?,
    };
    let mut report = Report::of(push, &roots, left_out);
    report.roots = wanted;
    report.elapsed = began.elapsed();
    Ok(report)
}

/// What the cache is, where the service did not answer when the job began.
async fn late_cache(start: &Start, service: &Service<'_>) -> Result<CacheInfo, Failure> {
    match service::cache_info(&start.service, &start.cache).await {
        Err(error) if error.is_closed() => Ok(service.cache_info().await?),
        told => Ok(told?),
    }
}

/// All upstreams of the cache, which are told to whoever may push there. Where the service does not answer in time, those
/// that everybody is told of.
async fn all_upstreams(service: &Service<'_>, told: Vec<Upstream>, limit: Duration) -> Vec<Upstream> {
    match tokio::time::timeout(limit, service.cache_info()).await {
        Ok(Ok(cache)) => cache.upstreams,
        Ok(Err(_)) | Err(_) => told,
    }
}

async fn absent(
    cache: (Url, Option<Secret>),
    strangers: Vec<StorePath>,
    upstreams: &[Upstream],
) -> Result<HashSet<StorePath>, service::AskError> {
    let mut caches = vec![cache];
    caches.extend(upstreams.iter().filter_map(|upstream| Some((upstream.url.parse::<Url>().ok()?, None))));
    service::nobody_has(strangers, caches).await
}

/// Turns a push's events into lines of the log.
struct Notes {
    notes: UnboundedSender<Told>,
    sums: Mutex<Sums>,
}

struct Sums {
    read: u64,
    sent: u64,
    to_read: u64,
    told: Instant,
}

/// How often the sums are told.
const EVERY: Duration = Duration::from_secs(10);

impl Notes {
    fn new(notes: UnboundedSender<Told>) -> Self {
        Self { notes, sums: Mutex::new(Sums { read: 0, sent: 0, to_read: 0, told: Instant::now() }) }
    }

    fn note(&self, text: String) {
        let _ = self.notes.send(Told::Note(text));
    }
}

impl Progress for Notes {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Opened { missing, reused, present, upstream, nar_bytes } => {
                self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner).to_read = *nar_bytes;
                self.note(format!(
                    "{} missing there ({}); {present} there already, {upstream} at upstreams, {reused} with known contents",
                    count(*missing, "path"),
                    bytes(*nar_bytes)
                ));
            }
            Event::Read(more) | Event::Sent(more) => {
                let mut sums = self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match event {
                    Event::Read(_) => sums.read += more,
                    _ => sums.sent += more,
                }
                if sums.told.elapsed() >= EVERY {
                    sums.told = Instant::now();
                    self.note(format!(
                        "read {} of {}, sent {}",
                        bytes(sums.read),
                        bytes(sums.to_read),
                        bytes(sums.sent)
                    ));
                }
            }
            Event::Verified { path, nar_size } => {
                self.note(format!("verified there: {path} ({})", bytes(*nar_size)))
            }
            Event::Skipped { path, reason } => self.note(format!("left out: {path}: {reason}")),
            Event::Retrying { what, error, wait } => {
                self.note(format!("{what}: {error}; again in {:.0} s", wait.as_secs_f64()));
            }
            Event::Committed { published } => self.note(format!("published: {published}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_protocol::api::API_VERSION;
    use tokio::process::Command;

    use super::*;
    use crate::{agent::messages::JobIdentity, credentials::Credentials, secret::Secret};

    /// A path that was just built in this machine's store.
    async fn build() -> StorePath {
        build_with("built").await
    }

    /// A path that was just built, and has a text in it.
    async fn build_with(text: &str) -> StorePath {
        let salt = crate::random::hex(8).unwrap();
        let expression = format!(
            "derivation {{ name = \"agent-push\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
             args = [ \"-euc\" \"echo {text} > $out\" ]; salt = \"{salt}\"; }}"
        );
        let mut command = Command::new("nix-build");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/var/empty");
        command.env("NIX_CONF_DIR", "/var/empty");
        command.env("NIX_CONFIG", "build-users-group =\nsandbox = false\nsubstitute = false\n");
        let output = command.args(["--no-out-link", "-E", &expression]).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        StorePath::from_absolute(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
    }

    fn work(mark: Mark, shared: bool, paths: Option<Vec<StorePath>>) -> Work {
        let identity = Credentials::Job {
            request_url: "http://127.0.0.1:1/token?x=1".parse().unwrap(),
            request_token: Secret::new("x"),
        };
        let start = Start {
            service: "http://127.0.0.1:1".parse().unwrap(),
            cache: "main".parse().unwrap(),
            pull_request: false,
            identity: JobIdentity::of(&identity),
            push: true,
            what: What::Built,
            shared,
            relay: false,
            user: 0,
            lifetime: 60,
            marker: false,
            level: 3,
            max_body: None,
        };
        let cache = CacheInfo {
            api: API_VERSION,
            name: start.cache.clone(),
            public: true,
            url: "http://127.0.0.1:1/main".into(),
            store_dir: "/nix/store".into(),
            priority: 30,
            public_keys: Vec::new(),
            upstreams: Vec::new(),
        };
        Work { start, mark, cache: Some(cache), finish: Finish { paths, seconds: 1 } }
    }

    /// What is noted before anything is sent: nobody listens where the service should be.
    async fn notes(work: Work) -> (Option<Report>, String) {
        let (sender, mut receiver) = unbounded_channel();
        let report = carry_out(Path::new("/"), work, &sender).await.ok();
        drop(sender);
        let mut notes = String::new();
        while let Some(told) = receiver.recv().await {
            notes.push_str(&to_line(&told).unwrap());
        }
        (report, notes)
    }

    #[tokio::test]
    async fn from_a_shared_store_goes_only_what_is_named() {
        let mark = NixStore::open(Path::new("/")).await.unwrap().high_water_mark().await.unwrap();
        let built = build().await;
        let (report, _) = notes(work(mark, true, None)).await;
        assert_eq!(report.unwrap().roots, 0, "nobody can tell whose it is");
        let (report, notes_of_named) = notes(work(mark, true, Some(vec![built.clone()]))).await;
        assert!(report.is_none() && notes_of_named.contains("1 path to push"), "{notes_of_named}");
        let (report, notes_of_own) = notes(work(mark, false, None)).await;
        assert!(report.is_none() && notes_of_own.contains(" to push, "), "{notes_of_own}");

        let gone: StorePath = "s66mzxpvicwk07gjbjfw9izjfa797vsw-gone".parse().unwrap();
        let (report, _) = notes(work(mark, true, Some(vec![gone.clone()]))).await;
        let report = report.unwrap();
        assert_eq!((report.roots, &report.left_out[0].path), (1, &gone));
    }

    /// Somebody else's job left it in the store before this one began. Nobody answers here that a cache has it.
    #[tokio::test]
    async fn a_dependency_planted_below_the_mark_of_a_shared_store_does_not_go_along() {
        let planted = build_with("planted").await;
        let mark = NixStore::open(Path::new("/")).await.unwrap().high_water_mark().await.unwrap();
        let reference = format!("${{builtins.storePath {}}}", planted.absolute());
        let built = build_with(&reference).await;
        let named = Some(vec![built.clone()]);
        let (report, _) = notes(work(mark, true, named.clone())).await;
        let report = report.unwrap();
        let [left_out] = &report.left_out[..] else { panic!("{report:?}") };
        assert_eq!((&left_out.path, report.paths.len()), (&built, 0));
        assert!(left_out.reason.contains(&planted.to_string()), "{}", left_out.reason);
        // In a store of the job's own it would.
        let (report, notes_of_own) = notes(work(mark, false, named)).await;
        assert!(report.is_none() && notes_of_own.contains("1 path to push"), "{notes_of_own}");
    }
}
