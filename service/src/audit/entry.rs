//! One entry of the audit log.

use std::net::IpAddr;

use larder_protocol::api::CacheName;
use sha2::{Digest, Sha256};

use super::Event;
use crate::{
    client::Client,
    identity::Claims,
    trust::{GrantedTo, TokenHash},
};

/// What happened, where, and who did it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The cache that it is about: a configured one, never a name that a stranger made up.
    pub cache: Option<CacheName>,
    /// Who did it.
    pub who: Who,
    /// What happened.
    pub event: Event,
}

/// Who did it, as far as that is known. The default is the service itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Who says so.
    pub issuer: Option<String>,
    /// The repository, as the claims name it.
    pub repository: Option<String>,
    /// Its number.
    pub repository_id: Option<String>,
    /// The ref that the job ran on.
    pub git_ref: Option<String>,
    /// What started the job.
    pub event: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// Which attempt at it.
    pub attempt: Option<String>,
    /// Who started the run; the name of a person's token; who ran a command.
    pub actor: Option<String>,
    /// What tells the token from others.
    pub token: Option<String>,
    /// Where from.
    pub address: Option<IpAddr>,
}

impl Who {
    /// A job, by its verified claims.
    pub fn job(claims: &Claims) -> Self {
        Self {
            issuer: Some(claims.issuer.clone()),
            repository: Some(claims.repository.to_string()),
            repository_id: Some(claims.repository_id.to_string()),
            git_ref: Some(claims.git_ref.to_string()),
            event: Some(claims.event_name.to_string()),
            run: Some(claims.run_id.to_string()),
            attempt: Some(claims.run_attempt.to_string()),
            actor: claims.actor.clone(),
            token: None,
            address: None,
        }
    }

    /// The bearer of a token.
    pub fn of(identity: &GrantedTo) -> Self {
        match identity {
            GrantedTo::Job(claims) => Self::job(claims),
            GrantedTo::Subject { issuer, subject } => {
                Self { issuer: Some(issuer.clone()), actor: Some(subject.to_string()), ..Self::default() }
            }
            GrantedTo::Person { name, token } => {
                Self { actor: Some(name.clone()), token: Some(token.clone()), ..Self::default() }
            }
            GrantedTo::Prefetch { from } => {
                Self { actor: Some(format!("prefetch from {from}")), ..Self::default() }
            }
        }
    }

    /// Whoever ran a command of `larderd` on the service's own machine.
    pub fn operator() -> Self {
        let user = rustix::process::getuid().as_raw();
        Self { actor: Some(format!("larderd, run by user {user}")), ..Self::default() }
    }

    /// With the token that was used.
    #[must_use]
    pub fn with_token(self, token: TokenHash) -> Self {
        Self { token: Some(token.short()), ..self }
    }

    /// From where it came.
    #[must_use]
    pub fn at(self, client: Client) -> Self {
        Self { address: client.address, ..self }
    }
}

impl Entry {
    /// An entry about one cache.
    pub fn in_cache(cache: &CacheName, who: Who, event: Event) -> Self {
        Self { cache: Some(cache.clone()), who, event }
    }

    /// An entry that is about no cache.
    pub fn of_service(who: Who, event: Event) -> Self {
        Self { cache: None, who, event }
    }

    /// What refusals have in common that share a row. What a stranger can choose freely, such as what a reason quotes,
    /// is no part of it.
    pub(crate) fn same(&self, now: i64) -> Option<[u8; 32]> {
        if !self.event.is_refusal() {
            return None;
        }
        let Who {
            issuer,
            repository: _,
            repository_id,
            git_ref,
            event,
            run: _,
            attempt: _,
            actor,
            token,
            address,
        } = &self.who;
        let mut digest = Sha256::new();
        let address = address.map(|address| address.to_string());
        let hour = now.div_euclid(3600).to_string();
        let known = [issuer, repository_id, git_ref, event, actor, token, &address];
        let texts = known.into_iter().map(|text| text.as_deref().unwrap_or_default());
        let cache = self.cache.as_ref().map_or("", CacheName::as_str);
        for text in [&hour, self.event.kind().as_str(), cache].into_iter().chain(texts) {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        Some(digest.finalize().into())
    }

    /// Writes it to the log. Text of others is quoted there.
    pub(crate) fn log(&self) {
        let Who { issuer, repository, repository_id, git_ref, event, run, attempt, actor, token, address } =
            &self.who;
        tracing::info!(
            target: "larder_service::audit",
            kind = self.event.kind().as_str(),
            cache = self.cache.as_ref().map(CacheName::as_str),
            issuer, repository, repository_id, git_ref, event, run, attempt, actor, token,
            address = address.map(tracing::field::display),
            details = ?self.event.details(),
            "audit"
        );
    }
}
