//! Statements without their data, and what they do in few words.

mod redact;
mod summary;

use sqlparser::dialect::{Dialect, MySqlDialect, PostgreSqlDialect};
use sqlparser::tokenizer::{TokenWithSpan, Tokenizer};

use crate::exchange::SqlSystem;

/// A statement fit to leave the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sanitized {
    /// `db.query.text`: the statement with `?` for every literal, without comments.
    pub text: String,
    /// `db.query.summary`: operations and their targets, at most 255 bytes; empty if there are none
    /// (semantic conventions, "Generating a summary of the query").
    pub summary: String,
    /// `db.operation.name`: the first operation, upper case.
    pub operation: Option<String>,
    /// `db.collection.name`: the table, if there is exactly one.
    pub collection: Option<String>,
}

/// Replaces the literals of a statement by `?`, drops its comments and summarises it.
///
/// Placeholders (`$1`, `?`, `%s`, `:name`) stay; a list `IN (?, ?, ?)` becomes `IN (?)`. From where the
/// text can't be told apart into tokens (it was cut inside a literal, say) one `?` stands for the rest.
///
/// MySQL is read with its default `sql_mode`: `\` escapes and `"` quotes strings. PostgreSQL is read
/// with `standard_conforming_strings`; where a string's end depends on it, the text is cut.
#[must_use]
pub fn sanitize(text: &str, system: SqlSystem) -> Sanitized {
    let dialect: &dyn Dialect = match system {
        SqlSystem::PostgreSql => &PostgreSqlDialect {},
        SqlSystem::MySql | SqlSystem::MariaDb => &MySqlDialect {},
    };
    let mut tokens: Vec<TokenWithSpan> = Vec::with_capacity(text.len() / 4);
    let complete = Tokenizer::new(dialect, text)
        .with_unescape(false)
        .tokenize_with_location_into_buf(&mut tokens)
        .is_ok();
    let complete = redact::cut_ambiguous(&mut tokens, system) && complete;
    let mut sanitized = summary::summarize(&tokens);
    sanitized.text = redact::redact(&tokens, complete);
    sanitized
}

#[cfg(test)]
mod tests;
