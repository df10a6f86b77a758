//! `repository`: it was deleted, is called otherwise, or is another owner's.

use serde::Deserialize;
use serde_json::Value;

use super::{Event, Follows, Unreadable, refs};
use crate::{config::WebhookRule, forge::payload::About, identity::RepositoryName, queue::Work};

#[derive(Debug, Deserialize)]
struct Payload {
    repository: Repository,
    #[serde(default)]
    changes: Option<Changes>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: u64,
    full_name: RepositoryName,
    owner: Owner,
}

/// A repository that is there, or is there no more.
#[derive(Debug, Deserialize)]
struct Presence {
    repository: Times,
}

#[derive(Debug, Deserialize)]
struct Times {
    /// When something of it was last changed. Nothing says when it was deleted, which was not before.
    #[serde(default)]
    updated_at: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    id: u64,
}

/// What it was before.
#[derive(Debug, Deserialize)]
struct Changes {
    #[serde(default)]
    repository: Option<ChangedName>,
    #[serde(default)]
    owner: Option<ChangedOwner>,
}

#[derive(Debug, Deserialize)]
struct ChangedName {
    name: From,
}

#[derive(Debug, Deserialize)]
struct From {
    from: String,
}

#[derive(Debug, Deserialize)]
struct ChangedOwner {
    from: FormerOwner,
}

#[derive(Debug, Deserialize)]
struct FormerOwner {
    #[serde(default)]
    user: Option<Login>,
    #[serde(default)]
    organization: Option<Login>,
}

#[derive(Debug, Deserialize)]
struct Login {
    login: String,
}

/// What the repository was called before, if it is called otherwise now.
pub(in crate::forge) fn former_name(payload: &[u8]) -> Option<RepositoryName> {
    former(&serde_json::from_slice(payload).ok()?)
}

fn former(payload: &Payload) -> Option<RepositoryName> {
    let (owner, name) = payload.repository.full_name.as_str().split_once('/')?;
    let changes = payload.changes.as_ref()?;
    let former_owner = changes.owner.as_ref().map(|owner| {
        let login = owner.from.organization.as_ref().or(owner.from.user.as_ref());
        login.map(|login| login.login.as_str())
    });
    let owner = former_owner.unwrap_or(Some(owner))?;
    let name = changes.repository.as_ref().map_or(name, |changed| &changed.name.from);
    format!("{owner}/{name}").parse().ok()
}

pub(super) fn follow(event: &Event<'_>) -> Follows {
    let Some(repository) = event.repository.cloned() else { return Ok(Vec::new()) };
    Ok(match event.action {
        Some("deleted") => {
            let (id, before, at) = (event.repository_id, event.now, changed_at(event)?);
            vec![(Work::ForgetRepository { repository, id, before, at }, event.after_grace())]
        }
        Some("created") => {
            vec![(Work::KeepRepository { repository, since: changed_at(event)? }, event.now)]
        }
        Some("renamed") => {
            let payload: Payload = event.read()?;
            let from = former(&payload).ok_or(Unreadable)?;
            let (id, to) = (payload.repository.id, payload.repository.full_name);
            // Of what no secret speaks for nothing follows.
            let spoken_for = from.owner().eq_ignore_ascii_case(to.owner())
                && [&from, &to].into_iter().all(|name| covers(event.rule, name));
            let rename = Work::RenameRepository { from, to, id };
            if spoken_for { vec![(rename, event.now)] } else { Vec::new() }
        }
        Some("transferred") => {
            let payload: Payload = event.read()?;
            let from = former(&payload).ok_or(Unreadable)?;
            let Repository { id, full_name: to, owner } = payload.repository;
            let mut follows = Vec::new();
            if covers(event.rule, &from) {
                if covers(event.rule, &to) {
                    follows.push((Work::RenameRepository { from: from.clone(), to, id }, event.now));
                }
                follows.push((Work::SuspendRepository { repository: from, id, owner: owner.id }, event.now));
            }
            follows
        }
        _ => Vec::new(),
    })
}

fn changed_at(event: &Event<'_>) -> Result<i64, Unreadable> {
    let updated_at = event.read::<Presence>()?.repository.updated_at;
    Ok(refs::happened_at(event, updated_at.as_ref()))
}

fn covers(rule: &WebhookRule, name: &RepositoryName) -> bool {
    rule.speaks_for(&About::Repository(name.clone()))
}
