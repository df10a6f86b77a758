//! Committing a push: all that it stages becomes visible at one moment.

use std::collections::HashSet;

use larder_protocol::{
    StorePathHash,
    api::{CacheName, PathInfo, PushId},
};

use super::super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, audit, blob,
    claims::{claim, list},
    divergences,
    marks::reference_hashes,
    number,
    paths::path_info,
    records::note_record,
    runs::note_committed,
    sql::{QueryBuilder, Transaction, query, query_scalar},
};
use crate::audit::{Entry, Event, Who};

/// Why a push cannot be committed yet.
#[derive(Debug)]
pub enum CommitOutcome {
    /// It is committed, now or before.
    Committed,
    /// So many of its paths have no verified NAR.
    Unverified(u64),
    /// It is not there any more.
    Gone,
}

impl Metadata {
    /// Makes all of a push's paths visible at one moment, but those for which the cache has one that stands against
    /// them. `record` is the object that tells what it publishes, and how long that is.
    pub async fn commit_push(
        &self,
        push: i64,
        namespaces: &[Namespace],
        record: Option<(ObjectId, u64)>,
        now: i64,
        who: &Who,
    ) -> Result<CommitOutcome, MetadataError> {
        let mut transaction = self.write().await?;
        let find = "SELECT state FROM pushes WHERE id = ? AND abandoned_at IS NULL";
        let state: Option<String> = query_scalar(find).bind(push).fetch_optional(&mut transaction).await?;
        match state.as_deref() {
            Some("open") => {}
            Some(_) => return Ok(CommitOutcome::Committed),
            None => return Ok(CommitOutcome::Gone),
        }
        // Another push may have verified the same NAR since. One that may not know of that sends it itself.
        for namespace in namespaces {
            query(
                "UPDATE paths SET nar = (SELECT n.id FROM nars n WHERE n.complete = 1 AND n.namespace = ?
                     AND n.hash = nar_hash AND n.size = nar_size)
                 WHERE push = ? AND nar IS NULL AND (SELECT blind FROM pushes WHERE id = push) IS NULL",
            )
            .bind(namespace.0)
            .bind(push)
            .execute(&mut transaction)
            .await?;
        }
        let unverified: i64 =
            query_scalar("SELECT count(*) FROM paths WHERE push = ? AND (nar IS NULL OR unproven = 1)")
                .bind(push)
                .fetch_one(&mut transaction)
                .await?;
        if unverified > 0 {
            return Ok(CommitOutcome::Unverified(number(unverified)?));
        }
        divergences::settle(&mut transaction, push, now).await?;
        // What stays in their stead is relied on as what was there when the push was opened.
        let stand: Vec<i64> = query_scalar(
            "SELECT q.id FROM paths p JOIN paths q ON q.cache = p.cache AND q.hash = p.hash AND q.hidden = 0 AND q.push <> p.push
             JOIN pushes u ON u.id = q.push AND u.state = 'committed' WHERE p.push = ? AND p.hidden = 1",
        )
        .bind(push)
        .fetch_all(&mut transaction)
        .await?;
        claim(&mut transaction, &stand).await?;
        lease_what_is_needed(&mut transaction, push).await?;
        note_committed(&mut transaction, push, now).await?;
        note_record(&mut transaction, push, record).await?;
        query("UPDATE pushes SET state = 'committed', committed_at = ?, active_at = ? WHERE id = ?")
            .bind(now)
            .bind(now)
            .bind(push)
            .execute(&mut transaction)
            .await?;
        let entry = committed_entry(&mut transaction, push, who).await?;
        audit::record(&mut transaction, &entry, now).await?;
        transaction.commit().await?;
        Ok(CommitOutcome::Committed)
    }

    /// What a committed push made visible.
    pub async fn published_by(&self, push: i64) -> Result<Vec<PathInfo>, MetadataError> {
        query(
            "SELECT hash, name, nar_hash, nar_size, refs, deriver, ca, signatures FROM paths
             WHERE push = ? AND hidden = 0",
        )
        .bind(push)
        .fetch_each(self.reader(), path_info)
        .await
    }
}

/// Leaves of what a pull request's push leased in the parent only what its paths refer to: that stays as long as their
/// cache does. What another push of that cache leases so is leased once.
async fn lease_what_is_needed(transaction: &mut Transaction, push: i64) -> Result<(), MetadataError> {
    let isolated: bool = query_scalar("SELECT cache LIKE '%~%' FROM pushes WHERE id = ?")
        .bind(push)
        .fetch_one(&mut *transaction)
        .await?;
    if !isolated {
        return Ok(());
    }
    let refs: Vec<String> = query_scalar("SELECT refs FROM paths WHERE push = ? AND hidden = 0")
        .bind(push)
        .fetch_all(&mut *transaction)
        .await?;
    let needed: HashSet<StorePathHash> =
        refs.iter().flat_map(|refs| reference_hashes(refs)).collect::<Result<_, _>>()?;
    let leased = query(
        "SELECT l.path, p.hash, p.cache = u.cache OR EXISTS (
             SELECT 1 FROM leases o JOIN pushes v ON v.id = o.push
             WHERE o.path = l.path AND v.cache = u.cache AND v.state = 'committed')
         FROM leases l JOIN pushes u ON u.id = l.push JOIN paths p ON p.id = l.path WHERE l.push = ?",
    )
    .bind(push)
    .fetch_all(&mut *transaction)
    .await?;
    let mut spare: Vec<i64> = Vec::new();
    for row in &leased {
        if row.try_get(2)? || !needed.contains(&StorePathHash(blob(row.try_get(1)?)?)) {
            spare.push(row.try_get(0)?);
        }
    }
    for batch in spare.chunks(BATCH) {
        let mut delete = QueryBuilder::new("DELETE FROM leases WHERE push = ");
        delete.push_bind(push).push(" AND path IN (");
        list(&mut delete, batch);
        delete.push(")");
        delete.build().persistent(false).execute(&mut *transaction).await?;
    }
    Ok(())
}

/// What goes on record of a push that is committed.
pub(super) async fn committed_entry(
    transaction: &mut Transaction,
    push: i64,
    who: &Who,
) -> Result<Entry, MetadataError> {
    let row = query(
        "SELECT u.name, u.cache,
                (SELECT count(*) FROM paths p WHERE p.push = u.id AND p.hidden = 0),
                (SELECT CAST(coalesce(sum(p.nar_size), 0) AS BIGINT) FROM paths p WHERE p.push = u.id AND p.hidden = 0),
                (SELECT count(*) FROM divergences d WHERE d.push = u.id)
         FROM pushes u WHERE u.id = ?",
    )
    .bind(push)
    .fetch_one(&mut *transaction)
    .await?;
    let committed = Event::PushCommitted {
        push: PushId(blob(row.try_get(0)?)?).to_string(),
        paths: number(row.try_get(2)?)?,
        bytes: number(row.try_get(3)?)?,
        divergences: number(row.try_get(4)?)?,
    };
    let cache: CacheName = row
        .try_get::<&str>(1)?
        .parse()
        .map_err(|_| MetadataError::Damaged("a push's cache has no such name"))?;
    Ok(Entry::in_cache(&cache, who.clone(), committed))
}
