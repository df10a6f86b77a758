//! Connections: one, several, or one that is in a transaction.

use super::{ANSWER_WITHIN, query, within};
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool};

/// Connections that are shared.
#[derive(Debug, Clone)]
pub(in super::super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A connection for one task.
pub(in super::super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A connection in a transaction. Dropped without `commit`, it leaves nothing.
pub(in super::super) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// Where a statement is run.
pub(in super::super) enum Target<'e> {
    SqlitePool(&'e SqlitePool),
    Sqlite(&'e mut SqliteConnection),
    PostgresPool(&'e PgPool),
    Postgres(&'e mut PgConnection),
}

impl<'e> From<&'e Pool> for Target<'e> {
    fn from(pool: &'e Pool) -> Self {
        match pool {
            Pool::Sqlite(pool) => Self::SqlitePool(pool),
            Pool::Postgres(pool) => Self::PostgresPool(pool),
        }
    }
}

impl<'e> From<&'e mut Connection> for Target<'e> {
    fn from(connection: &'e mut Connection) -> Self {
        match connection {
            Connection::Sqlite(connection) => Self::Sqlite(connection),
            Connection::Postgres(connection) => Self::Postgres(connection),
        }
    }
}

impl<'e> From<&'e mut Transaction> for Target<'e> {
    fn from(transaction: &'e mut Transaction) -> Self {
        match transaction {
            Transaction::Sqlite(transaction) => Self::Sqlite(transaction),
            Transaction::Postgres(transaction) => Self::Postgres(transaction),
        }
    }
}

impl Pool {
    pub(in super::super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Connection {
    /// Makes tables and indexes that go with the connection. They are written as SQLite wants them: `INTEGER` is what
    /// PostgreSQL calls `BIGINT`, and there an index lies where its table does.
    pub(in super::super) async fn define_temporary(
        &mut self,
        definitions: &[&'static str],
    ) -> Result<(), sqlx::Error> {
        for definition in definitions {
            let definition = match self {
                Self::Sqlite(_) => (*definition).to_owned(),
                Self::Postgres(_) => definition
                    .replace("INTEGER", "BIGINT")
                    .replace("INDEX temp.", "INDEX ")
                    .replace("WITHOUT ROWID", ""),
            };
            query(definition).persistent(false).execute(&mut *self).await?;
        }
        Ok(())
    }

    pub(in super::super) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        }
    }
}

impl Transaction {
    pub(in super::super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => within(Some(ANSWER_WITHIN), transaction.commit()).await,
        }
    }
}
