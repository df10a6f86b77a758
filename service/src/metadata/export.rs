//! All rows in a file, and back: a form that no database has for itself, so that another one may read it.
//!
//! A zstd stream with a checksum, of lines of JSON:
//!
//! ```text
//! {"larder":"export","format":1,"schema":[49],"version":"0.1.0","exported_at":1790078400}
//! {"table":"objects","columns":["id","key",…]}
//! [1,"frames/0/…",{"hex":"…"},null]          a row: numbers, texts, bytes, nothing
//! …
//! {"rows":12345}                             the end
//! ```
//!
//! Tables stand behind those that they refer to.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
};

use data_encoding::HEXLOWER;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::{
    Metadata, MetadataError,
    copying::Copying,
    schema,
    sql::{self, Row, query, query_either, query_scalar},
};

const FORMAT: u32 = 1;
/// No line is longer: a row with a webhook's body has some 50 MiB, in hexadecimal.
const LONGEST: u64 = 256 << 20;

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

fn malformed(problem: impl ToString) -> ExportError {
    ExportError::Malformed(problem.to_string())
}

impl Metadata {
    /// Whether anybody has pushed, or was given anything: an empty database may be replaced.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_used(&self) -> Result<bool, MetadataError> {
        let used: bool = query_scalar(
            "SELECT EXISTS (SELECT 1 FROM objects) OR EXISTS (SELECT 1 FROM pushes) OR EXISTS (SELECT 1 FROM tokens)
                 OR EXISTS (SELECT 1 FROM pins) OR EXISTS (SELECT 1 FROM bound_names) OR EXISTS (SELECT 1 FROM deliveries)
                 OR EXISTS (SELECT 1 FROM isolated_caches) OR EXISTS (SELECT 1 FROM manifests)",
        )
        .fetch_one(self.reader())
        .await?;
        Ok(used)
    }

    /// Writes all rows as they are at one moment. Nobody waits for it. Tells how many there are.
    ///
    /// # Errors
    /// When the database fails, or `out` does.
    pub async fn export(&self, out: impl Write + Send, now: i64) -> Result<u64, ExportError> {
        let mut connection = self.apart().await?;
        // The first look takes the snapshot that all later ones see.
        let begin = query_either("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
        begin.execute(&mut connection).await?;
        let tables = schema::tables(self.reader()).await?;
        let mut out = zstd::Encoder::new(out, 3)?;
        out.include_checksum(true)?;
        let header = Header {
            larder: "export".to_owned(),
            format: FORMAT,
            schema: vec![Metadata::schema()],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exported_at: now,
        };
        write_line(&mut out, &header)?;
        let mut count = 0;
        for table in tables {
            let columns = schema::columns(&mut connection, &table).await?;
            let mut rows = schema::rows(&connection, &table, &columns);
            write_line(&mut out, &Line::Table { table, columns })?;
            let mut rows = rows.build().persistent(false).fetch(&mut connection);
            while let Some(row) = rows.try_next().await? {
                write_line(&mut out, &Line::Row(values(&row)?))?;
                count += 1;
            }
        }
        write_line(&mut out, &Line::End { rows: count })?;
        out.finish()?.flush()?;
        query("ROLLBACK").execute(&mut connection).await?;
        connection.close().await?;
        Ok(count)
    }

    /// Reads all rows into a database that has none. Tells how many there are, and when they were exported.
    ///
    /// # Errors
    /// When it is no export, one of another schema, or not whole. Then there are none.
    pub async fn import(&self, reading: impl Read + Send) -> Result<(u64, i64), ExportError> {
        let mut lines = BufReader::new(zstd::Decoder::new(reading)?);
        let header = read_line(&mut lines)?.ok_or_else(|| malformed("it is empty"))?;
        let header: Header =
            serde_json::from_str(&header).map_err(|_| malformed("it does not say that it is one"))?;
        if header.larder != "export" {
            return Err(malformed("it does not say that it is one"));
        }
        if header.format != FORMAT || header.schema.last() != Some(&Metadata::schema()) {
            let theirs = header.version.chars().take(40).collect();
            return Err(ExportError::OtherSchema { theirs, ours: env!("CARGO_PKG_VERSION") });
        }
        let known: BTreeSet<String> = schema::tables(self.reader()).await?.into_iter().collect();
        let mut transaction = self.write().await?;
        let mut copying = Copying::into(&mut transaction);
        let mut width = None;
        loop {
            let line = read_line(&mut lines)?.ok_or_else(|| malformed("its end is missing"))?;
            match serde_json::from_str(&line).map_err(|_| malformed("a line cannot be read"))? {
                Line::Row(values) => match width {
                    None => return Err(malformed("a row is of no table")),
                    Some(width) if values.len() != width => {
                        return Err(malformed("a row has another number of values than its table"));
                    }
                    Some(_) => {
                        copying.row(values.into_iter().map(bound).collect::<Result<_, _>>()?).await?;
                    }
                },
                Line::Table { table, columns } => {
                    if !known.contains(&table) {
                        return Err(malformed("it has a table that there is not"));
                    }
                    let there = schema::columns(self.reader(), &table).await?;
                    if there.iter().collect::<BTreeSet<_>>() != columns.iter().collect() {
                        return Err(malformed("a table has other columns"));
                    }
                    copying.table(&table, &columns).await?;
                    width = Some(columns.len());
                }
                Line::End { rows } => {
                    if copying.finish().await? != rows {
                        return Err(malformed("rows are missing"));
                    }
                    // Reads to the end, where the checksum is.
                    if read_line(&mut lines)?.is_some() {
                        return Err(malformed("something follows its end"));
                    }
                    transaction.commit().await?;
                    return Ok((rows, header.exported_at));
                }
            }
        }
    }
}

/// A value that is to be bound, unless it is nothing.
fn bound(value: Value) -> Result<Option<sql::Value>, ExportError> {
    Ok(match value {
        Value::Nothing(()) => None,
        Value::Number(number) => Some(number.into()),
        Value::Text(text) => Some(text.into()),
        Value::Bytes { hex } => {
            let bytes =
                HEXLOWER.decode(hex.as_bytes()).map_err(|_| malformed("a row's bytes cannot be read"))?;
            Some(bytes.into())
        }
    })
}

fn values(row: &Row) -> Result<Vec<Value>, ExportError> {
    let value = |value| match value {
        sql::Value::Number(Some(number)) => Value::Number(number),
        sql::Value::Text(Some(text)) => Value::Text(text),
        sql::Value::Bytes(Some(bytes)) => Value::Bytes { hex: HEXLOWER.encode(&bytes) },
        _ => Value::Nothing(()),
    };
    Ok(row.values()?.into_iter().map(value).collect())
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
