//! PostgreSQL, frontend/backend protocol 3 (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
//!
//! What is an exchange, and when it starts and ends:
//! * a simple `Query`, with all its statements: from the write that carries it to `ReadyForQuery`;
//! * each `Execute` of the extended protocol: from the write of its `Parse` or `Bind`, if they are sent
//!   together with it, else of itself, to its `CommandComplete`; the last one before a `Sync` ends with
//!   `ReadyForQuery`, as its transaction is committed there;
//! * a `Parse` or `Bind` that failed.
//!
//! After an error the server discards what was sent until `Sync`. The executions it discarded end with
//! [`Outcome::Unknown`](crate::Outcome::Unknown): they were never executed, and the error is not theirs.

mod flow;
mod message;

use flow::Flow;
use message::{Proof, Startup};

use crate::framing::{Framer, OutOfStep, Tail};
use crate::{Close, Detection, Direction, Event, Limits, Moment, Parser, Role, Segment};

/// Bytes of a typed header: type and length.
const HEADER: usize = 5;
/// Bytes of the header of a start-up packet: length.
const STARTUP_HEADER: usize = 4;

/// Whether the first bytes of one direction, seen at the start of a system call, are PostgreSQL.
#[must_use]
pub fn detect(direction: Direction, bytes: &[u8]) -> Detection {
    let asks = Role::requesting(direction);
    match message::is_startup(bytes) {
        Some(true) => return Detection::Match(asks),
        None => return Detection::Undecided,
        Some(false) => {}
    }
    match message::prove_requests(bytes) {
        Proof::Requests => Detection::Match(asks),
        Proof::Short => Detection::Undecided,
        Proof::Nothing if message::prove_answers(bytes) => Detection::Match(asks.reverse()),
        Proof::Nothing => Detection::No,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was seen yet.
    Fresh,
    /// A start-up packet comes.
    Startup,
    /// The server says with one byte whether it encrypts.
    Encryption,
    /// Typed messages.
    Messages,
    /// Encrypted, or not a session: nothing to follow.
    Opaque,
}

/// Follows one PostgreSQL connection.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    phase: Phase,
    /// Direction of the client's messages.
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
    /// The last thing seen is `ReadyForQuery`.
    quiet: bool,
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
            quiet: false,
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
                    self.request_message(&frame, events);
                }
                if step == Err(OutOfStep) {
                    self.lose_requests();
                }
            }
            Segment::Data(mut data) => {
                if self.requests_lost {
                    if !(at.first_of_call && self.join(data, at, events)) {
                        return;
                    }
                } else if self.answers_lost && at.first_of_call && !self.flow.idle() {
                    self.next_statement(data, at, events);
                    if self.requests_lost {
                        return;
                    }
                }
                while !data.is_empty() && self.phase != Phase::Opaque && !self.requests_lost {
                    let limits = self.limits;
                    let startup = matches!(self.phase, Phase::Startup | Phase::Encryption);
                    let message = self.requests.next(&mut data, at, |header| {
                        if startup {
                            message::startup_shape(header)
                        } else {
                            message::request_shape(header, &limits)
                        }
                    });
                    match message {
                        Ok(Some(frame)) => self.request_message(&frame, events),
                        Ok(None) => {}
                        Err(OutOfStep) => {
                            self.lose_requests();
                            return;
                        }
                    }
                }
            }
        }
    }

    fn request_message(&mut self, frame: &crate::framing::Frame, events: &mut Vec<Event>) {
        if !matches!(self.phase, Phase::Startup | Phase::Encryption) {
            self.quiet = false;
            self.flow.request(frame, events);
            return;
        }
        self.phase = match message::startup(&frame.body) {
            Some(Startup::Encryption) => Phase::Encryption,
            Some(Startup::Session { user, database }) => {
                self.flow.peer.user = user;
                self.flow.peer.database = database;
                self.requests = Framer::new(HEADER);
                Phase::Messages
            }
            // A cancel request has a connection of its own, and no answer.
            Some(Startup::Cancel) => Phase::Opaque,
            // The few bytes that were seen only looked like one.
            None => {
                self.requests_lost = true;
                self.answers_lost = true;
                Phase::Fresh
            }
        };
    }

    /// The client's message boundaries are unknown; does a call that starts with `data` start at one?
    fn join(&mut self, data: &[u8], at: &Moment, events: &mut Vec<Event>) -> bool {
        if self.phase == Phase::Fresh && message::is_startup(data) != Some(false) {
            self.phase = Phase::Startup;
            self.requests = Framer::new(STARTUP_HEADER);
            self.requests_lost = false;
            self.restart_answers();
            return true;
        }
        if message::prove_requests(data) != Proof::Requests {
            return false;
        }
        if !(self.answers_lost || self.quiet && self.flow.idle()) {
            // The answer to something unseen is under way.
            return false;
        }
        self.flow.give_up(at.entered, events);
        self.phase = Phase::Messages;
        self.requests = Framer::new(HEADER);
        self.requests_lost = false;
        if self.answers_lost {
            self.restart_answers();
        }
        true
    }

    /// A call of the client starts while the end of an answer was not found. If the client never
    /// pipelined and this is a statement, it has read that answer.
    fn next_statement(&mut self, data: &[u8], at: &Moment, events: &mut Vec<Event>) {
        if message::prove_requests(data) != Proof::Requests {
            return;
        }
        self.flow.give_up(at.entered, events);
        if self.flow.pipelined {
            self.lose_requests();
        } else {
            self.restart_answers();
        }
    }

    fn lose_requests(&mut self) {
        if matches!(self.phase, Phase::Startup | Phase::Encryption) {
            // If there was a start-up packet, whether it led to encryption is unknown.
            self.phase = Phase::Fresh;
            self.answers_lost = true;
        }
        self.requests_lost = true;
    }

    fn restart_answers(&mut self) {
        self.answers = Framer::new(HEADER);
        self.answers_lost = false;
        self.tail.clear();
    }

    fn lose_answers(&mut self) {
        if self.phase == Phase::Encryption {
            self.phase = Phase::Opaque;
        }
        self.answers_lost = true;
        self.quiet = false;
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
                    self.answer_message(&frame, at, events);
                }
                if step == Err(OutOfStep) {
                    self.lose_answers();
                }
            }
            Segment::Data(data) if self.phase == Phase::Encryption => {
                self.phase = if data == b"N" { Phase::Startup } else { Phase::Opaque };
            }
            Segment::Data(data) => {
                if !self.answers_lost {
                    self.follow_answers(data, at, events);
                }
                if self.answers_lost {
                    self.flow.note_first_byte(at);
                    self.tail.push(data);
                    self.find_end_of_answer(at, events);
                }
            }
        }
    }

    fn follow_answers(&mut self, mut data: &[u8], at: &Moment, events: &mut Vec<Event>) {
        while !data.is_empty() {
            match self.answers.next(&mut data, at, message::answer_shape) {
                Ok(Some(frame)) => self.answer_message(&frame, at, events),
                Ok(None) => {}
                Err(OutOfStep) => self.lose_answers(),
            }
            if self.answers_lost {
                return;
            }
        }
    }

    fn answer_message(&mut self, frame: &crate::framing::Frame, at: &Moment, events: &mut Vec<Event>) {
        match frame.header.first() {
            Some(b'Z') => self.quiet = true,
            Some(b'N' | b'A' | b'S') => {}
            _ => self.quiet = false,
        }
        if self.flow.answer(frame, at, events).is_err() {
            self.flow.give_up(at.returned, events);
            self.requests_lost = true;
        }
    }

    /// The server's message boundaries are unknown; does the answer end here?
    fn find_end_of_answer(&mut self, at: &Moment, events: &mut Vec<Event>) {
        let Some(start) = message::end_of_answer(self.tail.bytes()) else { return };
        let tail = std::mem::take(&mut self.tail);
        let mut data = tail.bytes().get(start..).unwrap_or_default();
        self.restart_answers();
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = self.answers.next(&mut data, at, message::answer_shape) {
            frames.push(frame);
        }
        let count = |kinds: &[u8]| {
            frames
                .iter()
                .filter(|frame| frame.header.first().is_some_and(|kind| kinds.contains(kind)))
                .count()
        };
        if count(b"Z") != 1 || !self.flow.resume(count(b"CIs"), count(b"E") > 0, at.returned, events) {
            self.flow.give_up(at.returned, events);
            self.requests_lost |= self.flow.pipelined;
            self.quiet = true;
            return;
        }
        for frame in &frames {
            self.answer_message(frame, at, events);
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
        self.flow.release(events);
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
