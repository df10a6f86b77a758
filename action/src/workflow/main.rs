//! `larder action main`: starts the agent beside the job, and has later steps read through its relay.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use larder_protocol::api::{CacheInfo, Permission};

use super::{
    environment::{Job, Variables},
    files::FileError,
    inputs::{Inputs, InvalidInputs, is_strict},
    log,
    nix_config::{self, Substituter},
    state::{self, Saved},
};
use crate::{
    agent::{
        self,
        messages::{JobIdentity, NoCache, Ready, Start, Started, Trust, to_line},
    },
    credentials::{Credentials, CredentialsError},
    docker::{AgentLabels, Docker, DockerError, Mount, Own, Sibling, SiblingSpec, host_path},
    random,
};

/// How long the agent may take until it is ready: it asks the service three times.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// GitHub ends a job on its machines after six hours, and on others after five days.
const LIFETIME_HOSTED: u64 = 7 * 60 * 60;
const LIFETIME: u64 = 5 * 24 * 60 * 60 + 60 * 60;
/// Where the runner's `_temp` is mounted since 2.329, and what of it is always mounted.
const RUNNER_TEMP: &str = "/github/runner_temp";
const RUNNER_HOME: &str = "/github/home";

/// Why the step did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MainError {
    /// What the workflow asks for makes no sense.
    #[error(transparent)]
    Inputs(#[from] InvalidInputs),
    /// No container can be started.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The runner cannot be told something.
    #[error(transparent)]
    File(#[from] FileError),
    /// The job's identity makes no sense.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The agent did not start.
    #[error("the agent did not start: {0}")]
    Agent(String),
    /// The job may not prove who it is, though it could.
    #[error(
        "the job has no ID token, so that nothing can be pushed: give it `permissions: id-token: write` \
         (and `contents: read`, which then must be named too)"
    )]
    NoIdentity,
    /// The service does not answer.
    #[error("this job does not read from the cache: {0}")]
    NoService(String),
    /// The store cannot be read.
    #[error("nothing can be pushed: {0}")]
    NoStore(String),
    /// No random numbers, and the like.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the step. Returns the exit code: what fails here fails the job only if that is asked for.
pub async fn run(variables: &Variables) -> u8 {
    let job = Job::of(variables);
    let mut status = Status::Off;
    let result = tokio::select! {
        result = begin(variables, &job, &mut status) => result,
        () = super::stopped() => Err(MainError::Agent("the job was cancelled".into())),
    };
    // The runner passes over outputs that a step has not set.
    let _ = job.files.set_output("status", status.as_str());
    match result {
        Ok(()) => 0,
        Err(error) if is_strict(variables) => {
            log::error(&error.to_string());
            1
        }
        Err(error) => {
            log::warning(&error.to_string());
            0
        }
    }
}

/// The output `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// What the job builds will be pushed.
    Ready,
    /// Nothing will be pushed.
    ReadOnly,
    /// Nothing is done.
    Off,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::ReadOnly => "read-only",
            Self::Off => "off",
        }
    }
}

async fn begin(variables: &Variables, job: &Job, status: &mut Status) -> Result<(), MainError> {
    let inputs = Inputs::of(variables)?;
    // Also where nothing is pushed: a private cache is read by it.
    let identity = identity(variables)?;
    // A fork's pull request never has an identity; anything else lacks a permission.
    let of_fork = identity.is_none() && job.event.starts_with("pull_request");
    let lacks_permission = inputs.push && identity.is_none() && !of_fork;

    let docker = Docker::connect().await?;
    let own = match (docker.own().await, &inputs.image) {
        (Ok(own), None) => own,
        (Ok(own), Some(image)) => Own { image: image.clone(), ..own },
        (Err(_), Some(image)) => Own { image: image.clone(), mounts: Vec::new() },
        (Err(error), None) => return Err(error.into()),
    };
    let id = random::hex(8)?;
    let nix = match &inputs.job_container {
        None => PathBuf::from("/nix"),
        Some(container) => {
            let mounts = docker.mounts_of(container).await?;
            host_path(&mounts, Path::new("/nix")).ok_or(DockerError::NixInJobContainer)?
        }
    };
    let marker = make_marker(&own.mounts, job, &id);
    let spec = SiblingSpec {
        image: own.image.clone(),
        program: env::current_exe()?.to_string_lossy().into_owned(),
        labels: labels(&own.mounts, job, id.clone()),
        nix,
        marker: marker.as_ref().map(|(_, host)| host.clone()),
        network: inputs.job_container.clone(),
    };
    let marker_dir = marker.map(|(inside, _)| inside);
    let saved = Saved { agent: id, marker: marker_dir.clone() };
    let shared = inputs.store.is_shared(job.hosted);
    let start = Start {
        service: inputs.service.clone(),
        cache: inputs.cache.clone(),
        pull_request: job.event.starts_with("pull_request"),
        identity,
        push: inputs.push,
        what: inputs.what,
        shared,
        relay: inputs.relay,
        // Inside its container a job is root, and what the host's daemon thinks of that does not matter.
        user: if inputs.job_container.is_some() { 0 } else { job_user(job) },
        lifetime: if job.hosted { LIFETIME_HOSTED } else { LIFETIME },
        marker: marker_dir.is_some(),
        level: inputs.level,
        max_body: inputs.max_body,
    };
    // From here on there may be an agent that post must find, whatever happens to this process.
    state::save(&job.files, &saved);
    let (sibling, ready) =
        start_agent(&docker, &spec, &start).await.inspect_err(|_| state::remove_marker(&saved))?;

    if of_fork && matches!(ready.cache, Err(NoCache::Closed(_))) {
        log::line(&format!(
            "This job has no ID token (a fork's pull request has none), and {} is not there for it: it is private, or \
             there is no such cache. It reads and pushes nothing.",
            inputs.cache
        ));
        return Ok(());
    }
    if of_fork && inputs.push {
        log::line(
            "This job has no ID token (a fork's pull request has none): it reads from the cache, and pushes nothing.",
        );
    }
    let may = |permission| ready.permissions.as_ref().is_none_or(|those| those.contains(&permission));
    let wants = inputs.push && start.identity.is_some();
    let pushes = wants && ready.store_problem.is_none() && may(Permission::Push);
    *status = if pushes { Status::Ready } else { Status::ReadOnly };
    if let Some(cache) = ready.cache.as_ref().ok().filter(|_| wants && !may(Permission::Push)) {
        log::line(&format!("This job may read {}, and not push to it: so say its trust rules.", cache.name));
    }
    if let Err(error) = read_through(&inputs, job, &saved, &ready) {
        // Nobody would read through it or order anything of it.
        let _ = docker.remove(&sibling).await;
        return Err(error);
    }
    if let Some(cache) = ready.cache.as_ref().ok().filter(|_| pushes) {
        log::line(&match (shared, inputs.paths.is_empty()) {
            (_, false) => "At the job's end the paths that the workflow names are pushed.".into(),
            (false, true) => format!("At the job's end what it built is pushed to {}.", cache.name),
            (true, true) => "This machine's store is shared with other jobs, so that nobody can tell which paths are \
                 this job's. Name them by the input `paths`, or set `store: exclusive` if no other job uses the store."
                .to_owned(),
        });
    }
    match (&ready.cache, ready.store_problem) {
        _ if lacks_permission => Err(MainError::NoIdentity),
        (Err(NoCache::Closed(why) | NoCache::Unasked(why)), _) => Err(MainError::NoService(why.clone())),
        (Ok(_), Some(problem)) if wants => Err(MainError::NoStore(problem)),
        _ => Ok(()),
    }
}

/// The job's identity, if it may prove one.
fn identity(variables: &Variables) -> Result<Option<JobIdentity>, MainError> {
    let (Some(url), Some(token)) = (
        variables.get(crate::credentials::REQUEST_URL_VARIABLE),
        variables.get(crate::credentials::REQUEST_TOKEN_VARIABLE),
    ) else {
        return Ok(None);
    };
    let request_url = url.parse().map_err(|_| CredentialsError::RequestUrl)?;
    let credentials = Credentials::Job { request_url, request_token: crate::secret::Secret::new(token) };
    Ok(JobIdentity::of(&credentials))
}

async fn start_agent(
    docker: &Docker,
    spec: &SiblingSpec,
    start: &Start,
) -> Result<(Sibling, Ready), MainError> {
    let (sibling, mut conversation) = docker.start(spec).await?;
    let answer = async {
        conversation.say(&to_line(start).map_err(std::io::Error::from)?).await?;
        Ok::<_, MainError>(conversation.line(READY_LIMIT).await?)
    }
    .await;
    let started = answer.and_then(|line| match serde_json::from_str(&line) {
        Ok(Started::Ready(ready)) => Ok(*ready),
        Ok(Started::Failed(reason)) => Err(MainError::Agent(reason)),
        Err(_) => Err(MainError::Agent("its answer cannot be read".into())),
    });
    match started {
        Ok(ready) => Ok((sibling, ready)),
        Err(error) => {
            let _ = docker.remove(&sibling).await;
            Err(error)
        }
    }
}

/// Has later steps read from the cache, if their user may choose where Nix reads.
fn read_through(inputs: &Inputs, job: &Job, saved: &Saved, ready: &Ready) -> Result<(), MainError> {
    let Ok(cache) = &ready.cache else { return Ok(()) };
    let url = agent::cache_url(&inputs.service, &cache.name);
    let direct = Substituter { url, public_keys: cache.public_keys.clone() };
    if let Some((parent, _)) = cache.name.isolation() {
        log::line(&format!(
            "This pull request has a cache of its own, {}. It has all that {parent} has, and {parent} stays as it is.",
            cache.name
        ));
    }
    publish(job, &direct, cache)?;
    if ready.permissions.as_ref().is_some_and(|those| !those.contains(&Permission::Read)) && !cache.public {
        log::line(&format!(
            "{} is private, and this job may push to it and not read it: so say its trust rules.",
            cache.name
        ));
        return Ok(());
    }
    let url = match (&ready.trust, &ready.relay) {
        (Trust::Untrusted(user), _) => {
            log::line(&format!(
                "The Nix daemon takes no settings from the user {user}, so that this job does not read from the cache. \
                 For that, the machine's /etc/nix/nix.conf needs these lines (or {user} among its trusted-users):"
            ));
            direct.settings().lines().for_each(|line| log::line(&format!("  {line}")));
            advise_netrc(&direct, cache);
            return Ok(());
        }
        (Trust::Unknown | Trust::Trusted, Some(relay)) => relay.clone(),
        // Without a relay because the workflow wants none, or because it could not be started.
        (Trust::Unknown | Trust::Trusted, None) if inputs.relay => {
            advise_netrc(&direct, cache);
            return Ok(());
        }
        (Trust::Unknown | Trust::Trusted, None) => {
            advise_netrc(&direct, cache);
            direct.url.clone()
        }
    };
    if ready.relay.is_some() {
        log::mask(url.path().trim_matches('/'));
    }
    let substituter = Substituter { url, public_keys: cache.public_keys.clone() };
    let value = nix_config::add(job.nix_config.as_deref(), &saved.agent, &substituter);
    job.files.set_variable("NIX_CONFIG", &value)?;
    log::line(&format!(
        "Nix reads from {}{}.",
        direct.url,
        if ready.relay.is_some() { " through the agent's relay, which never fails a build" } else { "" }
    ));
    if ready.trust == Trust::Unknown {
        log::line(
            "Whether the Nix daemon takes settings from this job's user cannot be seen from here; if Nix says \
             \"ignoring untrusted substituter\", it does not.",
        );
    }
    Ok(())
}

/// How a machine reads a private cache without a relay. A job's token is none for that: it would lie in a file, and end.
fn advise_netrc(direct: &Substituter, cache: &CacheInfo) {
    if cache.public {
        return;
    }
    let parent = cache.name.isolation().map_or(cache.name.as_str(), |(parent, _)| parent);
    log::line(&format!(
        "{} is private. Without the agent's relay Nix reads it only by a token in the machine's /etc/nix/netrc, in this \
         line. Whoever runs the service makes one by `larderd token create NAME --cache {parent} --permission read`:",
        cache.name
    ));
    log::line(&format!("  {}", direct.netrc()));
}

fn publish(job: &Job, direct: &Substituter, cache: &CacheInfo) -> Result<(), FileError> {
    let keys: Vec<_> = cache.public_keys.iter().map(ToString::to_string).collect();
    job.files.set_output("substituter", direct.url.as_str())?;
    job.files.set_output("public-key", &keys.join(" "))
}

/// Makes the marker: a file in a directory of its own below the runner's `_temp`, which the runner empties when
/// the job is over. Returns the directory, here and on the host.
fn make_marker(mounts: &[Mount], job: &Job, id: &str) -> Option<(PathBuf, PathBuf)> {
    let candidates = [Some(PathBuf::from(RUNNER_TEMP)), job.temp.clone(), Some(PathBuf::from(RUNNER_HOME))];
    candidates.into_iter().flatten().find_map(|parent| {
        let dir = parent.join(format!("larder-{id}"));
        let host = host_path(mounts, &dir)?;
        fs::create_dir(&dir).ok()?;
        fs::write(dir.join(agent::MARKER), "").ok()?;
        Some((dir, host))
    })
}

/// How the agent is labelled. Post comes to the same, but for the id.
pub(super) fn labels(mounts: &[Mount], job: &Job, id: String) -> AgentLabels {
    let home = || host_path(mounts, Path::new(RUNNER_HOME))?.parent().map(Path::to_owned);
    let temp = host_path(mounts, Path::new(RUNNER_TEMP)).or_else(home).or_else(|| job.temp.clone());
    AgentLabels {
        id,
        temp: temp.unwrap_or_default().to_string_lossy().into_owned(),
        run: job.run.clone(),
        attempt: job.attempt.clone(),
        job: job.job.clone(),
        action: job.action.clone(),
    }
}

/// The user whom the job's steps run as: who owns what the runner made for them.
fn job_user(job: &Job) -> u32 {
    let made = [job.files.environment.as_deref(), job.workspace.as_deref()];
    made.into_iter().flatten().find_map(|path| fs::metadata(path).ok()).map_or(0, |metadata| metadata.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &Path, destination: &Path) -> Mount {
        Mount { source: source.into(), destination: destination.into() }
    }

    #[test]
    fn the_marker_lies_where_the_runner_cleans_up() {
        let temp = tempfile::tempdir().unwrap();
        let job = Job { temp: Some(temp.path().into()), ..Job::default() };
        let host = Path::new("/host/_temp");
        let (inside, outside) = make_marker(&[mount(host, temp.path())], &job, "a1").unwrap();
        assert!(inside.join(agent::MARKER).exists() && inside.starts_with(temp.path()));
        assert_eq!(outside, host.join("larder-a1"));
        assert!(make_marker(&[], &job, "b2").is_none(), "what is not mounted the sibling cannot see");
    }

    #[test]
    fn runners_of_any_age_have_the_same_label() {
        let job = Job { temp: Some("/elsewhere".into()), ..Job::default() };
        let temp = Path::new("/home/runner/work/_temp");
        let home = mount(&temp.join("_github_home"), Path::new(RUNNER_HOME));
        let new = [mount(temp, Path::new(RUNNER_TEMP)), home.clone()];
        assert_eq!(labels(&new, &job, "a".into()), labels(&[home], &job, "a".into()));
        assert_eq!(labels(&new, &job, "a".into()).temp, "/home/runner/work/_temp");
        assert_eq!(labels(&[], &job, "a".into()).temp, "/elsewhere");
    }
}
