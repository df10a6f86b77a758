//! Session tokens, people's tokens, and the ID tokens that were used.

use larder_protocol::api::{CacheName, Permission};

use super::{
    Metadata, MetadataError, audit,
    names::{self, Binding, NamesOf},
    sql::{Row, Transaction, query, query_scalar},
};
use crate::{
    audit::Entry,
    trust::{Grant, NumberSource, Numbers, Rank, TokenHash, TrustedName},
};

/// How many expired rows an exchange clears away: more than it adds, so that they never pile up.
const SWEPT_PER_WRITE: i64 = 100;

/// A person's token, as `larderd token list` shows it.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// The name that it was made with.
    pub name: String,
    /// The cache that it is for.
    pub cache: CacheName,
    /// What it permits there.
    pub permissions: Vec<Permission>,
    /// How much what is pushed by it counts.
    pub rank: Rank,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// When it ends.
    pub expires_at: i64,
}

/// An ID token that is about to be used.
pub struct UsedIdToken<'a> {
    /// Its issuer.
    pub issuer: &'a str,
    /// Its `jti`.
    pub id: &'a str,
    /// When it was issued.
    pub issued_at: i64,
    /// Until when it could be used again.
    pub expires_at: i64,
}

/// A session that is about to be opened.
pub struct NewSession<'a> {
    /// Its token.
    pub hash: TokenHash,
    /// What it permits.
    pub grant: &'a Grant,
    /// Names that it is the first to use, and what its token says that they stand for.
    pub new_names: &'a [(TrustedName, Numbers)],
    /// When it ends.
    pub expires_at: i64,
}

/// What became of opening a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedSession {
    /// It is open.
    Opened,
    /// Nothing is stored: the ID token was used before.
    Replayed,
    /// Nothing is stored: another token bound one of the names to something else meanwhile, or it was unbound.
    NameTaken,
}

impl Metadata {
    /// Whether an ID token was exchanged before.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn was_exchanged(&self, token: &UsedIdToken<'_>) -> Result<bool, MetadataError> {
        let used = query_scalar("SELECT EXISTS (SELECT 1 FROM used_id_tokens WHERE issuer = ? AND jti = ?)")
            .bind(token.issuer)
            .bind(token.id)
            .fetch_one(self.reader())
            .await?;
        Ok(used)
    }

    /// Stores a session for an ID token that was never used before, binds the names that it is the first to use, and
    /// records that, all at one moment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_session(
        &self,
        session: NewSession<'_>,
        used: UsedIdToken<'_>,
        now: i64,
        entry: &Entry,
    ) -> Result<OpenedSession, MetadataError> {
        let mut transaction = self.write().await?;
        sweep(&mut transaction, now).await?;
        let first_use = query(
            "INSERT INTO used_id_tokens (issuer, jti, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(used.issuer)
        .bind(used.id)
        .bind(used.expires_at)
        .execute(&mut transaction)
        .await?
        .rows_affected()
            == 1;
        if !first_use {
            return Ok(OpenedSession::Replayed);
        }
        let NewSession { hash, grant, new_names, expires_at } = session;
        let of = NamesOf { cache: &grant.cache, issuer: used.issuer };
        for (name, numbers) in new_names {
            let (source, said_at) = (NumberSource::Token, used.issued_at);
            let binding = names::bind(&mut transaction, of, name, *numbers, source, said_at, now).await?;
            if binding == Binding::Differs {
                return Ok(OpenedSession::NameTaken);
            }
        }
        insert(&mut transaction, hash, grant, None, now, expires_at).await?;
        audit::record(&mut transaction, entry, now).await?;
        transaction.commit().await?;
        Ok(OpenedSession::Opened)
    }

    /// Stores a person's token, and records that. `false`, and nothing is stored, if one of that name is still good.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_named_token(
        &self,
        hash: TokenHash,
        grant: &Grant,
        name: &str,
        now: i64,
        expires_at: i64,
        entry: &Entry,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM tokens WHERE name = ? AND expires_at <= ?")
            .bind(name)
            .bind(now)
            .execute(&mut transaction)
            .await?;
        let created = insert(&mut transaction, hash, grant, Some(name), now, expires_at).await?;
        if created {
            audit::record(&mut transaction, entry, now).await?;
        }
        transaction.commit().await?;
        Ok(created)
    }

    /// What the token grants, if it is known and has not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn grant_of(&self, hash: TokenHash, now: i64) -> Result<Option<Grant>, MetadataError> {
        let row =
            query("SELECT cache, permissions, identity, rank, isolated FROM tokens WHERE hash = ? AND expires_at > ?")
                .bind(hash.0.as_slice())
                .bind(now)
                .fetch_optional(self.reader())
                .await?;
        let Some(row) = row else { return Ok(None) };
        let damaged = |_| MetadataError::Damaged("a token's grant cannot be read");
        Ok(Some(Grant {
            cache: cache_of(&row)?,
            permissions: permissions_of(&row)?,
            identity: serde_json::from_str(row.try_get("identity")?).map_err(damaged)?,
            rank: rank_of(&row)?,
            isolated: row
                .try_get::<Option<&str>>("isolated")?
                .map(serde_json::from_str)
                .transpose()
                .map_err(damaged)?,
        }))
    }

    /// Ends a session. People's tokens stay.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_session(&self, hash: TokenHash) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM tokens WHERE hash = ? AND name IS NULL")
            .bind(hash.0.as_slice())
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Ends a person's token, and records that. Whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_named_token(
        &self,
        name: &str,
        now: i64,
        entry: &Entry,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let result = query("DELETE FROM tokens WHERE name = ?").bind(name).execute(&mut transaction).await?;
        let revoked = result.rows_affected() == 1;
        if revoked {
            audit::record(&mut transaction, entry, now).await?;
        }
        transaction.commit().await?;
        Ok(revoked)
    }

    /// People's tokens that have not ended, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn named_tokens(&self, now: i64) -> Result<Vec<NamedToken>, MetadataError> {
        let rows = query(
            "SELECT name, cache, permissions, rank, created_at, expires_at FROM tokens \
             WHERE name IS NOT NULL AND expires_at > ? \
             ORDER BY name",
        )
        .bind(now)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(NamedToken {
                    name: row.try_get("name")?,
                    cache: cache_of(row)?,
                    permissions: permissions_of(row)?,
                    rank: rank_of(row)?,
                    created_at: row.try_get("created_at")?,
                    expires_at: row.try_get("expires_at")?,
                })
            })
            .collect()
    }
}

fn cache_of(row: &Row) -> Result<CacheName, MetadataError> {
    row.try_get::<&str>("cache")?
        .parse()
        .map_err(|_| MetadataError::Damaged("a token's cache has no such name"))
}

fn permissions_of(row: &Row) -> Result<Vec<Permission>, MetadataError> {
    serde_json::from_str(row.try_get("permissions")?)
        .map_err(|_| MetadataError::Damaged("a token's permissions cannot be read"))
}

fn rank_of(row: &Row) -> Result<Rank, MetadataError> {
    // Tokens were made with the service's own rank once.
    Rank::stored(row.try_get::<i64>("rank")?)
        .map(|rank| rank.max(Rank::LEAST))
        .map_err(|_| MetadataError::Damaged("a token's rank is out of bounds"))
}

/// `false` if there is a token of that name.
async fn insert(
    transaction: &mut Transaction,
    hash: TokenHash,
    grant: &Grant,
    name: Option<&str>,
    now: i64,
    expires_at: i64,
) -> Result<bool, MetadataError> {
    let unwritable = |_| MetadataError::Damaged("a grant cannot be written");
    let result = query(
        "INSERT INTO tokens (hash, cache, permissions, identity, rank, isolated, name, created_at, expires_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
    )
    .bind(hash.0.as_slice())
    .bind(grant.cache.as_str())
    .bind(serde_json::to_string(&grant.permissions).map_err(unwritable)?)
    .bind(serde_json::to_string(&grant.identity).map_err(unwritable)?)
    .bind(i64::from(grant.rank))
    .bind(grant.isolated.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?)
    .bind(name)
    .bind(now)
    .bind(expires_at)
    .execute(&mut *transaction)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// An ID token that was used is known so many seconds longer than it is valid: to a replica whose clock is behind, it is
/// valid for longer.
const CLOCKS_APART: i64 = 3600;

async fn sweep(transaction: &mut Transaction, now: i64) -> Result<(), MetadataError> {
    for (statement, before) in [
        (
            "DELETE FROM tokens WHERE hash IN \
             (SELECT hash FROM tokens WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM used_id_tokens WHERE (issuer, jti) IN \
             (SELECT issuer, jti FROM used_id_tokens WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now - CLOCKS_APART,
        ),
    ] {
        query(statement).bind(before).bind(SWEPT_PER_WRITE).execute(&mut *transaction).await?;
    }
    Ok(())
}
