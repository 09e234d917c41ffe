//! MySQL and MariaDB (MySQL and MariaDB documentation, "Client/Server Protocol").
//!
//! An exchange starts with the write that carries the command and ends with the read that has the last
//! packet of the last result set. Whether both sides have CLIENT_DEPRECATE_EOF is never asked: each
//! packet that ends definitions or rows tells by its length which of the two forms it has, so
//! connections joined after their start are read the same way. The kind of server is known from its
//! greeting only; without it, MySQL is assumed.

mod flow;
mod message;

use flow::{Flow, Said};
use message::Proof;

use crate::framing::{Frame, Framer, OutOfStep, Tail};
use crate::{Close, Detection, Direction, Event, Limits, Moment, Parser, Role, Segment};

/// Bytes of a packet's header: length and sequence number.
const HEADER: usize = 4;

/// Whether the first bytes of one direction, seen at the start of a system call, are MySQL or MariaDB.
#[must_use]
pub fn detect(direction: Direction, bytes: &[u8]) -> Detection {
    let asks = Role::requesting(direction);
    match (message::is_greeting(bytes), message::prove_commands(bytes)) {
        (Some(true), _) => Detection::Match(asks.reverse()),
        (_, Proof::Commands) => Detection::Match(asks),
        (None, _) | (_, Proof::Short) => Detection::Undecided,
        (Some(false), Proof::Nothing) => Detection::No,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was seen yet.
    Fresh,
    /// The server's greeting comes.
    Greeting,
    /// The client answers the greeting.
    Handshake,
    /// Until the server says OK.
    Authentication { compressed: bool },
    /// Commands.
    Commands,
    /// Encrypted, compressed or replication: nothing to follow.
    Opaque,
}

/// Follows one MySQL or MariaDB connection.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    phase: Phase,
    /// Direction of the client's packets.
    asking: Direction,
    requests: Framer,
    requests_lost: bool,
    answers: Framer,
    answers_lost: bool,
    tail: Tail,
    /// When the last of the server's bytes were transferred.
    answered: u64,
    /// When the last of the client's bytes were transferred.
    asked: u64,
    flow: Flow,
}

impl Connection {
    /// Follows a connection on which the traced process has this role.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Fresh,
            asking: role.request_direction(),
            requests: Framer::new(HEADER),
            requests_lost: true,
            answers: Framer::new(HEADER),
            answers_lost: true,
            tail: Tail::default(),
            answered: 0,
            asked: 0,
            flow: Flow::new(role, limits),
        }
    }

    fn request(&mut self, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        match segment {
            Segment::Lost => self.lose_requests(),
            Segment::Gap(_) if self.requests_lost => {}
            Segment::Gap(n) => {
                let (frame, step) = self.requests.gap(n);
                if let Some(frame) = frame {
                    self.request_packet(&frame, events);
                }
                if step == Err(OutOfStep) {
                    self.lose_requests();
                }
            }
            Segment::Data(mut data) => {
                let proven = || at.first_of_call && message::prove_commands(data) == Proof::Commands;
                if self.requests_lost {
                    if !proven() || !(self.answers_lost || self.flow.idle()) {
                        return;
                    }
                    self.join(at, events);
                } else if self.answers_lost && self.phase == Phase::Commands && proven() {
                    // The client has read the answer whose end was not found.
                    self.flow.give_up(at.entered, events);
                    self.restart_answers();
                }
                while !data.is_empty() && self.phase != Phase::Opaque && !self.requests_lost {
                    let limits = self.limits;
                    match self.requests.next(&mut data, at, |header| message::request_shape(header, &limits))
                    {
                        Ok(Some(frame)) => self.request_packet(&frame, events),
                        Ok(None) => {}
                        Err(OutOfStep) => self.lose_requests(),
                    }
                }
            }
        }
    }

    fn request_packet(&mut self, frame: &Frame, events: &mut Vec<Event>) {
        match self.phase {
            Phase::Handshake => {
                self.phase = match message::handshake(&frame.body) {
                    Some(handshake) if !handshake.encrypted => {
                        self.flow.peer.user = handshake.user;
                        self.flow.peer.database = handshake.database;
                        Phase::Authentication { compressed: handshake.compressed }
                    }
                    _ => Phase::Opaque,
                }
            }
            Phase::Commands => match self.flow.request(frame, events) {
                Said::Fine => {}
                Said::Nonsense => self.lose_requests(),
                Said::Stream => self.phase = Phase::Opaque,
            },
            Phase::Fresh | Phase::Greeting | Phase::Authentication { .. } | Phase::Opaque => {}
        }
    }

    /// A command is proven where the client's packet boundaries were unknown.
    fn join(&mut self, at: &Moment, events: &mut Vec<Event>) {
        self.flow.give_up(at.entered, events);
        self.phase = Phase::Commands;
        self.requests = Framer::new(HEADER);
        self.requests_lost = false;
        if self.answers_lost {
            self.restart_answers();
        }
    }

    fn lose_requests(&mut self) {
        if !matches!(self.phase, Phase::Commands | Phase::Fresh) {
            // Whether it became encrypted or compressed is unknown.
            self.phase = Phase::Opaque;
        }
        self.requests_lost = true;
    }

    fn restart_answers(&mut self) {
        self.answers = Framer::new(HEADER);
        self.answers_lost = false;
        self.tail.clear();
    }

    fn lose_answers(&mut self) {
        if !matches!(self.phase, Phase::Commands | Phase::Fresh) {
            self.phase = Phase::Opaque;
        }
        self.answers_lost = true;
        self.tail.clear();
        self.flow.uncount();
    }

    fn answer(&mut self, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        match segment {
            Segment::Lost => self.lose_answers(),
            Segment::Gap(_) if self.answers_lost => self.tail.clear(),
            Segment::Gap(n) => {
                let (frame, step) = self.answers.gap(n);
                if let Some(frame) = frame {
                    self.answer_packet(&frame, at, events);
                }
                if step == Err(OutOfStep) {
                    self.lose_answers();
                }
            }
            Segment::Data(mut data) => {
                if self.phase == Phase::Fresh {
                    if !at.first_of_call || message::is_greeting(data) == Some(false) {
                        return;
                    }
                    self.phase = Phase::Greeting;
                    self.restart_answers();
                }
                if self.answers_lost {
                    self.flow.note_first_byte(at);
                    self.tail.push(data);
                    self.find_end_of_answer(at, events);
                    return;
                }
                while !data.is_empty() && !self.answers_lost && self.phase != Phase::Opaque {
                    match self.answers.next(&mut data, at, message::answer_shape) {
                        Ok(Some(frame)) => self.answer_packet(&frame, at, events),
                        Ok(None) => {}
                        Err(OutOfStep) => self.lose_answers(),
                    }
                }
            }
        }
    }

    fn answer_packet(&mut self, frame: &Frame, at: &Moment, events: &mut Vec<Event>) {
        match self.phase {
            Phase::Greeting => match message::greeting(&frame.body) {
                Some(system) => {
                    self.flow.peer.system = system;
                    self.phase = Phase::Handshake;
                    self.requests = Framer::new(HEADER);
                    self.requests_lost = false;
                }
                None => {
                    self.phase = Phase::Fresh;
                    self.answers_lost = true;
                }
            },
            Phase::Authentication { compressed } if frame.body.first() == Some(&message::OK) => {
                self.phase = if compressed { Phase::Opaque } else { Phase::Commands };
            }
            Phase::Commands => self.flow.answer(frame, at, events),
            Phase::Fresh | Phase::Handshake | Phase::Authentication { .. } | Phase::Opaque => {}
        }
    }

    /// The server's packet boundaries are unknown; does a result set end here?
    fn find_end_of_answer(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let Some(start) = message::end_of_answer(self.tail.bytes()) else { return };
        let tail = std::mem::take(&mut self.tail);
        let mut data = tail.bytes().get(start..).unwrap_or_default();
        self.restart_answers();
        if !self.flow.resume() {
            self.flow.give_up(at.returned, events);
            return;
        }
        while let Ok(Some(frame)) = self.answers.next(&mut data, at, message::answer_shape) {
            self.flow.answer(&frame, at, events);
        }
    }
}

impl Parser for Connection {
    fn segment(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>) {
        if self.phase == Phase::Opaque || matches!(segment, Segment::Data([]) | Segment::Gap(0)) {
            return;
        }
        if direction == self.asking {
            self.asked = at.entered;
            self.request(segment, at, events);
        } else {
            self.answered = at.returned;
            self.answer(segment, at, events);
        }
    }

    fn close(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>) {
        self.flow.close(close, at.returned, events);
        if close != Close::LocalWrite {
            self.phase = Phase::Opaque;
        }
    }

    fn settle(&mut self, events: &mut Vec<Event>) {
        if self.answers_lost && self.answered >= self.asked {
            self.flow.give_up(self.answered, events);
        }
    }

    fn is_opaque(&self) -> bool {
        self.phase == Phase::Opaque
    }

    fn buffered(&self) -> usize {
        self.requests.buffered() + self.answers.buffered() + self.tail.bytes().len()
    }
}
