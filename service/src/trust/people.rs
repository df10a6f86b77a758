//! Tokens for people: `larderd token …`.

use larder_protocol::api::{CacheName, Permission};

use super::{Grant, GrantedTo, Rank, SecretToken, secret::PERSON_PREFIX};
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

/// What a person's token permits unless somebody says otherwise.
pub const PUSH_AND_READ: [Permission; 2] = [Permission::Push, Permission::Read];

/// Makes a token that permits this in `cache` for `lifetime` seconds.
///
/// # Errors
/// When the name will not do or is taken, or the database fails.
pub async fn create_token(
    metadata: &Metadata,
    clock: &Clock,
    name: &str,
    cache: &CacheName,
    lifetime: i64,
    permissions: &[Permission],
) -> Result<SecretToken, TokenError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(TokenError::Name(name.to_owned()));
    }
    let token = SecretToken::generate(PERSON_PREFIX)?;
    let hash = token.hash();
    let grant = Grant {
        cache: cache.clone(),
        permissions: permissions.to_vec(),
        identity: GrantedTo::Person { name: name.to_owned(), token: hash.short() },
        rank: Rank::default(),
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
