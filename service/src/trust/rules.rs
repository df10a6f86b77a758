//! The rules of a cache, and what they grant.

use std::collections::BTreeSet;

use larder_protocol::api::{CacheName, Permission};

use super::{BoundName, Denial, Grant, Numbers, PullRequest, Rank, TrustRule, TrustedName};
use crate::identity::TokenClaims;

/// The rules of one cache.
#[derive(Debug, Clone)]
pub struct TrustRules {
    cache: CacheName,
    pub(super) public: bool,
    rules: Vec<TrustRule>,
}

/// What rules grant, and the names that it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is granted.
    pub grant: Grant,
    /// Names that the rules trust and whose numbers nobody knew until now.
    pub new_names: Vec<(TrustedName, Numbers)>,
}

impl TrustRules {
    /// The rules of `cache`, in the configuration's order. `public` is whether everybody may read it.
    pub fn new(cache: CacheName, public: bool, rules: Vec<TrustRule>) -> Self {
        Self { cache, public, rules }
    }

    /// Whether nobody can push.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &TrustRule> {
        self.rules.iter()
    }

    /// What the bearer of these verified claims may do; `bound` is what is known of the token's names in this cache.
    /// One that is unbound among them was unbound after the token was issued.
    ///
    /// Every permission of every rule that fits is granted. The rank is the highest of those rules that grant `push`, so
    /// that no rule raises what another lets in. If a rule that isolates fits, such rules alone count, so that no other
    /// lets a pull request into the cache that it was to be kept out of. The order of the rules plays no part.
    ///
    /// # Errors
    /// The rule that came closest, and what in it does not fit.
    pub fn evaluate(&self, claims: &TokenClaims, bound: &[BoundName]) -> Result<Decision, Denial> {
        let about: Vec<(usize, &TrustRule, Vec<String>)> = (1..)
            .zip(&self.rules)
            .filter(|(_, rule)| rule.is_about(claims))
            .map(|(number, rule)| (number, rule, rule.mismatches(claims, self.public, bound)))
            .collect();
        let fitting =
            || about.iter().filter(|(_, _, mismatches)| mismatches.is_empty()).map(|(_, rule, _)| *rule);
        let isolate = fitting().any(|rule| rule.isolate);
        let granting: Vec<&TrustRule> = fitting().filter(|rule| rule.isolate == isolate).collect();
        if granting.is_empty() {
            let closest = about.into_iter().min_by_key(|(_, _, mismatches)| mismatches.len());
            return Err(match closest {
                Some((number, _, mismatches)) => Denial::Mismatch {
                    cache: self.cache.clone(),
                    bearer: claims.bearer.to_string(),
                    number,
                    mismatches,
                },
                None => Denial::no_rule(&self.cache, claims),
            });
        }
        let permissions: BTreeSet<Permission> =
            granting.iter().flat_map(|rule| rule.permissions.iter().copied()).collect();
        let pushing = granting.iter().filter(|rule| rule.permissions.contains(&Permission::Push));
        let grant = Grant {
            cache: self.cache.clone(),
            permissions: permissions.into_iter().collect(),
            identity: claims.bearer.clone().into(),
            rank: pushing.map(|rule| rule.rank).max().unwrap_or_else(Rank::default),
            isolated: if isolate { claims.job().and_then(PullRequest::of) } else { None },
        };
        Ok(Decision { grant, new_names: new_names(&granting, claims, bound) })
    }
}

fn new_names(
    granting: &[&TrustRule],
    claims: &TokenClaims,
    bound: &[BoundName],
) -> Vec<(TrustedName, Numbers)> {
    let Some(job) = claims.job() else { return Vec::new() };
    let names: BTreeSet<TrustedName> =
        granting.iter().filter_map(|rule| rule.name_of(&job.repository)).collect();
    names
        .into_iter()
        .filter(|name| bound.iter().all(|bound| bound.name != *name))
        .filter_map(|name| name.numbers_in(job).map(|numbers| (name, numbers)))
        .collect()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
