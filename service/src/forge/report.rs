//! Reporting back on a commit: what its jobs pushed, how large that is, and what the base has not.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use http::StatusCode;
use larder_protocol::{api::CacheName, plain::one_line};
use sha2::{Digest, Sha256};

use super::{
    app::Needs,
    checks::CheckRun,
    closures::{Change, Closure, compare},
    github::ForgeError,
};
use crate::{
    Service,
    caches::Cache,
    identity::{IssuerKind, RepositoryName},
    metadata::{EndedPrefetch, MetadataError, Report},
    queue::{Performed, Work},
};

/// How many changes are told: those that matter.
const TOLD: usize = 10;
/// How long what comes close together is waited for, in seconds.
const GATHER: i64 = 5;
/// GitHub's own bound is 65,535 characters.
const MAX_SUMMARY: usize = 60_000;

/// A push was committed: if a job made it, its commit is reported on.
pub(crate) async fn note_push(service: &Service, cache: &Cache, push: i64) {
    if !service.github.has_app() {
        let why = ForgeError::NoApp(Needs::Checks);
        let has_jobs = service.config.issuers.iter().any(|issuer| issuer.kind == IssuerKind::GitHub);
        if has_jobs && service.github.said.is_first(why.to_string()) {
            tracing::info!(%why, "no check runs are written");
        }
        return;
    }
    if let Err(error) = try_note_push(service, cache, push).await {
        tracing::error!(%error, "a push cannot be reported on");
    }
}

async fn try_note_push(service: &Service, cache: &Cache, push: i64) -> Result<(), MetadataError> {
    let Some(claims) = service.metadata.claims_of(push).await? else { return Ok(()) };
    let is_github = service
        .config
        .issuers
        .iter()
        .any(|issuer| issuer.kind == IssuerKind::GitHub && issuer.url.as_str() == claims.issuer);
    let is_commit = (7..=64).contains(&claims.sha.len()) && claims.sha.bytes().all(|b| b.is_ascii_hexdigit());
    // What is in a private cache is not told where everybody reads it.
    let may_be_told = cache.is_public() || !claims.is_public();
    if !(is_github && is_commit && may_be_told) {
        return Ok(());
    }
    service.metadata.note_report(cache.name(), &claims, service.clock.now()).await?;
    enqueue(service, &claims.repository, &claims.sha).await
}

async fn enqueue(service: &Service, repository: &RepositoryName, sha: &str) -> Result<(), MetadataError> {
    let report = Work::Report { repository: repository.clone(), sha: sha.to_owned() };
    service.queue.enqueue(&report.job(service.clock.now().saturating_add(GATHER))).await
}

/// A prefetch that a commit caused is over: where that commit is reported on, this is too.
///
/// # Errors
/// When the database fails.
pub async fn prefetch_ended(
    service: &Service,
    repository: &RepositoryName,
    sha: &str,
) -> Result<(), MetadataError> {
    if service.github.has_app() && service.metadata.report(repository, sha).await?.is_some() {
        enqueue(service, repository, sha).await?;
    }
    Ok(())
}

/// A run is over: what it pushed is reported on once more.
pub(super) async fn report_run(
    service: &Service,
    repository: &RepositoryName,
    run: u64,
) -> Result<(), MetadataError> {
    if service.github.has_app() {
        for sha in service.metadata.commits_of_run(repository, run).await? {
            enqueue(service, repository, &sha).await?;
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("GitHub: {0}")]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Writes the check run of a commit, unless it says the same already.
pub(crate) async fn report(
    service: &Service,
    repository: &RepositoryName,
    sha: &str,
) -> Result<Performed, ReportError> {
    match try_report(service, repository, sha).await {
        Ok(()) => Ok(Performed::Done),
        Err(ReportError::Forge(ForgeError::Limited { until })) => Ok(Performed::Again(until)),
        Err(ReportError::Forge(error)) if error.is_for_people() => {
            if service.github.said.is_first(format!("check run: {error}")) {
                tracing::info!(why = %error, %repository, "no check runs are written there");
            }
            Ok(Performed::Done)
        }
        // The repository is called otherwise, the commit is gone: that does not pass.
        Err(ReportError::Forge(ForgeError::Status(status))) if is_final(status) => {
            tracing::info!(%repository, sha, %status, "no check run is written: GitHub has no such repository or commit");
            Ok(Performed::Done)
        }
        Err(error) => Err(error),
    }
}

fn is_final(status: StatusCode) -> bool {
    use StatusCode as S;
    matches!(status, S::MOVED_PERMANENTLY | S::NOT_FOUND | S::GONE | S::UNPROCESSABLE_ENTITY)
}

async fn try_report(service: &Service, repository: &RepositoryName, sha: &str) -> Result<(), ReportError> {
    let Some(report) = service.metadata.report(repository, sha).await? else { return Ok(()) };
    let base = match &report.base_ref {
        Some(base) => base.clone(),
        None => service.github.default_branch(repository).await?,
    };
    let mut told = Told { well: true, title: Vec::new(), summary: String::new() };
    for cache in &report.caches {
        told.cache(service, &report, cache, &base).await?;
        if let Some(prefetch) = service.metadata.prefetch_of_commit(cache, repository, sha).await? {
            told.prefetch(prefetch);
        }
    }
    let server = HEXLOWER.encode(&Sha256::digest(service.config.base_url())[..8]);
    let summary = told.summary.get(..told.summary.floor_char_boundary(MAX_SUMMARY)).unwrap_or_default();
    let run = CheckRun {
        external_id: format!("larder:{server}:{}:{sha}", report.repository_id),
        sha: sha.to_owned(),
        well: told.well,
        title: told.title.join("; ").chars().take(200).collect(),
        summary: summary.to_owned(),
    };
    let digest = HEXLOWER.encode(&Sha256::digest(format!("{run:?}")));
    if run.title.is_empty() || report.check_run.is_some() && report.written.as_ref() == Some(&digest) {
        return Ok(());
    }
    let id = service.github.write_check_run(repository, &run, report.check_run).await?;
    service.metadata.note_written(report.id, id, &digest).await?;
    Ok(())
}

/// What is told, cache by cache.
struct Told {
    well: bool,
    title: Vec<String>,
    summary: String,
}

impl Told {
    async fn cache(
        &mut self,
        service: &Service,
        report: &Report,
        name: &CacheName,
        base: &str,
    ) -> Result<(), MetadataError> {
        let metadata = &service.metadata;
        let pushed = metadata.pushed_for(report, name).await?;
        let parent = name.isolation().and_then(|(parent, _)| service.caches.named(parent));
        let parent = parent.map(|cache| cache.name());
        let caches: Vec<&CacheName> = [Some(name), parent].into_iter().flatten().collect();
        let after = Closure::of(metadata, &caches, &pushed.roots).await?;
        let (count, size) = (after.paths.len(), bytes(after.size()));
        self.title.push(format!("{} paths pushed, closure {size}", pushed.paths));
        let more = if after.cut { " at least" } else { "" };
        let _ = writeln!(
            self.summary,
            "### `{name}`\n\n{} paths pushed ({}). The closure has{more} {count} paths, {size}.\n",
            pushed.paths,
            bytes(pushed.bytes)
        );
        let of_parent = metadata.roots_before(report, parent.unwrap_or(name), base).await?;
        if of_parent.is_empty() {
            let _ = writeln!(self.summary, "Nothing of {} is there to compare it with.\n", escaped(base));
            return Ok(());
        }
        let before = Closure::of(metadata, &caches, &of_parent).await?;
        let changes = compare(&before, &after);
        let difference = i128::from(after.size()) - i128::from(before.size());
        let _ = writeln!(self.summary, "Against {}: {}.\n", escaped(base), signed(difference));
        if !changes.is_empty() {
            self.table(&changes);
        }
        Ok(())
    }

    fn prefetch(&mut self, ended: EndedPrefetch) {
        let EndedPrefetch { failed, closure, published, lacking } = ended;
        self.well &= !failed;
        self.summary.push_str(&match (failed, lacking) {
            (true, _) => "Prefetch: failed. `larderd jobs list` says why.\n\n".to_owned(),
            (false, 0) => format!("Prefetch: {closure} paths are complete, {published} of them fetched.\n\n"),
            (false, _) => {
                format!("Prefetch: {published} paths fetched; {lacking} of {closure} are at no upstream.\n\n")
            }
        });
    }

    fn table(&mut self, changes: &[Change]) {
        self.summary.push_str("| name | | before | after | change |\n|---|---|---|---|---|\n");
        for change in changes.iter().take(TOLD) {
            let what = match change.paths {
                (0, _) => "added",
                (_, 0) => "removed",
                _ if change.difference() > 0 => "grown",
                _ => "shrunk",
            };
            let _ = writeln!(
                self.summary,
                "| {} | {what} | {} | {} | {} |",
                escaped(&change.name),
                bytes(change.bytes.0),
                bytes(change.bytes.1),
                signed(change.difference())
            );
        }
        let rest = changes.len().saturating_sub(TOLD);
        if rest > 0 {
            let _ = writeln!(self.summary, "\nand {rest} more.");
        }
        self.summary.push('\n');
    }
}

/// What others wrote, as Markdown that says just that.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in one_line(text).chars() {
        if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | '/' | '-') {
            // An entity: a backslash is not enough for mentions, references and links that GitHub makes by itself.
            let _ = write!(escaped, "&#{};", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut size, mut unit) = (u128::from(bytes) * 10, 0);
    while size >= 10_000 && unit + 1 < units.len() {
        size = (size + 500) / 1000;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{}.{} {}", size / 10, size % 10, units[unit]),
    }
}

fn signed(difference: i128) -> String {
    let size = bytes(u64::try_from(difference.unsigned_abs()).unwrap_or(u64::MAX));
    match difference {
        0 => "no change".to_owned(),
        1.. => format!("+{size}"),
        _ => format!("-{size}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_no_markup() {
        let text = escaped("refs/heads/<b>@team #1 [x](http://y) `|`\n\u{1b}[2J\u{202e}");
        for markup in ['<', '>', '@', '[', ']', '(', '`', '|', '\n', '\u{1b}', '\u{202e}', '*', '_'] {
            assert!(!text.contains(markup), "{text}");
        }
        assert!(text.starts_with("refs/heads/&#60;b&#62;&#64;team &#35;1"), "{text}");
    }

    #[test]
    fn sizes_are_read_by_people() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, 999_960].map(bytes),
            ["0 B", "999 B", "1.0 kB", "1.2 MB", "1.0 MB"]
        );
        assert_eq!([-1500, 0, 2_000_000_000].map(signed), ["-1.5 kB", "no change", "+2.0 GB"]);
    }
}
