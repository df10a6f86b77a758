//! `push`: commits came to a ref, or the ref is new or gone.

use serde::Deserialize;

use super::{Event, Follows, Unreadable, refs};
use crate::{flake::Spent, identity::GitRef, queue::Work, trust::SaidOfRepository};

#[derive(Debug, Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    git_ref: String,
    /// The commit that is there now.
    after: String,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    deleted: bool,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Repository {
    #[serde(default)]
    private: Option<bool>,
    #[serde(default)]
    owner: Option<serde_json::Value>,
    #[serde(default)]
    default_branch: Option<String>,
    /// Seconds since 1970 in this event, a date in others.
    #[serde(default)]
    pushed_at: Option<serde_json::Value>,
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    let push = event.read::<Push>()?;
    let git_ref: GitRef = push.git_ref.parse().map_err(|_| Unreadable)?;
    let at = refs::happened_at(event, push.repository.pushed_at.as_ref());
    if push.deleted {
        // As `delete` says it, for webhooks that send that not.
        return Ok(vec![refs::gone(event, &repository, git_ref, at)]);
    }
    let mut follows: Vec<_> =
        push.created.then(|| refs::there(event, &repository, git_ref.clone(), at)).into_iter().collect();
    if !event.rule.prefetch {
        return Ok(follows);
    }
    if !is_commit(&push.after) {
        return Err(Unreadable);
    }
    let Repository { private, owner, default_branch, pushed_at } = push.repository;
    let default_branch = default_branch.and_then(|branch| refs::named("branch", &branch));
    let fallbacks = default_branch.iter().cloned().collect();
    let pushed_at = pushed_at.and_then(|time| time.as_i64()).unwrap_or(event.now);
    let commit = push.after;
    let inputs = Work::PrefetchInputs {
        repository: repository.clone(),
        said: SaidOfRepository {
            id: event.repository_id,
            owner: owner.as_ref().and_then(|owner| owner.get("id")?.as_u64()),
            public: private == Some(false),
            default_branch,
        },
        git_ref: git_ref.clone(),
        commit: commit.clone(),
        pushed_at,
        spent: Spent::default(),
    };
    let wanted =
        Work::PrefetchRef { repository, id: event.repository_id, git_ref, fallbacks, commit, pushed_at };
    follows.extend([(inputs, event.now), (wanted, event.now)]);
    Ok(follows)
}

/// Whether that names a commit: by SHA-1, or by SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
