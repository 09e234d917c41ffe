//! One connection: which protocol it speaks, then that protocol's parser.

use std::collections::VecDeque;

use crate::{
    Close, Detection, Direction, Event, Limits, Moment, Parser, Role, Segment, exchange::Http, http1, mysql,
    postgres, redis,
};

/// The protocols that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0, HTTP/1.1.
    Http1,
    /// PostgreSQL frontend/backend protocol 3.
    PostgreSql,
    /// MySQL and MariaDB client/server protocol.
    MySql,
    /// RESP2, RESP3.
    Redis,
}

impl Protocol {
    /// In the order in which their proofs are to be trusted: the longest first.
    const ALL: [Self; 4] = [Self::Http1, Self::Redis, Self::PostgreSql, Self::MySql];

    /// Name for people: `http`, `postgresql`, `mysql`, `redis`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::PostgreSql => "postgresql",
            Self::MySql => "mysql",
            Self::Redis => "redis",
        }
    }

    fn detect(self, direction: Direction, bytes: &[u8]) -> Detection {
        match self {
            Self::Http1 => http1::detect(direction, bytes),
            Self::PostgreSql => postgres::detect(direction, bytes),
            Self::MySql => mysql::detect(direction, bytes),
            Self::Redis => redis::detect(direction, bytes),
        }
    }

    fn parser(self, role: Role, limits: Limits) -> Box<dyn Parser> {
        match self {
            Self::Http1 => Box::new(http1::Connection::new(role, limits)),
            Self::PostgreSql => Box::new(postgres::Connection::new(role, limits)),
            Self::MySql => Box::new(mysql::Connection::new(role, limits)),
            Self::Redis => Box::new(redis::Connection::new(role, limits)),
        }
    }
}

/// Follows one connection.
pub struct Session {
    limits: Limits,
    state: State,
}

enum State {
    Detecting(Detector),
    Known(Protocol, Box<dyn Parser>),
    /// Nothing to be learnt; with the protocol that it was, if any.
    Opaque(Option<Protocol>),
    Closed(Option<Protocol>),
}

impl Session {
    /// A connection, seen from its start or from anywhere.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Detecting(Detector::default()) }
    }

    /// Takes the next piece of one direction and appends what it completes to `events`.
    pub fn segment(
        &mut self,
        direction: Direction,
        segment: Segment<'_>,
        at: &Moment,
        events: &mut Vec<Event>,
    ) {
        match &mut self.state {
            State::Detecting(detector) => match detector.segment(direction, segment, at, &self.limits) {
                Verdict::Undecided => {}
                Verdict::Opaque => self.state = State::Opaque(None),
                Verdict::Found(protocol, role, pending) => {
                    let mut parser = protocol.parser(role, self.limits);
                    for piece in &pending {
                        parser.segment(piece.direction, piece.content.as_segment(), &piece.at, events);
                    }
                    self.state = State::Known(protocol, parser);
                    self.check_opaque();
                }
            },
            State::Known(protocol, parser) => {
                // The SQL protocols may turn to TLS after their first messages.
                if at.first_of_call
                    && matches!(protocol, Protocol::PostgreSql | Protocol::MySql)
                    && let Segment::Data(bytes) = segment
                    && tls_hello(bytes)
                {
                    parser.close(Close::Local, at, events);
                    self.state = State::Opaque(Some(*protocol));
                    return;
                }
                parser.segment(direction, segment, at, events);
                self.check_opaque();
            }
            State::Opaque(_) | State::Closed(_) => {}
        }
    }

    fn check_opaque(&mut self) {
        if let State::Known(protocol, parser) = &self.state
            && parser.is_opaque()
        {
            self.state = State::Opaque(Some(*protocol));
        }
    }

    /// The connection ended, or was half closed. After [`Close::Local`] every exchange has its end; a
    /// server may still answer after [`Close::Remote`], and a client still read after [`Close::LocalWrite`].
    pub fn close(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        if let State::Known(_, parser) = &mut self.state {
            parser.close(close, at, events);
        }
        if close == Close::Local {
            self.state = State::Closed(self.protocol());
        }
    }

    /// Ends exchanges whose answer has begun but whose last byte can't be told because bytes are missing.
    /// To be called when the connection has been quiet for a while.
    pub fn settle(&mut self, events: &mut Vec<Event>) {
        if let State::Known(_, parser) = &mut self.state {
            parser.settle(events);
        }
    }

    /// The HTTP request of this id that is in flight, as far as it is known.
    #[must_use]
    pub fn http(&self, id: u64) -> Option<&Http> {
        match &self.state {
            State::Known(_, parser) => parser.http(id),
            _ => None,
        }
    }

    /// The protocol, once it is proven.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state {
            State::Detecting(_) => None,
            State::Known(protocol, _) => Some(*protocol),
            State::Opaque(protocol) | State::Closed(protocol) => *protocol,
        }
    }

    /// Nothing more will come of this connection, so that its bytes need not be captured: it is
    /// encrypted, upgraded, HTTP/2, a replication stream, or nothing known.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque(_))
    }

    /// Bytes of the stream held in memory now.
    #[must_use]
    pub fn buffered(&self) -> usize {
        match &self.state {
            State::Detecting(detector) => detector.buffered(),
            State::Known(_, parser) => parser.buffered(),
            State::Opaque(_) | State::Closed(_) => 0,
        }
    }
}

/// A connection with more than this many system calls in both directions and no match is given up.
const MAX_CALLS: u32 = 200;
/// Places looked at in one direction at the same time.
const MAX_CANDIDATES: usize = 4;
/// Segments remembered.
const MAX_PENDING: usize = 256;

/// Looks for the protocol.
#[derive(Default)]
struct Detector {
    /// Segments since the oldest candidate.
    pending: VecDeque<Pending>,
    /// Number of the first segment in `pending`.
    first_pending: u64,
    candidates: Vec<Candidate>,
    /// A client seems to send Redis commands to the traced process; its answer decides.
    redis_server: Option<u64>,
    /// Bytes and calls by direction.
    seen: [(u64, u32); 2],
    /// TLS records by direction.
    tls_records: [bool; 2],
}

struct Pending {
    direction: Direction,
    content: Content,
    at: Moment,
}

enum Content {
    Data(Vec<u8>),
    Gap(u64),
    Lost,
}

impl Content {
    fn as_segment(&self) -> Segment<'_> {
        match self {
            Self::Data(bytes) => Segment::Data(bytes),
            Self::Gap(n) => Segment::Gap(*n),
            Self::Lost => Segment::Lost,
        }
    }
}

/// A place in one direction where a message may start.
struct Candidate {
    direction: Direction,
    /// Number of its first segment.
    segment: u64,
    bytes: Vec<u8>,
}

enum Verdict {
    Undecided,
    Opaque,
    Found(Protocol, Role, VecDeque<Pending>),
}

impl Detector {
    fn segment(
        &mut self,
        direction: Direction,
        segment: Segment<'_>,
        at: &Moment,
        limits: &Limits,
    ) -> Verdict {
        let side = direction as usize;
        let length = match segment {
            Segment::Data(bytes) => bytes.len() as u64,
            Segment::Gap(n) => n,
            Segment::Lost => 0,
        };
        if let Some((bytes, calls)) = self.seen.get_mut(side) {
            *bytes = bytes.saturating_add(length);
            *calls = calls.saturating_add(u32::from(at.first_of_call));
        }
        let number = self.first_pending + self.pending.len() as u64;
        self.remember(direction, segment, at);
        if let Segment::Data(bytes) = segment {
            if at.first_of_call && self.encrypted(direction, bytes) {
                return Verdict::Opaque;
            }
            if at.first_of_call && direction == Direction::Outbound && redis::is_answer(bytes) {
                if let Some(start) = self.redis_server {
                    return self.found(Protocol::Redis, Role::Server, start);
                }
            } else if at.first_of_call && direction == Direction::Outbound {
                self.redis_server = None;
            }
            if let Some(found) = self.look(direction, number, bytes, at, limits) {
                return found;
            }
        } else if length > 0 || segment == Segment::Lost {
            self.candidates.retain(|c| c.direction != direction);
        }
        self.forget(limits);
        let exhausted =
            self.seen.iter().all(|(bytes, calls)| *bytes > limits.buffer as u64 || *calls > MAX_CALLS);
        if exhausted { Verdict::Opaque } else { Verdict::Undecided }
    }

    fn remember(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment) {
        let content = match segment {
            Segment::Data(bytes) => Content::Data(bytes.to_vec()),
            Segment::Gap(n) => Content::Gap(n),
            Segment::Lost => Content::Lost,
        };
        self.pending.push_back(Pending { direction, content, at: *at });
    }

    /// Offers the bytes to every candidate and asks the protocols.
    fn look(
        &mut self,
        direction: Direction,
        number: u64,
        bytes: &[u8],
        at: &Moment,
        limits: &Limits,
    ) -> Option<Verdict> {
        for candidate in self.candidates.iter_mut().filter(|c| c.direction == direction) {
            candidate.bytes.extend_from_slice(bytes);
        }
        let here = self.candidates.iter().filter(|c| c.direction == direction).count();
        if at.first_of_call && here < MAX_CANDIDATES && !bytes.is_empty() {
            self.candidates.push(Candidate { direction, segment: number, bytes: bytes.to_vec() });
        }
        let mut index = 0;
        while let Some(candidate) = self.candidates.get(index) {
            if candidate.direction != direction {
                index += 1;
                continue;
            }
            let mut possible = candidate.bytes.len() <= limits.buffer;
            let mut undecided = false;
            for protocol in Protocol::ALL {
                match protocol.detect(direction, &candidate.bytes) {
                    Detection::Match(Role::Server) if protocol == Protocol::Redis => {
                        // A list answered to a client may look the same: the other side decides.
                        self.redis_server.get_or_insert(candidate.segment);
                    }
                    Detection::Match(role) => {
                        let start = self.start_of(protocol, candidate);
                        return Some(self.found(protocol, role, start));
                    }
                    Detection::Undecided => undecided = true,
                    Detection::No => {}
                }
            }
            possible &= undecided;
            if possible {
                index += 1;
            } else {
                self.candidates.remove(index);
            }
        }
        None
    }

    /// Number of the segment from which the parser is to see the stream: that of the match, or an earlier
    /// one that could be the same protocol (a greeting that only its answer proves).
    fn start_of(&self, protocol: Protocol, matched: &Candidate) -> u64 {
        self.candidates
            .iter()
            .filter(|c| protocol.detect(c.direction, &c.bytes) != Detection::No)
            .map(|c| c.segment)
            .fold(matched.segment, u64::min)
    }

    fn found(&mut self, protocol: Protocol, role: Role, start: u64) -> Verdict {
        let skip = usize::try_from(start.saturating_sub(self.first_pending)).unwrap_or(usize::MAX);
        let mut pending = std::mem::take(&mut self.pending);
        pending.drain(..skip.min(pending.len()));
        Verdict::Found(protocol, role, pending)
    }

    /// Drops what no candidate needs, and everything if it is too much.
    fn forget(&mut self, limits: &Limits) {
        if self.buffered() > limits.buffer || self.pending.len() > MAX_PENDING {
            self.candidates.clear();
            self.redis_server = None;
        }
        let oldest = self.candidates.iter().map(|c| c.segment).chain(self.redis_server).min();
        let keep_from = oldest.unwrap_or(u64::MAX);
        while self.first_pending < keep_from {
            if self.pending.pop_front().is_none() {
                break;
            }
            self.first_pending += 1;
        }
    }

    /// TLS and HTTP/2: what follows can't be read, or not by us.
    fn encrypted(&mut self, direction: Direction, bytes: &[u8]) -> bool {
        const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        if tls_hello(bytes) || bytes.starts_with(HTTP2_PREFACE.get(..18).unwrap_or_default()) {
            return true;
        }
        // Joined later: application data both ways.
        if let Some(seen) = self.tls_records.get_mut(direction as usize) {
            *seen = matches!(bytes, [0x17, 0x03, 0x01..=0x04, high, ..] if *high <= 0x41);
        }
        self.tls_records == [true, true]
    }

    fn buffered(&self) -> usize {
        let pending =
            self.pending.iter().map(|p| if let Content::Data(bytes) = &p.content { bytes.len() } else { 0 });
        pending.chain(self.candidates.iter().map(|c| c.bytes.len())).sum()
    }
}

/// Does a TLS ClientHello or ServerHello start here (RFC 8446, 4.1.2 and 5.1)?
fn tls_hello(bytes: &[u8]) -> bool {
    match bytes {
        // Record: handshake, version 3.x, length; message: 1 or 2, length.
        [0x16, 0x03, 0x00..=0x04, high, low, 0x01 | 0x02, 0x00, ..] => {
            (42..=0x4000).contains(&(usize::from(*high) << 8 | usize::from(*low)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
