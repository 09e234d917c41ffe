//! Requests and responses out of captured, possibly incomplete byte streams.
//!
//! The kernel side hands over what a traced process sent and received on a stream socket, in order
//! and per direction, but bounded: of a large message only the first and the last bytes are captured.
//! A [`Session`] follows one connection. It finds the protocol by content, never by port, and emits an
//! [`Event::Begin`] when a request has started and an [`Event::End`] when its answer is complete.
//!
//! Rules every parser keeps:
//! * pure: no I/O, no clock, no threads; the same segments give the same events;
//! * hostile input: never panics, memory is bounded by [`Limits`];
//! * never a wrong exchange: where a stream was joined in the middle or bytes are missing and the
//!   boundary of a message can't be known, the parser resynchronises at the next one it can prove, or
//!   stays silent.

#![forbid(unsafe_code)]

pub mod exchange;
mod framing;
pub mod http1;
pub mod mysql;
pub mod postgres;
pub mod redis;
pub mod session;
pub mod sql;
mod statement;
#[cfg(test)]
mod wire;

pub use exchange::{Begin, End, Event, Outcome, Request, Role};
pub use session::{Protocol, Session};

/// Which way bytes went, seen from the traced process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received by the traced process.
    Inbound,
    /// Sent by the traced process.
    Outbound,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }
}

/// A piece of one direction's byte stream. Consecutive segments are adjacent in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Captured bytes.
    Data(&'a [u8]),
    /// This many bytes were transferred but not captured.
    Gap(u64),
    /// Bytes are missing and nobody knows how many.
    Lost,
}

/// When and by whom a segment was transferred: one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When the system call was entered, nanoseconds of `CLOCK_MONOTONIC`.
    pub entered: u64,
    /// When it returned, nanoseconds of `CLOCK_MONOTONIC`.
    pub returned: u64,
    /// The native thread (kernel tid in the initial PID namespace).
    pub tid: u32,
    /// True for a segment that is the first of its system call: a message that starts in the middle of
    /// nowhere may be looked for here.
    pub first_of_call: bool,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The traced process closed its socket, or exited.
    Local,
    /// The peer closed: the traced process read end-of-file or a reset.
    Remote,
    /// The traced process shut down its sending side only.
    LocalWrite,
}

/// Bounds on what a parser keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes buffered for one direction of one connection before the parser gives the message up.
    pub buffer: usize,
    /// Requests of one connection that may wait for an answer (pipelining).
    pub in_flight: usize,
    /// Bytes kept of one query text or command.
    pub text: usize,
    /// Header fields kept of one HTTP message.
    pub headers: usize,
    /// Prepared statements remembered for one connection.
    pub statements: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { buffer: 64 * 1024, in_flight: 256, text: 16 * 1024, headers: 128, statements: 1024 }
    }
}

/// What the first bytes of a stream say about its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detection {
    /// This protocol; the traced process has this role.
    Match(Role),
    /// Could be; more bytes decide.
    Undecided,
    /// Certainly not.
    No,
}

/// The part every protocol implements; one instance follows one connection.
pub trait Parser: Send {
    /// Takes the next piece of one direction and appends what it completes to `events`.
    fn segment(&mut self, direction: Direction, segment: Segment<'_>, at: &Moment, events: &mut Vec<Event>);

    /// The connection ended (or was half closed); finishes what is in flight.
    fn close(&mut self, close: Close, at: &Moment, events: &mut Vec<Event>);

    /// Ends the exchanges whose answer has begun but whose last byte can't be told from its framing,
    /// because bytes are missing. For callers that know that the connection has been quiet for a while.
    fn settle(&mut self, _events: &mut Vec<Event>) {}

    /// The HTTP request of this id that is in flight, as far as it is known.
    fn http(&self, _id: u64) -> Option<&exchange::Http> {
        None
    }

    /// True once nothing more can be learnt from the stream (upgraded, encrypted, replication …). All
    /// exchanges have ended then.
    fn is_opaque(&self) -> bool {
        false
    }

    /// Bytes of the stream held in memory now: what [`Limits`] bounds.
    fn buffered(&self) -> usize {
        0
    }
}
