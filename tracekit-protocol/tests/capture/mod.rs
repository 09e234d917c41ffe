//! Recordings, and ways to play them to a parser.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;

use serde_json::Value;
use tracekit_protocol::{Close, Direction, Event, Limits, Moment, Outcome, Parser, Request, Role, Segment};
use tracekit_protocol::{mysql, postgres};

/// One recorded connection.
#[derive(Debug, Clone)]
pub struct Capture {
    pub name: String,
    pub protocol: String,
    pub records: Vec<(Direction, Vec<u8>)>,
    pub close: Close,
}

impl Capture {
    fn directory() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
    }

    pub fn load(name: &str) -> Self {
        let path = Self::directory().join(format!("{name}.jsonl"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let head = lines.next().unwrap();
        let mut capture = Self {
            name: name.to_owned(),
            protocol: head["protocol"].as_str().unwrap().to_owned(),
            records: Vec::new(),
            close: Close::Local,
        };
        for line in lines {
            match (line["dir"].as_str(), line["close"].as_str()) {
                (Some(direction), _) => {
                    let direction = if direction == "out" { Direction::Outbound } else { Direction::Inbound };
                    capture.records.push((direction, bytes(line["hex"].as_str().unwrap())));
                }
                (_, Some(close)) => {
                    capture.close = if close == "local" { Close::Local } else { Close::Remote };
                }
                _ => panic!("{name}: {line}"),
            }
        }
        capture
    }

    /// All recordings of SQL protocols.
    pub fn all() -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(Self::directory())
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().into_string().unwrap().strip_suffix(".jsonl").map(str::to_owned)
            })
            .filter(|name| name.starts_with("postgres_") || name.starts_with("mysql_"))
            .collect();
        names.sort();
        names.iter().map(|name| Self::load(name)).collect()
    }

    pub fn parser(&self, limits: Limits) -> Box<dyn Parser> {
        match self.protocol.as_str() {
            "postgres" => Box::new(postgres::Connection::new(Role::Client, limits)),
            "mysql" => Box::new(mysql::Connection::new(Role::Client, limits)),
            other => panic!("{other}"),
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

/// The moment of the n-th record.
pub fn moment(n: usize, first_of_call: bool) -> Moment {
    let at = 1_000 * n as u64;
    Moment { entered: at, returned: at + 500, tid: 7, first_of_call }
}

/// Every record is one system call, captured whole.
pub fn play(capture: &Capture) -> Vec<Event> {
    play_from(capture, 0, usize::MAX, 0)
}

/// As [`play`], but of each call only the first and last bytes are captured.
pub fn play_bounded(capture: &Capture, head: usize, tail: usize) -> Vec<Event> {
    play_from(capture, 0, head, tail)
}

/// As [`play_bounded`], from the n-th record on.
pub fn play_from(capture: &Capture, from: usize, head: usize, tail: usize) -> Vec<Event> {
    let mut parser = capture.parser(Limits::default());
    let mut events = Vec::new();
    for (n, (direction, data)) in capture.records.iter().enumerate().skip(from) {
        if data.len() <= head.saturating_add(tail) {
            parser.segment(*direction, Segment::Data(data), &moment(n, true), &mut events);
            continue;
        }
        let (start, rest) = data.split_at(head);
        let (gap, end) = rest.split_at(rest.len() - tail);
        parser.segment(*direction, Segment::Data(start), &moment(n, true), &mut events);
        parser.segment(*direction, Segment::Gap(gap.len() as u64), &moment(n, false), &mut events);
        parser.segment(*direction, Segment::Data(end), &moment(n, false), &mut events);
    }
    parser.close(capture.close, &moment(capture.records.len(), false), &mut events);
    events
}

/// One line for each exchange, in the order of their ends.
pub fn describe(events: &[Event]) -> Vec<String> {
    balanced(events);
    events
        .iter()
        .filter_map(|event| match event {
            Event::End(end) => Some(end),
            Event::Begin(_) => None,
        })
        .map(|end| {
            let Request::Sql(sql) = &end.request else { panic!("{end:?}") };
            let mut line = sql.text.clone().unwrap_or_else(|| "-".to_owned());
            if line.len() > 90 {
                line.truncate(90);
                line.push('…');
            }
            let mut say = |text: String| {
                line.push_str(" | ");
                line.push_str(&text);
            };
            if sql.parameterized {
                say("p".to_owned());
            }
            if let Some(name) = &sql.statement_name {
                say(format!("name {name}"));
            }
            if let Some(rows) = sql.returned_rows {
                say(format!("{rows} rows"));
            }
            if let Some(rows) = sql.affected_rows {
                say(format!("{rows} affected"));
            }
            if let Some(error) = &sql.error {
                say(format!("error {} {}", error.code, error.sqlstate.as_deref().unwrap_or_default())
                    .trim_end()
                    .to_owned());
            }
            if sql.cancelled {
                say("cancelled".to_owned());
            }
            if end.outcome != Outcome::Complete {
                say(format!("{:?}", end.outcome));
            }
            line
        })
        .collect()
}

/// Every Begin has exactly one End, after it, with the same start; ids are unique.
pub fn balanced(events: &[Event]) {
    let mut open = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for event in events {
        match event {
            Event::Begin(begin) => {
                assert!(seen.insert(begin.id), "two exchanges {}", begin.id);
                open.insert(begin.id, begin.start);
            }
            Event::End(end) => {
                assert_eq!(open.remove(&end.id), Some(end.start), "end without begin: {end:?}");
                assert!(end.end >= end.start);
            }
        }
    }
    assert!(open.is_empty(), "no end for {open:?}");
}
