//! A tree for people.

use std::time::Duration;

use super::forest::Tree;
use super::row::{Paint, Row, width};
use crate::trace::span::{Span, SpanKind, Status, Value};

/// How trees are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// Times of day in UTC instead of local time.
    pub utc: bool,
}

const DURATION_WIDTH: usize = 9;

/// This many equal calls in a row, or more, are drawn as one line.
const COLLAPSE: usize = 4;

/// Lines for the children of one span; the rest is counted.
const MAX_CHILDREN: usize = 40;

/// Characters of a file's name.
const MAX_FILE: usize = 20;

/// Columns of the three parts of a line.
struct Layout {
    /// End of the text.
    text: usize,
    /// Cells of the time bar.
    bar: usize,
    /// End of the line.
    width: usize,
}

impl Layout {
    fn new(style: &Style) -> Self {
        let width = style.width.clamp(40, 400);
        let bar = match width {
            100.. => 16,
            60.. => 10,
            _ => 0,
        };
        let text = (width / 2).clamp(48, 80).min(width - (1 + DURATION_WIDTH + 2 + bar));
        Self { text, bar, width }
    }
}

/// Appends the lines of a tree; returns how many spans they tell of.
pub fn render(tree: &Tree, style: &Style, text: &mut String) -> u64 {
    let layout = Layout::new(style);
    let span = &*tree.span;
    let mut row = Row::new(text, style.color);
    row.push(Paint::Dim, &clock(span.start_unix_nano, style.utc), layout.text);
    row.push(Paint::Plain, " ", layout.text);
    row.push(Paint::Cyan, span.resource.service_name(), row.column() + (layout.text / 4).clamp(8, 20));
    row.push(Paint::Plain, "  ", layout.text);
    title(&mut row, span, None, Paint::Bold, &layout);
    duration(&mut row, span.duration_nanos(), Paint::Bold, &layout);
    detail(&mut row, span, &layout);
    row.end();
    let mut drawing = Drawing { root: span, style, layout, text };
    1 + drawing.children(&tree.children, " ")
}

struct Drawing<'a> {
    root: &'a Span,
    style: &'a Style,
    layout: Layout,
    text: &'a mut String,
}

impl Drawing<'_> {
    fn children(&mut self, children: &[Tree], indent: &str) -> u64 {
        let mut spans = 0;
        let mut lines = 0;
        let mut rest = children;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|tree| alike(first, tree)).count();
            let take = if run >= COLLAPSE { run } else { 1 };
            let (group, more) = rest.split_at(take.min(rest.len()));
            lines += 1;
            if lines == MAX_CHILDREN && !more.is_empty() {
                spans += self.omitted(rest, indent);
                break;
            }
            rest = more;
            let (branch, deeper) = if rest.is_empty() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.child(group, &format!("{indent}{branch}"));
            spans += group.len() as u64;
            spans += self.children(&first.children, &format!("{indent}{deeper}"));
        }
        spans
    }

    /// One line for one child, or for several that are alike.
    fn child(&mut self, group: &[Tree], indent: &str) {
        let Some(first) = group.first() else { return };
        let span = &*first.span;
        let total = group.iter().map(|tree| tree.span.duration_nanos()).fold(0, u64::saturating_add);
        let end = group.iter().map(|tree| tree.span.end_unix_nano).max().unwrap_or(span.end_unix_nano);
        let mut row = Row::new(self.text, self.style.color);
        row.push(Paint::Dim, indent, self.layout.text);
        let times = (group.len() > 1).then(|| format!("×{}", group.len()));
        title(&mut row, span, times, Paint::Plain, &self.layout);
        duration(&mut row, total, Paint::Plain, &self.layout);
        row.push(Paint::Plain, "  ", self.layout.width);
        let (before, busy, after) = bar(self.root, span.start_unix_nano, end, self.layout.bar);
        row.push(Paint::Dim, &"·".repeat(before), self.layout.width);
        row.push(if failed(span) { Paint::Red } else { Paint::Cyan }, &"━".repeat(busy), self.layout.width);
        row.push(Paint::Dim, &"·".repeat(after), self.layout.width);
        detail(&mut row, span, &self.layout);
        row.end();
    }

    fn omitted(&mut self, children: &[Tree], indent: &str) -> u64 {
        let count: u64 = children.iter().map(count).sum();
        let mut row = Row::new(self.text, self.style.color);
        row.push(Paint::Dim, &format!("{indent}└─ … {count} more"), self.layout.text);
        row.end();
        count
    }
}

fn count(tree: &Tree) -> u64 {
    1 + tree.children.iter().map(count).sum::<u64>()
}

/// Two children that can share a line.
fn alike(a: &Tree, b: &Tree) -> bool {
    let (x, y) = (&*a.span, &*b.span);
    a.children.is_empty()
        && b.children.is_empty()
        && !failed(x)
        && !failed(y)
        && x.name == y.name
        && ["db.system.name", "db.query.text", "server.address", "server.port", "url.full"]
            .iter()
            .all(|key| x.attribute(key) == y.attribute(key))
}

fn failed(span: &Span) -> bool {
    matches!(span.status, Status::Error(_))
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attribute(key)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// What was asked, and after it the status or the error, which is never cut off.
fn title(row: &mut Row<'_>, span: &Span, times: Option<String>, paint: Paint, layout: &Layout) {
    let status = match span.attribute("http.response.status_code") {
        Some(Value::Int(status)) => Some(*status),
        _ => None,
    };
    let mut suffix: Vec<(Paint, String)> = Vec::new();
    if let Some(times) = times {
        suffix.push((Paint::Yellow, times));
    }
    if let Some(status) = status {
        let paint = match status {
            500.. => Paint::Red,
            400.. => Paint::Yellow,
            300.. => Paint::Cyan,
            _ => Paint::Green,
        };
        suffix.push((paint, status.to_string()));
    }
    if let Some(error) =
        text(span, "error.type").filter(|error| status.map(|s| s.to_string()).as_deref() != Some(error))
    {
        // A class name with its modules is long; its end tells most.
        suffix.push((Paint::Red, error.rsplit('.').next().unwrap_or(error).to_owned()));
    }
    if let Some(repeated) = repeated(span) {
        suffix.push((Paint::Yellow, repeated));
    }
    let reserved: usize = suffix.iter().map(|(_, text)| width(text) + 2).sum();
    let paint = if failed(span) { Paint::Red } else { paint };
    row.push(paint, &what(span), layout.text.saturating_sub(reserved));
    for (paint, text) in suffix {
        row.push(Paint::Plain, "  ", layout.text);
        row.push(paint, &text, layout.text);
    }
}

/// `N+1: 12 × views.py:33`: a request makes one call again and again.
fn repeated(span: &Span) -> Option<String> {
    let count = match span.attribute("tracekit.n_plus_one.count")? {
        Value::Int(count) => *count,
        _ => return None,
    };
    let file = text(span, "tracekit.n_plus_one.code.file.path")?.rsplit('/').next().unwrap_or_default();
    let file: String = file.chars().take(MAX_FILE).collect();
    match span.attribute("tracekit.n_plus_one.code.line.number") {
        Some(Value::Int(line)) => Some(format!("N+1: {count} × {file}:{line}")),
        _ => None,
    }
}

/// `GET /orders/7`, `GET payment:8080/pay`, `postgresql SELECT orders`.
fn what(span: &Span) -> String {
    if let Some(method) = text(span, "http.request.method") {
        let target = match span.kind {
            SpanKind::Server => text(span, "url.path"),
            SpanKind::Client => text(span, "url.full").map(|url| url.strip_prefix("http://").unwrap_or(url)),
        };
        return match target {
            Some(target) => format!("{method} {target}"),
            None => span.name.clone(),
        };
    }
    match text(span, "db.system.name") {
        Some(system) if system != span.name => format!("{system} {}", span.name),
        _ => span.name.clone(),
    }
}

fn duration(row: &mut Row<'_>, nanos: u64, paint: Paint, layout: &Layout) {
    let text = format_duration(Duration::from_nanos(nanos));
    let end = layout.text + 1 + DURATION_WIDTH;
    row.pad_to(end.saturating_sub(width(&text)));
    row.push(paint, &text, end);
}

fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let seconds = duration.as_secs_f64();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.2} ms", seconds * 1e3),
        10_000..1_000_000 => format!("{:.1} ms", seconds * 1e3),
        1_000_000..60_000_000 => format!("{seconds:.2} s"),
        _ => format!("{} m {:02} s", duration.as_secs() / 60, duration.as_secs() % 60),
    }
}

/// The query, or what a failed span says of its failure.
fn detail(row: &mut Row<'_>, span: &Span, layout: &Layout) {
    let message = match &span.status {
        Status::Error(message) => message.as_deref(),
        Status::Unset => None,
    };
    let query = text(span, "db.query.text").filter(|query| Some(*query) != Some(span.name.as_str()));
    for (paint, text) in [(Paint::Red, message), (Paint::Dim, query)] {
        let Some(text) = text else { continue };
        // Less than this would tell nothing.
        if row.column() + 12 <= layout.width {
            row.push(Paint::Plain, "  ", layout.width);
            row.push(paint, text, layout.width);
        }
    }
}

/// When in the root's time something ran: cells before, during and after it, `cells` in all.
fn bar(root: &Span, start: u64, end: u64, cells: usize) -> (usize, usize, usize) {
    if cells == 0 {
        return (0, 0, 0);
    }
    let total = root.duration_nanos().max(1) as f64;
    let cell = |at: u64| at.saturating_sub(root.start_unix_nano) as f64 / total * cells as f64;
    let first = (cell(start).floor() as usize).min(cells - 1);
    let last = (cell(end).ceil() as usize).clamp(first + 1, cells);
    (first, last - first, cells - last)
}

/// Time of day with milliseconds.
fn clock(unix_nanos: u64, utc: bool) -> String {
    let seconds = unix_nanos / 1_000_000_000;
    let (hour, minute, second) =
        if utc { (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) } else { local_time(seconds) };
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", unix_nanos / 1_000_000 % 1000)
}

fn local_time(seconds: u64) -> (u64, u64, u64) {
    let time = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: `tm` is plain data of integers and a pointer, for all of which zero is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals, and `localtime_r` keeps neither. It reads TZ from the
    // environment, which this program never changes.
    if unsafe { libc::localtime_r(&time, &mut tm) }.is_null() {
        return (0, 0, 0);
    }
    let part = |value: libc::c_int| u64::try_from(value).unwrap_or(0);
    (part(tm.tm_hour), part(tm.tm_min), part(tm.tm_sec))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::export::testing::{resource, server_span, span, sql_span};

    fn leaf(span: Span) -> Tree {
        Tree { span: Arc::new(span), children: Vec::new() }
    }

    fn shop_tree() -> Tree {
        let shop = resource("shop");
        let mut redis = span(SpanKind::Client, 4, Some(1), &shop);
        redis.name = "GET".to_owned();
        redis.attributes = vec![
            ("db.system.name", Value::from("redis")),
            ("error.type", Value::from("redis.exceptions.WRONGTYPE")),
        ];
        redis.status = Status::Error(Some("WRONGTYPE Operation".to_owned()));
        redis.start_unix_nano = 1_700_000_000_012_000_000;
        redis.end_unix_nano = 1_700_000_000_012_400_000;
        let mut root = server_span(1, "/orders/7", &shop);
        root.start_unix_nano = 1_700_000_000_000_000_000;
        Tree { span: Arc::new(root), children: vec![leaf(sql_span(3, Some(1), &shop)), leaf(redis)] }
    }

    fn lines(tree: &Tree, width: usize) -> Vec<String> {
        let mut text = String::new();
        let spans = render(tree, &Style { color: false, width, utc: true }, &mut text);
        assert_eq!(spans, count(tree));
        for line in text.lines() {
            assert!(super::width(line) <= width.max(40), "{line}");
        }
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_tree() {
        assert_eq!(
            lines(&shop_tree(), 120),
            [
                "22:13:20.000 shop  GET /orders/7  200                          13.3 ms",
                " ├─ postgresql SELECT orders                                   2.10 ms  ···━━━━·········  SELECT * FROM orders WHERE id…",
                " └─ redis GET  WRONGTYPE                                        400 µs  ··············━·  WRONGTYPE Operation",
            ]
        );
    }

    #[test]
    fn a_request_that_repeats_a_call() {
        let mut tree = shop_tree();
        Arc::get_mut(&mut tree.span).unwrap().attributes.extend([
            ("tracekit.n_plus_one.count", Value::Int(12)),
            ("tracekit.n_plus_one.code.file.path", Value::from("/srv/shop/views.py")),
            ("tracekit.n_plus_one.code.line.number", Value::Int(33)),
        ]);
        let first = &lines(&tree, 120)[0];
        assert!(first.contains("GET /orders/7  200  N+1: 12 × views.py:33 "), "{first}");
    }

    #[test]
    fn lines_fit_any_terminal() {
        for width in [0, 40, 60, 80, 100, 300] {
            assert_eq!(lines(&shop_tree(), width).len(), 3);
        }
    }

    #[test]
    fn the_status_survives_a_long_path() {
        let span = server_span(1, &"/x".repeat(200), &resource("a-service-with-a-very-long-name"));
        let line = &lines(&leaf(span), 80)[0];
        assert!(line.contains("…  200 "), "{line}");
    }

    #[test]
    fn equal_calls_share_a_line_and_too_many_are_counted() {
        let shop = resource("shop");
        let mut tree = leaf(server_span(1, "/", &shop));
        tree.children = (0..50).map(|id| leaf(sql_span(id + 2, Some(1), &shop))).collect();
        let text = lines(&tree, 100);
        assert_eq!(text.len(), 2);
        assert!(text[1].contains("SELECT orders  ×50"), "{text:?}");
        assert!(text[1].contains("105.0 ms"), "{text:?}");

        for (n, child) in tree.children.iter_mut().enumerate() {
            Arc::get_mut(&mut child.span).unwrap().name = format!("SELECT t{n}");
        }
        let text = lines(&tree, 100);
        assert_eq!(text.len(), 1 + MAX_CHILDREN);
        assert!(text.last().unwrap().contains("… 11 more"), "{text:?}");
    }

    #[test]
    fn durations() {
        for (micros, text) in [
            (7, "7 µs"),
            (2_104, "2.10 ms"),
            (12_340, "12.3 ms"),
            (999_000, "999.0 ms"),
            (1_500_000, "1.50 s"),
            (125_000_000, "2 m 05 s"),
        ] {
            assert_eq!(format_duration(Duration::from_micros(micros)), text);
        }
    }

    proptest::proptest! {
        /// Names and times come from the network and from clocks that jump.
        #[test]
        fn hostile_spans_keep_to_their_lines(
            text in ".{0,60}", service in "\\PC{0,30}|.{0,5}", width in 0..200_usize,
            start in 0..u64::MAX, end in 0..u64::MAX, root in 0..u64::MAX, color: bool,
        ) {
            let shop = resource(&service);
            let mut tree = leaf(server_span(1, &text, &shop));
            Arc::get_mut(&mut tree.span).unwrap().start_unix_nano = root;
            let mut child = sql_span(2, Some(1), &shop);
            (child.start_unix_nano, child.end_unix_nano) = (start, end);
            child.attributes[2].1 = Value::from(text.clone());
            child.attributes.push(("error.type", Value::from(text.clone())));
            child.status = Status::Error(Some(text.clone()));
            child.name = text;
            tree.children = vec![leaf(child)];
            let mut out = String::new();
            render(&tree, &Style { color, width, utc: false }, &mut out);
            let plain = regex::Regex::new("\x1b\\[[0-9]+m").unwrap().replace_all(&out, "").into_owned();
            assert_eq!(plain.matches('\n').count(), 2);
            for line in plain.lines() {
                assert!(!line.contains(char::is_control), "{line:?}");
                assert!(super::width(line) <= width.max(40), "{line:?}");
            }
        }
    }
}
