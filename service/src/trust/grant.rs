//! What a verified identity may do.

use larder_protocol::api::{CacheName, Permission};
use serde::{Deserialize, Serialize};

use super::{PullRequest, Rank};
use crate::identity::{Bearer, Claims, Subject};

/// What a token permits, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The one cache that it is for; where `isolated` is said, the parent of that one.
    pub cache: CacheName,
    /// What may be done there.
    pub permissions: Vec<Permission>,
    /// Who may.
    pub identity: GrantedTo,
    /// How much what is pushed by it counts.
    pub rank: Rank,
    /// The pull request whose own cache it is for, where a rule isolates it.
    pub isolated: Option<PullRequest>,
}

impl Grant {
    /// Whether the grant permits this where it is for.
    pub fn permits(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// The cache that it is for: where `isolated` is said, the pull request's own.
    pub fn own_cache(&self) -> CacheName {
        let isolated = self.isolated.and_then(|PullRequest { repository_id, number }| {
            CacheName::isolated(&self.cache, repository_id, number).ok()
        });
        isolated.unwrap_or_else(|| self.cache.clone())
    }

    /// Whether the grant permits this in a cache. A pull request's own cache can be pushed to and read, and its parent
    /// can be read, and that is all, whatever a rule says.
    pub fn permits_in(&self, cache: &CacheName, permission: Permission) -> bool {
        let reaches = match (&self.isolated, permission) {
            (None, _) => *cache == self.cache,
            (Some(_), Permission::Push) => *cache != self.cache && *cache == self.own_cache(),
            (Some(_), Permission::Read) => *cache == self.cache || *cache == self.own_cache(),
            (Some(_), _) => false,
        };
        reaches && self.permits(permission)
    }

    /// Whether its holder may know the configured URLs of upstreams and issuers by which a cache has what it has: who
    /// may push to the cache or administer it, and people who may read it by a token of their own. These URLs may name
    /// hosts that strangers, who read a public cache, need not hear of.
    pub(crate) fn may_know_hosts(&self, cache: &CacheName) -> bool {
        let person = matches!(self.identity, GrantedTo::Person { .. });
        [Permission::Push, Permission::Admin].iter().any(|permission| self.permits_in(cache, *permission))
            || person && self.permits_in(cache, Permission::Read)
    }
}

/// A verified identity. Its JSON is the provenance of what it pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum GrantedTo {
    /// A job, by the verified claims of its ID token.
    Job(Box<Claims>),
    /// Whoever an issuer that knows no repositories calls so: nothing more is verified of it.
    Subject {
        /// The issuer, as configured.
        #[serde(rename = "iss")]
        issuer: String,
        /// What it calls the one that holds the token.
        #[serde(rename = "sub")]
        subject: Subject,
    },
    /// A person, by a token that `larderd token create` made.
    Person {
        /// The token's name.
        name: String,
        /// What tells it from an earlier token of the same name.
        token: String,
    },
    /// The service itself, which fetches what will be needed.
    Prefetch {
        /// Where from: an upstream's URL.
        from: String,
    },
}

impl From<Bearer> for GrantedTo {
    fn from(bearer: Bearer) -> Self {
        match bearer {
            Bearer::Job(claims) => Self::Job(claims),
            Bearer::Subject { issuer, subject } => Self::Subject { issuer, subject },
        }
    }
}

impl GrantedTo {
    /// What a push belongs to: another session of the same job may go on with it, and nobody else.
    pub fn owner(&self) -> String {
        match self {
            Self::Job(claims) => {
                let check_run = claims.check_run_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
                let Claims { issuer, repository_id, run_id, run_attempt, .. } = &**claims;
                format!("job {issuer} {repository_id} {run_id} {run_attempt} {check_run}")
            }
            Self::Subject { issuer, subject } => format!("subject {issuer} {subject}"),
            Self::Person { name, token } => format!("person {name} {token}"),
            Self::Prefetch { from } => format!("prefetch {from}"),
        }
    }

    /// The identity as JSON, to be kept with what it pushed.
    pub fn provenance(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
