//! Calls that are made again and again for one request: the same statement from the same line (N+1).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use tracekit_protocol::Role;

use super::span::{Attributes, SpanId, Value};
use crate::net::Origin;

/// Requests that are watched at once.
const MAX_REQUESTS: usize = 16 * 1024;
/// Different calls of one request that are counted, and of all together.
const MAX_CALLS: usize = 256;
const MAX_ALL_CALLS: usize = 256 * 1024;
/// Characters of a statement that are shown.
const MAX_STATEMENT: usize = 1024;

/// Statements that frame others: that they are repeated says nothing.
const FRAMING: &[&str] = &["BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SET", "END"];

/// What is said of calls beyond what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insight {
    /// A call that takes this long has its stack.
    pub slow_call: Option<Duration>,
    /// More calls than this of one sort for one request are said of its span.
    pub repeats: Option<u32>,
}

impl Default for Insight {
    fn default() -> Self {
        Self { slow_call: Some(Duration::from_millis(500)), repeats: Some(5) }
    }
}

/// One call by what may be repeated of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repeated {
    statement: String,
    file: String,
    line: i64,
}

impl Repeated {
    /// `None` for what is no call, has no known line, or frames other statements.
    #[must_use]
    pub fn of(role: Role, attributes: &Attributes, origin: Option<&Origin>) -> Option<Self> {
        let caller = &origin.filter(|_| role == Role::Client)?.caller;
        let text = |wanted: &str| {
            attributes.iter().find_map(|(key, value)| match value {
                Value::String(text) if *key == wanted => Some(text.as_str()),
                _ => None,
            })
        };
        let statement = match (text("db.query.text"), text("http.request.method"), text("url.full")) {
            (Some(statement), ..) => {
                let first = statement.split(|c: char| !c.is_ascii_alphabetic()).next()?;
                if first.is_empty() || FRAMING.iter().any(|name| name.eq_ignore_ascii_case(first)) {
                    return None;
                }
                shortened(statement)
            }
            (None, Some(method), Some(url)) => shortened(&format!("{method} {}", template(url))),
            _ => return None,
        };
        Some(Self { statement, file: caller.file.clone(), line: caller.line?.into() })
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_STATEMENT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A URL without its query, and with `?` for those parts of its path that have digits.
fn template(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut template = if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") };
    for part in path.split('/') {
        template.push('/');
        template.push_str(if part.contains(|c: char| c.is_ascii_digit()) { "?" } else { part });
    }
    template
}

/// The calls of one request.
#[derive(Debug, Default)]
struct Calls {
    tgid: u32,
    /// How often each was made, by its hash.
    counts: HashMap<u64, u32>,
    /// That which was made most often, if that is too often, and how often.
    worst: Option<(Repeated, u32)>,
    /// How many were made too often.
    patterns: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Repeats {
    limit: Option<u32>,
    requests: HashMap<SpanId, Calls>,
    /// Of all requests.
    calls: usize,
    hasher: RandomState,
}

impl Repeats {
    /// More calls than this are too many; with `None` nothing is counted.
    #[must_use]
    pub fn new(limit: Option<u32>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// A request begins.
    pub fn began(&mut self, tgid: u32, request: SpanId) {
        if self.limit.is_some() && self.requests.len() < MAX_REQUESTS {
            self.requests.insert(request, Calls { tgid, ..Calls::default() });
        }
    }

    /// A call was made for a request, if that is not over.
    pub fn called(&mut self, request: SpanId, call: &Repeated) {
        let Some(limit) = self.limit else { return };
        let Some(calls) = self.requests.get_mut(&request) else { return };
        let key = self.hasher.hash_one(call);
        let known = calls.counts.len();
        let count = match calls.counts.get_mut(&key) {
            Some(count) => count,
            None if known < MAX_CALLS && self.calls < MAX_ALL_CALLS => {
                self.calls += 1;
                calls.counts.entry(key).or_default()
            }
            None => return,
        };
        *count = count.saturating_add(1);
        if *count <= limit {
            return;
        }
        calls.patterns += u32::from(*count == limit + 1);
        match &mut calls.worst {
            Some((worst, times)) if worst == call => *times = *count,
            Some((_, times)) if *times >= *count => {}
            worst => *worst = Some((call.clone(), *count)),
        }
    }

    /// A request ends: says of its span what was repeated.
    pub fn ended(&mut self, request: SpanId, attributes: &mut Attributes) {
        let Some(calls) = self.requests.remove(&request) else { return };
        self.calls = self.calls.saturating_sub(calls.counts.len());
        let Some((worst, times)) = calls.worst else { return };
        attributes.push(("tracekit.n_plus_one.count", i64::from(times).into()));
        attributes.push(("tracekit.n_plus_one.statement", worst.statement.into()));
        attributes.push(("tracekit.n_plus_one.code.file.path", worst.file.into()));
        attributes.push(("tracekit.n_plus_one.code.line.number", worst.line.into()));
        attributes.push(("tracekit.n_plus_one.patterns", i64::from(calls.patterns).into()));
    }

    /// A process is gone.
    pub fn process_gone(&mut self, tgid: u32) {
        let mut calls = 0;
        self.requests.retain(|_, request| {
            let stays = request.tgid != tgid;
            calls += if stays { request.counts.len() } else { 0 };
            stays
        });
        self.calls = calls;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::Caller;

    const REQUEST: SpanId = SpanId([1; 8]);

    fn call(statement: &str, line: i32) -> Option<Repeated> {
        let caller = Caller { function: "f".into(), file: "/srv/app.py".into(), line: Some(line) };
        let origin = Origin { caller: Arc::new(caller), below: Vec::new() };
        let attributes = vec![("db.query.text", Value::from(statement))];
        Repeated::of(Role::Client, &attributes, Some(&origin))
    }

    fn watched() -> Repeats {
        let mut repeats = Repeats::new(Some(5));
        repeats.began(1, REQUEST);
        repeats
    }

    fn said(repeats: &mut Repeats) -> Vec<(&'static str, Value)> {
        let mut attributes = Attributes::new();
        repeats.ended(REQUEST, &mut attributes);
        attributes
    }

    #[test]
    fn more_than_the_limit_from_one_line_is_said() {
        let mut repeats = watched();
        for _ in 0..6 {
            repeats.called(REQUEST, &call("SELECT * FROM a WHERE id = ?", 7).unwrap());
        }
        for _ in 0..9 {
            repeats.called(REQUEST, &call("SELECT * FROM b WHERE id = ?", 8).unwrap());
        }
        let said = said(&mut repeats);
        assert_eq!(
            said,
            [
                ("tracekit.n_plus_one.count", Value::Int(9)),
                ("tracekit.n_plus_one.statement", "SELECT * FROM b WHERE id = ?".into()),
                ("tracekit.n_plus_one.code.file.path", "/srv/app.py".into()),
                ("tracekit.n_plus_one.code.line.number", Value::Int(8)),
                ("tracekit.n_plus_one.patterns", Value::Int(2)),
            ]
        );
    }

    #[test]
    fn what_is_not_repeated_is_not_said() {
        let mut repeats = watched();
        for line in 0..20 {
            repeats.called(REQUEST, &call("SELECT 1", line).unwrap());
        }
        for _ in 0..5 {
            repeats.called(REQUEST, &call("SELECT 2", 50).unwrap());
        }
        for _ in 0..20 {
            repeats.called(SpanId([2; 8]), &call("SELECT 1", 1).unwrap());
        }
        assert_eq!(said(&mut repeats), []);
        assert_eq!(call("COMMIT", 1), None);
        assert_eq!(call("begin", 1), None);
        assert!(Repeated::of(Role::Client, &vec![("db.query.text", "SELECT 1".into())], None).is_none());
    }

    #[test]
    fn urls_are_alike_but_for_their_numbers() {
        assert_eq!(template("http://h:80/items/17/x?a=1"), "http://h:80/items/?/x");
        assert_eq!(template("http://h"), "http://h/");
        assert_eq!(template(""), "/");
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = watched();
        for line in 0..10_000 {
            repeats.called(REQUEST, &call("SELECT 1", line).unwrap());
        }
        assert_eq!(repeats.calls, MAX_CALLS);
        for request in 0..2 * MAX_REQUESTS as u64 {
            repeats.began(2, SpanId(request.to_be_bytes()));
        }
        assert_eq!(repeats.requests.len(), MAX_REQUESTS);
        assert_eq!(call(&"é".repeat(5000), 1), None);
        assert_eq!(call(&"x".repeat(5000), 1).unwrap().statement.chars().count(), MAX_STATEMENT + 1);
        repeats.process_gone(1);
        assert_eq!(repeats.calls, 0);
        repeats.process_gone(2);
        assert!(repeats.requests.is_empty());
    }
}
