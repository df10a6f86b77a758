//! `[[cache.trust]]`: the sentence that turns claims into a grant.

use std::collections::{BTreeMap, BTreeSet};

use larder_protocol::api::Permission;
use serde::Deserialize;

use super::{ConfigError, IssuerConfig, IssuerUrl, issuer};
use crate::{
    identity::{EventName, IssuerKind, OwnerName},
    trust::{
        Alternatives, Pattern, Rank, RefPattern, RepositoryPattern, TrustRule, WorkflowPattern,
        default_permissions,
    },
};

/// As the file says it. What must be there is optional here, so that its absence can be explained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    issuer: Option<IssuerUrl>,
    permissions: Option<BTreeSet<Permission>>,
    repository: Option<Alternatives<RepositoryPattern>>,
    repository_id: Option<Alternatives<u64>>,
    repository_owner: Option<Alternatives<OwnerName>>,
    repository_owner_id: Option<Alternatives<u64>>,
    #[serde(rename = "ref")]
    git_ref: Option<Alternatives<RefPattern>>,
    #[serde(default)]
    ref_protected: bool,
    events: Option<BTreeSet<EventName>>,
    environment: Option<Alternatives<Pattern>>,
    workflow: Option<Alternatives<Pattern>>,
    job_workflow_ref: Option<Alternatives<WorkflowPattern>>,
    runner_environment: Option<Alternatives<Pattern>>,
    #[serde(default)]
    claims: BTreeMap<String, Alternatives<Pattern>>,
    #[serde(default)]
    publish: bool,
    #[serde(default)]
    isolate: bool,
    rank: Option<Rank>,
}

/// Events that say: this commit is on a ref that the repository's own people wrote to. Those of pull requests
/// are not among them, since anybody's code may run there.
const DEFAULT_EVENTS: [&str; 5] = ["push", "workflow_dispatch", "schedule", "release", "merge_group"];
/// The same in GitLab's words.
const GITLAB_EVENTS: [&str; 3] = ["push", "web", "schedule"];
/// For a rule that isolates pull requests.
const ISOLATED_EVENTS: [&str; 1] = ["pull_request"];

fn default_events(kind: IssuerKind, isolate: bool) -> BTreeSet<EventName> {
    let names = match kind {
        IssuerKind::GitHub | IssuerKind::Forgejo if isolate => &ISOLATED_EVENTS[..],
        IssuerKind::GitHub | IssuerKind::Forgejo => &DEFAULT_EVENTS,
        IssuerKind::GitLab => &GITLAB_EVENTS,
        IssuerKind::Oidc => &[],
    };
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Claims that are no rule's business, whatever the issuer: each token has its own, or all have the same.
const REGISTERED: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// The key that stands for a claim in the words of that kind of issuer, if there is one.
fn key_of_claim(claim: &str, kind: IssuerKind) -> Option<&'static str> {
    let keys: &[(&str, &str)] = match kind {
        IssuerKind::GitHub | IssuerKind::Forgejo => &[
            ("repository", "repository"),
            ("repository_id", "repository_id"),
            ("repository_owner", "repository_owner"),
            ("repository_owner_id", "repository_owner_id"),
            ("ref", "ref"),
            ("ref_protected", "ref_protected"),
            ("event_name", "events"),
            ("environment", "environment"),
            ("workflow", "workflow"),
            ("job_workflow_ref", "job_workflow_ref"),
            ("runner_environment", "runner_environment"),
        ],
        IssuerKind::GitLab => &[
            ("project_path", "repository"),
            ("project_id", "repository_id"),
            ("namespace_path", "repository_owner"),
            ("namespace_id", "repository_owner_id"),
            ("ref", "ref"),
            ("ref_path", "ref"),
            ("ref_protected", "ref_protected"),
            ("pipeline_source", "events"),
            ("environment", "environment"),
            ("runner_environment", "runner_environment"),
        ],
        IssuerKind::Oidc => &[],
    };
    keys.iter().find(|(name, _)| *name == claim).map(|(_, key)| *key)
}

/// `public` is whether everybody may read the cache.
pub(super) fn check(
    file: File,
    key: &str,
    public: bool,
    issuers: &[IssuerConfig],
) -> Result<TrustRule, ConfigError> {
    let refuse = |problem: String| ConfigError::value(key, problem);
    let issuer = issuer_of(file.issuer.as_ref(), issuers).map_err(refuse)?;
    let (url, kind) = (issuer.url.clone(), issuer.kind);
    let permissions = file.permissions.clone().unwrap_or_else(default_permissions);

    check_said(&file, &permissions).map_err(refuse)?;
    check_claims(&file, kind).map_err(refuse)?;
    if kind == IssuerKind::Oidc {
        check_subject(&file, public && permissions.contains(&Permission::Push)).map_err(refuse)?;
    } else {
        check_names(&file).map_err(refuse)?;
        check_restrictions(&file, &permissions).map_err(refuse)?;
    }
    let events = file.events.clone().unwrap_or_else(|| default_events(kind, file.isolate));
    check_possible(&file, kind, &events, &permissions).map_err(refuse)?;

    let rank = if file.ref_protected { Rank::PROTECTED } else { Rank::default() };
    Ok(TrustRule {
        issuer: url,
        kind,
        permissions,
        repository: file.repository,
        repository_id: file.repository_id,
        repository_owner: file.repository_owner,
        repository_owner_id: file.repository_owner_id,
        git_ref: file.git_ref,
        ref_protected: file.ref_protected,
        events,
        environment: file.environment,
        workflow: file.workflow,
        job_workflow_ref: file.job_workflow_ref,
        runner_environment: file.runner_environment,
        claims: file.claims,
        publish: file.publish,
        isolate: file.isolate,
        rank: file.rank.unwrap_or(rank),
    })
}

/// Whether the rule can stand; else what is wrong with it, and the remedy.
type Checked = Result<(), String>;

/// The issuer that a rule names; without one, GitHub's. Else what is wrong with that.
pub(super) fn issuer_of<'a>(
    named: Option<&IssuerUrl>,
    issuers: &'a [IssuerConfig],
) -> Result<&'a IssuerConfig, String> {
    if let Some(url) = named {
        return issuers.iter().find(|issuer| issuer.url == *url).ok_or_else(|| {
            format!("names the issuer {url}, which is not configured. Write [[issuer]] with url = \"{url}\"")
        });
    }
    let mut github = issuers.iter().filter(|issuer| issuer.kind == IssuerKind::GitHub);
    match (issuers.iter().find(|issuer| issuer.url == IssuerUrl::default()), github.next(), github.next()) {
        (Some(own), _, _) | (None, Some(own), None) => Ok(own),
        // The same owner and name may be somebody else's at another forge.
        (None, Some(_), Some(_)) => {
            Err("does not say whose repository it means, since there are several issuers. \
                                         Write issuer = \"…\""
                .to_owned())
        }
        (None, None, _) if issuers.is_empty() => {
            Err("cannot hold for anybody, since there is no issuer. Leave `issuer = []` out".to_owned())
        }
        (None, None, _) => Err(format!(
            "names no issuer, which means GitHub's, and that is not configured. Write issuer = \"…\", or [[issuer]] \
             with url = \"{}\"",
            issuer::GITHUB
        )),
    }
}

/// Nothing that is said is empty.
fn check_said(file: &File, permissions: &BTreeSet<Permission>) -> Checked {
    if permissions.is_empty() {
        return Err(
            "grants nothing. Leave `permissions` out for push and read, or name some of push, pin, read and \
                    admin"
                .to_owned(),
        );
    }
    if file.events.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err("allows no event. Leave `events` out, or name some, as in events = [\"push\"]".to_owned());
    }
    let ids = [("repository_id", &file.repository_id), ("repository_owner_id", &file.repository_owner_id)];
    let texts = [
        ("environment", &file.environment),
        ("workflow", &file.workflow),
        ("runner_environment", &file.runner_environment),
    ];
    let empty = |empty: bool, name: &'static str| empty.then_some(name);
    let mut nothing = ids
        .iter()
        .filter_map(|(name, ids)| empty(ids.as_ref().is_some_and(Alternatives::is_empty), name))
        .chain(
            texts
                .iter()
                .filter_map(|(name, it)| empty(it.as_ref().is_some_and(Alternatives::is_empty), name)),
        )
        .chain(empty(file.repository.as_ref().is_some_and(Alternatives::is_empty), "repository"))
        .chain(empty(file.repository_owner.as_ref().is_some_and(Alternatives::is_empty), "repository_owner"))
        .chain(empty(file.git_ref.as_ref().is_some_and(Alternatives::is_empty), "ref"))
        .chain(empty(file.job_workflow_ref.as_ref().is_some_and(Alternatives::is_empty), "job_workflow_ref"));
    if let Some(name) = nothing.next() {
        return Err(format!(
            "can never match: {name} is an empty list. Name what may match, or leave it out"
        ));
    }
    for (name, ids) in ids {
        if ids.iter().flat_map(Alternatives::iter).any(|id| *id == 0 || i64::try_from(*id).is_err()) {
            return Err(format!(
                "can never match: no {name} is 0, or so large. Write the number that the forge says"
            ));
        }
    }
    Ok(())
}

/// Claims by name are those that have no key of their own.
fn check_claims(file: &File, kind: IssuerKind) -> Checked {
    for (claim, wanted) in &file.claims {
        if REGISTERED.contains(&claim.as_str()) {
            return Err(format!(
                "wants the claim {claim}, which says nothing of the job and is checked for every token. Leave it out"
            ));
        }
        if wanted.is_empty() {
            return Err(format!("can never match: claims.{claim} is an empty list. Name what may match"));
        }
        if let Some(key) = key_of_claim(claim, kind) {
            return Err(format!("wants the claim {claim} by name. Write it as {key} = … in the rule itself"));
        }
        if claim == "sub" && kind != IssuerKind::Oidc {
            return Err(
                "wants the claim sub, whose form whoever owns a repository can change. Name the repository, \
                        ref and whatever else must hold one by one"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// For an issuer of which nothing else is known.
fn check_subject(file: &File, publishes: bool) -> Checked {
    let said = [
        ("repository", file.repository.is_some()),
        ("repository_id", file.repository_id.is_some()),
        ("repository_owner", file.repository_owner.is_some()),
        ("repository_owner_id", file.repository_owner_id.is_some()),
        ("ref", file.git_ref.is_some()),
        ("ref_protected", file.ref_protected),
        ("events", file.events.is_some()),
        ("environment", file.environment.is_some()),
        ("workflow", file.workflow.is_some()),
        ("job_workflow_ref", file.job_workflow_ref.is_some()),
        ("runner_environment", file.runner_environment.is_some()),
        ("isolate", file.isolate),
    ];
    if let Some((name, _)) = said.iter().find(|(_, said)| *said) {
        return Err(format!(
            "says {name}, and its issuer is of kind \"oidc\", whose tokens speak of no repository. Write what tokens \
             must say under [cache.trust.claims], or the issuer's kind if it is a forge"
        ));
    }
    let Some(subjects) = file.claims.get("sub") else {
        return Err(
            "binds no subject, so that everybody to whom the issuer gives a token would be trusted. Write \
                    [cache.trust.claims] with sub = \"…\""
                .to_owned(),
        );
    };
    // `acme*` would be `acme-evil` too.
    let ends_a_part =
        |text: &str| text.ends_with(|last: char| !last.is_ascii_alphanumeric() && !"-_.".contains(last));
    // `repo:*` would be everybody's: one name there is the issuer's own word, and only a second says whose. Kubernetes
    // has two such words.
    let names_somebody = |text: &str| {
        let apart = |letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter);
        let names = text.split(apart).filter(|name| !name.is_empty() && *name != "serviceaccount");
        names.count() >= 2
    };
    let binds = |text: &str| ends_a_part(text) && names_somebody(text);
    let loose = subjects.iter().find(|sub| !sub.is_literal() && !binds(sub.before_stars()));
    if let Some(loose) = loose {
        return Err(format!(
            "binds the subject too loosely: {loose} also means subjects of others. Write it out, or put the first * \
             behind a separator and what is theirs alone, as in \"organization:acme:*\""
        ));
    }
    if publishes && !file.publish {
        return Err("can never match: the issuer does not say whether what pushes is public, while everybody can read \
                    the cache. Write publish = true if that is meant"
            .to_owned());
    }
    Ok(())
}

fn check_names(file: &File) -> Checked {
    let named = file.repository.is_some()
        || file.repository_id.is_some()
        || file.repository_owner.is_some()
        || file.repository_owner_id.is_some();
    if !named {
        return Err(
            "names no repository and no owner, so that every repository could push. Write repository = \
                    \"owner/name\" or repository_owner = \"owner\""
                .to_owned(),
        );
    }
    if let (Some(repositories), Some(owners)) = (&file.repository, &file.repository_owner)
        && !repositories.iter().any(|repository| owners.iter().any(|owner| repository.can_be_of(owner)))
    {
        return Err(format!(
            "can never match: {repositories} is not a repository of {owners}. Leave repository_owner out"
        ));
    }
    Ok(())
}

/// What lets every branch in must not look as if it did not.
fn check_restrictions(file: &File, permissions: &BTreeSet<Permission>) -> Checked {
    let of_ref = file.git_ref.is_some() || file.ref_protected;
    let whose = || {
        let repository = file.repository.as_ref().map(ToString::to_string);
        repository.or_else(|| file.repository_owner.as_ref().map(ToString::to_string)).unwrap_or_default()
    };
    if let Some(workflow) = &file.workflow
        && !of_ref
        && file.environment.is_none()
        && file.job_workflow_ref.is_none()
    {
        return Err(format!(
            "is restricted by workflow = {workflow} alone, and that is a name which whoever can push a branch can give \
             to a workflow. Write ref or ref_protected, or job_workflow_ref for the workflow's file"
        ));
    }
    let only_reads = permissions.iter().all(|permission| *permission == Permission::Read);
    if !of_ref && !file.isolate && !only_reads {
        return Err(format!(
            "lets every branch of {} push, the author of a pull request's included. Write ref = \"refs/heads/main\", or \
             ref_protected = true if the branches that may push are protected",
            whose()
        ));
    }
    Ok(())
}

/// What no token of that kind of issuer can say.
fn check_possible(
    file: &File,
    kind: IssuerKind,
    events: &BTreeSet<EventName>,
    permissions: &BTreeSet<Permission>,
) -> Checked {
    let of_pulls = file.git_ref.as_ref().is_some_and(|refs| refs.iter().all(RefPattern::is_of_pull_requests));
    let github = matches!(kind, IssuerKind::GitHub | IssuerKind::Forgejo);
    // The target's runs on the branch that it would be merged into.
    let on_pulls = |event: &EventName| {
        event.as_str().starts_with("pull_request") && event.as_str() != "pull_request_target"
    };
    if file.isolate {
        if kind != IssuerKind::GitHub {
            return Err(format!(
                "can never match: it isolates pull requests, and tokens of an issuer of kind {kind} do not say which \
                 one a job is for. Leave isolate out"
            ));
        }
        if file.ref_protected || file.git_ref.is_some() && !of_pulls {
            return Err("can never match: it isolates pull requests, whose ref is refs/pull/<number>/merge and never \
                        protected. Leave ref and ref_protected out"
                .to_owned());
        }
        if !events.iter().any(on_pulls) {
            let events: Vec<&str> = events.iter().map(EventName::as_str).collect();
            return Err(format!(
                "can never match: it isolates pull requests, and no job runs for one at {}. Leave `events` out for \
                 pull_request, or name that",
                events.join(", ")
            ));
        }
        if *permissions != default_permissions() {
            return Err(
                "isolates pull requests, which push and read and do nothing else there. Leave `permissions` \
                        out"
                .to_owned(),
            );
        }
    }
    if of_pulls && file.ref_protected {
        return Err(
            "can never match: refs of pull requests are never protected. Leave ref_protected out".to_owned()
        );
    }
    if of_pulls && github && !events.iter().any(on_pulls) {
        return Err(
            "can never match: only events of pull requests run on refs/pull/…, and they are allowed only by \
                    name. Write isolate = true, or events = [\"pull_request\"] if strangers' code may push"
                .to_owned(),
        );
    }
    let absent = [
        ("environment", file.environment.is_some(), kind == IssuerKind::Forgejo),
        ("workflow", file.workflow.is_some(), kind == IssuerKind::GitLab),
        ("job_workflow_ref", file.job_workflow_ref.is_some(), kind != IssuerKind::GitHub),
        ("runner_environment", file.runner_environment.is_some(), kind == IssuerKind::Forgejo),
    ];
    if let Some((name, ..)) = absent.iter().find(|(_, said, absent)| *said && *absent) {
        return Err(format!(
            "can never match: tokens of an issuer of kind {kind} do not say {name}. Leave it out"
        ));
    }
    let runners = if kind == IssuerKind::GitLab { "gitlab-hosted" } else { "github-hosted" };
    if let Some(wanted) = &file.runner_environment
        && !wanted.iter().any(|wanted| wanted.matches(runners) || wanted.matches("self-hosted"))
    {
        return Err(format!(
            "can never match: runner_environment is {wanted}. Write \"{runners}\" or \"self-hosted\""
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
