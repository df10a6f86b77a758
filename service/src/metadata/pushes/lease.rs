//! Leases: what is visible already and must stay until the push ends.

use larder_protocol::StorePathHash;

use super::super::{
    BATCH, Metadata, MetadataError,
    claims::{claim, list},
    number,
    sql::{QueryBuilder, Transaction},
    sweeping::hold_open,
};

impl Metadata {
    /// Leases visible paths by their rows, so that they stay until the push ends.
    ///
    /// # Errors
    /// [`MetadataError::is_gone`] if one of them is there no more.
    pub async fn lease(&self, push: i64, paths: &[(i64, StorePathHash)]) -> Result<(), MetadataError> {
        for batch in paths.chunks(BATCH) {
            let mut transaction = self.write().await?;
            hold_open(&mut transaction, push).await?;
            lease(&mut transaction, push, batch, true).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}

/// Claims paths by their rows, and leases them where the push goes on. Fails if one of them is there no more.
pub(super) async fn lease(
    transaction: &mut Transaction,
    push: i64,
    paths: &[(i64, StorePathHash)],
    goes_on: bool,
) -> Result<(), MetadataError> {
    let ids: Vec<i64> = paths.iter().map(|(id, _)| *id).collect();
    // By the hash as well: SQLite may give the number of a row that went to another.
    let there = |query: &mut QueryBuilder| {
        query.push(" FROM paths WHERE id IN (");
        list(query, &ids);
        query.push(") AND hash IN (");
        let mut hashes = query.separated(", ");
        for (_, hash) in paths {
            hashes.push_bind(hash.0.to_vec());
        }
        query.push(")");
    };
    let mut count = QueryBuilder::new("SELECT count(*)");
    there(&mut count);
    let found: i64 = count.build_query_scalar().persistent(false).fetch_one(&mut *transaction).await?;
    if number(found)? < paths.len() as u64 {
        return Err(MetadataError::Gone);
    }
    claim(transaction, &ids).await?;
    if goes_on {
        let mut insert = QueryBuilder::new("INSERT INTO leases (push, path) SELECT ");
        insert.push_bind(push).push(", id");
        there(&mut insert);
        insert.push(" ON CONFLICT DO NOTHING");
        insert.build().persistent(false).execute(&mut *transaction).await?;
    }
    Ok(())
}
