//! All rows in a file, and back: a form that no database has for itself, so that another one may read it.
//!
//! A zstd stream with a checksum, of lines of JSON:
//!
//! ```text
//! {"larder":"export","format":1,"schema":[1,2,…],"version":"0.1.0","exported_at":1790078400}
//! {"table":"objects","columns":["id","key",…]}
//! [1,"frames/0/…",{"hex":"…"},null]          a row: numbers, texts, bytes, nothing
//! …
//! {"rows":12345}                             the end
//! ```
//!
//! Tables stand behind those that they refer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
};

use data_encoding::HEXLOWER;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{
    Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection, TypeInfo as _, ValueRef as _,
    sqlite::SqliteRow,
};

use super::{BATCH, MIGRATIONS, Metadata, MetadataError};

const FORMAT: u32 = 1;
/// How many values one statement binds at most.
const BOUND: usize = 30_000;
/// No line is longer: a row with a webhook's body has some 50 MiB, in hexadecimal.
const LONGEST: u64 = 256 << 20;
/// What says how numbers of rows go on, in SQLite.
const SEQUENCES: &str = "sqlite_sequence";

/// An export cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Reading or writing failed.
    #[error("the export cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// It is none, or not whole.
    #[error("this is no whole export of larderd: {0}")]
    Malformed(String),
    /// It is of another schema.
    #[error(
        "the export is by larderd {theirs} with another schema of the database than this larderd {ours} has. Import it by \
         that larderd, then start this one, which brings the schema up to date"
    )]
    OtherSchema {
        /// The version that exported.
        theirs: String,
        /// This version.
        ours: &'static str,
    },
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Metadata(error.into())
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    larder: String,
    format: u32,
    schema: Vec<i64>,
    version: String,
    exported_at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Table { table: String, columns: Vec<String> },
    Row(Vec<Value>),
    End { rows: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Nothing(()),
    Number(i64),
    Text(String),
    Bytes { hex: String },
}

fn schema() -> Vec<i64> {
    MIGRATIONS.iter().map(|migration| migration.version).collect()
}

fn malformed(problem: impl ToString) -> ExportError {
    ExportError::Malformed(problem.to_string())
}

impl Metadata {
    /// Whether anybody has pushed, or was given anything: an empty database may be replaced.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_used(&self) -> Result<bool, MetadataError> {
        let used: i64 = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM objects) OR EXISTS (SELECT 1 FROM pushes) OR EXISTS (SELECT 1 FROM tokens)
                 OR EXISTS (SELECT 1 FROM pins) OR EXISTS (SELECT 1 FROM bound_names) OR EXISTS (SELECT 1 FROM deliveries)
                 OR EXISTS (SELECT 1 FROM isolated_caches) OR EXISTS (SELECT 1 FROM manifests)",
        )
        .fetch_one(self.reader())
        .await?;
        Ok(used != 0)
    }

    /// Writes all rows as they are at one moment. Nobody waits for it. Tells how many there are.
    ///
    /// # Errors
    /// When the database fails, or `out` does.
    pub async fn export(&self, out: impl Write + Send, now: i64) -> Result<u64, ExportError> {
        let mut connection = SqliteConnection::connect_with(&self.reading).await?;
        // The first look takes the snapshot that all later ones see.
        let mut snapshot = connection.begin().await?;
        let tables = tables(&mut snapshot).await?;
        let mut out = zstd::Encoder::new(out, 3)?;
        out.include_checksum(true)?;
        let header = Header {
            larder: "export".to_owned(),
            format: FORMAT,
            schema: schema(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exported_at: now,
        };
        write_line(&mut out, &header)?;
        let mut count = 0;
        for table in tables {
            let columns = columns(&mut snapshot, &table).await?;
            write_line(&mut out, &Line::Table { table: table.clone(), columns })?;
            let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM ");
            query.push(table);
            let mut rows = query.build().persistent(false).fetch(&mut *snapshot);
            while let Some(row) = rows.try_next().await? {
                write_line(&mut out, &Line::Row(values(&row)?))?;
                count += 1;
            }
        }
        write_line(&mut out, &Line::End { rows: count })?;
        out.finish()?.flush()?;
        snapshot.rollback().await?;
        connection.close().await?;
        Ok(count)
    }

    /// Reads all rows into a database that has none. Tells how many there are, and when they were exported.
    ///
    /// # Errors
    /// When it is no export, one of another schema, or not whole: then some rows may be there.
    pub async fn import(&self, reading: impl Read + Send) -> Result<(u64, i64), ExportError> {
        let mut lines = BufReader::new(zstd::Decoder::new(reading)?);
        let header = read_line(&mut lines)?.ok_or_else(|| malformed("it is empty"))?;
        let header: Header =
            serde_json::from_str(&header).map_err(|_| malformed("it does not say that it is one"))?;
        if header.larder != "export" {
            return Err(malformed("it does not say that it is one"));
        }
        if header.format != FORMAT || header.schema != schema() {
            let theirs = header.version.chars().take(40).collect();
            return Err(ExportError::OtherSchema { theirs, ours: env!("CARGO_PKG_VERSION") });
        }
        let known = {
            let mut connection = self.reader().acquire().await?;
            tables(&mut connection).await?.into_iter().collect::<BTreeSet<_>>()
        };
        let (mut into, mut batch, mut count) = (None::<(String, Vec<String>)>, Vec::new(), 0);
        loop {
            let line = read_line(&mut lines)?.ok_or_else(|| malformed("its end is missing"))?;
            match serde_json::from_str(&line).map_err(|_| malformed("a line cannot be read"))? {
                Line::Row(values) => {
                    let (_, columns) = into.as_ref().ok_or_else(|| malformed("a row is of no table"))?;
                    if values.len() != columns.len() {
                        return Err(malformed("a row has another number of values than its table"));
                    }
                    batch.push(values);
                    count += 1;
                    if batch.len() == BATCH {
                        self.insert(into.as_ref(), std::mem::take(&mut batch)).await?;
                    }
                }
                Line::Table { table, columns } => {
                    self.insert(into.as_ref(), std::mem::take(&mut batch)).await?;
                    let there = match known.contains(&table) {
                        true => columns_of(self, &table).await?,
                        false => return Err(malformed("it has a table that there is not")),
                    };
                    if there != columns {
                        return Err(malformed("a table has other columns"));
                    }
                    into = Some((table, columns));
                }
                Line::End { rows } => {
                    self.insert(into.as_ref(), std::mem::take(&mut batch)).await?;
                    if rows != count {
                        return Err(malformed("rows are missing"));
                    }
                    // Reads to the end, where the checksum is.
                    if read_line(&mut lines)?.is_some() {
                        return Err(malformed("something follows its end"));
                    }
                    return Ok((count, header.exported_at));
                }
            }
        }
    }

    async fn insert(
        &self,
        into: Option<&(String, Vec<String>)>,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), ExportError> {
        let Some((table, columns)) = into.filter(|_| !rows.is_empty()) else { return Ok(()) };
        let mut rows =
            rows.into_iter().map(|row| row.into_iter().map(bytes_of).collect::<Result<Vec<_>, _>>());
        let mut transaction = self.write().await?;
        loop {
            let some: Vec<Vec<Bound>> =
                rows.by_ref().take(BOUND / columns.len().max(1)).collect::<Result<_, _>>()?;
            if some.is_empty() {
                transaction.commit().await?;
                return Ok(());
            }
            // What counts rows counted the rows that were just inserted.
            let verb = if table == SEQUENCES { "INSERT OR REPLACE INTO " } else { "INSERT INTO " };
            let mut insert = QueryBuilder::<Sqlite>::new(verb);
            if table == SEQUENCES {
                sqlx::query("DELETE FROM sqlite_sequence").execute(&mut *transaction).await?;
            }
            insert.push(table).push(" (").push(columns.join(", ")).push(") ");
            insert.push_values(some, |mut row, values| {
                for value in values {
                    match value {
                        Bound::Nothing => row.push_bind(None::<i64>),
                        Bound::Number(number) => row.push_bind(number),
                        Bound::Text(text) => row.push_bind(text),
                        Bound::Bytes(bytes) => row.push_bind(bytes),
                    };
                }
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
        }
    }
}

/// A value that is to be bound.
enum Bound {
    Nothing,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

fn bytes_of(value: Value) -> Result<Bound, ExportError> {
    Ok(match value {
        Value::Nothing(()) => Bound::Nothing,
        Value::Number(number) => Bound::Number(number),
        Value::Text(text) => Bound::Text(text),
        Value::Bytes { hex } => {
            let bytes =
                HEXLOWER.decode(hex.as_bytes()).map_err(|_| malformed("a row's bytes cannot be read"))?;
            Bound::Bytes(bytes)
        }
    })
}

fn values(row: &SqliteRow) -> Result<Vec<Value>, ExportError> {
    (0..row.columns().len())
        .map(|column| {
            let raw = row.try_get_raw(column)?;
            if raw.is_null() {
                return Ok(Value::Nothing(()));
            }
            let kind = raw.type_info().name().to_owned();
            Ok(match kind.as_str() {
                "INTEGER" => Value::Number(row.try_get_unchecked(column)?),
                "TEXT" => Value::Text(row.try_get_unchecked(column)?),
                "BLOB" => Value::Bytes { hex: HEXLOWER.encode(row.try_get_unchecked(column)?) },
                _ => return Err(MetadataError::Damaged("a column has a type that no column has").into()),
            })
        })
        .collect()
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), ExportError> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

fn read_line(lines: &mut impl BufRead) -> Result<Option<String>, ExportError> {
    let mut line = String::new();
    let read = lines.take(LONGEST).read_line(&mut line)?;
    if read as u64 == LONGEST {
        return Err(malformed("a line is too long"));
    }
    Ok((read > 0).then_some(line))
}

async fn columns_of(metadata: &Metadata, table: &str) -> Result<Vec<String>, ExportError> {
    let mut connection = metadata.reader().acquire().await?;
    Ok(columns(&mut connection, table).await?)
}

async fn columns(connection: &mut SqliteConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query_scalar("SELECT name FROM pragma_table_info(?) ORDER BY cid").bind(table);
    rows.fetch_all(connection).await
}

/// All tables, each behind those that it refers to.
async fn tables(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> '_sqlx_migrations'
           AND (name NOT LIKE 'sqlite~_%' ESCAPE '~' OR name = 'sqlite_sequence') ORDER BY name",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut open = BTreeMap::new();
    for name in names.iter().filter(|name| *name != SEQUENCES) {
        let parents: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?)")
                .bind(name)
                .fetch_all(&mut *connection)
                .await?;
        open.insert(
            name.clone(),
            parents.into_iter().filter(|parent| parent != name).collect::<BTreeSet<_>>(),
        );
    }
    let mut ordered = Vec::with_capacity(names.len());
    while let Some(next) =
        open.iter().find(|(_, parents)| parents.iter().all(|parent| !open.contains_key(parent)))
    {
        let next = next.0.clone();
        open.remove(&next);
        ordered.push(next);
    }
    // Of tables that refer to each other there are none; the database would refuse their rows.
    ordered.extend(open.into_keys());
    ordered.extend(names.into_iter().filter(|name| name == SEQUENCES));
    Ok(ordered)
}
