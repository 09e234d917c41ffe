//! What the SQL protocols share: statements, exchanges in the making, how SQL text looks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::exchange::{Sql, SqlError, SqlSystem};
use crate::{Begin, Close, End, Event, Moment, Outcome, Request, Role};

/// Text of a statement and how it was named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub name: Option<String>,
    pub text: Option<String>,
    pub truncated: bool,
}

impl Statement {
    /// From the captured bytes of a text; `whole` says that nothing of it is missing.
    pub fn new(name: Option<String>, text: &[u8], whole: bool) -> Self {
        let text = String::from_utf8_lossy(text);
        let text = if whole { text.as_ref() } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER) };
        Self { name, text: Some(text.to_owned()), truncated: !whole }
    }

    fn size(&self) -> usize {
        self.text.as_ref().map_or(0, String::len) + self.name.as_ref().map_or(0, String::len) + 64
    }
}

/// Prepared statements by the server's handle; bounded in number and in bytes, the oldest go first.
#[derive(Debug)]
pub(crate) struct Statements<K> {
    entries: HashMap<K, (u64, Arc<Statement>)>,
    stamp: u64,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq + Clone> Statements<K> {
    /// Bytes of text that the statements of one connection may hold together.
    const BYTES: usize = 1 << 20;

    pub fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), stamp: 0, bytes: 0, limit: limit.max(1) }
    }

    /// Remembers a statement and returns the one it replaces.
    pub fn insert(&mut self, key: K, statement: Arc<Statement>) -> Option<Arc<Statement>> {
        let previous = self.remove(&key);
        let size = statement.size();
        while self.entries.len() >= self.limit
            || (self.bytes + size > Self::BYTES && !self.entries.is_empty())
        {
            let Some(oldest) =
                self.entries.iter().min_by_key(|(_, (stamp, _))| *stamp).map(|(k, _)| k.clone())
            else {
                break;
            };
            self.remove(&oldest);
        }
        self.stamp += 1;
        self.bytes += size;
        self.entries.insert(key, (self.stamp, statement));
        previous
    }

    pub fn get<Q>(&self, key: &Q) -> Option<Arc<Statement>>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.get(key).map(|(_, statement)| Arc::clone(statement))
    }

    pub fn remove(&mut self, key: &K) -> Option<Arc<Statement>> {
        let (_, statement) = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(statement.size());
        Some(statement)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// Whom a connection talks to.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub role: Role,
    pub system: SqlSystem,
    pub user: Option<String>,
    pub database: Option<String>,
    /// The `id` of the next exchange.
    pub next: u64,
}

impl Peer {
    pub fn new(role: Role, system: SqlSystem) -> Self {
        Self { role, system, user: None, database: None, next: 0 }
    }
}

/// A statement round trip in the making.
#[derive(Debug)]
pub(crate) struct Exchange {
    id: u64,
    start: u64,
    pub first: Option<u64>,
    statement: Option<Arc<Statement>>,
    parameterized: bool,
    /// Rows that the answer says were returned.
    pub returned: Option<u64>,
    /// Rows that went by.
    pub counted: u64,
    /// Some of the answer was not seen: `counted` is too low.
    pub uncounted: bool,
    pub affected: Option<u64>,
    pub error: Option<SqlError>,
    pub cancelled: bool,
}

impl Exchange {
    /// Announces the exchange.
    pub fn begin(
        peer: &mut Peer,
        start: u64,
        tid: u32,
        statement: Option<Arc<Statement>>,
        parameterized: bool,
        events: &mut Vec<Event>,
    ) -> Self {
        let id = peer.next;
        peer.next += 1;
        events.push(Event::Begin(Begin {
            id,
            role: peer.role,
            start,
            tid,
            traceparent: None,
            tracestate: None,
        }));
        Self {
            id,
            start,
            first: None,
            statement,
            parameterized,
            returned: None,
            counted: 0,
            uncounted: false,
            affected: None,
            error: None,
            cancelled: false,
        }
    }

    /// The first byte of the answer came.
    pub fn answered(&mut self, role: Role, at: &Moment) {
        self.first.get_or_insert(role.answer_start(at));
    }

    /// Keeps the first error.
    pub fn fail(&mut self, error: SqlError, cancelled: bool) {
        if self.error.is_none() {
            self.error = Some(error);
            self.cancelled = cancelled;
        }
    }

    pub fn returned(&mut self, rows: u64) {
        self.returned = Some(self.returned.unwrap_or(0).saturating_add(rows));
    }

    pub fn affected(&mut self, rows: u64) {
        self.affected = Some(self.affected.unwrap_or(0).saturating_add(rows));
    }

    /// The text, if it was captured.
    pub fn text(&self) -> Option<&str> {
        self.statement.as_ref()?.text.as_deref()
    }

    /// Concludes the exchange.
    pub fn end(self, peer: &Peer, end: u64, outcome: Outcome, events: &mut Vec<Event>) {
        let (statement_name, text, text_truncated) = match self.statement {
            Some(statement) => (statement.name.clone(), statement.text.clone(), statement.truncated),
            None => (None, None, false),
        };
        events.push(Event::End(Box::new(End {
            id: self.id,
            role: peer.role,
            start: self.start,
            first_response_byte: self.first,
            end: end.max(self.start),
            outcome,
            request: Request::Sql(Sql {
                system: peer.system,
                text,
                text_truncated,
                statement_name,
                parameterized: self.parameterized,
                database: peer.database.clone(),
                user: peer.user.clone(),
                returned_rows: self.returned,
                affected_rows: self.affected,
                error: self.error,
                cancelled: self.cancelled,
            }),
        })));
    }
}

/// How exchanges in flight end when the connection does; they go on while the server may still answer.
pub(crate) fn ended_by(close: Close) -> Option<Outcome> {
    match close {
        Close::Local => Some(Outcome::ClosedLocally),
        Close::Remote => Some(Outcome::ClosedByPeer),
        Close::LocalWrite => None,
    }
}

/// First words of SQL commands that clients of PostgreSQL, MySQL and MariaDB send, sorted.
const COMMANDS: &[&str] = &[
    "ABORT",
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "BINLOG",
    "CACHE",
    "CALL",
    "CHANGE",
    "CHECK",
    "CHECKPOINT",
    "CHECKSUM",
    "CLOSE",
    "CLUSTER",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "FLUSH",
    "GET",
    "GRANT",
    "HANDLER",
    "HELP",
    "IMPORT",
    "INSERT",
    "INSTALL",
    "KILL",
    "LISTEN",
    "LOAD",
    "LOCK",
    "MERGE",
    "MOVE",
    "NOTIFY",
    "OPTIMIZE",
    "PREPARE",
    "PURGE",
    "REASSIGN",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "RENAME",
    "REPAIR",
    "REPLACE",
    "RESET",
    "RESIGNAL",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SECURITY",
    "SELECT",
    "SET",
    "SHOW",
    "SHUTDOWN",
    "SIGNAL",
    "START",
    "STOP",
    "TABLE",
    "TRUNCATE",
    "UNINSTALL",
    "UNLISTEN",
    "UNLOCK",
    "UPDATE",
    "USE",
    "VACUUM",
    "VALUES",
    "WITH",
    "XA",
];

/// Whether bytes read like the beginning of a SQL statement: a known command after white space,
/// comments and parentheses, and no control characters near the start.
pub(crate) fn looks_like_sql(mut text: &[u8]) -> bool {
    let printable = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
    if !text.iter().take(64).all(printable) {
        return false;
    }
    loop {
        text = text.trim_ascii_start();
        if let Some(comment) = text.strip_prefix(b"/*") {
            let Some(end) = comment.windows(2).position(|pair| pair == b"*/") else { return false };
            text = comment.get(end + 2..).unwrap_or_default();
        } else if text.starts_with(b"--") || text.starts_with(b"#") {
            let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return false };
            text = text.get(end..).unwrap_or_default();
        } else if let [b'(' | b';', rest @ ..] = text {
            text = rest;
        } else {
            break;
        }
    }
    let length = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    if length > 12 || rest.first().is_some_and(|byte| matches!(byte, b'_' | b'0'..=b'9' | b'.' | b':' | b'='))
    {
        return false;
    }
    let word = String::from_utf8_lossy(word).to_ascii_uppercase();
    COMMANDS.binary_search(&word.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted() {
        assert!(COMMANDS.is_sorted());
    }

    #[test]
    fn sql_is_told_from_other_text() {
        for text in
            ["select 1", "BEGIN", "/* a */ (SELECT 2)", "-- x\nUPDATE t SET a=1", " with a as (select 1)"]
        {
            assert!(looks_like_sql(text.as_bytes()), "{text}");
        }
        for text in ["", "GETX a", "hello", "SELECT_1", "\x01select", "/* select", "get: b", "12"] {
            assert!(!looks_like_sql(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn statements_are_bounded_in_number_and_bytes() {
        let mut statements = Statements::new(3);
        for n in 0..10_u32 {
            statements.insert(n, Arc::new(Statement::new(None, b"select 1", true)));
        }
        assert_eq!(statements.entries.len(), 3);
        assert!(statements.get(&9).is_some() && statements.get(&6).is_none());
        let big = vec![b'x'; 600_000];
        for n in 0..10_u32 {
            statements.insert(n, Arc::new(Statement::new(None, &big, true)));
        }
        assert_eq!(statements.entries.len(), 1);
        assert!(statements.bytes <= Statements::<u32>::BYTES);
    }

    #[test]
    fn cut_text_loses_its_torn_character() {
        let statement = Statement::new(None, &"a\u{e9}".as_bytes()[..2], false);
        assert_eq!(statement.text.as_deref(), Some("a"));
        assert!(statement.truncated);
    }
}
