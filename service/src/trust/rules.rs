//! Trust rules: sentences of the configuration that turn claims into a grant.

use std::{cmp::Reverse, collections::BTreeSet, fmt};

use larder_protocol::api::{CacheName, Permission};

use super::{Grant, GrantedTo, PullRequest, Rank, RefPattern};
use crate::{
    config::IssuerUrl,
    identity::{Claims, EventName, RepositoryName},
};

/// The rules of one cache.
#[derive(Debug, Clone)]
pub struct TrustRules {
    cache: CacheName,
    rules: Vec<TrustRule>,
}

/// One rule. All that it says must fit.
#[derive(Debug, Clone)]
pub struct TrustRule {
    /// Whose tokens it is about.
    pub issuer: IssuerUrl,
    /// The repository, without case.
    pub repository: RepositoryName,
    /// The repository's number, if it was written down.
    pub repository_id: Option<u64>,
    /// The refs, with case.
    pub git_ref: Option<RefPattern>,
    /// Whether the ref must be protected.
    pub ref_protected: bool,
    /// The events.
    pub events: BTreeSet<EventName>,
    /// Whether a repository that not everybody sees may push to a cache that everybody reads.
    pub publish: bool,
    /// Whether each pull request gets a cache of its own, and this one stays as it is.
    pub isolate: bool,
    /// How much what is pushed by it counts.
    pub rank: Rank,
}

/// Why nothing is granted. Says to the job what its own repository's rules want, and nothing of others'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No rule is about this repository, or there is no such cache: a stranger cannot tell which.
    #[error(
        "no trust rule lets {repository} push to the cache {cache}. Whoever runs the service can allow it in \
         larder.toml, under the [[cache]] named {cache}:\n\n[[cache.trust]]\nrepository = \"{repository}\"\nref = \
         \"refs/heads/main\""
    )]
    NoRule {
        /// The cache that was asked for.
        cache: CacheName,
        /// The repository of the token.
        repository: RepositoryName,
    },
    /// A rule is about this repository, but not all of it fits.
    #[error("trust rule {number} of the cache {cache} is about {repository}, but {}", .mismatches.join("; and "))]
    Mismatch {
        /// The cache.
        cache: CacheName,
        /// The repository of the token.
        repository: RepositoryName,
        /// The rule that came closest, counted from 1 in the configuration.
        number: usize,
        /// What does not fit, as sentences.
        mismatches: Vec<String>,
    },
}

impl TrustRules {
    /// The rules of `cache`, in the configuration's order.
    pub fn new(cache: CacheName, rules: Vec<TrustRule>) -> Self {
        Self { cache, rules }
    }

    /// Whether nobody can push.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &TrustRule> {
        self.rules.iter()
    }

    /// What the bearer of these verified claims may do. If a rule that isolates fits, it alone counts, so that no other
    /// rule lets a pull request into the cache that it was to be kept out of.
    ///
    /// # Errors
    /// The rule that came closest, and what in it does not fit.
    pub fn evaluate(&self, claims: &Claims) -> Result<Grant, Denial> {
        let about = self.rules.iter().enumerate().filter(|(_, rule)| rule.is_about(claims));
        let closest = about
            .map(|(position, rule)| (position + 1, rule, rule.mismatches(claims)))
            .min_by_key(|(_, rule, mismatches)| (mismatches.len(), !rule.isolate, Reverse(rule.rank)));
        match closest {
            Some((_, rule, mismatches)) if mismatches.is_empty() => Ok(Grant {
                cache: self.cache.clone(),
                permissions: vec![Permission::Push, Permission::Read],
                identity: GrantedTo::Job(Box::new(claims.clone())),
                rank: rule.rank,
                isolated: if rule.isolate { PullRequest::of(claims) } else { None },
            }),
            Some((number, _, mismatches)) => Err(Denial::Mismatch {
                cache: self.cache.clone(),
                repository: claims.repository.clone(),
                number,
                mismatches,
            }),
            None => Err(Denial::no_rule(&self.cache, claims)),
        }
    }
}

impl Denial {
    /// For a cache without a rule about the repository, and for a cache that does not exist.
    pub(super) fn no_rule(cache: &CacheName, claims: &Claims) -> Self {
        Self::NoRule { cache: cache.clone(), repository: claims.repository.clone() }
    }
}

/// As a sentence, for whoever runs the service.
impl fmt::Display for TrustRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(id) = self.repository_id {
            write!(f, " (only if its number is {id})")?;
        }
        if let Some(git_ref) = &self.git_ref {
            write!(f, " on {git_ref}")?;
        }
        if self.ref_protected {
            write!(f, ", protected refs alone")?;
        }
        let events: Vec<&str> = self.events.iter().map(EventName::as_str).collect();
        write!(f, ", at {}", events.join(", "))?;
        if self.publish {
            write!(f, ", even though it may not be public")?;
        }
        if self.isolate {
            write!(f, ", into a cache of each pull request's own")?;
        }
        if self.rank != Rank::default() {
            write!(f, ", with rank {}", self.rank)?;
        }
        Ok(())
    }
}

impl TrustRule {
    fn is_about(&self, claims: &Claims) -> bool {
        self.issuer.as_str() == claims.issuer && self.repository.is(&claims.repository)
    }

    /// What does not fit, each as half a sentence with what the rule wants, what the token says, and a remedy
    /// where there is one.
    fn mismatches(&self, claims: &Claims) -> Vec<String> {
        let mut mismatches = Vec::new();
        if let Some(wanted) = self.repository_id
            && wanted != claims.repository_id
        {
            mismatches.push(format!(
                "it wants repository_id {wanted}, and the token says {}: another repository has this name now",
                claims.repository_id
            ));
        }
        if let Some(wanted) = &self.git_ref
            && !wanted.matches(&claims.git_ref)
        {
            mismatches.push(format!("it wants ref {wanted}, and the token says {}", claims.git_ref));
        }
        if self.ref_protected && !claims.ref_protected {
            mismatches.push(format!("it wants a protected ref, and {} is not protected", claims.git_ref));
        }
        if !self.events.contains(&claims.event_name) {
            let wanted: Vec<&str> = self.events.iter().map(EventName::as_str).collect();
            mismatches.push(format!(
                "it wants one of the events {}, and the token says {}",
                wanted.join(", "),
                claims.event_name
            ));
        }
        if self.isolate && PullRequest::of(claims).is_none() {
            mismatches.push(format!(
                "it is for pull requests, whose ref is refs/pull/<number>/merge, and the token says {}",
                claims.git_ref
            ));
        }
        if !self.publish && !claims.is_public() {
            mismatches.push(
                "the repository is not public while everybody can read the cache: the rule must say publish = true \
                 if that is meant"
                    .to_owned(),
            );
        }
        mismatches
    }
}

#[cfg(test)]
mod tests;
