//! Records → connections and byte streams → requests and answers.
//!
//! Pure: no I/O and no clock, so that it can be tested and fuzzed without a kernel.

mod chosen;

use std::{collections::HashMap, sync::Arc};

use tracekit_common::actor::Identity;
use tracekit_protocol::{Close, Direction, Event, Limits, Moment, Segment, Session, exchange::Http};

use self::chosen::Choices;
use crate::probes::record::{Chosen, ConnectionId, Data, Endpoint};

/// Connections followed at once. Beyond, those that were quiet longest are forgotten: of a message in
/// flight on one of them nothing is reported.
const MAX_CONNECTIONS: usize = 16 * 1024;

/// A place in the source of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Qualified name of the function.
    pub function: String,
    /// `co_filename`
    pub file: String,
    /// Line, if it is known.
    pub line: Option<i32>,
}

/// From where in the application something was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The innermost place.
    pub caller: Arc<Caller>,
    /// Those from which that was called, the next one first; empty if nobody wants them.
    pub below: Vec<Arc<Caller>>,
}

/// What is known of a connection beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Which.
    pub id: ConnectionId,
    /// This end and the other; `None` if the record that named them was lost.
    pub ends: Option<(Endpoint, Endpoint)>,
    /// The socket was in non-blocking mode at the last transfer.
    pub nonblocking: bool,
    /// Where in the application what was sent last was sent from, if it is known.
    pub origin: Option<Arc<Origin>>,
    /// Who did the last transfer.
    pub by: Identity,
    /// When it was met, nanoseconds of `CLOCK_MONOTONIC`; `u64::MAX` if the record that said so was lost.
    pub opened: u64,
    /// Ids that the kernel side has chosen for the request that begins.
    pub chosen: Option<Chosen>,
}

impl Connection {
    fn new(id: ConnectionId, ends: Option<(Endpoint, Endpoint)>, opened: u64) -> Self {
        Self { id, ends, nonblocking: false, origin: None, by: Identity::default(), opened, chosen: None }
    }
}

struct Followed {
    connection: Connection,
    session: Session,
    /// Bytes that this side has accounted for, by direction.
    received: u64,
    sent: u64,
    ignored: bool,
    last_used: u64,
    /// Time of the last transfer, nanoseconds of `CLOCK_MONOTONIC`.
    last_time: u64,
    /// Told to be quiet since the last transfer.
    settled: bool,
}

/// All connections of all traced processes.
#[derive(Default)]
pub struct Connections {
    followed: HashMap<ConnectionId, Followed>,
    choices: Choices,
    events: Vec<Event>,
    limits: Limits,
    /// Counts transfers: a clock for `last_used`.
    ticks: u64,
}

/// What the bytes of one call led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on capturing.
    Follow,
    /// Nobody can read this connection (encrypted, or no protocol that we know): stop capturing it.
    Ignore,
}

impl Connections {
    /// A connection was met for the first time (again, if the kernel side had forgotten it).
    pub fn opened(&mut self, id: ConnectionId, local: Endpoint, remote: Endpoint, time: u64) {
        self.ticks += 1;
        self.make_room();
        let connection = Connection::new(id, Some((local, remote)), time);
        self.followed.insert(id, Followed::new(connection, self.limits, self.ticks));
    }

    /// Bytes were transferred; `emit` gets what they complete.
    pub fn data(&mut self, data: &Data<'_>, mut emit: impl FnMut(&Connection, Event)) -> Verdict {
        self.ticks += 1;
        if self.followed.len() >= MAX_CONNECTIONS && !self.followed.contains_key(&data.id) {
            self.make_room();
        }
        let followed = self.followed.entry(data.id).or_insert_with(|| {
            let connection = Connection::new(data.id, None, u64::MAX);
            let mut followed = Followed::new(connection, self.limits, self.ticks);
            (followed.received, followed.sent) = match data.direction {
                Direction::Inbound => (data.offset, 0),
                Direction::Outbound => (0, data.offset),
            };
            followed
        });
        followed.last_used = self.ticks;
        followed.last_time = data.returned;
        followed.settled = false;
        if followed.ignored {
            return Verdict::Ignore;
        }
        followed.connection.nonblocking = data.nonblocking;
        followed.connection.by = data.by;
        followed.take(data, &mut self.events);
        for event in self.events.drain(..) {
            followed.connection.chosen = match &event {
                Event::Begin(begin) => self.choices.take(begin, data),
                Event::End(_) => None,
            };
            emit(&followed.connection, event);
        }
        self.choices.seen(data);
        if data.direction == Direction::Inbound {
            // What is sent after an answer may be sent from elsewhere.
            followed.connection.origin = None;
        }
        if followed.session.is_opaque() {
            followed.ignored = true;
            followed.session = Session::new(self.limits);
            return Verdict::Ignore;
        }
        Verdict::Follow
    }

    /// A connection, and the HTTP request of this id that is in flight on it.
    #[must_use]
    pub fn request(&self, id: ConnectionId, request: u64) -> Option<(&Connection, &Http)> {
        let followed = self.followed.get(&id)?;
        Some((&followed.connection, followed.session.http(request)?))
    }

    /// The kernel side has chosen ids for a request, of which the bytes follow.
    pub fn chosen(&mut self, id: ConnectionId, chosen: Chosen) {
        self.choices.add(id, chosen);
    }

    /// What is sent on this connection until something is received is sent from here.
    pub fn sent_from(&mut self, id: ConnectionId, origin: Option<Arc<Origin>>) {
        if let Some(followed) = self.followed.get_mut(&id) {
            followed.connection.origin = origin;
        }
    }

    /// What is known of a connection.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.followed.get(&id).map(|followed| &followed.connection)
    }

    /// A connection, or a direction of it, ended.
    pub fn closed(
        &mut self,
        id: ConnectionId,
        close: Close,
        time: u64,
        tid: u32,
        mut emit: impl FnMut(&Connection, Event),
    ) {
        let Some(followed) = self.followed.get_mut(&id) else { return };
        let at = Moment { entered: time, returned: time, tid, first_of_call: true };
        followed.session.close(close, &at, &mut self.events);
        for event in self.events.drain(..) {
            emit(&followed.connection, event);
        }
        if close == Close::Local {
            self.followed.remove(&id);
            self.choices.forget(id);
        }
    }

    /// Nothing more will come on this connection for what was asked so far: ends answers whose end can't be
    /// told because bytes are missing.
    pub fn settle(&mut self, id: ConnectionId, mut emit: impl FnMut(&Connection, Event)) {
        let Some(followed) = self.followed.get_mut(&id).filter(|followed| !followed.settled) else { return };
        followed.settled = true;
        followed.session.settle(&mut self.events);
        for event in self.events.drain(..) {
            emit(&followed.connection, event);
        }
    }

    /// As [`Connections::settle`], for all connections without a transfer since `before` (nanoseconds of
    /// `CLOCK_MONOTONIC`).
    pub fn settle_quiet(&mut self, before: u64, mut emit: impl FnMut(&Connection, Event)) {
        let quiet = |f: &Followed| !f.settled && !f.ignored && f.last_time < before;
        let ids: Vec<_> = self.followed.iter().filter(|(_, f)| quiet(f)).map(|(id, _)| *id).collect();
        for id in ids {
            self.settle(id, &mut emit);
        }
    }

    /// A process exited, executed another program, or is not traced any more.
    pub fn process_gone(&mut self, tgid: u32, time: u64, mut emit: impl FnMut(&Connection, Event)) {
        let ids: Vec<_> = self.followed.keys().filter(|id| id.tgid == tgid).copied().collect();
        for id in ids {
            self.closed(id, Close::Local, time, tgid, &mut emit);
        }
    }

    /// Nothing more will be seen: ends what is in flight everywhere.
    pub fn stopped(&mut self, time: u64, mut emit: impl FnMut(&Connection, Event)) {
        let ids: Vec<_> = self.followed.keys().copied().collect();
        for id in ids {
            self.closed(id, Close::Local, time, id.tgid, &mut emit);
        }
    }

    /// Connections followed now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// None is followed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    fn make_room(&mut self) {
        if self.followed.len() < MAX_CONNECTIONS {
            return;
        }
        let mut used: Vec<u64> = self.followed.values().map(|f| f.last_used).collect();
        let keep = used.len() * 9 / 10;
        let at = used.len() - keep;
        let (_, oldest_kept, _) = used.select_nth_unstable(at);
        let oldest_kept = *oldest_kept;
        self.followed.retain(|_, f| f.last_used > oldest_kept);
    }
}

impl Followed {
    fn new(connection: Connection, limits: Limits, now: u64) -> Self {
        let session = Session::new(limits);
        Self {
            connection,
            session,
            received: 0,
            sent: 0,
            ignored: false,
            last_used: now,
            last_time: u64::MAX,
            settled: false,
        }
    }

    fn take(&mut self, data: &Data<'_>, events: &mut Vec<Event>) {
        let mut at =
            Moment { entered: data.entered, returned: data.returned, tid: data.tid, first_of_call: true };
        let mut give = |segment: Segment<'_>, at: &Moment| {
            self.session.segment(data.direction, segment, at, events);
        };
        let seen = match data.direction {
            Direction::Inbound => &mut self.received,
            Direction::Outbound => &mut self.sent,
        };
        // Records that the ring buffer had no room for: how long they were follows from the offsets.
        match data.offset.checked_sub(*seen) {
            Some(0) => {}
            Some(missing) => give(Segment::Gap(missing), &at),
            None => give(Segment::Lost, &at),
        }
        let Some(length) = data.length else {
            give(Segment::Lost, &at);
            *seen = data.offset;
            return;
        };
        *seen = data.offset.saturating_add(length);
        if !data.head.is_empty() {
            give(Segment::Data(data.head), &at);
            at.first_of_call = false;
        }
        let between = length - (data.head.len() + data.tail.len()) as u64;
        if between > 0 {
            give(Segment::Gap(between), &at);
            at.first_of_call = false;
        }
        if !data.tail.is_empty() {
            give(Segment::Data(data.tail), &at);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracekit_protocol::{Outcome, Request};

    use super::*;

    const ID: ConnectionId = ConnectionId { tgid: 1, inode: 2 };

    fn data(direction: Direction, offset: u64, length: u64, head: &[u8]) -> Data<'_> {
        Data {
            id: ID,
            tid: 7,
            entered: offset,
            returned: offset + 1,
            direction,
            offset,
            length: Some(length),
            head,
            tail: b"",
            nonblocking: false,
            by: Identity::default(),
        }
    }

    fn statuses(events: &[Event]) -> Vec<(Option<u16>, Outcome)> {
        events
            .iter()
            .filter_map(|event| match event {
                Event::End(end) => match &end.request {
                    Request::Http(http) => Some((http.status, end.outcome)),
                    _ => None,
                },
                Event::Begin(_) => None,
            })
            .collect()
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";

    #[test]
    fn a_body_that_is_mostly_not_captured_is_counted() {
        let mut connections = Connections::default();
        let mut events = Vec::new();
        let whole = ANSWER.len() as u64 + 100_000;
        for data in [
            data(Direction::Inbound, 0, REQUEST.len() as u64, REQUEST),
            data(Direction::Outbound, 0, whole, ANSWER),
            data(Direction::Inbound, REQUEST.len() as u64, REQUEST.len() as u64, REQUEST),
        ] {
            assert_eq!(connections.data(&data, |_, event| events.push(event)), Verdict::Follow);
        }
        assert_eq!(statuses(&events), [(Some(200), Outcome::Complete)]);
        assert_eq!(events.len(), 3, "{events:?}");
    }

    #[test]
    fn records_that_were_lost_are_a_gap_of_known_length() {
        let mut connections = Connections::default();
        let mut events = Vec::new();
        let mut give = |data: Data<'_>| {
            connections.data(&data, |_, event| events.push(event));
        };
        give(data(Direction::Inbound, 0, REQUEST.len() as u64, REQUEST));
        give(data(Direction::Outbound, 0, ANSWER.len() as u64, ANSWER));
        // The 99 000 bytes between never arrived here.
        give(data(Direction::Outbound, ANSWER.len() as u64 + 99_000, 1000, &[b'x'; 1000]));
        assert_eq!(statuses(&events), [(Some(200), Outcome::Complete)]);
    }

    #[test]
    fn a_process_that_is_gone_leaves_nothing() {
        let mut connections = Connections::default();
        let mut events = Vec::new();
        connections.data(&data(Direction::Inbound, 0, REQUEST.len() as u64, REQUEST), |_, e| events.push(e));
        connections.process_gone(1, 9, |_, event| events.push(event));
        assert_eq!(statuses(&events), [(None, Outcome::ClosedLocally)]);
        assert!(connections.is_empty());
    }

    #[test]
    fn the_number_of_connections_is_bounded() {
        let mut connections = Connections::default();
        for inode in 0..3 * MAX_CONNECTIONS as u64 {
            connections.opened(
                ConnectionId { tgid: 1, inode },
                Endpoint::Unix(None),
                Endpoint::Unix(None),
                0,
            );
        }
        assert!(connections.len() <= MAX_CONNECTIONS);
    }
}
