//! The names that trust rules trust, bound to their numbers.

use larder_protocol::api::CacheName;

use super::{
    Metadata, MetadataError, audit, number,
    sql::{Row, Transaction, query},
};
use crate::{
    audit::{Entry, Event, Who},
    trust::{BoundName, NumberSource, Numbers, Suspension, TrustedName},
};

const COLUMNS: &str = "cache, issuer, kind, name, repository_id, owner_id, source, bound_at, suspended_at, \
                       found_repository_id, found_owner_id, unbound_at";

/// A name and where it is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRow {
    /// The cache whose rules trust the name.
    pub cache: CacheName,
    /// The issuer whose name it is.
    pub issuer: String,
    /// What the name is bound to.
    pub bound: BoundName,
}

/// The names of a cache and an issuer.
#[derive(Debug, Clone, Copy)]
pub struct NamesOf<'a> {
    /// The cache.
    pub cache: &'a CacheName,
    /// The issuer.
    pub issuer: &'a str,
}

/// What became of binding a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Nobody knew it.
    New,
    /// It was bound to the same.
    Same,
    /// It is bound to something else, or suspended.
    Differs,
}

impl Metadata {
    /// What is known of these names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bound_names(
        &self,
        of: NamesOf<'_>,
        names: &[TrustedName],
    ) -> Result<Vec<BoundName>, MetadataError> {
        let mut bound = Vec::new();
        for name in names {
            let find = format!(
                "SELECT {COLUMNS} FROM bound_names WHERE cache = ? AND issuer = ? AND kind = ? AND name = ?"
            );
            let row = query(find)
                .bind(of.cache.as_str())
                .bind(of.issuer)
                .bind(kind(name))
                .bind(name.as_str())
                .fetch_optional(self.reader())
                .await?;
            bound.extend(row.as_ref().map(read).transpose()?.map(|row| row.bound));
        }
        Ok(bound)
    }

    /// All names that are bound, and those that were and no token has bound anew.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_bound_names(&self) -> Result<Vec<NameRow>, MetadataError> {
        let list = format!("SELECT {COLUMNS} FROM bound_names ORDER BY cache, issuer, kind, name");
        let rows = query(list).fetch_all(self.reader()).await?;
        rows.iter().map(read).collect()
    }

    /// Binds a name that is bound to nothing, as of now, and records that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bind_name(
        &self,
        of: NamesOf<'_>,
        name: &TrustedName,
        numbers: Numbers,
        source: NumberSource,
        now: i64,
    ) -> Result<Binding, MetadataError> {
        let mut transaction = self.write().await?;
        let binding = bind(&mut transaction, of, name, numbers, source, now, now).await?;
        transaction.commit().await?;
        Ok(binding)
    }

    /// Suspends a name that was seen to stand for something else, and records that. One that is suspended keeps what
    /// was found first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn suspend_name(
        &self,
        of: NamesOf<'_>,
        name: &TrustedName,
        found: Numbers,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let suspended = query(
            "UPDATE bound_names SET suspended_at = ?, found_repository_id = ?, found_owner_id = ? \
             WHERE cache = ? AND issuer = ? AND kind = ? AND name = ? AND suspended_at IS NULL AND unbound_at IS NULL",
        )
        .bind(now)
        .bind(found.repository.map(column))
        .bind(column(found.owner))
        .bind(of.cache.as_str())
        .bind(of.issuer)
        .bind(kind(name))
        .bind(name.as_str())
        .execute(&mut transaction)
        .await?
        .rows_affected();
        if suspended == 1 {
            let event = Event::NameSuspended { name: name.to_string(), found: found.to_string() };
            audit::record(&mut transaction, &entry(of, Who::default(), event), now).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Ends what a name stands for, so that the first token that is issued from now on and whose claims all match binds it
    /// anew, and records that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unbind_name(&self, row: &NameRow, who: Who, now: i64) -> Result<(), MetadataError> {
        let (of, name) = (NamesOf { cache: &row.cache, issuer: &row.issuer }, &row.bound.name);
        let mut transaction = self.write().await?;
        query(
            "UPDATE bound_names SET unbound_at = ?, suspended_at = NULL, found_repository_id = NULL, \
             found_owner_id = NULL WHERE cache = ? AND issuer = ? AND kind = ? AND name = ?",
        )
        .bind(now)
        .bind(of.cache.as_str())
        .bind(of.issuer)
        .bind(kind(name))
        .bind(name.as_str())
        .execute(&mut transaction)
        .await?;
        let event = Event::NameUnbound { name: name.to_string() };
        audit::record(&mut transaction, &entry(of, who, event), now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Binds a suspended name to `found`, what it was found to stand for, and records that. `false`, and nothing is
    /// changed, if it is not suspended for that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn confirm_name(
        &self,
        row: &NameRow,
        found: Numbers,
        who: Who,
        now: i64,
    ) -> Result<bool, MetadataError> {
        let (of, name) = (NamesOf { cache: &row.cache, issuer: &row.issuer }, &row.bound.name);
        let mut transaction = self.write().await?;
        let confirmed = query(
            "UPDATE bound_names SET repository_id = found_repository_id, owner_id = found_owner_id, \
             source = 'confirmed', bound_at = ?, suspended_at = NULL, found_repository_id = NULL, \
             found_owner_id = NULL \
             WHERE cache = ? AND issuer = ? AND kind = ? AND name = ? AND suspended_at IS NOT NULL \
             AND coalesce(found_repository_id, 0) = ? AND found_owner_id = ?",
        )
        .bind(now)
        .bind(of.cache.as_str())
        .bind(of.issuer)
        .bind(kind(name))
        .bind(name.as_str())
        .bind(found.repository.map_or(0, column))
        .bind(column(found.owner))
        .execute(&mut transaction)
        .await?
        .rows_affected()
            == 1;
        if confirmed {
            let event = Event::NameConfirmed { name: name.to_string(), numbers: found.to_string() };
            audit::record(&mut transaction, &entry(of, who, event), now).await?;
        }
        transaction.commit().await?;
        Ok(confirmed)
    }
}

/// In a transaction that may do more. `said_at` is when the numbers were said: what was said before a name was unbound
/// does not bind it.
pub(super) async fn bind(
    transaction: &mut Transaction,
    of: NamesOf<'_>,
    name: &TrustedName,
    numbers: Numbers,
    source: NumberSource,
    said_at: i64,
    now: i64,
) -> Result<Binding, MetadataError> {
    let new = query(
        "INSERT INTO bound_names (cache, issuer, kind, name, repository_id, owner_id, source, bound_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (cache, issuer, kind, name) DO UPDATE SET repository_id = excluded.repository_id, \
         owner_id = excluded.owner_id, source = excluded.source, bound_at = excluded.bound_at, unbound_at = NULL \
         WHERE bound_names.unbound_at <= ?",
    )
    .bind(of.cache.as_str())
    .bind(of.issuer)
    .bind(kind(name))
    .bind(name.as_str())
    .bind(numbers.repository.map(column))
    .bind(column(numbers.owner))
    .bind(source.to_string())
    .bind(now)
    .bind(said_at)
    .execute(&mut *transaction)
    .await?
    .rows_affected()
        == 1;
    if new {
        let event = Event::NameBound {
            name: name.to_string(),
            numbers: numbers.to_string(),
            source: source.to_string(),
        };
        audit::record(transaction, &entry(of, Who::default(), event), now).await?;
        return Ok(Binding::New);
    }
    let same = query(
        "SELECT 1 FROM bound_names WHERE cache = ? AND issuer = ? AND kind = ? AND name = ? AND suspended_at IS NULL \
         AND unbound_at IS NULL AND coalesce(repository_id, 0) = ? AND owner_id = ?",
    )
    .bind(of.cache.as_str())
    .bind(of.issuer)
    .bind(kind(name))
    .bind(name.as_str())
    .bind(numbers.repository.map_or(0, column))
    .bind(column(numbers.owner))
    .fetch_optional(&mut *transaction)
    .await?;
    Ok(if same.is_some() { Binding::Same } else { Binding::Differs })
}

fn entry(of: NamesOf<'_>, who: Who, event: Event) -> Entry {
    Entry::in_cache(of.cache, Who { issuer: Some(of.issuer.to_owned()), ..who }, event)
}

fn kind(name: &TrustedName) -> &'static str {
    match name {
        TrustedName::Repository(_) => "repository",
        TrustedName::Owner(_) => "owner",
    }
}

/// Claims and configuration take no larger numbers than a column.
fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read(row: &Row) -> Result<NameRow, MetadataError> {
    const DAMAGED: MetadataError = MetadataError::Damaged("a bound name cannot be read");
    let numbers = |repository: &str, owner: i64| {
        let repository = row.try_get::<Option<i64>>(repository)?.map(number).transpose()?;
        Ok::<_, MetadataError>(Numbers { repository, owner: number(owner)? })
    };
    let text: String = row.try_get("name")?;
    let name = match row.try_get("kind")? {
        "repository" => TrustedName::Repository(text),
        _ => TrustedName::Owner(text),
    };
    let source = match row.try_get("source")? {
        "token" => NumberSource::Token,
        "api" => NumberSource::Api,
        _ => NumberSource::Confirmed,
    };
    let suspended = match row.try_get("suspended_at")? {
        Some(at) => {
            let owner = row.try_get::<Option<i64>>("found_owner_id")?.ok_or(DAMAGED)?;
            Some(Suspension { at, found: numbers("found_repository_id", owner)? })
        }
        None => None,
    };
    let numbers = numbers("repository_id", row.try_get("owner_id")?)?;
    let (bound_at, unbound_at) = (row.try_get("bound_at")?, row.try_get("unbound_at")?);
    Ok(NameRow {
        cache: row.try_get::<&str>("cache")?.parse().map_err(|_| DAMAGED)?,
        issuer: row.try_get("issuer")?,
        bound: BoundName { name, numbers, source, bound_at, suspended, unbound_at },
    })
}
