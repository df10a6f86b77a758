//! Doing what follows from events. Runs, refs and numbers are those that jobs were vouched for with; an event only says
//! what became of them.

use data_encoding::HEXLOWER;
use larder_protocol::api::{CacheName, PinName};
use sha2::{Digest, Sha256};

use super::Conclusion;
use crate::{
    Service,
    audit::Who,
    identity::{GitRef, IssuerKind, RepositoryName},
    metadata::{ManifestsOf, MetadataError, NamesOf, NewPin, PINNED_BY, RunsOf},
    trust::{Numbers, TrustedName},
};

/// As many paths are pinned for one release.
const MOST_PINNED: u32 = 100;
/// The longest name of a pin.
const MAX_PIN_NAME: usize = 64;
const TAGS: &str = "refs/tags/";

/// GitHub's events say nothing of what others vouch for.
pub(crate) fn issuers(service: &Service) -> impl Iterator<Item = &str> {
    let github = service.config.issuers.iter().filter(|issuer| issuer.kind == IssuerKind::GitHub);
    github.map(|issuer| issuer.url.as_str())
}

/// Lets go of what a repository's ref (or all of them) needed before then.
pub(crate) async fn forget(
    service: &Service,
    repository: &RepositoryName,
    repository_id: Option<u64>,
    git_ref: Option<&GitRef>,
    before: i64,
) -> Result<(), MetadataError> {
    let (metadata, now) = (&service.metadata, service.clock.now());
    for issuer in issuers(service) {
        let reported_by = ManifestsOf { issuer: Some(issuer), repository, repository_id };
        metadata.forget_manifests_of(reported_by, git_ref, before).await?;
        let of = RunsOf { issuer, repository };
        let mut ids = metadata.repository_ids(of).await?;
        // Another repository may have been called the same.
        ids.retain(|id| repository_id.is_none_or(|told| told == *id));
        for cache in service.caches.iter() {
            metadata.drop_roots_before(cache.name(), of, repository_id, git_ref, before, now).await?;
            drop_isolated(service, cache.name(), (issuer, &ids), git_ref, before).await?;
        }
    }
    Ok(())
}

/// Drops the caches of a repository's pull request, or of all of them, but for those that were used since.
async fn drop_isolated(
    service: &Service,
    parent: &CacheName,
    (issuer, ids): (&str, &[u64]),
    git_ref: Option<&GitRef>,
    before: i64,
) -> Result<(), MetadataError> {
    let now = service.clock.now();
    let (number, reason) = match git_ref {
        Some(git_ref) => {
            let Some(number) = pull_request(git_ref) else { return Ok(()) };
            (Some(number), "its pull request was closed")
        }
        None => (None, "its repository was deleted"),
    };
    let theirs = |name: &CacheName| {
        ids.iter().any(|id| match number {
            Some(number) => CacheName::isolated(parent, *id, number).is_ok_and(|own| own == *name),
            None => name
                .isolation()
                .is_some_and(|(of, rest)| of == parent.as_str() && rest.starts_with(&format!("{id}-pr-"))),
        })
    };
    for cache in service.metadata.isolated_caches().await? {
        // Another issuer counts its repositories for itself.
        if cache.used_at <= before && cache.issuer == issuer && theirs(&cache.name) {
            service.metadata.drop_isolated(&cache.name, &Who::default(), reason, now).await?;
        }
    }
    Ok(())
}

fn pull_request(git_ref: &GitRef) -> Option<u64> {
    git_ref.as_str().strip_prefix("refs/pull/")?.strip_suffix("/merge")?.parse().ok()
}

/// Notes how an attempt at a run ended. What a released tag's run pushed is pinned by that.
pub(crate) async fn conclude_run(
    service: &Service,
    repository: &RepositoryName,
    repository_id: Option<u64>,
    (run, attempt): (u64, u64),
    conclusion: Conclusion,
) -> Result<(), MetadataError> {
    let metadata = &service.metadata;
    for issuer in issuers(service) {
        let reported_by = ManifestsOf { issuer: Some(issuer), repository, repository_id };
        metadata.conclude_run(reported_by, run, attempt, conclusion).await?;
        let of = RunsOf { issuer, repository };
        for concluded in metadata.conclude_pushed_run(of, run, attempt, conclusion).await? {
            let Some(tag) = concluded.git_ref.strip_prefix(TAGS) else { continue };
            if conclusion == Conclusion::Success && metadata.is_released(repository, tag).await? {
                pin(service, &concluded.cache, of, tag).await?;
            }
        }
    }
    super::report::report_run(service, repository, run).await
}

/// A release was published: what the runs of its tag pushed stays, as long as the release does.
pub(crate) async fn release(
    service: &Service,
    repository: &RepositoryName,
    tag: &str,
    published: bool,
) -> Result<(), MetadataError> {
    let now = service.clock.now();
    service.metadata.note_release(repository, tag, published, now).await?;
    for cache in service.caches.iter() {
        if !published {
            service.metadata.unpin_release(cache.name(), &pin_name(repository, tag), now).await?;
            continue;
        }
        for issuer in issuers(service) {
            pin(service, cache.name(), RunsOf { issuer, repository }, tag).await?;
        }
    }
    Ok(())
}

async fn pin(service: &Service, cache: &CacheName, of: RunsOf<'_>, tag: &str) -> Result<(), MetadataError> {
    // A pull request's own cache keeps nothing longer than the pull request.
    let configured = service.caches.iter().any(|known| known.name() == cache);
    let Ok(git_ref) = format!("{TAGS}{tag}").parse::<GitRef>() else { return Ok(()) };
    if !configured {
        return Ok(());
    }
    let (metadata, now) = (&service.metadata, service.clock.now());
    let name = pin_name(of.repository, tag);
    let pinned = metadata.pins(cache, now).await?;
    for path in metadata.roots_of_ref(cache, of, &git_ref, MOST_PINNED).await? {
        if pinned.iter().any(|pin| pin.name == name && pin.path == path) {
            continue;
        }
        let (keep, who) = (MOST_PINNED, &Who::default());
        let new =
            NewPin { cache, name: &name, path: &path, expires_at: None, keep, pinned_by: PINNED_BY, who };
        metadata.pin(&new, now).await?;
    }
    Ok(())
}

/// The name of the pins of a release: its repository and tag, as far as a name can say them.
fn pin_name(repository: &RepositoryName, tag: &str) -> PinName {
    let whole = format!("release.{repository}.{tag}");
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let text: String = whole.chars().map(|c| if fits(c) { c } else { '.' }).collect();
    // The slash of the repository's name is always replaced: a dot is in no owner's name.
    let plain = text.len() <= MAX_PIN_NAME && tag.chars().all(fits);
    let digest = HEXLOWER.encode(&Sha256::digest(whole.to_ascii_lowercase())[..4]);
    let short = text.get(..MAX_PIN_NAME - 9).unwrap_or(&text);
    let name = if plain { text } else { format!("{short}-{digest}") };
    #[expect(clippy::expect_used, reason = "it is made of what names may have")]
    name.to_ascii_lowercase().parse().expect("a pin's name")
}

/// A repository is another owner's: the names that rules trust it by are trusted no longer, until somebody confirms.
pub(crate) async fn suspend(
    service: &Service,
    repository: &RepositoryName,
    id: u64,
    owner: u64,
) -> Result<(), MetadataError> {
    let found = Numbers { repository: Some(id), owner };
    for row in service.metadata.all_bound_names().await? {
        let TrustedName::Repository(name) = &row.bound.name else { continue };
        let theirs = RepositoryName::same(name, repository.as_str())
            && row.bound.numbers.repository == Some(id)
            && row.bound.numbers.owner != owner
            && issuers(service).any(|issuer| issuer == row.issuer);
        if theirs {
            let of = NamesOf { cache: &row.cache, issuer: &row.issuer };
            service.metadata.suspend_name(of, &row.bound.name, found, service.clock.now()).await?;
        }
    }
    Ok(())
}

/// A repository is called otherwise.
pub(crate) async fn rename(
    service: &Service,
    from: &RepositoryName,
    to: &RepositoryName,
    id: u64,
) -> Result<(), MetadataError> {
    for issuer in issuers(service) {
        service.metadata.rename_repository(RunsOf { issuer, repository: from }, id, to).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_releases_pins_have_a_name_of_their_own() {
        let name = |repository: &str, tag: &str| pin_name(&repository.parse().unwrap(), tag).to_string();
        assert_eq!(name("Acme/flake", "v1.0"), "release.acme.flake.v1.0");
        let odd = name("acme/flake", "v1/ä b");
        assert!(odd.starts_with("release.acme.flake.v1...b-"), "{odd}");
        assert_ne!(odd, name("acme/flake", "v1.ä.b"));
        let (long, longer) = (name("acme/flake", &"1".repeat(100)), name("acme/flake", &"1".repeat(101)));
        assert!(long.len() == 64 && longer.len() == 64 && long != longer);
    }
}
