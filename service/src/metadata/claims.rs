//! Relying on paths that are there, while a sweep may be under way.
//!
//! A sweep takes only paths that an earlier sweep found dead (`dead_since`), and it takes referrers before what they
//! refer to. Whoever begins to rely on a path *claims* it in the same transaction: the path is dead no more, and where it
//! was, its row in `claimed_paths` tells the sweep under way, which looks there in each transaction that deletes, and
//! leaves the whole closure alone. What decides between the two is the lock of whoever writes, which both transactions take
//! before anything is read.

use super::{
    BATCH, MetadataError,
    sql::{QueryBuilder, Transaction},
};

/// Claims paths by their rows.
pub(super) async fn claim(transaction: &mut Transaction, paths: &[i64]) -> Result<(), MetadataError> {
    for batch in paths.chunks(BATCH) {
        let mut insert = QueryBuilder::new(
            "INSERT INTO claimed_paths (path) SELECT id FROM paths WHERE dead_since IS NOT NULL AND id IN (",
        );
        list(&mut insert, batch);
        insert.push(") ON CONFLICT DO NOTHING");
        let claimed = insert.build().persistent(false).execute(&mut *transaction).await?.rows_affected();
        if claimed > 0 {
            let mut update = QueryBuilder::new(
                "UPDATE paths SET dead_since = NULL WHERE dead_since IS NOT NULL AND id IN (",
            );
            list(&mut update, batch);
            update.push(")");
            update.build().persistent(false).execute(&mut *transaction).await?;
        }
    }
    Ok(())
}

/// Rows, commas between them, for `IN (…)`. Nothing is in an empty list.
pub(super) fn list(query: &mut QueryBuilder, ids: &[i64]) {
    if ids.is_empty() {
        query.push("NULL");
    }
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(*id);
    }
}
