//! Operations and targets of a statement, read off its tokens.
//!
//! This is not a parser: it has to make something of every dialect, of several statements in a row and
//! of text that was cut. It follows parentheses, and in each level the clause it is in.

use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::Sanitized;

/// `db.query.summary` SHOULD be limited to this many characters.
const MAX_SUMMARY: usize = 255;

/// What the next name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    /// A table after FROM, JOIN or a comma between them: a name with parentheses is a function.
    Source,
    /// The table of INSERT, UPDATE, TRUNCATE …
    Table,
    /// An object that is no table: procedure, index, prepared statement.
    Object,
    /// The kind of object after CREATE, ALTER, DROP.
    ObjectKind,
    /// Name of a common table expression.
    Cte,
}

/// One level of parentheses.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// An operation was named.
    begun: bool,
    /// The operation has a FROM clause that was not seen yet.
    from: bool,
    /// Inside a FROM clause: a comma leads to another table.
    sources: bool,
    /// In the list of common table expressions.
    with: bool,
    /// The operation contains no other.
    leaf: bool,
    /// In parentheses.
    nested: bool,
    expect: Expect,
}

const FRESH: Level = Level {
    begun: false,
    from: false,
    sources: false,
    with: false,
    leaf: false,
    nested: false,
    expect: Expect::Nothing,
};
/// Deeper parentheses are skipped.
const MAX_DEPTH: usize = 64;

struct Summary {
    out: String,
    full: bool,
    operation: Option<String>,
    collections: Vec<String>,
    ctes: Vec<String>,
}

impl Summary {
    fn push(&mut self, part: &str) {
        let space = usize::from(!self.out.is_empty());
        if self.full || self.out.len() + space + part.len() > MAX_SUMMARY {
            self.full = true;
            return;
        }
        if space > 0 {
            self.out.push(' ');
        }
        self.out.push_str(part);
    }

    fn operation(&mut self, name: &str) {
        self.push(name);
        self.operation.get_or_insert_with(|| name.to_owned());
    }

    fn table(&mut self, name: &str) {
        if self.ctes.iter().any(|cte| cte.eq_ignore_ascii_case(name)) {
            return;
        }
        self.push(name);
        if self.collections.len() < 2 && !self.collections.iter().any(|known| known == name) {
            self.collections.push(name.to_owned());
        }
    }
}

/// Everything but the text.
pub(super) fn summarize(tokens: &[TokenWithSpan]) -> Sanitized {
    let tokens: Vec<&Token> = tokens
        .iter()
        .map(|token| &token.token)
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .collect();
    let mut summary = Summary {
        out: String::new(),
        full: false,
        operation: None,
        collections: Vec::new(),
        ctes: Vec::new(),
    };
    let mut levels = vec![FRESH];
    let mut skipped = 0_usize;
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let previous = index.checked_sub(1).and_then(|at| tokens.get(at)).copied();
        index += 1;
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { break };
        match token {
            Token::SemiColon => {
                levels = vec![FRESH];
                skipped = 0;
            }
            Token::LParen if depth >= MAX_DEPTH => skipped += 1,
            Token::LParen => {
                // `FROM (a JOIN b)`: the inner level goes on with sources.
                let sources = level.expect == Expect::Source;
                level.expect = Expect::Nothing;
                let expect = if sources { Expect::Source } else { Expect::Nothing };
                levels.push(Level { sources, expect, nested: true, ..FRESH });
            }
            Token::RParen if skipped > 0 => skipped -= 1,
            Token::RParen if depth > 1 => {
                levels.pop();
            }
            _ if skipped > 0 => {}
            Token::Comma if level.sources => level.expect = Expect::Source,
            Token::Comma if level.with => level.expect = Expect::Cte,
            Token::Word(word) => {
                let keyword = keyword(word);
                if !keyword.is_empty()
                    && step(level, &keyword, (previous, tokens.get(index).copied()), &mut summary)
                {
                    continue;
                }
                if level.expect == Expect::Nothing || level.expect == Expect::ObjectKind {
                    continue;
                }
                let (name, next) = qualified_name(&tokens, index - 1);
                let call = matches!(tokens.get(next), Some(Token::LParen));
                index = next;
                match std::mem::replace(&mut level.expect, Expect::Nothing) {
                    Expect::Source if call => {}
                    Expect::Source | Expect::Table => summary.table(&name),
                    Expect::Object => summary.push(&name),
                    Expect::Cte => {
                        if summary.ctes.len() < MAX_DEPTH {
                            summary.ctes.push(name);
                        }
                    }
                    Expect::Nothing | Expect::ObjectKind => {}
                }
            }
            _ => {}
        }
    }
    let collection = match summary.collections.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    };
    Sanitized { text: String::new(), summary: summary.out, operation: summary.operation, collection }
}

/// Upper case, or empty if it is quoted or too long for a keyword.
fn keyword(word: &Word) -> String {
    if word.quote_style.is_some() || word.value.len() > 16 {
        String::new()
    } else {
        word.value.to_ascii_uppercase()
    }
}

/// Takes a keyword; false if it is a name after all.
fn step(
    level: &mut Level,
    keyword: &str,
    (previous, next): (Option<&Token>, Option<&Token>),
    summary: &mut Summary,
) -> bool {
    if level.expect == Expect::ObjectKind {
        return object_kind(level, keyword, summary);
    }
    if matches!(previous, Some(Token::Period)) || matches!(next, Some(Token::Period)) {
        return false;
    }
    let statement = match keyword {
        "SELECT" => !level.leaf,
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" if level.with => true,
        // In parentheses columns and functions may have the names of commands.
        _ if level.nested => {
            let name = matches!(next, None | Some(Token::LParen | Token::RParen | Token::Comma));
            let inner = matches!(keyword, "WITH" | "INSERT" | "UPDATE" | "DELETE" | "VALUES");
            !level.begun && inner && matches!(previous, Some(Token::LParen)) && (keyword == "VALUES" || !name)
        }
        _ => !level.begun,
    };
    if statement && begin(level, keyword, summary) {
        return true;
    }
    match keyword {
        "FROM" if level.from && !is_word(previous, "DISTINCT") => {
            level.from = false;
            level.sources = true;
            level.expect = Expect::Source;
        }
        "JOIN" | "STRAIGHT_JOIN" if level.sources => level.expect = Expect::Source,
        // DELETE FROM a USING b; MERGE INTO a USING b.
        "USING" if level.sources && !matches!(next, Some(Token::LParen)) => level.expect = Expect::Source,
        "INTO" if level.leaf && level.expect == Expect::Nothing && is_word(next, "TABLE") => {
            level.expect = Expect::Table;
        }
        "WHERE" | "GROUP" | "ORDER" | "HAVING" | "LIMIT" | "OFFSET" | "FETCH" | "WINDOW" | "RETURNING"
        | "FOR" | "UNION" | "INTERSECT" | "EXCEPT" | "VALUES" | "SET" => {
            level.sources = false;
            level.expect = Expect::Nothing;
        }
        "ON" => level.expect = Expect::Nothing,
        // Between the verb and the name.
        "INTO" | "ONLY" | "LATERAL" | "TABLE" | "TABLES" | "IF" | "NOT" | "EXISTS" | "IGNORE"
        | "LOW_PRIORITY" | "HIGH_PRIORITY" | "DELAYED" | "QUICK" | "CONCURRENTLY" | "RECURSIVE"
            if level.expect != Expect::Nothing => {}
        _ => return level.expect == Expect::Nothing,
    }
    true
}

/// The first keyword of a statement, or of a query in parentheses; false if it is none.
fn begin(level: &mut Level, keyword: &str, summary: &mut Summary) -> bool {
    let fresh = Level { begun: true, nested: level.nested, ..FRESH };
    let next = match keyword {
        "WITH" => {
            *level = Level { with: true, expect: Expect::Cte, ..fresh };
            return true;
        }
        "SELECT" | "DELETE" => Level { from: true, ..fresh },
        "INSERT" | "REPLACE" | "TRUNCATE" | "COPY" | "LOCK" => Level { expect: Expect::Table, ..fresh },
        "UPDATE" => Level { expect: Expect::Source, sources: true, from: true, ..fresh },
        "MERGE" => Level { expect: Expect::Table, sources: true, ..fresh },
        "CALL" | "EXECUTE" => Level { expect: Expect::Object, ..fresh },
        "CREATE" | "ALTER" | "DROP" => Level { expect: Expect::ObjectKind, ..fresh },
        // A statement follows.
        "EXPLAIN" => Level { begun: false, ..fresh },
        "ANALYZE" | "VERBOSE" if summary.operation.as_deref() == Some("EXPLAIN") => return true,
        "DECLARE" | "PREPARE" | "VALUES" | "BEGIN" => fresh,
        // Their names are cursors, savepoints, settings, privileges …
        "ABORT" | "ANALYZE" | "CHECKPOINT" | "CLOSE" | "COMMENT" | "COMMIT" | "DEALLOCATE" | "DESC"
        | "DESCRIBE" | "DISCARD" | "DO" | "END" | "FETCH" | "FLUSH" | "GRANT" | "HANDLER" | "KILL"
        | "LISTEN" | "LOAD" | "MOVE" | "NOTIFY" | "OPTIMIZE" | "REASSIGN" | "REFRESH" | "REINDEX"
        | "RELEASE" | "RENAME" | "REPAIR" | "RESET" | "REVOKE" | "ROLLBACK" | "SAVEPOINT" | "SET"
        | "SHOW" | "START" | "UNLISTEN" | "UNLOCK" | "USE" | "VACUUM" | "XA" => Level { leaf: true, ..fresh },
        _ => return false,
    };
    summary.operation(keyword);
    *level = next;
    true
}

fn object_kind(level: &mut Level, keyword: &str, summary: &mut Summary) -> bool {
    match keyword {
        "TABLE" | "VIEW" => {
            summary.push(keyword);
            level.expect = Expect::Table;
        }
        "INDEX" | "SCHEMA" | "DATABASE" | "FUNCTION" | "PROCEDURE" | "TRIGGER" | "SEQUENCE" | "TYPE"
        | "EXTENSION" | "DOMAIN" | "EVENT" => {
            summary.push(keyword);
            level.expect = Expect::Object;
        }
        "OR" | "REPLACE" | "TEMP" | "TEMPORARY" | "UNIQUE" | "UNLOGGED" | "MATERIALIZED" | "GLOBAL"
        | "LOCAL" | "FOREIGN" | "FULLTEXT" | "SPATIAL" | "ONLINE" | "RECURSIVE" => {}
        // USER, ROLE, POLICY …
        _ => {
            summary.push(keyword);
            level.expect = Expect::Nothing;
            level.leaf = true;
        }
    }
    true
}

fn is_word(token: Option<&Token>, name: &str) -> bool {
    matches!(token, Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(name))
}

/// `a.b.c` from a position, without quotes, and the position behind it.
fn qualified_name(tokens: &[&Token], mut at: usize) -> (String, usize) {
    let mut name = String::new();
    while let Some(Token::Word(word)) = tokens.get(at) {
        name.push_str(&word.value);
        at += 1;
        if !matches!((tokens.get(at), tokens.get(at + 1)), (Some(Token::Period), Some(Token::Word(_)))) {
            break;
        }
        name.push('.');
        at += 1;
    }
    (name, at)
}
