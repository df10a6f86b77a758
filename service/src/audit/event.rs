//! What happened.

use http::StatusCode;
use larder_protocol::api::Permission;
use serde::{Deserialize, Serialize};

use crate::{clock::to_date, error::ApiError};

/// What happened. Its JSON is kept, so fields may be added but never change their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A job got a session.
    Granted {
        /// What it may do.
        permissions: Vec<Permission>,
        /// Until when, in seconds since 1970.
        until: i64,
    },
    /// Somebody was refused: an ID token, a token, or what was asked with it.
    Denied {
        /// Why, as they were told.
        reason: String,
    },
    /// Somebody came too often.
    Limited {
        /// Which limit, as they were told.
        reason: String,
    },
    /// A push became visible.
    PushCommitted {
        /// Its name.
        push: String,
        /// How many paths it published.
        paths: u64,
        /// The size of their NARs.
        bytes: u64,
        /// How many paths it had with another content than the cache keeps.
        divergences: u64,
    },
    /// A push, or a part of one, was refused.
    PushRefused {
        /// Its name, if it was opened.
        push: Option<String>,
        /// Why, as they were told.
        reason: String,
    },
    /// A token for a person or a machine was made.
    TokenCreated {
        /// Its name.
        name: String,
        /// What it permits.
        permissions: Vec<Permission>,
        /// Until when, in seconds since 1970.
        until: i64,
    },
    /// Such a token was ended.
    TokenRevoked {
        /// Its name.
        name: String,
    },
    /// A key that signs was made or imported.
    KeyAdded {
        /// Its name.
        name: String,
        /// Whether it was made elsewhere.
        imported: bool,
    },
    /// A key was told to sign no more.
    KeyRetired {
        /// Its name.
        name: String,
        /// Until when it signs, in seconds since 1970.
        until: i64,
    },
    /// A retired key was forgotten.
    KeyRemoved {
        /// Its name.
        name: String,
    },
    /// A name that a rule trusts was bound to what it stands for.
    NameBound {
        /// The name of a repository or an owner.
        name: String,
        /// What it stands for.
        numbers: String,
        /// Who said so.
        source: String,
    },
    /// Such a name was seen to stand for something else, and is trusted no longer.
    NameSuspended {
        /// The name.
        name: String,
        /// What it stands for now.
        found: String,
    },
    /// A suspended name was accepted as what it stands for now.
    NameConfirmed {
        /// The name.
        name: String,
        /// What it stands for.
        numbers: String,
    },
    /// What a name stands for was forgotten.
    NameUnbound {
        /// The name.
        name: String,
    },
    /// A sweep deleted paths that nothing kept.
    PathsSwept {
        /// How many.
        paths: u64,
    },
    /// Paths were taken from readers, since what is stored of them is damaged.
    PathsWithdrawn {
        /// How many.
        paths: u64,
    },
    /// What a repository's runs keep was let go.
    RootsDropped {
        /// The repository.
        repository: String,
        /// The ref; all of them if there is none.
        git_ref: Option<String>,
        /// Of how many runs.
        runs: u64,
    },
    /// A path was pinned.
    Pinned {
        /// The pin's name.
        name: String,
        /// The path.
        path: String,
    },
    /// A name's pins were removed.
    Unpinned {
        /// The name.
        name: String,
    },
    /// Somebody asked for a prefetch.
    PrefetchAsked {
        /// Its name.
        prefetch: String,
        /// How many paths are to be complete.
        paths: u64,
    },
    /// A pull request's own cache was dropped, with all that was pushed to it.
    CacheDropped {
        /// Why.
        reason: String,
    },
}

/// The kinds of events, as `larderd audit --kind` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A job got a session
    Granted,
    /// Somebody was refused
    Denied,
    /// Somebody came too often
    Limited,
    /// A push became visible
    PushCommitted,
    /// A push, or a part of one, was refused
    PushRefused,
    /// A token for a person or a machine was made
    TokenCreated,
    /// Such a token was ended
    TokenRevoked,
    /// A key that signs was made or imported
    KeyAdded,
    /// A key was told to sign no more
    KeyRetired,
    /// A retired key was forgotten
    KeyRemoved,
    /// A name that a rule trusts was bound to what it stands for
    NameBound,
    /// Such a name was seen to stand for something else, and is trusted no longer
    NameSuspended,
    /// A suspended name was accepted as what it stands for now
    NameConfirmed,
    /// What a name stands for was forgotten
    NameUnbound,
    /// A sweep deleted paths that nothing kept
    PathsSwept,
    /// Paths were withdrawn.
    PathsWithdrawn,
    /// What a repository's runs keep was let go
    RootsDropped,
    /// A path was pinned
    Pinned,
    /// A name's pins were removed
    Unpinned,
    /// Somebody asked for a prefetch
    PrefetchAsked,
    /// A pull request's own cache was dropped
    CacheDropped,
}

impl Event {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Granted { .. } => Kind::Granted,
            Self::Denied { .. } => Kind::Denied,
            Self::Limited { .. } => Kind::Limited,
            Self::PushCommitted { .. } => Kind::PushCommitted,
            Self::PushRefused { .. } => Kind::PushRefused,
            Self::TokenCreated { .. } => Kind::TokenCreated,
            Self::TokenRevoked { .. } => Kind::TokenRevoked,
            Self::KeyAdded { .. } => Kind::KeyAdded,
            Self::KeyRetired { .. } => Kind::KeyRetired,
            Self::KeyRemoved { .. } => Kind::KeyRemoved,
            Self::NameBound { .. } => Kind::NameBound,
            Self::NameSuspended { .. } => Kind::NameSuspended,
            Self::NameConfirmed { .. } => Kind::NameConfirmed,
            Self::NameUnbound { .. } => Kind::NameUnbound,
            Self::PathsSwept { .. } => Kind::PathsSwept,
            Self::PathsWithdrawn { .. } => Kind::PathsWithdrawn,
            Self::RootsDropped { .. } => Kind::RootsDropped,
            Self::Pinned { .. } => Kind::Pinned,
            Self::Unpinned { .. } => Kind::Unpinned,
            Self::PrefetchAsked { .. } => Kind::PrefetchAsked,
            Self::CacheDropped { .. } => Kind::CacheDropped,
        }
    }

    /// Somebody is refused for who he is or how often he came; `None` where the service is at fault.
    pub(crate) fn of_refusal(refusal: &ApiError) -> Option<Self> {
        let reason = refusal.message().to_owned();
        match refusal.status() {
            StatusCode::TOO_MANY_REQUESTS => Some(Self::Limited { reason }),
            status if status.is_client_error() => Some(Self::Denied { reason }),
            _ => None,
        }
    }

    /// Whether it is a refusal: what a stranger can cause in any number.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Limited { .. } | Self::PushRefused { .. })
    }

    /// What is to be said of it beside its kind, for people. May hold what others wrote: to be escaped where it is
    /// shown.
    pub fn details(&self) -> String {
        match self {
            Self::Granted { permissions, .. } => list(permissions),
            Self::Denied { reason } | Self::Limited { reason } => reason.clone(),
            Self::PushCommitted { push, paths, bytes, divergences } => {
                let mut text = format!("push {push}: {paths} paths, {bytes} bytes");
                if *divergences > 0 {
                    text.push_str(&format!(", {divergences} that differ from what the cache keeps"));
                }
                text
            }
            Self::PushRefused { push: Some(push), reason } => format!("push {push}: {reason}"),
            Self::PushRefused { push: None, reason } => reason.clone(),
            Self::TokenCreated { name, permissions, .. } => format!("{name}: {}", list(permissions)),
            Self::KeyAdded { name, imported: true } => format!("{name}, made elsewhere"),
            Self::KeyRetired { name, until } => format!("{name}: signs until {}", to_date(*until)),
            Self::KeyAdded { name, imported: false }
            | Self::KeyRemoved { name }
            | Self::TokenRevoked { name }
            | Self::NameUnbound { name }
            | Self::Unpinned { name } => name.clone(),
            Self::NameBound { name, numbers, source } => format!("{name}: {numbers}, by {source}"),
            Self::NameSuspended { name, found } => format!("{name}: now {found}"),
            Self::NameConfirmed { name, numbers } => format!("{name}: {numbers}"),
            Self::PathsWithdrawn { paths } => format!("{paths} paths whose bytes are damaged"),
            Self::PathsSwept { paths } => format!("{paths} paths that nothing kept"),
            Self::RootsDropped { repository, git_ref, runs } => {
                format!("{runs} runs of {repository}, {}", git_ref.as_deref().unwrap_or("all refs"))
            }
            Self::Pinned { name, path } => format!("{name}: {path}"),
            Self::PrefetchAsked { prefetch, paths } => format!("prefetch {prefetch}: {paths} paths"),
            Self::CacheDropped { reason } => reason.clone(),
        }
    }
}

impl Kind {
    /// The kind as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::PushCommitted => "push-committed",
            Self::PushRefused => "push-refused",
            Self::TokenCreated => "token-created",
            Self::TokenRevoked => "token-revoked",
            Self::KeyAdded => "key-added",
            Self::KeyRetired => "key-retired",
            Self::KeyRemoved => "key-removed",
            Self::NameBound => "name-bound",
            Self::NameSuspended => "name-suspended",
            Self::NameConfirmed => "name-confirmed",
            Self::NameUnbound => "name-unbound",
            Self::PathsSwept => "paths-swept",
            Self::PathsWithdrawn => "paths-withdrawn",
            Self::RootsDropped => "roots-dropped",
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::PrefetchAsked => "prefetch-asked",
            Self::CacheDropped => "cache-dropped",
        }
    }
}

fn list(permissions: &[Permission]) -> String {
    let names: Vec<String> =
        permissions.iter().map(|permission| format!("{permission:?}").to_lowercase()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// The command line, the column and the JSON name a kind alike.
    #[test]
    fn a_kind_has_one_name() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.as_str());
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let event = Event::TokenRevoked { name: "anna".to_owned() };
        assert_eq!(serde_json::to_value(&event).unwrap()["kind"], event.kind().as_str());
    }
}
