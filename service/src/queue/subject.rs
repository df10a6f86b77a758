//! What work is about.

use super::Work;
use crate::identity::RepositoryName;

impl Work {
    /// What it is about, where something newer makes it pointless; and its place in an order, where what is newer may
    /// have come before it.
    pub(super) fn subject(&self) -> Option<(String, i64)> {
        let name = |repository: &RepositoryName| repository.as_str().to_ascii_lowercase();
        match self {
            Self::ForgetRef { repository, git_ref, before: at, .. }
            | Self::KeepRef { repository, git_ref, since: at } => {
                Some((format!("ref {} {git_ref}", name(repository)), *at))
            }
            Self::ForgetRepository { repository, at, .. }
            | Self::KeepRepository { repository, since: at } => {
                Some((format!("repository {}", name(repository)), *at))
            }
            // Of both it is known when it was published: that it is there no more comes after that.
            Self::Release { repository, tag, published, at } => {
                let sequence = at.saturating_mul(2).saturating_add(i64::from(!published));
                Some((format!("release {} {tag}", name(repository)), sequence))
            }
            Self::PrefetchInputs { repository, git_ref, pushed_at, .. } => {
                Some((format!("inputs {} {git_ref}", name(repository)), *pushed_at))
            }
            Self::PrefetchRef { repository, git_ref, pushed_at, .. } => {
                Some((format!("prefetch {} {git_ref}", name(repository)), *pushed_at))
            }
            _ => None,
        }
    }
}
