//! What the workflow's steps and the agent say to each other: lines of JSON.

use std::fmt;

use larder_protocol::{
    StorePath,
    api::{CacheInfo, CacheName, Permission},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::report::Report;
use crate::{credentials::Credentials, secret::Secret, workflow::inputs::What};

/// The longest line that is read, in bytes.
pub const MAX_LINE: u64 = 64 << 20;

/// What main hands to the agent by standard input, before anything else. It holds secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// The service.
    pub service: Url,
    /// The cache.
    pub cache: CacheName,
    /// Whether the job runs for a pull request, which may have a cache of its own.
    pub pull_request: bool,
    /// By what the agent proves who it is; none where the job has no identity, and reads what is public.
    pub identity: Option<JobIdentity>,
    /// Whether the workflow wants to push.
    pub push: bool,
    /// What to push.
    pub what: What,
    /// Whether other jobs may put paths into the store meanwhile.
    pub shared: bool,
    /// Whether to start a relay.
    pub relay: bool,
    /// The numeric id of the user whom the workflow's steps run as.
    pub user: u32,
    /// Seconds until the agent ends by itself.
    pub lifetime: u64,
    /// Whether a marker is mounted whose vanishing ends the agent.
    pub marker: bool,
    /// The level of zstd.
    pub level: i32,
    /// The largest request body, in bytes.
    pub max_body: Option<u64>,
}

/// Where a job asks for ID tokens. `Debug` hides the secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct JobIdentity {
    request_url: Url,
    request_token: String,
}

impl JobIdentity {
    /// The identity in the job's credentials.
    pub fn of(credentials: &Credentials) -> Option<Self> {
        match credentials {
            Credentials::Job { request_url, request_token } => Some(Self {
                request_url: request_url.clone(),
                request_token: request_token.expose().to_owned(),
            }),
            Credentials::Static(_) => None,
        }
    }

    /// What a push proves its identity with.
    pub fn credentials(&self) -> Credentials {
        Credentials::Job {
            request_url: self.request_url.clone(),
            request_token: Secret::new(&self.request_token),
        }
    }
}

impl fmt::Debug for JobIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobIdentity(…)")
    }
}

/// The agent's only line to main.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Started {
    /// It runs.
    Ready(Box<Ready>),
    /// It cannot run; the reason, as a sentence.
    Failed(String),
}

/// What the agent found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Why the store cannot be read, where it cannot: nothing will be pushed then.
    pub store_problem: Option<String>,
    /// What the service says of the cache, or why nothing is known of it.
    pub cache: Result<CacheInfo, NoCache>,
    /// What the job may do there, where that was asked: with a private cache, or a pull request's own.
    pub permissions: Option<Vec<Permission>>,
    /// Whether the Nix daemon takes substituters from the job's user.
    pub trust: Trust,
    /// The relay's URL, where one was started.
    pub relay: Option<Url>,
}

/// Why nothing is known of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoCache {
    /// For this job there is none of that name: it is private, or there is none at all. A sentence.
    Closed(String),
    /// It could not be asked; why.
    Unasked(String),
}

/// Whether Nix takes settings from the job's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// It does: by `trusted-users`, or because there is no daemon.
    Trusted,
    /// It does not; the user's name.
    Untrusted(String),
    /// The daemon's configuration cannot be read from here.
    Unknown,
}

/// Orders that come by the agent's socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Push now, then end.
    Finish(Finish),
}

/// The job is over: push what it built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finish {
    /// These paths alone, where the workflow names some.
    pub paths: Option<Vec<StorePath>>,
    /// Seconds that it may take.
    pub seconds: u64,
}

/// What the agent tells while it carries out an order; the last line is a report or a failure.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// A line for the log.
    Note(String),
    /// It is done.
    Done(Box<Report>),
    /// The job may read and not push, as main has said.
    Nothing,
    /// It failed; why, as a sentence with its remedy.
    Failed(String),
}

/// A message as one line.
///
/// # Errors
/// Never for the types above.
pub fn to_line(message: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(message).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_keeps_its_secret_but_does_not_show_it() {
        let credentials = Credentials::Job {
            request_url: "http://127.0.0.1:1/token?api-version=2.0".parse().unwrap(),
            request_token: Secret::new("hunter2"),
        };
        let start = Start {
            service: "https://cache.example.org".parse().unwrap(),
            cache: "main".parse().unwrap(),
            pull_request: false,
            identity: JobIdentity::of(&credentials),
            push: true,
            what: What::Built,
            shared: false,
            relay: true,
            user: 1001,
            lifetime: 60,
            marker: true,
            level: 3,
            max_body: None,
        };
        assert!(!format!("{start:?}").contains("hunter2"));
        let line = to_line(&start).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let Credentials::Job { request_token, .. } =
            serde_json::from_str::<Start>(&line).unwrap().identity.unwrap().credentials()
        else {
            panic!("another kind of credentials")
        };
        assert_eq!(request_token.expose(), "hunter2");
    }
}
