//! What of a payload matters. Everything else in it may be missing, or be anything.

use serde::{Deserialize, Serialize};

use crate::identity::RepositoryName;

/// What every payload may say.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    pub(super) action: Option<String>,
    #[serde(default)]
    repository: Option<Repository>,
    #[serde(default)]
    organization: Option<Account>,
    #[serde(default)]
    installation: Option<Installation>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: RepositoryName,
    #[serde(default)]
    id: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Account {
    #[serde(default)]
    login: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Installation {
    #[serde(default)]
    account: Option<Account>,
}

/// What a delivery is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Repository(RepositoryName),
    /// An organisation or a user, as with an App's installation.
    Owner(String),
    /// None of them, as with some pings.
    Nobody,
}

impl Envelope {
    /// The number of the repository that it is about, where it says so.
    pub(super) fn repository_id(&self) -> Option<u64> {
        let id = self.repository.as_ref()?.id.as_ref()?.as_u64();
        id.filter(|id| i64::try_from(*id).is_ok())
    }

    pub(super) fn about(&self) -> About {
        if let Some(repository) = &self.repository {
            return About::Repository(repository.full_name.clone());
        }
        let installed_by = self.installation.as_ref().and_then(|installation| installation.account.as_ref());
        let login = |account: &Account| account.login.clone();
        match self.organization.as_ref().and_then(login).or_else(|| installed_by.and_then(login)) {
            Some(owner) => About::Owner(owner),
            None => About::Nobody,
        }
    }
}

impl About {
    /// For comparing; lower case.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Repository(name) => name.as_str().to_ascii_lowercase(),
            Self::Owner(owner) => owner.to_ascii_lowercase(),
            Self::Nobody => String::new(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// All went well.
    Success,
    /// Something went wrong.
    Failure,
    /// Somebody ended it.
    Cancelled,
    /// Anything else that a forge may say.
    #[serde(other)]
    Other,
}

impl Conclusion {
    /// As the database and the API have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}
