//! One way to speak to both databases.
//!
//! All statements are written once, in what SQLite and PostgreSQL share, with `?` for what is bound. A [`Row`] and a
//! [`Connection`] are those of the one or the other. (`sqlx::Any`, which does the same, has no placeholders in common,
//! and no boolean from SQLite.)

mod builder;
mod connection;
mod limit;
mod placeholders;
mod query;
mod row;
mod value;

pub(super) use self::{
    builder::QueryBuilder,
    connection::{Connection, Pool, Target, Transaction},
    limit::{ANSWER_WITHIN, STATEMENT_WITHIN, within},
    query::{Query, Scalar, query, query_either, query_scalar},
    row::{Column, Row},
    value::Value,
};
