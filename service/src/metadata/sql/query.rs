//! Statements, and how they are run.

use std::{borrow::Cow, marker::PhantomData, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Postgres, SqlSafeStr as _, Sqlite, postgres::PgArguments, sqlite::SqliteArguments,
};

use super::{
    Column, Row, Target, Value,
    limit::{ANSWER_WITHIN, within},
    placeholders::numbered,
};

/// A statement, and what is bound to it.
pub(in super::super) struct Query {
    text: Cow<'static, str>,
    /// Where PostgreSQL must be asked otherwise.
    postgres: Option<&'static str>,
    values: Vec<Value>,
    persistent: bool,
}

/// A statement: never with what came from outside in its text.
pub(in super::super) fn query(text: impl Into<Cow<'static, str>>) -> Query {
    Query { text: text.into(), postgres: None, values: Vec::new(), persistent: true }
}

/// A statement that the two have no words in common for.
pub(in super::super) fn query_either(sqlite: &'static str, postgres: &'static str) -> Query {
    Query { postgres: Some(postgres), ..query(sqlite) }
}

/// A statement whose answer has one column.
pub(in super::super) fn query_scalar<T>(text: impl Into<Cow<'static, str>>) -> Scalar<T> {
    query(text).into()
}

/// How many rows were written.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Written(u64);

impl Written {
    pub(in super::super) fn rows_affected(self) -> u64 {
        self.0
    }
}

/// Runs a statement where it is to be run, on the one database or the other, whose answer is waited for so long.
macro_rules! run {
    ($query:expr, $on:expr, |$statement:ident, $target:ident, $row:ident, $limit:ident| $run:expr) => {
        match $on.into() {
            Target::SqlitePool($target) => {
                let ($statement, $row, $limit) = ($query.for_sqlite(), Row::Sqlite, None::<Duration>);
                $run
            }
            Target::Sqlite($target) => {
                let ($statement, $row, $limit) = ($query.for_sqlite(), Row::Sqlite, None::<Duration>);
                $run
            }
            Target::PostgresPool($target) => {
                let ($statement, $row, $limit) = ($query.for_postgres(), Row::Postgres, Some(ANSWER_WITHIN));
                $run
            }
            Target::Postgres($target) => {
                let ($statement, $row, $limit) = ($query.for_postgres(), Row::Postgres, Some(ANSWER_WITHIN));
                $run
            }
        }
    };
}

/// A statement of one of the databases, with what is bound to it.
macro_rules! bound {
    ($query:expr, $values:expr) => {
        $values.into_iter().fold($query, |query, value| match value {
            Value::Number(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        })
    };
}

impl Query {
    pub(super) fn built(text: String, values: Vec<Value>) -> Self {
        Self { text: Cow::Owned(text), postgres: None, values, persistent: true }
    }

    pub(in super::super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Whether the connection keeps the prepared statement: not where its text is another one almost every time.
    pub(in super::super) fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    pub(in super::super) async fn execute<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> Result<Written, sqlx::Error> {
        run!(self, on, |statement, target, _row, limit| Ok(Written(
            within(limit, statement.execute(target)).await?.rows_affected()
        )))
    }

    pub(in super::super) async fn fetch_all<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        run!(self, on, |statement, target, row, limit| {
            within(limit, statement.fetch(target).map_ok(row).try_collect()).await
        })
    }

    /// What is read of each row, as it comes: a row takes many times as much memory as what is read of it.
    pub(in super::super) async fn fetch_each<'e, T, E: From<sqlx::Error>>(
        self,
        on: impl Into<Target<'e>>,
        read: impl Fn(&Row) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        run!(self, on, |statement, target, row, limit| {
            let each = statement.fetch(target).map(|next| read(&row(next?)));
            within(limit, each.try_collect()).await
        })
    }

    pub(in super::super) async fn fetch_optional<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> Result<Option<Row>, sqlx::Error> {
        run!(self, on, |statement, target, row, limit| Ok(within(limit, statement.fetch_optional(target))
            .await?
            .map(row)))
    }

    pub(in super::super) async fn fetch_one<'e>(self, on: impl Into<Target<'e>>) -> Result<Row, sqlx::Error> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Row by row, and as slowly as it is read.
    pub(in super::super) fn fetch<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> BoxStream<'e, Result<Row, sqlx::Error>> {
        run!(self, on, |statement, target, row, _limit| statement.fetch(target).map_ok(row).boxed())
    }

    fn for_sqlite(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        let text = match self.text {
            Cow::Borrowed(text) => text.into_sql_str(),
            Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
        };
        bound!(sqlx::query::<Sqlite>(text).persistent(self.persistent), self.values)
    }

    fn for_postgres(self) -> sqlx::query::Query<'static, Postgres, PgArguments> {
        let text = AssertSqlSafe(numbered(self.postgres.unwrap_or(&self.text))).into_sql_str();
        bound!(sqlx::query::<Postgres>(text).persistent(self.persistent), self.values)
    }
}

/// A statement whose answer has one column.
pub(in super::super) struct Scalar<T>(Query, PhantomData<fn() -> T>);

impl<T> From<Query> for Scalar<T> {
    fn from(query: Query) -> Self {
        Self(query, PhantomData)
    }
}

impl<T: for<'r> Column<'r>> Scalar<T> {
    pub(in super::super) fn bind(self, value: impl Into<Value>) -> Self {
        self.0.bind(value).into()
    }

    pub(in super::super) fn persistent(self, persistent: bool) -> Self {
        self.0.persistent(persistent).into()
    }

    pub(in super::super) async fn fetch_all<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> Result<Vec<T>, sqlx::Error> {
        self.0.fetch_all(on).await?.iter().map(|row| row.try_get(0)).collect()
    }

    pub(in super::super) async fn fetch_optional<'e>(
        self,
        on: impl Into<Target<'e>>,
    ) -> Result<Option<T>, sqlx::Error> {
        self.0.fetch_optional(on).await?.map(|row| row.try_get(0)).transpose()
    }

    pub(in super::super) async fn fetch_one<'e>(self, on: impl Into<Target<'e>>) -> Result<T, sqlx::Error> {
        self.0.fetch_one(on).await?.try_get(0)
    }
}
