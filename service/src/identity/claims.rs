//! What a verified ID token says of a job.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// The longest claim that is taken. A ref may have 255 bytes a part; nothing that GitHub says is longer.
const MAX_CLAIM: usize = 1024;

/// What a claim cannot say.
#[derive(Debug, thiserror::Error)]
#[error("{value:?} is no {what}")]
pub struct InvalidClaim {
    value: String,
    what: &'static str,
}

impl InvalidClaim {
    fn new(value: &str, what: &'static str) -> Self {
        Self { value: value.chars().take(100).collect(), what }
    }
}

/// Text that was checked when it came in, kept as it came.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidClaim;

            fn from_str(text: &str) -> Result<Self, InvalidClaim> {
                let fits: fn(&str) -> bool = $fits;
                if text.len() <= MAX_CLAIM && fits(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidClaim::new(text, $what))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidClaim;

            fn try_from(text: String) -> Result<Self, InvalidClaim> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

checked_text! {
    /// `owner/name`, at GitLab also `group/subgroup/name`. Compared without case, as the forges do: see
    /// [`RepositoryName::is`].
    RepositoryName, "repository. Write owner/name", |text| {
        text.contains('/') && text.split('/').all(plain)
    }
}

checked_text! {
    /// An owner of repositories: a user or organisation, at GitLab a group or `group/subgroup`. Compared without case.
    OwnerName, "owner of repositories. Write the name of a user or an organisation", |text| text.split('/').all(plain)
}

checked_text! {
    /// What an issuer calls the one that holds a token. (`sub`)
    Subject, "subject (1 to 1024 bytes without control characters)", |text| {
        !text.is_empty() && !text.chars().any(char::is_control)
    }
}

checked_text! {
    /// A full ref, such as `refs/heads/main`. Compared with case.
    GitRef, "ref. Write it whole, as in refs/heads/main", |text| {
        text.starts_with("refs/") && !text.chars().any(char::is_control)
    }
}

checked_text! {
    /// The event that started a workflow, such as `push`.
    EventName, "event. Write its name as in a workflow's `on:`", |text| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    }
}

/// Whether it can be a part of a repository's name.
fn plain(part: &str) -> bool {
    let fits = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    fits && !matches!(part, "" | "." | "..")
}

impl RepositoryName {
    /// Whether both name the same repository.
    pub fn is(&self, other: &Self) -> bool {
        Self::same(&self.0, &other.0)
    }

    /// Whether two names of repositories, or of their owners, are the same.
    pub(crate) fn same(one: &str, other: &str) -> bool {
        one.eq_ignore_ascii_case(other)
    }

    /// The name of whoever the repository belongs to.
    pub fn owner(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(owner, _)| owner)
    }
}

/// The verified claims of a job: who it is, in the words of its issuer.
///
/// Also what is kept as provenance, so fields may be added but never change their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who says so, as configured. (`iss`)
    #[serde(rename = "iss")]
    pub issuer: String,
    /// The repository whose workflow runs.
    pub repository: RepositoryName,
    /// Its number, which stays when it is renamed.
    #[serde(deserialize_with = "number")]
    pub repository_id: u64,
    /// Its owner, as the token says it: the first part of `repository`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_owner: Option<String>,
    /// The number of its owner.
    #[serde(default, deserialize_with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub repository_owner_id: Option<u64>,
    /// `public`, `private` or `internal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_visibility: Option<String>,
    /// The ref that the workflow runs on.
    #[serde(rename = "ref")]
    pub git_ref: GitRef,
    /// Whether that ref is protected.
    #[serde(default, deserialize_with = "truth")]
    pub ref_protected: bool,
    /// Of a pull request, the branch that it is to go to, by its short name.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub base_ref: Option<String>,
    /// The commit.
    pub sha: String,
    /// What started the workflow.
    pub event_name: EventName,
    /// The workflow's name: free text of whoever wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The workflow's file and the ref that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_ref: Option<String>,
    /// The file and ref of the reusable workflow that the job is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_workflow_ref: Option<String>,
    /// The run; GitLab's pipeline.
    #[serde(deserialize_with = "number")]
    pub run_id: u64,
    /// Which attempt at the run, from 1.
    #[serde(deserialize_with = "number")]
    pub run_attempt: u64,
    /// The job, where the issuer says it: its number as a check run; GitLab's job.
    #[serde(default, deserialize_with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub check_run_id: Option<u64>,
    /// Who started the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The number of who started the run.
    #[serde(default, deserialize_with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<u64>,
    /// The deployment environment of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// `github-hosted` or `self-hosted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_environment: Option<String>,
}

impl Claims {
    /// Whether everybody may see the repository. What is not said is no.
    pub fn is_public(&self) -> bool {
        self.repository_visibility.as_deref() == Some("public")
    }

    /// The branch that a pull request is to go to, as a whole ref.
    pub(crate) fn base(&self) -> Option<GitRef> {
        format!("refs/heads/{}", self.base_ref.as_ref()?).parse().ok()
    }
}

/// Numbers are strings in GitHub's tokens, and numbers in others'.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl NumberOrText {
    /// No larger than what a database's integer takes; no forge has counted so far.
    fn number<E: de::Error>(self) -> Result<u64, E> {
        let number = match &self {
            Self::Number(number) => Some(*number),
            Self::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Self::Text(_) => None,
        };
        number.filter(|number| i64::try_from(*number).is_ok()).ok_or_else(|| {
            let text = match self {
                Self::Number(number) => number.to_string(),
                Self::Text(text) => text,
            };
            E::custom(InvalidClaim::new(&text, "number"))
        })
    }
}

pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    NumberOrText::deserialize(deserializer)?.number()
}

pub(super) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<NumberOrText>::deserialize(deserializer)? {
        Some(NumberOrText::Text(text)) if text.is_empty() => Ok(None),
        Some(value) => value.number().map(Some),
        None => Ok(None),
    }
}

/// Empty in GitHub's tokens where there is nothing to say.
fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// `"true"` in GitHub's tokens. Whatever is not plainly true is false.
pub(super) fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Bool(truth) => truth,
        serde_json::Value::String(text) => text == "true",
        _ => false,
    })
}
