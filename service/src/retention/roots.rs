//! What keeps paths: runs that pushed, pins, leases, what was pushed or read lately.

use crate::{
    config::CacheRetention,
    identity::GitRef,
    metadata::{Metadata, MetadataError, PushedRun, PushingRun},
    trust::GrantedTo,
};
use larder_protocol::api::CacheName;

const DAY: i64 = 24 * 60 * 60;

/// The run that an identity pushes for; a person's push is of none.
pub fn run_of(identity: &GrantedTo) -> Option<PushingRun> {
    let GrantedTo::Job(claims) = identity else { return None };
    Some(PushingRun {
        issuer: claims.issuer.clone(),
        repository_id: claims.repository_id.to_string(),
        repository: claims.repository.to_string(),
        git_ref: claims.git_ref.to_string(),
        ref_protected: claims.ref_protected,
        workflow: claims.workflow_ref.as_deref().map(workflow_file).unwrap_or_default().to_owned(),
        run_id: claims.run_id.to_string(),
    })
}

/// The file of a workflow, without the repository that it lies in and the ref that it was taken from: both may change
/// while it stays the same workflow.
fn workflow_file(workflow_ref: &str) -> &str {
    let file = workflow_ref.split_once('@').map_or(workflow_ref, |(file, _)| file);
    file.splitn(3, '/').nth(2).unwrap_or(file)
}

/// Which runs keep what they pushed, and which do not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeptRuns {
    /// They do.
    pub kept: Vec<PushedRun>,
    /// They do not any more.
    pub displaced: Vec<PushedRun>,
}

/// Decides which runs keep what they pushed. One that failed takes nobody's place: it keeps what it pushed while it is
/// the latest of its line, for a rerun. `runs` come line by line (issuer, repository, ref, workflow), of each line
/// the latest first.
pub fn kept_runs(runs: Vec<PushedRun>, rules: &CacheRetention, now: i64) -> KeptRuns {
    let mut decided = KeptRuns::default();
    // The line that is being gone through: its first run, and how many more of it are kept.
    let mut line: Option<(PushingRun, u32)> = None;
    for run in runs {
        let (latest, left) = match &mut line {
            Some((first, left)) if same_line(first, &run.run) => (false, left),
            _ => {
                let keep = if is_main(&run.run, rules) {
                    rules.keep_runs_main
                } else if run.pushed_at + rules.idle_refs.seconds() <= now {
                    0
                } else {
                    rules.keep_runs
                };
                (true, &mut line.insert((run.run.clone(), keep)).1)
            }
        };
        if *left > 0 && (latest || !run.failed) {
            if !run.failed {
                *left -= 1;
            }
            decided.kept.push(run);
        } else {
            decided.displaced.push(run);
        }
    }
    decided
}

/// The runs of a cache that keep what they pushed, at the moment.
///
/// # Errors
/// When the database fails.
pub async fn kept(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
) -> Result<Vec<PushedRun>, MetadataError> {
    Ok(kept_runs(metadata.pushed_runs(cache).await?, rules, now).kept)
}

/// Whether two runs are of one issuer, repository, ref and workflow.
pub(super) fn same_line(one: &PushingRun, other: &PushingRun) -> bool {
    one.issuer == other.issuer
        && one.repository_id == other.repository_id
        && one.git_ref == other.git_ref
        && one.workflow == other.workflow
}

/// Whether a run is the newest of its line, by the one before it in a list that goes line by line.
pub(super) fn is_newest(run: &PushingRun, before: Option<&PushingRun>) -> bool {
    before.is_none_or(|before| !same_line(before, run))
}

/// Whether a run is of the main line: protected refs, and those that the configuration names.
pub(super) fn is_main(run: &PushingRun, rules: &CacheRetention) -> bool {
    run.ref_protected
        || run
            .git_ref
            .parse::<GitRef>()
            .is_ok_and(|git_ref| rules.main_refs.iter().any(|pattern| pattern.matches(&git_ref)))
}

/// What was pushed or read after this is kept by that alone.
pub fn recent_since(rules: &CacheRetention, now: i64) -> i64 {
    now - i64::from(rules.keep_days) * DAY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;

    fn run(git_ref: &str, run_id: u32, pushed_at: i64) -> PushedRun {
        let run = PushingRun {
            issuer: "https://issuer".to_owned(),
            repository_id: "42".to_owned(),
            repository: "acme/flake".to_owned(),
            git_ref: git_ref.to_owned(),
            ref_protected: false,
            workflow: ".github/workflows/ci.yml".to_owned(),
            run_id: run_id.to_string(),
        };
        PushedRun { id: run_id.into(), run, pushed_at, failed: false }
    }

    fn ids(runs: &[PushedRun]) -> Vec<i64> {
        runs.iter().map(|run| run.id).collect()
    }

    #[test]
    fn each_line_keeps_its_latest_runs() {
        let rules = CacheRetention { keep_runs_main: 2, keep_runs: 1, ..CacheRetention::default() };
        let now = 100 * DAY;
        let other = |id, days| run("refs/heads/topic", id, now - days * DAY);
        let main = |id, days| run("refs/heads/main", id, now - days * DAY);
        let mut nightly = main(9, 95);
        nightly.run.workflow = ".github/workflows/nightly.yml".to_owned();
        let mut release = run("refs/heads/release", 10, 0);
        release.run.ref_protected = true;
        let runs = vec![main(5, 80), main(4, 81), main(3, 82), nightly, release, other(8, 1), other(7, 2)];
        let decided = kept_runs(runs, &rules, now);
        assert_eq!(ids(&decided.kept), [5, 4, 9, 10, 8]);
        assert_eq!(ids(&decided.displaced), [3, 7]);
        // Nobody pushed from there for long.
        let rules = CacheRetention { idle_refs: Period::days(30), ..rules };
        assert_eq!(ids(&kept_runs(vec![other(1, 30)], &rules, now).displaced), [1]);
        assert_eq!(ids(&kept_runs(vec![other(1, 29)], &rules, now).kept), [1]);
    }

    #[test]
    fn a_run_that_failed_takes_nobodys_place() {
        let rules = CacheRetention { keep_runs: 2, ..CacheRetention::default() };
        let now = 100 * DAY;
        let run = |id: u32, failed| PushedRun { failed, ..run("refs/heads/topic", id, now - i64::from(id)) };
        let kept = |failed: &[bool]| {
            let runs = (1..).zip(failed).map(|(id, failed)| run(id, *failed)).collect();
            ids(&kept_runs(runs, &rules, now).kept)
        };
        assert_eq!(kept(&[true, false, true, false, false]), [1, 2, 4]);
        assert_eq!(kept(&[false, true, true, false]), [1, 4]);
        assert_eq!(kept(&[true, true, true]), [1]);
    }

    #[test]
    fn a_workflow_is_known_by_its_file() {
        let file = workflow_file("acme/flake/.github/workflows/ci.yml@refs/heads/main");
        assert_eq!(file, ".github/workflows/ci.yml");
        assert_eq!(workflow_file("odd"), "odd");
    }
}
