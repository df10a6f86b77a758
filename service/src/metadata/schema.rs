//! Which tables there are, with which columns, and what must be behind what when rows are copied.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MetadataError,
    sql::{Connection, Pool, QueryBuilder, Target, Transaction, query, query_either},
};

/// What says how numbers of rows go on: in SQLite a table, which PostgreSQL has something else for.
pub(super) const SEQUENCES: &str = "sqlite_sequence";
/// What the database counts by itself when chunks come and go.
pub(super) const TOTALS: &str = "chunk_totals";

/// All tables of which the rows are Larder's own, wherever they lie, each behind those that it refers to. Not what is noted
/// of [moves](super::moves), which is said of the one database alone, nor of [paces](super::paces), which counts for a minute.
pub(super) async fn tables(pool: &Pool) -> Result<Vec<String>, sqlx::Error> {
    let names = query_either(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('_sqlx_migrations', 'moves', 'paces')
           AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
        "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()
           AND tablename NOT IN ('_sqlx_migrations', 'moves', 'paces') ORDER BY 1",
    );
    let mut open = BTreeMap::new();
    for name in names.fetch_all(pool).await? {
        let name: String = name.try_get(0)?;
        let parents = query_either(
            "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?)",
            "SELECT DISTINCT CAST(confrelid::regclass AS TEXT) FROM pg_constraint
             WHERE contype = 'f' AND conrelid = to_regclass(?)",
        );
        let parents = parents.bind(&name).fetch_all(pool).await?;
        let mut parents =
            parents.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<String>, _>>()?;
        if name == TOTALS {
            parents.insert("chunks".to_owned());
        }
        open.insert(
            name.clone(),
            parents.into_iter().filter(|parent| *parent != name).collect::<BTreeSet<_>>(),
        );
    }
    let mut ordered = Vec::with_capacity(open.len());
    while let Some(next) =
        open.iter().find(|(_, parents)| parents.iter().all(|parent| !open.contains_key(parent)))
    {
        let next = next.0.clone();
        open.remove(&next);
        ordered.push(next);
    }
    // Of tables that refer to each other there are none; the database would refuse their rows.
    ordered.extend(open.into_keys());
    ordered.push(SEQUENCES.to_owned());
    Ok(ordered)
}

/// The columns of a table.
pub(super) async fn columns<'e>(on: impl Into<Target<'e>>, table: &str) -> Result<Vec<String>, sqlx::Error> {
    if table == SEQUENCES {
        return Ok(vec!["name".to_owned(), "seq".to_owned()]);
    }
    let rows = query_either(
        "SELECT name FROM pragma_table_info(?) ORDER BY name",
        "SELECT CAST(attname AS TEXT) FROM pg_attribute
         WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped ORDER BY attname",
    );
    rows.bind(table).fetch_all(on).await?.iter().map(|row| row.try_get(0)).collect()
}

/// All rows of a table with these columns.
pub(super) fn rows(connection: &Connection, table: &str, columns: &[String]) -> QueryBuilder {
    if table == SEQUENCES && matches!(connection, Connection::Postgres(_)) {
        // The one table whose numbers are never used again.
        return QueryBuilder::new(
            "SELECT 'isolated_caches' AS name, last_value AS seq FROM isolated_caches_id_seq WHERE is_called",
        );
    }
    let mut query = QueryBuilder::new("SELECT ");
    query.push(columns.join(", ")).push(" FROM ").push(table);
    query
}

/// Makes way for the rows that say how numbers go on.
pub(super) async fn prepare_sequences(transaction: &mut Transaction) -> Result<(), sqlx::Error> {
    let place = query_either(
        "DELETE FROM sqlite_sequence",
        "CREATE TEMP TABLE sqlite_sequence (name TEXT, seq BIGINT)",
    );
    place.execute(transaction).await?;
    Ok(())
}

/// Lets numbers of rows go on behind those that were copied. SQLite does so by itself.
pub(super) async fn go_on_numbering(transaction: &mut Transaction) -> Result<(), MetadataError> {
    if matches!(transaction, Transaction::Sqlite(_)) {
        return Ok(());
    }
    let numbered = query(
        "SELECT CAST(attrelid::regclass AS TEXT) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
         WHERE attidentity <> '' AND relnamespace = CAST(current_schema() AS regnamespace)",
    );
    for row in numbered.fetch_all(&mut *transaction).await? {
        let table: &str = row.try_get(0)?;
        let mut go_on = QueryBuilder::new("SELECT setval('");
        go_on.push(table).push("_id_seq', greatest((SELECT max(id) FROM ").push(table);
        go_on.push("), (SELECT max(seq) FROM sqlite_sequence WHERE name = '").push(table);
        go_on.push("'), (SELECT last_value FROM ").push(table).push("_id_seq), 1))");
        go_on.build().persistent(false).fetch_one(&mut *transaction).await?;
    }
    query("DROP TABLE sqlite_sequence").execute(transaction).await?;
    Ok(())
}
