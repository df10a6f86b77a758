//! Rows of what was brought with another content than what stood, and deciding at commit what stands.

use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{CacheName, Divergence, Replacement},
};

use super::{
    BATCH, Metadata, MetadataError, blob, number,
    paths::{path_of, standing},
    sql::{QueryBuilder, Row, Transaction, query, query_scalar},
};
use crate::trust::{GrantedTo, Verdict};

/// What is kept, found when a push was opened.
#[derive(Debug)]
pub struct NewDivergence {
    /// What its answer says.
    pub told: Divergence,
    /// The push that brought what is kept; none where an upstream has signed it.
    pub kept_push: Option<i64>,
}

/// What became of a path that was brought with another content than what stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What stood was kept.
    Kept,
    /// What was brought is of higher rank, and replaced it.
    Replaced,
    /// An admin had it replaced.
    Ordered,
    /// An upstream has signed another content: what was brought was refused.
    Refused,
}

impl Outcome {
    /// As in its row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Replaced => "replaced",
            Self::Ordered => "ordered",
            Self::Refused => "refused",
        }
    }
}

/// A divergence with those who brought both.
#[derive(Debug)]
pub struct NotedDivergence {
    /// When, in seconds since 1970.
    pub noted_at: i64,
    /// In which cache.
    pub cache: String,
    /// The path.
    pub path: StorePath,
    /// What became of it.
    pub outcome: Outcome,
    /// What stood before.
    pub before: NarHash,
    /// Who brought that, where it was not an upstream.
    pub before_by: Option<GrantedTo>,
    /// The upstream that has signed it.
    pub upstream: Option<String>,
    /// What was brought then.
    pub brought: NarHash,
    /// Who brought it.
    pub brought_by: Option<GrantedTo>,
}

/// Which divergences to list.
#[derive(Debug, Default)]
pub struct DivergenceFilter {
    /// In this cache.
    pub cache: Option<CacheName>,
    /// Since then.
    pub since: Option<i64>,
    /// At most so many, the newest.
    pub limit: u32,
}

const DAMAGED: &str = "a divergence's row cannot be read";

impl Metadata {
    /// What a push brought with another content than what stood, and stays.
    pub async fn divergences_of(&self, push: i64) -> Result<Vec<Divergence>, MetadataError> {
        let rows = query(
            "SELECT hash, name, kept, pushed, upstream FROM divergences
             WHERE push = ? AND outcome IN ('kept', 'refused')",
        )
        .bind(push)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Divergence {
                    path: path_of(row)?,
                    kept: NarHash(blob(row.try_get("kept")?)?),
                    pushed: NarHash(blob(row.try_get("pushed")?)?),
                    upstream: row.try_get("upstream")?,
                })
            })
            .collect()
    }

    /// What a push replaced.
    pub async fn replacements_of(&self, push: i64) -> Result<Vec<Replacement>, MetadataError> {
        let rows = query(
            "SELECT hash, name, kept, pushed FROM divergences
             WHERE push = ? AND outcome IN ('replaced', 'ordered')",
        )
        .bind(push)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Replacement {
                    path: path_of(row)?,
                    replaced: NarHash(blob(row.try_get("kept")?)?),
                    pushed: NarHash(blob(row.try_get("pushed")?)?),
                })
            })
            .collect()
    }

    /// How many paths, of a cache or of all, were pushed though an upstream did not answer what it has signed of them.
    pub async fn unasked(&self, cache: Option<&CacheName>) -> Result<u64, MetadataError> {
        let sum = query_scalar(
            "SELECT CAST(coalesce(sum(unasked), 0) AS BIGINT) FROM pushes WHERE ?1 IS NULL OR cache = ?1",
        );
        number(sum.bind(cache.map(CacheName::as_str)).fetch_one(self.reader()).await?)
    }

    /// The newest divergences, the oldest of them first.
    pub async fn divergences(
        &self,
        filter: &DivergenceFilter,
    ) -> Result<Vec<NotedDivergence>, MetadataError> {
        let rows = query(
            "SELECT d.noted_at, u.cache, d.hash, d.name, d.outcome, d.kept, d.pushed, d.upstream,
                    u.provenance AS brought_by, k.provenance AS kept_by
             FROM divergences d JOIN pushes u ON u.id = d.push LEFT JOIN pushes k ON k.id = d.kept_push
             WHERE (?1 IS NULL OR u.cache = ?1) AND d.noted_at >= ?2
             ORDER BY d.noted_at DESC, d.push DESC, d.hash LIMIT ?3",
        )
        .bind(filter.cache.as_ref().map(CacheName::as_str))
        .bind(filter.since.unwrap_or(0))
        .bind(filter.limit)
        .fetch_all(self.reader())
        .await?;
        rows.iter().rev().map(noted).collect()
    }
}

fn noted(row: &Row) -> Result<NotedDivergence, MetadataError> {
    let who = |column| {
        let json: Option<&str> = row.try_get(column)?;
        let who = json.map(serde_json::from_str).transpose();
        who.map_err(|_| MetadataError::Damaged(DAMAGED))
    };
    let outcomes = [Outcome::Kept, Outcome::Replaced, Outcome::Ordered, Outcome::Refused];
    let outcome: &str = row.try_get("outcome")?;
    Ok(NotedDivergence {
        noted_at: row.try_get("noted_at")?,
        cache: row.try_get("cache")?,
        path: path_of(row)?,
        outcome: outcomes
            .into_iter()
            .find(|known| known.as_str() == outcome)
            .ok_or(MetadataError::Damaged(DAMAGED))?,
        before: NarHash(blob(row.try_get("kept")?)?),
        before_by: who("kept_by")?,
        upstream: row.try_get("upstream")?,
        brought: NarHash(blob(row.try_get("pushed")?)?),
        brought_by: who("brought_by")?,
    })
}

/// Notes what is kept, found when the push was opened.
pub(super) async fn note(
    transaction: &mut Transaction,
    push: i64,
    divergences: &[NewDivergence],
    now: i64,
) -> Result<(), MetadataError> {
    for batch in divergences.chunks(BATCH) {
        let mut insert = QueryBuilder::new(
            "INSERT INTO divergences (push, hash, name, kept, pushed, outcome, noted_at, kept_push, upstream) ",
        );
        insert.push_values(batch, |mut row, NewDivergence { told, kept_push }| {
            let outcome = if told.upstream.is_some() { Outcome::Refused } else { Outcome::Kept };
            row.push_bind(push)
                .push_bind(told.path.hash().0.to_vec())
                .push_bind(told.path.name())
                .push_bind(&told.kept.0[..])
                .push_bind(&told.pushed.0[..])
                .push_bind(outcome.as_str())
                .push_bind(now)
                .push_bind(*kept_push)
                .push_bind(told.upstream.as_deref());
        });
        insert.build().persistent(false).execute(&mut *transaction).await?;
    }
    Ok(())
}

/// A path that a push stages, where the cache has it.
struct Rival {
    staged: i64,
    there: i64,
    hash: StorePathHash,
    name: String,
    before: NarHash,
    before_push: i64,
    brought: NarHash,
    ordered: bool,
    verdict: Verdict,
}

/// Decides for each path of a push that is visible already which of the two stands, hides the other, and notes where
/// they differ. What was found when the push was opened may have changed since: this is what counts.
pub(super) async fn settle(transaction: &mut Transaction, push: i64, now: i64) -> Result<(), MetadataError> {
    let rows = query(
        "SELECT p.id, q.id, p.hash, p.name, q.nar_hash, q.push, p.nar_hash, p.rank, p.ordered, q.rank, q.ordered,
                p.name = q.name AND p.nar_hash = q.nar_hash AND p.nar_size = q.nar_size AND p.refs = q.refs
         FROM paths p
         JOIN paths q ON q.cache = p.cache AND q.hash = p.hash AND q.hidden = 0 AND q.id <> p.id
         JOIN pushes u ON u.id = q.push AND u.state = 'committed'
         WHERE p.push = ?",
    )
    .bind(push)
    .fetch_all(&mut *transaction)
    .await?;
    let rivals: Vec<Rival> = rows.iter().map(rival).collect::<Result<_, _>>()?;
    drop(rows);
    let with = |verdicts: &[Verdict], ordered: bool| -> Vec<&Rival> {
        let fits = |rival: &&Rival| verdicts.contains(&rival.verdict) && rival.ordered == ordered;
        rivals.iter().filter(fits).collect()
    };
    let outdone = [Verdict::Present, Verdict::Kept];
    let (gone, kept): (Vec<&Rival>, Vec<&Rival>) =
        rivals.iter().partition(|rival| !outdone.contains(&rival.verdict));
    hide(transaction, kept.iter().map(|rival| rival.staged), None).await?;
    // A NAR that an admin has replaced is served to nobody any more. That of a confirmed one stands.
    let later = with(&[Verdict::Replaced], false);
    hide(transaction, gone.iter().map(|rival| rival.there), None).await?;
    hide(transaction, later.iter().map(|rival| rival.there), Some(now)).await?;
    // Who was told that the path is there relies on what is there now.
    query(
        "INSERT INTO leases (push, path)
         SELECT l.push, p.id FROM paths p
         JOIN paths q ON q.cache = p.cache AND q.hash = p.hash AND q.id <> p.id
         JOIN leases l ON l.path = q.id JOIN pushes u ON u.id = l.push AND u.state = 'open'
         WHERE p.push = ?1 AND p.hidden = 0 AND l.push <> ?1 ON CONFLICT DO NOTHING",
    )
    .bind(push)
    .execute(&mut *transaction)
    .await?;
    for (outcome, rivals) in [
        (Outcome::Kept, kept.into_iter().filter(|rival| rival.verdict == Verdict::Kept).collect()),
        (Outcome::Replaced, later),
        (Outcome::Ordered, with(&[Verdict::Replaced], true)),
    ] {
        for batch in rivals.chunks(BATCH) {
            let mut insert = QueryBuilder::new(
                "INSERT INTO divergences (push, hash, name, kept, pushed, outcome, noted_at, kept_push) ",
            );
            insert.push_values(batch, |mut row, rival| {
                row.push_bind(push)
                    .push_bind(rival.hash.0.to_vec())
                    .push_bind(rival.name.as_str())
                    .push_bind(&rival.before.0[..])
                    .push_bind(&rival.brought.0[..])
                    .push_bind(outcome.as_str())
                    .push_bind(now)
                    .push_bind(rival.before_push);
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
        }
    }
    Ok(())
}

fn rival(row: &Row) -> Result<Rival, MetadataError> {
    let brought = standing(row.try_get(7)?, row.try_get(8)?)?;
    let there = standing(row.try_get(9)?, row.try_get(10)?)?;
    Ok(Rival {
        staged: row.try_get(0)?,
        there: row.try_get(1)?,
        hash: StorePathHash(blob(row.try_get(2)?)?),
        name: row.try_get(3)?,
        before: NarHash(blob(row.try_get(4)?)?),
        before_push: row.try_get(5)?,
        brought: NarHash(blob(row.try_get(6)?)?),
        ordered: brought.ordered,
        verdict: brought.against(there, row.try_get(11)?),
    })
}

async fn hide(
    transaction: &mut Transaction,
    paths: impl Iterator<Item = i64>,
    replaced_at: Option<i64>,
) -> Result<(), MetadataError> {
    let paths: Vec<i64> = paths.collect();
    for batch in paths.chunks(BATCH) {
        let mut update = QueryBuilder::new("UPDATE paths SET hidden = 1, replaced_at = ");
        update.push_bind(replaced_at).push(" WHERE id IN (");
        let mut list = update.separated(", ");
        for path in batch {
            list.push_bind(*path);
        }
        update.push(")");
        update.build().persistent(false).execute(&mut *transaction).await?;
    }
    Ok(())
}
