//! A row of an answer.

use super::Value;
use sqlx::{
    ColumnIndex, Decode, Postgres, Row as _, Sqlite, Type, TypeInfo as _, ValueRef as _, postgres::PgRow,
    sqlite::SqliteRow,
};

/// A row, of either database.
pub(in super::super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// The column at this place, or with this name.
    pub(in super::super) fn try_get<'r, T: Column<'r>>(
        &'r self,
        column: impl Place,
    ) -> Result<T, sqlx::Error> {
        T::of(self, column)
    }

    /// All columns, as what they hold.
    pub(in super::super) fn values(&self) -> Result<Vec<Value>, sqlx::Error> {
        let columns = match self {
            Self::Sqlite(row) => row.len(),
            Self::Postgres(row) => row.len(),
        };
        (0..columns).map(|column| self.value(column)).collect()
    }

    fn value(&self, column: usize) -> Result<Value, sqlx::Error> {
        let kind = match self {
            Self::Sqlite(row) => row.try_get_raw(column)?.type_info().name().to_owned(),
            Self::Postgres(row) => row.try_get_raw(column)?.type_info().name().to_owned(),
        };
        Ok(match kind.as_str() {
            "NULL" | "INTEGER" | "INT8" => Value::Number(self.try_get(column)?),
            "TEXT" => Value::Text(self.try_get(column)?),
            "BLOB" | "BYTEA" => Value::Bytes(self.try_get(column)?),
            _ => return Err(sqlx::Error::Decode(format!("no column is of the type {kind}").into())),
        })
    }

    fn get<'r, T>(&'r self, column: impl Place) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A column's place or name.
pub(in super::super) trait Place:
    ColumnIndex<SqliteRow> + ColumnIndex<PgRow> + Copy
{
}
impl<P: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> + Copy> Place for P {}

/// What a column can be read as.
pub(in super::super) trait Column<'r>: Sized {
    fn of(row: &'r Row, column: impl Place) -> Result<Self, sqlx::Error>;
}

macro_rules! columns {
    ($($kind:ty),*) => {$(
        impl<'r> Column<'r> for $kind {
            fn of(row: &'r Row, column: impl Place) -> Result<Self, sqlx::Error> {
                row.get(column)
            }
        }
        impl<'r> Column<'r> for Option<$kind> {
            fn of(row: &'r Row, column: impl Place) -> Result<Self, sqlx::Error> {
                row.get(column)
            }
        }
    )*};
}

columns!(String, &'r str, Vec<u8>, &'r [u8]);

/// What is counted or written out in a statement is of no column's type.
impl Column<'_> for Option<i64> {
    fn of(row: &Row, column: impl Place) -> Result<Self, sqlx::Error> {
        let Row::Postgres(row) = row else { return row.get(column) };
        match row.try_get_raw(column)?.type_info().name() {
            "INT4" => Ok(row.try_get::<Option<i32>, _>(column)?.map(i64::from)),
            "BOOL" => Ok(row.try_get::<Option<bool>, _>(column)?.map(i64::from)),
            _ => row.try_get(column),
        }
    }
}

impl Column<'_> for i64 {
    fn of(row: &Row, column: impl Place) -> Result<Self, sqlx::Error> {
        let number: Option<Self> = row.try_get(column)?;
        number.ok_or_else(|| sqlx::Error::Decode(Box::new(sqlx::error::UnexpectedNullError)))
    }
}

/// Both know what is true. What is noted of it in a column is a number in both.
impl Column<'_> for bool {
    fn of(row: &Row, column: impl Place) -> Result<Self, sqlx::Error> {
        match row {
            Row::Sqlite(_) => row.get(column),
            Row::Postgres(_) => Ok(row.try_get::<i64>(column)? != 0),
        }
    }
}
