//! `[[cache.trust]]`: the sentence that turns claims into a grant.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{ConfigError, IssuerUrl};
use crate::{
    identity::{EventName, RepositoryName},
    trust::{Rank, RefPattern, TrustRule},
};

/// As the file says it. What must be there is optional here, so that its absence can be explained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    repository: Option<RepositoryName>,
    repository_id: Option<u64>,
    #[serde(rename = "ref")]
    git_ref: Option<RefPattern>,
    #[serde(default)]
    ref_protected: bool,
    events: Option<BTreeSet<EventName>>,
    #[serde(default)]
    publish: bool,
    #[serde(default)]
    isolate: bool,
    rank: Option<Rank>,
    issuer: Option<IssuerUrl>,
}

/// Events that say: this commit is on a ref that the repository's own people wrote to. Those of pull requests
/// are not among them, since anybody's code may run there.
const DEFAULT_EVENTS: [&str; 5] = ["push", "workflow_dispatch", "schedule", "release", "merge_group"];

/// For a rule that isolates pull requests.
const ISOLATED_EVENTS: [&str; 1] = ["pull_request"];

fn default_events(isolate: bool) -> BTreeSet<EventName> {
    let names = if isolate { &ISOLATED_EVENTS[..] } else { &DEFAULT_EVENTS };
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

pub(super) fn check(file: File, key: &str, issuers: &[IssuerUrl]) -> Result<TrustRule, ConfigError> {
    let refuse = |problem: String| ConfigError::value(key, problem);
    let Some(repository) = file.repository else {
        return Err(refuse(
            "names no repository, so that every repository could push. Write repository = \"owner/name\""
                .to_owned(),
        ));
    };
    if file.git_ref.is_none() && !file.ref_protected && !file.isolate {
        return Err(refuse(format!(
            "lets every branch of {repository} push, the author of a pull request's included. Write \
             ref = \"refs/heads/main\", or ref_protected = true if the branches that may push are protected"
        )));
    }
    if file.isolate
        && (file.ref_protected
            || file.git_ref.as_ref().is_some_and(|git_ref| !git_ref.to_string().starts_with("refs/pull/")))
    {
        return Err(refuse(
            "can never match: it isolates pull requests, whose ref is refs/pull/<number>/merge and never protected. \
             Leave ref and ref_protected out"
                .to_owned(),
        ));
    }
    let issuer = match (file.issuer, issuers) {
        (Some(issuer), _) if issuers.contains(&issuer) => issuer,
        (Some(issuer), _) => {
            return Err(refuse(format!(
                "names the issuer {issuer}, which is not configured. Write [[issuer]] with url = \"{issuer}\""
            )));
        }
        (None, [only]) => only.clone(),
        (None, []) => {
            return Err(refuse(
                "cannot hold for anybody, since there is no issuer. Leave `issuer = []` out".to_owned(),
            ));
        }
        // The same owner and name may be somebody else's at another forge.
        (None, _) => {
            return Err(refuse(
                "does not say whose repository it means, since there are several issuers. Write issuer = \"…\""
                    .to_owned(),
            ));
        }
    };
    let events = file.events.unwrap_or_else(|| default_events(file.isolate));
    if events.is_empty() {
        return Err(refuse(
            "allows no event. Leave `events` out, or name some, as in events = [\"push\"]".to_owned(),
        ));
    }
    Ok(TrustRule {
        issuer,
        repository,
        repository_id: file.repository_id,
        git_ref: file.git_ref,
        ref_protected: file.ref_protected,
        events,
        publish: file.publish,
        isolate: file.isolate,
        rank: file.rank.unwrap_or(if file.ref_protected { Rank::PROTECTED } else { Rank::default() }),
    })
}
