//! `evaluate` against a naive restatement of what a rule says: never more than some rule says, and never less.

use std::collections::{BTreeMap, BTreeSet};

use larder_protocol::api::Permission;
use proptest::{collection::vec, prelude::*, sample::select};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{super::NumberSource, *};
use crate::{
    identity::{IssuerKind, TokenClaims},
    trust::{Alternatives, Suspension},
};

/// A rule in plain words. An empty list says nothing.
#[derive(Debug, Clone)]
struct Said {
    permissions: Vec<&'static str>,
    repository: Vec<&'static str>,
    repository_owner: Vec<&'static str>,
    repository_id: Vec<u64>,
    git_ref: Vec<&'static str>,
    ref_protected: bool,
    events: Vec<&'static str>,
    environment: Vec<&'static str>,
    actor: Vec<&'static str>,
    publish: bool,
    isolate: bool,
    rank: i64,
}

const REPOSITORIES: [&str; 5] = ["acme/flake", "acme/other", "Acme/Flake", "evil/flake", "acme-evil/flake"];
const REPOSITORY_PATTERNS: [&str; 5] = ["acme/flake", "acme/*", "acme/f*e", "evil/**", "ACME/other"];
const OWNERS: [&str; 3] = ["acme", "EVIL", "acme-evil"];
const REFS: [&str; 6] = [
    "refs/heads/main",
    "refs/heads/a/b",
    "refs/heads/Main",
    "refs/tags/v1",
    "refs/pull/7/merge",
    "refs/pull/x/merge",
];
const REF_PATTERNS: [&str; 6] =
    ["refs/heads/main", "refs/heads/*", "refs/heads/**", "refs/tags/v*", "refs/pull/**", "refs/heads/a*b"];
const EVENTS: [&str; 3] = ["push", "pull_request", "schedule"];
const TEXTS: [&str; 4] = ["prod", "prod/eu", "staging", "*"];

fn said() -> impl Strategy<Value = Said> {
    let some = |of: &'static [&'static str], most| vec(select(of), 0..=most);
    (
        (
            vec(select(&["push", "pin", "read", "admin"][..]), 1..4),
            some(&REPOSITORY_PATTERNS, 2),
            some(&OWNERS, 1),
            vec(select(&[42_u64, 43][..]), 0..2),
            some(&REF_PATTERNS, 2),
            any::<bool>(),
        ),
        (
            vec(select(&EVENTS[..]), 1..4),
            some(&TEXTS, 1),
            some(&TEXTS, 1),
            any::<bool>(),
            any::<bool>(),
            -2..3_i64,
        ),
    )
        .prop_map(
            |((permissions, repository, repository_owner, repository_id, git_ref, ref_protected), rest)| {
                let (events, environment, actor, publish, isolate, rank) = rest;
                Said {
                    permissions,
                    repository,
                    repository_owner,
                    repository_id,
                    git_ref,
                    ref_protected,
                    events,
                    environment,
                    actor,
                    publish,
                    isolate,
                    rank,
                }
            },
        )
}

fn token() -> impl Strategy<Value = Value> {
    (
        (select(&REPOSITORIES[..]), select(&[42, 43][..]), select(&REFS[..]), any::<bool>()),
        (select(&EVENTS[..]), select(&TEXTS[..]), select(&TEXTS[..]), any::<bool>()),
    )
        .prop_map(|((repository, id, git_ref, protected), (event, environment, actor, public))| {
            json!({
                "iss": crate::config::issuer::GITHUB, "repository": repository, "repository_id": id,
                "repository_owner": repository.split('/').next(), "repository_owner_id": 7,
                "repository_visibility": if public { "public" } else { "private" },
                "ref": git_ref, "ref_protected": protected.to_string(), "event_name": event,
                "environment": environment, "actor": actor, "sha": "0", "run_id": 1, "run_attempt": 1,
            })
        })
}

/// What is known of a name: nothing, what the token says, something else, that it is suspended, or that it was unbound after the
/// token was issued.
const KNOWN: [&str; 5] = ["nothing", "same", "other", "suspended", "unbound"];

fn bound(name: TrustedName, token: &Value, known: &str) -> Option<BoundName> {
    let repository = match name {
        TrustedName::Repository(_) => token["repository_id"].as_u64(),
        TrustedName::Owner(_) => None,
    };
    let numbers = Numbers { repository, owner: if known == "other" { 8 } else { 7 } };
    let suspended = (known == "suspended").then_some(Suspension { at: 0, found: numbers });
    (known != "nothing").then_some(BoundName {
        name,
        numbers,
        source: NumberSource::Token,
        bound_at: 0,
        suspended,
        unbound_at: (known == "unbound").then_some(0),
    })
}

fn made<T: DeserializeOwned>(texts: &[impl serde::Serialize]) -> Option<Alternatives<T>> {
    (!texts.is_empty()).then(|| serde_json::from_value(json!(texts)).unwrap())
}

fn rule(said: &Said) -> TrustRule {
    TrustRule {
        issuer: Default::default(),
        kind: IssuerKind::GitHub,
        permissions: serde_json::from_value(json!(said.permissions)).unwrap(),
        repository: made(&said.repository),
        repository_id: made(&said.repository_id),
        repository_owner: made(&said.repository_owner),
        repository_owner_id: None,
        git_ref: made(&said.git_ref),
        ref_protected: said.ref_protected,
        events: serde_json::from_value(json!(said.events)).unwrap(),
        environment: made(&said.environment),
        workflow: None,
        job_workflow_ref: None,
        runner_environment: None,
        claims: made(&said.actor)
            .map(|actor| BTreeMap::from([("actor".to_owned(), actor)]))
            .unwrap_or_default(),
        publish: said.publish,
        isolate: said.isolate,
        rank: said.rank.try_into().unwrap(),
    }
}

/// Stars, the slow and obvious way.
fn means(pattern: &str, text: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**") {
        return (0..=text.len()).any(|taken| means(rest, &text[taken..]));
    }
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), None) => means(&pattern[1..], text),
        (Some('*'), Some(next)) => means(&pattern[1..], text) || next != '/' && means(pattern, &text[1..]),
        (Some(wanted), Some(next)) => wanted == next && means(&pattern[1..], &text[1..]),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn fits(said: &Said, token: &Value, public: bool, repository_known: &str, owner_known: &str) -> bool {
    let text = |name: &str| token[name].as_str().unwrap().to_owned();
    let lower = |name: &str| text(name).to_lowercase();
    let any_of = |wanted: &[&str], found: &str| wanted.is_empty() || wanted.iter().any(|it| means(it, found));
    let lower_case = |wanted: &[&str]| wanted.iter().map(|it| it.to_lowercase()).collect::<Vec<_>>();
    let repository = lower("repository");
    let repositories = lower_case(&said.repository);
    let repositories: Vec<&str> = repositories.iter().map(String::as_str).collect();
    let owners = lower_case(&said.repository_owner);
    let by_name = !said.repository.is_empty() || !said.repository_owner.is_empty();
    let known = if said.repository_id.is_empty() && repositories.contains(&repository.as_str()) {
        repository_known
    } else if by_name {
        owner_known
    } else {
        "same"
    };
    let git_ref = text("ref");
    (by_name || !said.repository_id.is_empty())
        && any_of(&repositories, &repository)
        && (owners.is_empty() || owners.contains(&lower("repository_owner")))
        && (said.repository_id.is_empty()
            || said.repository_id.contains(&token["repository_id"].as_u64().unwrap()))
        && (known == "same" || known == "nothing")
        && any_of(&said.git_ref, &git_ref)
        && (!said.ref_protected || text("ref_protected") == "true")
        && said.events.contains(&text("event_name").as_str())
        && any_of(&said.environment, &text("environment"))
        && any_of(&said.actor, &text("actor"))
        && (!said.isolate || git_ref == "refs/pull/7/merge")
        && (!public
            || said.publish
            || !said.permissions.contains(&"push")
            || text("repository_visibility") == "public")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_granted_that_no_rule_says(
        rules in vec(said(), 0..5),
        token in token(),
        public in any::<bool>(),
        repository_known in select(&KNOWN[..]),
        owner_known in select(&KNOWN[..]),
    ) {
        let claims = TokenClaims::read(IssuerKind::GitHub, token.to_string().as_bytes()).unwrap();
        let [repository, owner] = TrustedName::of(&claims.job().unwrap().repository);
        let known: Vec<BoundName> =
            bound(repository, &token, repository_known).into_iter().chain(bound(owner, &token, owner_known)).collect();
        let trust = TrustRules::new("main".parse().unwrap(), public, rules.iter().map(rule).collect());
        let decided = trust.evaluate(&claims, &known);

        let fitting: Vec<&Said> =
            rules.iter().filter(|said| fits(said, &token, public, repository_known, owner_known)).collect();
        let isolate = fitting.iter().any(|said| said.isolate);
        let granting: Vec<&Said> = fitting.into_iter().filter(|said| said.isolate == isolate).collect();
        let Ok(Decision { grant, new_names }) = decided else {
            prop_assert!(granting.is_empty());
            return Ok(());
        };
        prop_assert!(!granting.is_empty());
        let said: BTreeSet<&str> = granting.iter().flat_map(|said| said.permissions.iter().copied()).collect();
        let granted: BTreeSet<String> = grant.permissions.iter().map(ToString::to_string).collect();
        prop_assert_eq!(granted.iter().map(String::as_str).collect::<BTreeSet<_>>(), said);
        let pushing = granting.iter().filter(|said| said.permissions.contains(&"push"));
        let rank = pushing.map(|said| said.rank).max();
        prop_assert_eq!(grant.permits(Permission::Push), rank.is_some());
        prop_assert_eq!(i64::from(grant.rank), rank.unwrap_or(0));
        prop_assert_eq!(grant.isolated.is_some(), isolate);
        // Nothing is bound over what is known.
        prop_assert!(new_names.iter().all(|(name, _)| known.iter().all(|known| known.name != *name)));
    }
}
