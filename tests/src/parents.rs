//! Judges the parents of client spans by the number of the request that each call carries.
//!
//! Every call of `tests/apps/work` has a token `w<number>_<kind>_<client>` in what tracing keeps of it: an alias of
//! SQL, a path of HTTP, the code of an error of Redis, of whose commands only the name is kept. The applications note the tokens of answered calls in files. So it is known
//! from outside of the agent which calls were made, and for which request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{AddAssign, Range};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::span::Span;
use crate::work::WEBSOCKET;

/// What can be known of who caused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowable {
    /// The thread, task or greenlet that makes it handles the request, or got a copy of its context.
    Always,
    /// Another thread makes it, which got no context: known if the hand-over itself is followed.
    BySubmission,
    /// A task or thread that serves all requests makes it, and only data says for which.
    Never,
}

/// Of a kind of call, as `tests/apps/work` names them.
#[must_use]
pub fn knowable(kind: &str) -> Knowable {
    match kind {
        "thread" | "backthread" | "pool" | "executor" | "spawn" => Knowable::BySubmission,
        "queue" => Knowable::Never,
        _ => Knowable::Always,
    }
}

/// Client spans of one sort by what their parent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// The server span of the request that the call was made for.
    pub right: usize,
    /// None.
    pub none: usize,
    /// Another span.
    pub wrong: usize,
    /// A span that was not seen, and that no other request's call has for a parent either.
    pub orphaned: usize,
    /// Answered calls without a span.
    pub missing: usize,
}

impl Count {
    /// All calls.
    #[must_use]
    pub fn all(&self) -> usize {
        self.right + self.none + self.wrong + self.orphaned + self.missing
    }

    /// There are calls, and every one has its span with the right parent.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.right > 0 && self.right == self.all()
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.none += other.none;
        self.wrong += other.wrong;
        self.orphaned += other.orphaned;
        self.missing += other.missing;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        if all == 0 {
            return write!(f, "–");
        }
        let parts = [
            (self.right, "right"),
            (self.none, "none"),
            (self.wrong, "**wrong**"),
            (self.orphaned, "orphaned"),
            (self.missing, "missing"),
        ];
        let mut separator = "";
        for (count, name) in parts.into_iter().filter(|(count, _)| *count > 0) {
            if count == all {
                return write!(f, "{name}");
            }
            // A share that is not all is never shown as all, and one that is not nothing not as nothing.
            let percent = (count as f64 * 100.0 / all as f64).clamp(0.1, 99.9);
            write!(f, "{separator}{percent:.1} % {name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// What was found of one run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// By kind and client.
    pub cells: BTreeMap<(String, String), Count>,
    /// Requests of a second service, by the client span of the first one that asked it.
    pub joined: Count,
    /// Traces with several requests in them.
    pub merged: usize,
    /// Requests with spans of theirs in several traces.
    pub split: usize,
    /// Requests with exactly one server span.
    pub served: usize,
    /// Requests without a server span.
    pub unserved: usize,
    /// Requests with several server spans.
    pub doubled: usize,
    /// Spans with a status that the request or call did not have.
    pub false_status: usize,
    /// Client spans that carry no number (connecting, pings of pools), and those of them with a parent.
    pub unnumbered: (usize, usize),
    /// Some of what is not right, for messages.
    pub examples: Vec<String>,
}

/// Spans by what the judge asks for.
#[derive(Debug, Default)]
struct Seen<'a> {
    /// Server spans by what their path ends with: a request's number, or the call that a second service was asked with.
    by_name: HashMap<&'a str, Vec<&'a Span>>,
    /// Server spans by their id.
    by_id: HashMap<&'a str, &'a Span>,
    /// Which requests' calls have this parent.
    callers: HashMap<&'a str, BTreeSet<&'a str>>,
}

/// What the path of a request ends with; none if this is no server span.
fn served_name(span: &Span) -> Option<&str> {
    span.attributes.get("url.path").filter(|_| span.is_server())?.as_str()?.rsplit('/').next()
}

/// Examples that are kept of each sort.
const EXAMPLES: usize = 5;

impl Verdict {
    /// Judges the spans of a run: `calls` were answered, requests with these `numbers` were sent.
    #[must_use]
    pub fn of(spans: &[Span], calls: &BTreeSet<String>, numbers: Range<u64>) -> Self {
        let mut verdict = Self::default();
        let seen = verdict.servers(spans, numbers);
        let mut unseen: BTreeSet<&str> = calls.iter().map(String::as_str).collect();
        for span in spans.iter().filter(|span| !span.is_server()) {
            let Some(token) = Token::of(span) else {
                verdict.unnumbered.0 += 1;
                verdict.unnumbered.1 += usize::from(span.parent_span_id.is_some());
                continue;
            };
            unseen.remove(token.text);
            let count = verdict.judge(span, &token, &seen);
            *verdict.cells.entry(token.cell()).or_default() += count;
            if !token.has_its_status(span) {
                verdict.false_status += 1;
                verdict.example("false status", span);
            }
        }
        for token in unseen.into_iter().filter_map(Token::parse) {
            verdict.cells.entry(token.cell()).or_default().missing += 1;
        }
        verdict.join(spans);
        verdict
    }

    /// The server span of each request and of each call of a second service.
    fn servers<'a>(&mut self, spans: &'a [Span], numbers: Range<u64>) -> Seen<'a> {
        let mut seen = Seen::default();
        for span in spans {
            if let (Some(parent), Some(token)) = (&span.parent_span_id, Token::of(span)) {
                seen.callers.entry(parent).or_default().insert(token.request());
            }
            let Some(name) = served_name(span) else { continue };
            let is_websocket = span.text("url.path").is_some_and(|path| path.starts_with(WEBSOCKET));
            let usual = if is_websocket { 101 } else { 200 };
            let status = Token::parse(name).map_or(usual, |token| token.status());
            if span.text("http.response.status_code") != Some(status.to_string()) {
                self.false_status += 1;
                self.example("false status", span);
            }
            seen.by_name.entry(name).or_default().push(span);
            seen.by_id.insert(&span.span_id, span);
        }
        for number in numbers {
            match seen.by_name.get(number.to_string().as_str()).map_or(0, Vec::len) {
                0 => self.unserved += 1,
                1 => self.served += 1,
                _ => self.doubled += 1,
            }
        }
        seen
    }

    fn judge(&mut self, span: &Span, token: &Token<'_>, seen: &Seen<'_>) -> Count {
        let Some(parent) = &span.parent_span_id else {
            return Count { none: 1, ..Count::default() };
        };
        let served = seen.by_name.get(token.request()).map(Vec::as_slice).unwrap_or_default();
        if served.iter().any(|server| server.span_id == *parent && server.trace_id == span.trace_id) {
            return Count { right: 1, ..Count::default() };
        }
        let taken = seen.by_id.get(parent.as_str());
        let of_one = seen.callers.get(parent.as_str()).is_some_and(|requests| requests.len() == 1);
        if taken.is_none() && served.is_empty() && of_one {
            return Count { orphaned: 1, ..Count::default() };
        }
        let taken = taken.map_or("no span that was seen".to_owned(), ToString::to_string);
        self.example(&format!("parent is {taken}"), span);
        Count { wrong: 1, ..Count::default() }
    }

    /// Follows calls into a second service, and looks at whole traces.
    fn join(&mut self, spans: &[Span]) {
        let by_id: HashMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
        let mut traces: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        let mut requests: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for span in spans {
            let called = served_name(span).and_then(Token::parse);
            if let Some(called) = called {
                let caller = span.parent_span_id.as_deref().map(|parent| by_id.get(parent).copied());
                let count = match caller {
                    None => Count { none: 1, ..Count::default() },
                    Some(None) => Count { orphaned: 1, ..Count::default() },
                    Some(Some(caller)) if Token::of(caller).is_some_and(|made| made.text == called.text) => {
                        Count { right: 1, ..Count::default() }
                    }
                    Some(Some(caller)) => {
                        self.example(&format!("caller is {caller}"), span);
                        Count { wrong: 1, ..Count::default() }
                    }
                };
                self.joined += count;
            }
            let number = match called.or_else(|| Token::of(span)) {
                Some(token) => token.number,
                None => match served_name(span).filter(|name| name.parse::<u64>().is_ok()) {
                    Some(number) => number,
                    None => continue,
                },
            };
            traces.entry(&span.trace_id).or_default().insert(number);
            requests.entry(number).or_default().insert(&span.trace_id);
        }
        self.merged = traces.values().filter(|numbers| numbers.len() > 1).count();
        self.split = requests.values().filter(|traces| traces.len() > 1).count();
    }

    fn example(&mut self, what: &str, span: &Span) {
        let sort = what.get(..8);
        if self.examples.iter().filter(|example| example.get(..8) == sort).count() < EXAMPLES {
            self.examples.push(format!("{what}: {span}"));
        }
    }

    /// All cells whose kind and client `choose` takes.
    #[must_use]
    pub fn sum(&self, choose: impl Fn(&str, &str) -> bool) -> Count {
        let mut sum = Count::default();
        for (_, count) in self.cells.iter().filter(|((kind, client), _)| choose(kind, client)) {
            sum += *count;
        }
        sum
    }
}

/// `w<number>_<kind>_<client>`, and with `__<client>` behind it a call that a second service makes for that call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    number: &'a str,
    kind: &'a str,
    client: &'a str,
    /// The call that a second service was asked with.
    caller: Option<&'a str>,
}

impl<'a> Token<'a> {
    /// The token that is the whole of this text.
    fn parse(text: &'a str) -> Option<Self> {
        let (caller, leaf) = text.split_once("__").map_or((None, None), |(a, b)| (Some(a), Some(b)));
        let mut words = caller.unwrap_or(text).strip_prefix('w')?.split('_');
        let (number, kind, client) = (words.next()?, words.next()?, words.next()?);
        number.parse::<u64>().ok()?;
        if words.next().is_some() || kind.is_empty() || client.is_empty() {
            return None;
        }
        let (kind, client) = leaf.map_or((kind, client), |leaf| ("leaf", leaf));
        Some(Self { text, number, kind, client, caller })
    }

    /// The token that a client span carries.
    fn of(span: &'a Span) -> Option<Self> {
        let is_redis = span.attributes.get("db.system.name").is_some_and(|system| system == "redis");
        let keys = if is_redis { ["db.response.status_code"; 2] } else { ["db.query.text", "url.full"] };
        let text = keys.iter().find_map(|key| span.attributes.get(*key)?.as_str())?;
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find_map(Self::parse)
    }

    /// What the path of the request ends with that the call was made for.
    fn request(&self) -> &'a str {
        self.caller.unwrap_or(self.number)
    }

    fn cell(&self) -> (String, String) {
        (self.kind.to_owned(), self.client.to_owned())
    }

    /// What upstream answers.
    fn status(&self) -> u16 {
        if self.number.ends_with('7') { 404 } else { 200 }
    }

    fn has_its_status(&self, span: &Span) -> bool {
        match span.text("url.full") {
            Some(_) => span.text("http.response.status_code") == Some(self.status().to_string()),
            // Redis says the token in an error.
            None => span.is_error() == span.attributes.contains_key("db.response.status_code"),
        }
    }
}

/// The call that a client span is of, if that has a token.
#[must_use]
pub fn call_of(span: &Span) -> Option<&str> {
    Token::of(span).map(|token| token.text)
}

/// How a call was made, and by which library.
#[must_use]
pub fn sort_of(call: &str) -> Option<(&str, &str)> {
    Token::parse(call).map(|token| (token.kind, token.client))
}

/// The calls that the processes of a run noted.
///
/// # Errors
/// A file cannot be read.
pub fn answered_calls(directory: &Path) -> Result<BTreeSet<String>> {
    let mut calls = BTreeSet::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "calls") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        calls.extend(text.lines().map(str::to_owned));
    }
    Ok(calls)
}

/// The order of kinds in tables; others come behind them.
const KINDS: &[&str] = &[
    "nested",
    "stream",
    "gather",
    "task",
    "taskgroup",
    "anyio",
    "deep",
    "background",
    "after",
    "websocket",
    "threadpool",
    "tothread",
    "anyiothread",
    "contextpool",
    "pool",
    "executor",
    "thread",
    "backthread",
    "spawn",
    "queue",
];

/// What a table has a column for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// How a call was made.
    Kind,
    /// By which library; of the kinds whose cause can always be known.
    Client,
}

/// A table in Markdown: one row for each run, one column for each kind or client that any of them has.
#[must_use]
pub fn table(runs: &[(String, Verdict)], column: Column) -> String {
    let name = |cell: &(String, String)| match column {
        Column::Kind => cell.0.clone(),
        Column::Client => cell.1.clone(),
    };
    let found: BTreeSet<String> = runs.iter().flat_map(|(_, run)| run.cells.keys().map(name)).collect();
    let mut columns: Vec<String> = found.into_iter().collect();
    columns.sort_by_key(|name| KINDS.iter().position(|kind| kind == name).unwrap_or(KINDS.len()));
    let mut text = format!("| server | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for (row, run) in runs {
        let cells: Vec<String> = columns
            .iter()
            .map(|wanted| {
                let sum = run.sum(|kind, client| match column {
                    Column::Kind => kind == wanted,
                    Column::Client => client == wanted && knowable(kind) == Knowable::Always,
                });
                sum.to_string()
            })
            .collect();
        text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn span(id: &str, parent: Option<&str>, attributes: serde_json::Value) -> Span {
        let kind = if attributes.get("url.path").is_some() { "server" } else { "client" };
        Span::from_json(json!({
            "trace_id": "t", "span_id": id, "parent_span_id": parent, "name": "n", "kind": kind,
            "start_time_unix_nano": 1, "end_time_unix_nano": 2, "attributes": attributes,
        }))
        .unwrap()
    }

    fn served(id: &str, number: u64) -> Span {
        span(id, None, json!({"url.path": format!("/work/{number}"), "http.response.status_code": 200}))
    }

    #[test]
    fn parents_are_told_apart() {
        let sql = |call: &str| json!({"db.query.text": format!("SELECT pg_sleep(?), $1 AS {call}")});
        let spans = [
            served("a", 1),
            served("b", 2),
            span("c", Some("a"), sql("w1_nested_psycopg")),
            span("d", Some("a"), sql("w2_nested_psycopg")),
            span("e", None, sql("w2_gather_psycopg")),
            span("f", None, json!({"db.query.text": "BEGIN"})),
        ];
        let calls: BTreeSet<String> =
            ["w1_nested_psycopg", "w2_nested_psycopg", "w2_gather_psycopg", "w1_gather_redis"]
                .map(String::from)
                .into();
        let verdict = Verdict::of(&spans, &calls, 1..4);
        assert_eq!(verdict.sum(|kind, _| kind == "nested"), Count { right: 1, wrong: 1, ..Count::default() });
        assert_eq!(
            verdict.sum(|kind, _| kind == "gather"),
            Count { none: 1, missing: 1, ..Count::default() }
        );
        assert_eq!((verdict.served, verdict.unserved, verdict.unnumbered), (2, 1, (1, 0)));
        assert_eq!(verdict.false_status, 0);
    }

    #[test]
    fn another_requests_status_is_false() {
        let call = |status: u16| {
            let attributes = json!({"url.full": "http://127.0.0.1:1/echo/w17_nested_requests", "http.response.status_code": status});
            span("c", Some("a"), attributes)
        };
        let judged = |status| Verdict::of(&[served("a", 17), call(status)], &BTreeSet::new(), 17..18);
        assert_eq!((judged(404).false_status, judged(200).false_status), (0, 1));
    }

    #[test]
    fn a_parent_that_nobody_saw_is_an_orphans_or_another_requests() {
        let sql = |id: &str, call: &str| {
            span(id, Some("x"), json!({"db.query.text": format!("SELECT pg_sleep(?), $1 AS {call}")}))
        };
        let alone = Verdict::of(&[sql("c", "w1_nested_psycopg")], &BTreeSet::new(), 1..2);
        assert_eq!(alone.sum(|_, _| true), Count { orphaned: 1, ..Count::default() });
        let both = [sql("c", "w1_nested_psycopg"), sql("d", "w2_nested_psycopg")];
        let shared = Verdict::of(&both, &BTreeSet::new(), 1..3);
        assert_eq!(shared.sum(|_, _| true), Count { wrong: 2, ..Count::default() });
        let seen = [served("a", 1), sql("c", "w1_nested_psycopg")];
        assert_eq!(Verdict::of(&seen, &BTreeSet::new(), 1..2).sum(|_, _| true).wrong, 1);
    }

    #[test]
    fn two_services_are_one_trace() {
        let call = span(
            "c",
            Some("a"),
            json!({"url.full": "http://127.0.0.1:1/echo/w1_nested_requests", "http.response.status_code": 200}),
        );
        let served_call = |parent: Option<&str>| {
            let path = json!({"url.path": "/echo/w1_nested_requests", "http.response.status_code": 200});
            span("d", parent, path)
        };
        let leaf =
            span("e", Some("d"), json!({"db.query.text": "SELECT ?, $1 AS w1_nested_requests__psycopg2"}));
        let judged = |spans: &[Span]| Verdict::of(spans, &BTreeSet::new(), 1..2);
        let joined = judged(&[served("a", 1), call.clone(), served_call(Some("c")), leaf.clone()]);
        assert_eq!((joined.joined.right, joined.merged, joined.split), (1, 0, 0));
        assert_eq!(joined.sum(|kind, _| kind == "leaf").right, 1);
        let other = Span { trace_id: "u".into(), ..served_call(None) };
        let apart = judged(&[served("a", 1), call.clone(), other, leaf.clone()]);
        assert_eq!((apart.joined.none, apart.merged, apart.split), (1, 0, 1));
        let merged = judged(&[served("a", 1), served("b", 2), call, served_call(Some("b")), leaf]);
        assert_eq!((merged.joined.wrong, merged.merged), (1, 1));
    }

    #[test]
    fn a_second_service_is_judged_by_the_call_to_it() {
        let token = Token::parse("w5_gather_aiohttp__asyncpg").unwrap();
        assert_eq!((token.request(), token.kind, token.client), ("w5_gather_aiohttp", "leaf", "asyncpg"));
        assert_eq!(Token::parse("w5_gather"), None);
        assert_eq!(Token::parse("wx_gather_aiohttp"), None);
    }

    #[test]
    fn a_share_is_not_rounded_to_all_or_nothing() {
        let count = Count { right: 99_999, wrong: 1, ..Count::default() };
        assert_eq!(count.to_string(), "99.9 % right, 0.1 % **wrong**");
        assert_eq!(Count { right: 7, ..Count::default() }.to_string(), "right");
    }
}
