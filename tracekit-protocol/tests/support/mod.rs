//! Recorded connections (`tests/captures/*.jsonl`, format in `captures/record/proxy.py`) and ways to play them.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a capture that can't be read fails the test")]

use std::collections::HashSet;
use std::path::Path;

use tracekit_protocol::{Close, Direction, End, Event, Moment, Role, Segment, Session};

/// A recorded connection, seen from its client.
#[derive(Debug, Clone)]
pub struct Capture {
    /// File name without its extension.
    pub name: String,
    /// `http`, `redis`, …
    pub protocol: String,
    /// What went through, in order.
    pub pieces: Vec<(Direction, Vec<u8>)>,
    /// Who closed.
    pub close: Close,
}

impl Capture {
    /// Reads `tests/captures/{name}.jsonl`.
    pub fn load(name: &str) -> Self {
        Self::read(&directory().join(format!("{name}.jsonl")))
    }

    /// All captures, of every protocol, by name.
    pub fn all() -> Vec<Self> {
        let mut paths: Vec<_> = std::fs::read_dir(directory())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut capture = Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            protocol: String::new(),
            pieces: Vec::new(),
            close: Close::Local,
        };
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(protocol) = line["protocol"].as_str() {
                capture.protocol = protocol.to_owned();
            } else if let Some(hex) = line["hex"].as_str() {
                let direction = if line["dir"] == "out" { Direction::Outbound } else { Direction::Inbound };
                capture.pieces.push((direction, unhex(hex)));
            } else if line["close"] == "remote" {
                capture.close = Close::Remote;
            }
        }
        capture
    }

    /// The same connection as its server sees it.
    pub fn mirrored(mut self) -> Self {
        for (direction, _) in &mut self.pieces {
            *direction = direction.reverse();
        }
        self.close = if self.close == Close::Local { Close::Remote } else { Close::Local };
        self
    }

    /// Every piece as one system call, then the close of the traced process.
    pub fn play(&self) -> Vec<Event> {
        let mut player = Player::new(Session::new(tracekit_protocol::Limits::default()));
        for (direction, bytes) in &self.pieces {
            player.call(*direction, &[Segment::Data(bytes)]);
        }
        player.finish(self.close)
    }
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Plays system calls into a session, 10 ns apart.
pub struct Player {
    pub session: Session,
    pub events: Vec<Event>,
    pub clock: u64,
}

impl Player {
    pub fn new(session: Session) -> Self {
        Self { session, events: Vec::new(), clock: 0 }
    }

    pub fn call(&mut self, direction: Direction, segments: &[Segment<'_>]) {
        self.clock += 10;
        let transferred = segments.iter().filter(|s| !matches!(s, Segment::Data([]) | Segment::Gap(0)));
        for (i, segment) in transferred.enumerate() {
            let at = self.moment(i == 0);
            self.session.segment(direction, *segment, &at, &mut self.events);
        }
    }

    fn moment(&self, first_of_call: bool) -> Moment {
        Moment { entered: self.clock, returned: self.clock + 5, tid: 1, first_of_call }
    }

    pub fn close(&mut self, close: Close) {
        self.clock += 10;
        let at = self.moment(true);
        self.session.close(close, &at, &mut self.events);
    }

    /// Closes, in the end always by the traced process.
    pub fn finish(mut self, close: Close) -> Vec<Event> {
        self.close(close);
        self.close(Close::Local);
        self.events
    }
}

/// The exchanges that have ended.
pub fn ends(events: &[Event]) -> Vec<&End> {
    events.iter().filter_map(|e| if let Event::End(end) = e { Some(&**end) } else { None }).collect()
}

/// Every begin has exactly one end after it, ids are unique, roles and times agree.
pub fn assert_paired(events: &[Event]) {
    let (mut open, mut seen): (Vec<(u64, Role, u64)>, HashSet<u64>) = (Vec::new(), HashSet::new());
    for event in events {
        match event {
            Event::Begin(begin) => {
                assert!(seen.insert(begin.id), "id {} twice", begin.id);
                open.push((begin.id, begin.role, begin.start));
            }
            Event::End(end) => {
                let index = open
                    .iter()
                    .position(|o| *o == (end.id, end.role, end.start))
                    .unwrap_or_else(|| panic!("an end without its begin: {end:?}"));
                open.remove(index);
                assert!(end.end >= end.start, "{end:?}");
                assert!(end.first_response_byte.is_none_or(|first| first <= end.end), "{end:?}");
            }
        }
    }
    assert!(open.is_empty(), "begun and never ended: {open:?}");
}
