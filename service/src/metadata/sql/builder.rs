//! Statements that are put together as they go.

use std::fmt::{Display, Write as _};

use super::{Query, Scalar, Value};

/// A statement that is being put together.
#[derive(Debug, Default)]
pub(in super::super) struct QueryBuilder {
    text: String,
    values: Vec<Value>,
}

impl QueryBuilder {
    pub(in super::super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new() }
    }

    /// Adds a part of the statement: never what came from outside.
    pub(in super::super) fn push(&mut self, text: impl Display) -> &mut Self {
        let _ = write!(self.text, "{text}");
        self
    }

    /// Adds a place, and what is bound to it.
    pub(in super::super) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.values.push(value.into());
        self
    }

    /// A list, with this between its members.
    pub(in super::super) fn separated(&mut self, separator: &'static str) -> Separated<'_> {
        Separated { query: self, separator, begun: false }
    }

    /// `VALUES`, with a row for each of these.
    pub(in super::super) fn push_values<T>(
        &mut self,
        rows: impl IntoIterator<Item = T>,
        mut push: impl FnMut(Separated<'_>, T),
    ) -> &mut Self {
        self.text.push_str("VALUES ");
        for (at, row) in rows.into_iter().enumerate() {
            self.text.push_str(if at == 0 { "(" } else { ", (" });
            push(self.separated(", "), row);
            self.text.push(')');
        }
        self
    }

    /// The statement as it stands. What is pushed later begins another one.
    pub(in super::super) fn build(&mut self) -> Query {
        let Self { text, values } = std::mem::take(self);
        Query::built(text, values)
    }

    pub(in super::super) fn build_query_scalar<T>(&mut self) -> Scalar<T> {
        self.build().into()
    }
}

/// A list within a statement.
pub(in super::super) struct Separated<'a> {
    query: &'a mut QueryBuilder,
    separator: &'static str,
    begun: bool,
}

impl Separated<'_> {
    pub(in super::super) fn push(&mut self, text: impl Display) -> &mut Self {
        if self.begun {
            self.query.push(self.separator);
        }
        self.begun = true;
        self.query.push(text);
        self
    }

    pub(in super::super) fn push_unseparated(&mut self, text: impl Display) -> &mut Self {
        self.query.push(text);
        self
    }

    pub(in super::super) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.push("");
        self.query.push_bind(value);
        self
    }

    pub(in super::super) fn push_bind_unseparated(&mut self, value: impl Into<Value>) -> &mut Self {
        self.query.push_bind(value);
        self
    }
}
