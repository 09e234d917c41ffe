//! Records → connections and byte streams → requests and answers.
//!
//! Pure: no I/O and no clock, so that it can be tested and fuzzed without a kernel.

use std::collections::HashMap;

use tracekit_protocol::{Close, Direction, Event, Limits, Moment, Segment, Session};

use crate::probes::record::{ConnectionId, Data, Endpoint};

/// Connections followed at once. Beyond, those that were quiet longest are forgotten: of a message in
/// flight on one of them nothing is reported.
const MAX_CONNECTIONS: usize = 16 * 1024;

/// What is known of a connection beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Which.
    pub id: ConnectionId,
    /// This end and the other; `None` if the record that named them was lost.
    pub ends: Option<(Endpoint, Endpoint)>,
    /// The socket was in non-blocking mode at the last transfer.
    pub nonblocking: bool,
}

struct Followed {
    connection: Connection,
    session: Session,
    /// Bytes that this side has accounted for, by direction.
    received: u64,
    sent: u64,
    ignored: bool,
    last_used: u64,
}

/// All connections of all traced processes.
#[derive(Default)]
pub struct Connections {
    followed: HashMap<ConnectionId, Followed>,
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
    pub fn opened(&mut self, id: ConnectionId, local: Endpoint, remote: Endpoint) {
        self.make_room();
        let connection = Connection { id, ends: Some((local, remote)), nonblocking: false };
        self.followed.insert(id, Followed::new(connection, self.limits, self.ticks));
    }

    /// Bytes were transferred; `emit` gets what they complete.
    pub fn data(&mut self, data: &Data<'_>, mut emit: impl FnMut(&Connection, Event)) -> Verdict {
        self.ticks += 1;
        if !self.followed.contains_key(&data.id) {
            self.make_room();
        }
        let followed = self.followed.entry(data.id).or_insert_with(|| {
            let connection = Connection { id: data.id, ends: None, nonblocking: false };
            let mut followed = Followed::new(connection, self.limits, self.ticks);
            (followed.received, followed.sent) = match data.direction {
                Direction::Inbound => (data.offset, 0),
                Direction::Outbound => (0, data.offset),
            };
            followed
        });
        followed.last_used = self.ticks;
        if followed.ignored {
            return Verdict::Ignore;
        }
        followed.connection.nonblocking = data.nonblocking;
        followed.take(data, &mut self.events);
        for event in self.events.drain(..) {
            emit(&followed.connection, event);
        }
        if followed.session.is_opaque() {
            followed.ignored = true;
            followed.session = Session::new(self.limits);
            return Verdict::Ignore;
        }
        Verdict::Follow
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
        }
    }

    /// A process exited, executed another program, or is not traced any more.
    pub fn process_gone(&mut self, tgid: u32, time: u64, mut emit: impl FnMut(&Connection, Event)) {
        let ids: Vec<_> = self.followed.keys().filter(|id| id.tgid == tgid).copied().collect();
        for id in ids {
            self.closed(id, Close::Local, time, tgid, &mut emit);
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
        Self { connection, session, received: 0, sent: 0, ignored: false, last_used: now }
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
