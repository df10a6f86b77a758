//! The action's inputs, as `action.yml` documents them. The defaults stand here too: a step that is
//! not started by GitHub's runner may not have them in its environment.

use std::{str::FromStr, time::Duration};

use larder_protocol::api::CacheName;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::environment::Variables;

/// What the workflow asks for.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The service.
    pub service: Url,
    /// The cache.
    pub cache: CacheName,
    /// Whether to push at all.
    pub push: bool,
    /// What to push.
    pub what: What,
    /// Paths to push instead, one a line, as the workflow wrote them.
    pub paths: Vec<String>,
    /// Whose the store is.
    pub store: StoreInput,
    /// Whether Nix reads through the relay.
    pub relay: bool,
    /// How long the job waits for the push at its end.
    pub time_limit: Duration,
    /// The largest request body, in bytes, where a proxy takes less than the service.
    pub max_body: Option<u64>,
    /// The level of zstd.
    pub level: i32,
    /// The action's image, where it cannot be found out.
    pub image: Option<String>,
    /// The job's container, where it has one.
    pub job_container: Option<String>,
}

/// What a job pushes, where it names no paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// What was built here since the job began.
    Built,
    /// All that is new since then and no upstream has signed: what remote builders built, too.
    New,
}

/// Whose the store is, as the workflow says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreInput {
    /// The job's own on GitHub's machines, shared elsewhere.
    Auto,
    /// The job's own.
    Exclusive,
    /// Other jobs use it at the same time.
    Shared,
}

/// Inputs that make no sense, each with its remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidInputs(Vec<String>);

/// Whether a failing push shall fail the job. Asked first and by itself: what else is wrong depends on it.
pub fn is_strict(variables: &Variables) -> bool {
    variables.input("strict").and_then(boolean).unwrap_or(false)
}

/// How long the job waits for the push at its end.
pub fn time_limit(variables: &Variables) -> Duration {
    minutes(variables.input("time-limit").unwrap_or(DEFAULT_TIME_LIMIT)).unwrap_or(Duration::from_secs(600))
}

const DEFAULT_TIME_LIMIT: &str = "10";

impl Inputs {
    /// Reads all inputs.
    ///
    /// # Errors
    /// Lists everything that is wrong, at once.
    pub fn of(variables: &Variables) -> Result<Self, InvalidInputs> {
        let mut wrong = Vec::new();
        let mut refuse = |name: &str, value: &str, want: &str| {
            wrong.push(format!(
                "input {name}: {:?} is not {want}",
                value.chars().take(100).collect::<String>()
            ));
        };

        let service = match variables.input("service") {
            None => {
                refuse("service", "", "the URL of a Larder service, such as https://cache.example.org");
                None
            }
            Some(text) => service_url(text).or_else(|| {
                refuse(
                    "service",
                    text,
                    "an https URL without user name, query or fragment (http only on loopback)",
                );
                None
            }),
        };
        let cache = variables.input("cache").unwrap_or("main");
        let cache = cache.parse::<CacheName>().map_err(|_| refuse("cache", cache, "a cache's name"));
        let mut choose = |name: &str, default: bool| {
            let text = variables.input(name).unwrap_or(if default { "true" } else { "false" });
            boolean(text).unwrap_or_else(|| {
                refuse(name, text, "true or false");
                default
            })
        };
        let (push, relay) = (choose("push", true), choose("relay", true));
        choose("strict", false);
        let what = match variables.input("what").unwrap_or("built") {
            "built" => What::Built,
            "new" => What::New,
            other => {
                refuse("what", other, "built or new");
                What::Built
            }
        };
        let store = match variables.input("store").unwrap_or("auto") {
            "auto" => StoreInput::Auto,
            "exclusive" => StoreInput::Exclusive,
            "shared" => StoreInput::Shared,
            other => {
                refuse("store", other, "auto, exclusive or shared");
                StoreInput::Auto
            }
        };
        let limit = variables.input("time-limit").unwrap_or(DEFAULT_TIME_LIMIT);
        let time_limit = minutes(limit).unwrap_or_else(|| {
            refuse("time-limit", limit, "a number of minutes from 1 to 360");
            Duration::from_secs(600)
        });
        let max_body = variables.input("max-body").and_then(|text| {
            let bytes = text.parse::<u64>().ok().filter(|megabytes| (1..=100_000).contains(megabytes));
            if bytes.is_none() {
                refuse("max-body", text, "a number of megabytes from 1 on");
            }
            bytes.map(|megabytes| megabytes * 1_000_000)
        });
        let level = variables.input("level").unwrap_or("3");
        let level = level.parse().ok().filter(|level| (1..=19).contains(level)).unwrap_or_else(|| {
            refuse("level", level, "a level of zstd from 1 to 19");
            3
        });
        let lines = variables.input("paths").unwrap_or_default().lines().map(str::trim);
        let paths = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();

        match (service, cache) {
            (Some(service), Ok(cache)) if wrong.is_empty() => Ok(Self {
                service,
                cache,
                push,
                what,
                paths,
                store,
                relay,
                time_limit,
                max_body,
                level,
                image: variables.input("image").map(str::to_owned),
                job_container: variables.input("job-container").map(str::to_owned),
            }),
            _ => Err(InvalidInputs(wrong)),
        }
    }
}

impl StoreInput {
    /// Whether other jobs may put paths into the store while this one runs.
    pub fn is_shared(self, hosted: bool) -> bool {
        match self {
            Self::Auto => !hosted,
            Self::Exclusive => false,
            Self::Shared => true,
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    bool::from_str(&text.to_ascii_lowercase()).ok()
}

fn minutes(text: &str) -> Option<Duration> {
    let minutes = text.parse::<u64>().ok().filter(|minutes| (1..=360).contains(minutes))?;
    Some(Duration::from_secs(minutes * 60))
}

/// ID tokens go to this URL's origin: https only, except on loopback.
fn service_url(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let loopback = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let secure = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (secure && plain).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_service_must_be_named() {
        let inputs = Inputs::of(&[("INPUT_SERVICE", "https://cache.example.org")].into()).unwrap();
        assert_eq!(inputs.cache.as_str(), "main");
        assert!(inputs.push && inputs.relay && inputs.paths.is_empty() && inputs.max_body.is_none());
        assert_eq!((inputs.what, inputs.store, inputs.level), (What::Built, StoreInput::Auto, 3));
        assert_eq!(inputs.time_limit, Duration::from_secs(600));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_name_and_value() {
        let variables = [
            ("INPUT_CACHE", "../x"),
            ("INPUT_PUSH", "maybe"),
            ("INPUT_WHAT", "all"),
            ("INPUT_TIME-LIMIT", "-1"),
            ("INPUT_MAX-BODY", "90MB"),
            ("INPUT_LEVEL", "22"),
            ("INPUT_STORE", "mine"),
        ];
        let error = Inputs::of(&variables.into()).unwrap_err().to_string();
        for part in [
            "service",
            "cache: \"../x\"",
            "push: \"maybe\"",
            "what",
            "time-limit",
            "max-body",
            "level",
            "store",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn an_id_token_never_goes_over_plain_http_but_on_loopback() {
        for text in [
            "http://cache.example.org",
            "ftp://x",
            "https://u:p@x.org",
            "https://x.org/?a",
            "x.org",
            "https://x.org/#a",
        ] {
            assert!(service_url(text).is_none(), "{text}");
        }
        for text in [
            "https://x.org",
            "https://x.org/larder/",
            "http://127.0.0.1:8080",
            "http://localhost:1",
            "http://[::1]:2",
        ] {
            assert!(service_url(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_store_is_the_jobs_own_on_githubs_machines_alone() {
        assert!(!StoreInput::Auto.is_shared(true) && StoreInput::Auto.is_shared(false));
        assert!(!StoreInput::Exclusive.is_shared(false) && StoreInput::Shared.is_shared(true));
    }

    #[test]
    fn paths_are_one_a_line() {
        let inputs = Inputs::of(
            &[("INPUT_SERVICE", "https://x.org"), ("INPUT_PATHS", "./result\n\n  /nix/store/a b \n")].into(),
        );
        assert_eq!(inputs.unwrap().paths, ["./result", "/nix/store/a b"]);
    }
}
