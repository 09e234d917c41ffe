//! Literals of SQL statements in a text: a statement alone, in a message or its traceback, and the parameters
//! that drivers and SQLAlchemy print beside it.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use tracekit_protocol::exchange::SqlSystem;
use tracekit_protocol::sql::sanitize;

use super::kind::Kind;
use super::scan;
use super::span::Span;

/// Bytes of a statement that are read; the rest is replaced as one literal.
const MAX_STATEMENT: usize = 32 << 10;
/// Bytes behind `SELECT` in which `FROM` stands.
const MAX_SELECT: usize = 4096;

/// How statements begin, in one case: a sentence begins with `Select`.
static OPENING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?-u:\b)(?:SELECT\s|INSERT\s+(?:IGNORE\s+)?INTO\s|REPLACE\s+INTO\s|UPDATE\s+[^\s]+\s+SET\s",
        r"|DELETE\s+FROM\s|MERGE\s+INTO\s|(?:CREATE|ALTER)\s+(?:USER|ROLE)\s|SET\s+PASSWORD(?-u:\b)",
        r"|WITH\s+(?:RECURSIVE\s+)?[A-Za-z0-9_]+\s+AS\s*\(",
        r"|select\s|insert\s+into\s|update\s+[^\s]+\s+set\s|delete\s+from\s|with\s+[a-z0-9_]+\s+as\s*\()",
    ))
    .ok()
});

/// What drivers and SQLAlchemy print of parameters and rows.
static PARAMETERS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\[parameters: |Failing row contains |(?:DETAIL|CONTEXT):\s+[Pp]arameters: |\[generated in [^\]]{0,40}\] ")
        .ok()
});

/// Adds statements with literals, and parameters.
pub(super) fn find(text: &str, spans: &mut Vec<Span>) {
    if let Some(opening) = OPENING.as_ref() {
        let mut at = 0;
        while let Some(found) = opening.find_at(text, at) {
            at = found.end();
            let Some((range, quote)) = statement(text, found.start()) else { continue };
            at = at.max(range.end);
            let Some(whole) = text.get(range.clone()) else { continue };
            if let Some(replacement) = without_literals(whole, quote) {
                spans.push(Span { range, kind: Kind::SQL_LITERAL, replacement: Some(replacement) });
            }
        }
    }
    if let Some(parameters) = PARAMETERS.as_ref() {
        let mut at = 0;
        while let Some(found) = parameters.find_at(text, at) {
            let listed = scan::value(text, found.end(), false, MAX_STATEMENT);
            let range = match listed {
                Some(value)
                    if text.get(value.range.clone()).is_some_and(|v| v.starts_with(['(', '[', '{'])) =>
                {
                    value.range
                }
                _ => scan::line(text, found.end(), None),
            };
            at = range.end.max(found.end());
            if text.get(range.clone()).is_some_and(|value| !scan::is_nothing(value)) {
                spans.push(Span::new(range, Kind::SQL_LITERAL));
            }
        }
    }
}

/// Where the statement that begins here ends, and the quote around it; `None` if this is no statement.
fn statement(text: &str, start: usize) -> Option<(Range<usize>, Option<char>)> {
    let rest = text.get(start..)?;
    let select = rest.get(..6)?.eq_ignore_ascii_case("select");
    if select {
        let near = rest.get(..scan::floor(rest, MAX_SELECT))?;
        let from = ["FROM", "from"].iter().any(|from| {
            near.match_indices(from).any(|(at, _)| {
                let edge = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || "()\"`\\".contains(c));
                edge(near.get(..at).and_then(|s| s.chars().next_back()))
                    && edge(near.get(at + 4..).and_then(|s| s.chars().next()))
            })
        });
        // Without a table it is one if it is all there is.
        let alone = text.get(..start)?.trim().is_empty() && !rest.trim_end().contains('\n');
        let lower = rest.starts_with('s');
        if !from && (lower || !alone) {
            return None;
        }
    }
    // In the middle of a sentence, small letters are a statement's if what only statements have follows.
    if rest.starts_with(|c: char| c.is_ascii_lowercase()) && !text.get(..start)?.trim().is_empty() {
        let near = rest.get(..scan::floor(rest, MAX_SELECT))?;
        let typical = [" where ", " values", " set "].iter().any(|word| near.contains(word));
        if !(typical && near.contains('\'')) {
            return None;
        }
    }
    // A string around it ends it.
    let front = text.get(..start)?.chars().next_back();
    if let Some(quote @ ('"' | '\'')) = front {
        let value = scan::value(text, start - 1, false, usize::MAX).filter(|value| value.quoted)?;
        if value.range.start == start {
            return Some((value.range, Some(quote)));
        }
    }
    let mut end = start;
    let mut quotes = 0_usize;
    for line in rest.split_inclusive('\n') {
        let follows = end == start
            || !quotes.is_multiple_of(2)
            || (!line.trim().is_empty()
                && (line.starts_with([' ', '\t', '(', ')', ',', '\'']) || continues(line)));
        if !follows || (quotes.is_multiple_of(2) && end > start && line.trim_start().starts_with('[')) {
            break;
        }
        quotes += line.bytes().filter(|byte| *byte == b'\'').count();
        end += line.len();
    }
    let whole = text.get(start..end)?.trim_end();
    // `[SQL: …]`
    let bracketed = text.get(..start)?.ends_with("[SQL: ");
    let whole = if bracketed { whole.strip_suffix(']').unwrap_or(whole) } else { whole };
    Some((start..start + whole.len(), None))
}

/// The line goes on with a statement.
fn continues(line: &str) -> bool {
    const WORDS: &[&str] = &[
        "and",
        "delete",
        "from",
        "full",
        "group",
        "having",
        "inner",
        "insert",
        "join",
        "left",
        "limit",
        "offset",
        "on",
        "or",
        "order",
        "outer",
        "returning",
        "right",
        "select",
        "set",
        "union",
        "update",
        "values",
        "where",
        "window",
    ];
    let word = line.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    WORDS.binary_search(&word.as_str()).is_ok()
}

/// The statement with `?` for each literal; `None` if it has none. In a string, its quotes are escaped.
fn without_literals(statement: &str, quote: Option<char>) -> Option<String> {
    if !may_have_literals(statement) {
        return None;
    }
    if let Some(quote) = quote.filter(|_| statement.contains('\\')) {
        let escaped = format!("\\{quote}");
        let inner = statement.replace("\\r", "\r").replace("\\n", "\n").replace(&escaped, &quote.to_string());
        return without_literals(&inner, None).map(|text| text.replace(quote, &escaped));
    }
    // `\'` ends a string or does not, as the server is set; what follows may be a literal as a whole.
    let cut = statement.find("\\'").unwrap_or(statement.len()).min(scan::floor(statement, MAX_STATEMENT));
    let known = statement.get(..cut)?;
    let system = system(known);
    let mut text = sanitize(known, system).text;
    // What is left of a text that is no statement may read differently.
    for _ in 0..2 {
        text = sanitize(&text, system).text;
    }
    if cut < statement.len() {
        while text.ends_with(['?', ' ']) {
            text.pop();
        }
        text.push_str(" ?");
    }
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    (plain(&text) != plain(statement)).then_some(text)
}

/// Quotes, or a number that is no part of a name or a placeholder.
fn may_have_literals(statement: &str) -> bool {
    let mut previous = b' ';
    statement.bytes().any(|byte| {
        let name = previous.is_ascii_alphanumeric() || b"_$:@?%\"`.".contains(&previous);
        let found = matches!(byte, b'\'' | b'"') || (byte.is_ascii_digit() && !name);
        previous = byte;
        found || (byte == b'$' && statement.contains("$$"))
    })
}

/// Whose quoting to expect: `"` quotes names in PostgreSQL, and strings in MySQL. A name has a `.` beside it, or a
/// word in front that a name follows.
fn system(statement: &str) -> SqlSystem {
    if statement.contains("$$") {
        return SqlSystem::PostgreSql;
    }
    if !statement.contains('"') {
        return SqlSystem::MySql;
    }
    let mut front = "";
    for (at, part) in statement.split('"').enumerate() {
        if at % 2 == 1 {
            let behind = front.len() + 1 + part.len() + 1;
            let dotted =
                front.ends_with('.') || statement.get(behind..).is_some_and(|rest| rest.starts_with('.'));
            let word = front.trim_end().rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
            let named = ["AS", "FROM", "INTO", "JOIN", "TABLE", "UPDATE"];
            if !dotted && !named.iter().any(|named| word.eq_ignore_ascii_case(named)) {
                return SqlSystem::MySql;
            }
        }
        let end = if at == 0 { part.len() } else { front.len() + 1 + part.len() };
        front = statement.get(..end).unwrap_or(statement);
    }
    SqlSystem::PostgreSql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::span::Scrub;

    fn hidden(text: &str) -> String {
        let mut spans = Vec::new();
        find(text, &mut spans);
        let mut scrub = Scrub::new(text);
        scrub.replace(spans);
        scrub.finish(usize::MAX).text.into_owned()
    }

    #[test]
    fn literals_are_replaced() {
        for (text, expected) in [
            ("SELECT * FROM users WHERE name = 'bob'", "SELECT * FROM users WHERE name = ?"),
            ("select * from users where id = 5", "select * from users where id = ?"),
            ("SELECT 'x'", "SELECT ?"),
            ("ran: select a from b where c = 'x'", "ran: select a from b where c = ?"),
            ("ran SELECT a FROM b WHERE c = 'x' in 3 ms", "ran SELECT a FROM b WHERE c = ? in ? ms"),
            (
                r#"{"q": "SELECT \"a\".b FROM c WHERE d = 5"}"#,
                r#"{"q": "SELECT \"a\".b FROM c WHERE d = ?"}"#,
            ),
            (r"'SELECT a FROM b WHERE c = \'x\' AND d = 5'", r"'SELECT a FROM b WHERE c = ? AND d = ?'"),
            ("q='SELECT a FROM b WHERE c = 5', n=3", "q='SELECT a FROM b WHERE c = ?', n=3"),
            (
                "SELECT \"t\".\"a\" FROM \"t\" WHERE \"t\".\"b\" = 'x'",
                "SELECT \"t\".\"a\" FROM \"t\" WHERE \"t\".\"b\" = ?",
            ),
            ("SELECT a FROM b WHERE c = \"x y\"", "SELECT a FROM b WHERE c = ?"),
            ("UPDATE t SET a = 'x\\' y', b = 'z'", "UPDATE t SET a = ?"),
            ("INSERT INTO t VALUES (1, 'a\nb')\nnext 5", "INSERT INTO t VALUES (?, ?)\nnext 5"),
            ("INSERT INTO t\nVALUES (1)\nreturning id\n\n7", "INSERT INTO t VALUES (?) returning id\n\n7"),
            (
                "[SQL: INSERT INTO t VALUES (1)]\n[parameters: ('bob', [1])]\n(x)",
                "[SQL: INSERT INTO t VALUES (?)]\n[parameters: [REDACTED:sql_literal]]\n(x)",
            ),
            (
                "DETAIL:  Failing row contains (1, bob, x).",
                "DETAIL:  Failing row contains [REDACTED:sql_literal].",
            ),
            ("CREATE USER bob WITH PASSWORD 'x'", "CREATE USER bob WITH PASSWORD ?"),
        ] {
            assert_eq!(hidden(text), expected, "{text}");
            assert_eq!(hidden(expected), expected, "{text} again");
        }
    }

    #[test]
    fn other_text_stays() {
        for text in [
            "Select one of 5 options from the list",
            "select 3 items",
            "please select 3 items from 5",
            "SELECT id,  name\n  FROM users WHERE id = %s AND b IN (?, ?)",
            "SELECT * FROM t1 WHERE a = $1 AND b = :b",
            "UPDATE available: 5 MB",
            "DELETE /items/5",
            "the INSERT key",
        ] {
            assert_eq!(hidden(text), text);
        }
    }
}
