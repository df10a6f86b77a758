//! Rows on their way into a database, whether they come from a file or from another database: all in one transaction.

use futures_util::TryStreamExt as _;

use super::{
    BATCH, Metadata, MetadataError,
    moves::{self, Moving},
    schema::{self, SEQUENCES, TOTALS},
    sql::{QueryBuilder, Transaction, Value, query, query_either},
};

/// How many values one statement binds at most: SQLite takes 32,766.
const BOUND: usize = 30_000;
/// How many bytes of texts and bytes one statement binds, or little more: a webhook's body has up to 25 MiB.
const BYTES: usize = 8 << 20;

/// What a row holds; where it holds nothing, of which type nobody knows.
pub(super) type Values = Vec<Option<Value>>;

/// Rows that are being written, table after table. A table comes behind those that it refers to.
pub(super) struct Copying<'t> {
    transaction: &'t mut Transaction,
    table: String,
    columns: Vec<String>,
    rows: Vec<Values>,
    bytes: usize,
    copied: u64,
}

impl<'t> Copying<'t> {
    /// Begins to write into a database that has no rows.
    pub(super) fn into(transaction: &'t mut Transaction) -> Self {
        let (table, columns) = (String::new(), Vec::new());
        Self { transaction, table, columns, rows: Vec::new(), bytes: 0, copied: 0 }
    }

    /// The rows that follow are of this table, and their values of these columns.
    pub(super) async fn table(&mut self, table: &str, columns: &[String]) -> Result<(), MetadataError> {
        self.write().await?;
        (self.table, self.columns) = (table.to_owned(), columns.to_owned());
        if table == SEQUENCES {
            schema::prepare_sequences(self.transaction).await?;
        }
        Ok(())
    }

    /// Takes a row.
    pub(super) async fn row(&mut self, values: Values) -> Result<(), MetadataError> {
        self.bytes += values.iter().flatten().map(Value::len).sum::<usize>();
        self.rows.push(values);
        self.copied += 1;
        let full = BATCH.min(BOUND / self.columns.len().max(1));
        if self.rows.len() >= full || self.bytes >= BYTES { self.write().await } else { Ok(()) }
    }

    /// Writes what is left, lets numbers of rows go on behind those that came, and tells how many came.
    pub(super) async fn finish(mut self) -> Result<u64, MetadataError> {
        self.write().await?;
        schema::go_on_numbering(self.transaction).await?;
        Ok(self.copied)
    }

    async fn write(&mut self) -> Result<(), MetadataError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let mut insert = QueryBuilder::new("INSERT INTO ");
        insert.push(&self.table).push(" (").push(self.columns.join(", ")).push(") ");
        insert.push_values(rows, |mut row, values| {
            for value in values {
                match value {
                    Some(value) => row.push_bind(value),
                    None => row.push("NULL"),
                };
            }
        });
        if self.table == TOTALS {
            // The chunks that came before were counted as they came.
            insert.push(
                " ON CONFLICT (namespace) DO UPDATE SET chunks = excluded.chunks, bytes = excluded.bytes",
            );
        }
        insert.build().persistent(false).execute(&mut *self.transaction).await?;
        Ok(())
    }
}

impl Metadata {
    /// Takes onto this server all rows of another database, as they are at one moment, and `arriving` with them, in the
    /// place of what is here. Tells how many.
    ///
    /// # Errors
    /// When one of the databases fails; [`MetadataError::InUse`] if what is here belongs to somebody. Then nothing is
    /// changed.
    pub(crate) async fn copy_from(
        &self,
        source: &Self,
        arriving: Option<&Moving>,
    ) -> Result<u64, MetadataError> {
        let mut reading = source.apart().await?;
        // The first look takes the snapshot that all later ones see.
        let begin = query_either("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
        begin.execute(&mut reading).await?;
        let mut transaction = self.write().await?;
        self.make_room(&mut transaction, arriving).await?;
        let mut copying = Copying::into(&mut transaction);
        for table in schema::tables(source.reader()).await? {
            let columns = schema::columns(&mut reading, &table).await?;
            copying.table(&table, &columns).await?;
            let mut rows = schema::rows(&reading, &table, &columns);
            let mut rows = rows.build().persistent(false).fetch(&mut reading);
            while let Some(row) = rows.try_next().await? {
                let values = row.values()?.into_iter().map(|value| value.is_some().then_some(value));
                copying.row(values.collect()).await?;
            }
        }
        let copied = copying.finish().await?;
        if let Some(arriving) = arriving {
            moves::note(&mut transaction, arriving).await?;
        }
        transaction.commit().await?;
        reading.close().await?;
        Ok(copied)
    }

    /// Removes what a service notes by itself when it starts, and what an earlier attempt at the same move left.
    async fn make_room(
        &self,
        transaction: &mut Transaction,
        arriving: Option<&Moving>,
    ) -> Result<(), MetadataError> {
        let there = self.moving().await?;
        let is_ours = there.is_some_and(|there| arriving.is_some_and(|arriving| arriving.id == there.id));
        if !is_ours && self.is_used().await? {
            return Err(MetadataError::InUse);
        }
        let mut tables = schema::tables(self.reader()).await?;
        tables.retain(|table| table != SEQUENCES);
        query(format!("TRUNCATE moves, {}", tables.join(", "))).execute(transaction).await?;
        Ok(())
    }
}
