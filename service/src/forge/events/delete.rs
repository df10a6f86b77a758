//! `delete`: a branch or a tag is gone.

use serde::Deserialize;

use super::{Event, Follows, Unreadable};
use crate::{identity::GitRef, queue::Work};

#[derive(Debug, Deserialize)]
struct Delete {
    /// Without `refs/heads/`.
    #[serde(rename = "ref")]
    name: String,
    ref_type: String,
}

impl Delete {
    /// The whole ref.
    fn git_ref(&self) -> Option<GitRef> {
        let folder = match self.ref_type.as_str() {
            "branch" => "heads",
            "tag" => "tags",
            _ => return None,
        };
        format!("refs/{folder}/{}", self.name).parse().ok()
    }
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    let git_ref = event.read::<Delete>()?.git_ref().ok_or(Unreadable)?;
    Ok(vec![(Work::ForgetRef { repository, git_ref, before: event.now }, event.after_grace())])
}
