//! What a push publishes, for the record that is written beside its objects, and what such records say of rows.

use larder_protocol::{
    StorePathHash,
    api::{CacheName, PushId},
};

use super::{
    Metadata, MetadataError, Namespace, ObjectId, blob,
    compaction::stored,
    paths::path_info,
    runs::PushingRun,
    sql::{Row, Transaction, query, query_scalar},
};
use crate::push::{PushRecord, RecordedPath};

const DAMAGED: MetadataError = MetadataError::Damaged("a push's row cannot be read");

impl Metadata {
    /// The record of a push, committed or about to be. `None` if there is no such push, or it brings nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn push_record(
        &self,
        push: i64,
        namespace: Namespace,
    ) -> Result<Option<PushRecord>, MetadataError> {
        let paths = query(
            "SELECT hash, name, nar_hash, nar_size, refs, deriver, ca, signatures, rank, ordered, built
             FROM paths WHERE push = ? AND withdrawn_at IS NULL ORDER BY id",
        )
        .bind(push)
        .fetch_each(self.reader(), recorded_path)
        .await?;
        if paths.is_empty() {
            return Ok(None);
        }
        let row = query(
            "SELECT u.id, u.name, u.cache, u.owner, u.provenance, u.opened_at, coalesce(u.committed_at, 0) AS committed_at,
                    r.issuer, r.repository_id, r.repository, r.git_ref, r.ref_protected, r.workflow, r.run_id
             FROM pushes u LEFT JOIN runs r ON r.id = u.run WHERE u.id = ?",
        )
        .bind(push)
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let roots = query_scalar::<Vec<u8>>("SELECT hash FROM push_roots WHERE push = ? ORDER BY hash")
            .bind(push)
            .fetch_all(self.reader())
            .await?;
        let cache: CacheName = row.try_get::<&str>("cache")?.parse().map_err(|_| DAMAGED)?;
        Ok(Some(PushRecord {
            push: PushId(blob(row.try_get("name")?)?),
            row: row.try_get("id")?,
            cache,
            namespace: namespace.0,
            owner: row.try_get("owner")?,
            provenance: row.try_get("provenance")?,
            run: run_of(&row)?,
            opened_at: row.try_get("opened_at")?,
            committed_at: row.try_get("committed_at")?,
            roots: roots
                .iter()
                .map(|hash| Ok(StorePathHash(blob(hash)?)))
                .collect::<Result<_, MetadataError>>()?,
            paths,
        }))
    }

    /// The record of a push is in another object from now on.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if a sweep took the new one for one that nobody needs.
    pub async fn replace_record(&self, push: i64, new: ObjectId, size: u64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        stored(&mut transaction, new, size).await?;
        query("UPDATE pushes SET record = ? WHERE id = ?")
            .bind(new.0)
            .bind(push)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

fn recorded_path(row: &Row) -> Result<RecordedPath, MetadataError> {
    Ok(RecordedPath {
        info: path_info(row)?,
        rank: row.try_get("rank")?,
        ordered: row.try_get("ordered")?,
        built: row.try_get("built")?,
    })
}

fn run_of(row: &Row) -> Result<Option<PushingRun>, MetadataError> {
    let Some(issuer) = row.try_get("issuer")? else { return Ok(None) };
    Ok(Some(PushingRun {
        issuer,
        repository_id: row.try_get("repository_id")?,
        repository: row.try_get("repository")?,
        git_ref: row.try_get("git_ref")?,
        ref_protected: row.try_get("ref_protected")?,
        workflow: row.try_get("workflow")?,
        run_id: row.try_get("run_id")?,
    }))
}

/// Notes, where a push is committed, the object that tells what it published.
pub(super) async fn note_record(
    transaction: &mut Transaction,
    push: i64,
    record: Option<(ObjectId, u64)>,
) -> Result<(), MetadataError> {
    let Some((object, size)) = record else { return Ok(()) };
    let stored = query(
        "UPDATE objects SET state = 'stored', size = ? WHERE id = ? AND state = 'writing' AND doomed_at IS NULL",
    )
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(object.0)
    .execute(&mut *transaction)
    .await?;
    if stored.rows_affected() != 1 {
        return Err(MetadataError::Gone);
    }
    query("UPDATE pushes SET record = ? WHERE id = ?")
        .bind(object.0)
        .bind(push)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
