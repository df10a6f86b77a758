//! Tokens for people: `larderd token …`.

use larder_protocol::api::{CacheName, Permission};

use super::{Grant, GrantedTo, Rank, SecretToken, secret::NAMED_PREFIX};
use crate::{
    audit::{Entry, Event, Who},
    clock::Clock,
    metadata::{Metadata, MetadataError},
};

/// No token could be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name will not do.
    #[error("{0:?} cannot be a token's name (1 to 64 of letters, digits, '-', '_', '.', '@')")]
    Name(String),
    /// The name is taken.
    #[error("there is a token named {0}. Choose another name, or end that one: larderd token revoke {0}")]
    Exists(String),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A token that is to be made.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The one cache that it is for.
    pub cache: &'a CacheName,
    /// What it permits there.
    pub permissions: Vec<Permission>,
    /// How much what is pushed by it counts.
    pub rank: Rank,
    /// How many seconds it lives.
    pub lifetime: i64,
}

impl<'a> NewToken<'a> {
    /// A token by which one can push and read.
    pub fn pushing(name: &'a str, cache: &'a CacheName, lifetime: i64) -> Self {
        let permissions = vec![Permission::Push, Permission::Read];
        Self { name, cache, permissions, rank: Rank::default(), lifetime }
    }
}

/// Makes a token for a person or a machine.
///
/// # Errors
/// When the name will not do or is taken, or the database fails.
pub async fn create_token(
    metadata: &Metadata,
    clock: &Clock,
    new: NewToken<'_>,
) -> Result<SecretToken, TokenError> {
    let NewToken { name, cache, permissions, rank, lifetime } = new;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(TokenError::Name(name.to_owned()));
    }
    let token = SecretToken::generate(NAMED_PREFIX)?;
    let hash = token.hash();
    let grant = Grant {
        cache: cache.clone(),
        permissions,
        identity: GrantedTo::Person { name: name.to_owned(), token: hash.short() },
        rank,
        isolated: None,
    };
    let now = clock.now();
    let until = now.saturating_add(lifetime);
    let created =
        Event::TokenCreated { name: name.to_owned(), permissions: grant.permissions.clone(), until };
    let entry = Entry::in_cache(cache, Who::operator().with_token(hash), created);
    if !metadata.create_named_token(hash, &grant, name, now, until, &entry).await? {
        return Err(TokenError::Exists(name.to_owned()));
    }
    Ok(token)
}

/// Ends the token of that name. Whether there was one.
///
/// # Errors
/// When the database fails.
pub async fn revoke_token(metadata: &Metadata, clock: &Clock, name: &str) -> Result<bool, MetadataError> {
    let entry = Entry::of_service(Who::operator(), Event::TokenRevoked { name: name.to_owned() });
    metadata.revoke_named_token(name, clock.now(), &entry).await
}
