//! The context of a trace in outgoing requests: what both sides know of it.

use crate::{actor::Identity, http::Stream};

/// Flag of a selected process: its requests get headers.
pub const PROPAGATE: u32 = 2;
/// Flag of a selected process: it has read a request, so that it is a server.
pub const SERVES: u32 = 4;
/// Flag of a selected process: it has waited for many descriptors at once (`epoll_wait`).
pub const LOOPS: u32 = 8;

/// Bytes of a `tracestate` that are passed on; longer ones are left out. The Recommendation asks for 512.
pub const STATE_MAX: usize = 512;
/// Bytes of a message that are looked at in one go.
pub const WINDOW: usize = 1024;
/// `traceparent: 00-<32>-<16>-<2>\r\n`
pub const PARENT_LINE: usize = 70;
/// Bytes of both lines, rounded up to a power of two.
pub const LINES_MAX: usize = 1024;

/// A request that a process has read; its key is a number that no other gets.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Serving {
    /// Inode number of the connection that it came on.
    pub inode: u64,
    /// Trace.
    pub trace_id: [u8; 16],
    /// Process.
    pub tgid: u32,
    /// [`UNKNOWN`] and others.
    pub flags: u32,
    /// Bytes of `state`.
    pub state_len: u32,
    /// Zero.
    pub reserved: u32,
    /// `tracestate`
    pub state: [u8; STATE_MAX],
}

/// A connection on which a process is the server.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Exchange {
    /// Number of the request that was read last; 0 if there was none.
    pub request: u64,
    /// When the connection was accepted, nanoseconds of `CLOCK_MONOTONIC`; 0 if that was not seen.
    pub opened: u64,
    /// When the request was read.
    pub begin: u64,
    /// Bytes of its body that are still to be read; [`NO_LENGTH`] if that is not known.
    pub left: u64,
    /// [`ANSWERED`], [`PIPELINED`]
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// Of [`Exchange::left`]: the body is chunked, or its head was not read as a whole.
pub const NO_LENGTH: u64 = u64::MAX;

/// Key of what a thread serves, or a greenlet in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct LaneKey {
    /// [`Identity::lane`](crate::actor::Identity::lane)
    pub lane: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
}

/// What a thread serves, or a greenlet in it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Lane {
    /// The connection.
    pub inode: u64,
    /// Number of the request.
    pub request: u64,
    /// [`READS_NONBLOCKING`], [`INTERLEAVES`]
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// For whom an actor acts.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Acts {
    /// Number of the request, inode number of the connection, or who made it (0 if that is nobody).
    pub value: u64,
    /// When it was made, nanoseconds of `CLOCK_MONOTONIC`.
    pub born: u64,
    /// Process.
    pub tgid: u32,
    /// [`ACTS_UNKNOWN`], [`ACTS_FOR_REQUEST`], [`ACTS_FOR_CONNECTION`]
    pub what: u32,
}

/// [`Acts::what`]: for whomever its maker acts.
pub const ACTS_UNKNOWN: u32 = 0;
/// [`Acts::what`]: for one request, also when that is answered.
pub const ACTS_FOR_REQUEST: u32 = 1;
/// [`Acts::what`]: for one request of a connection after the other.
pub const ACTS_FOR_CONNECTION: u32 = 2;

/// Flag of [`Serving`]: which trace it belongs to is for the user side to find out.
pub const UNKNOWN: u32 = 1;
/// Flag of [`Exchange`]: its answer has begun, and may be complete.
pub const ANSWERED: u32 = 2;
/// Flag of [`Lane`]: the socket is in non-blocking mode.
pub const READS_NONBLOCKING: u32 = 4;
/// Flag of [`Lane`]: the thread serves several requests at once; stays.
pub const INTERLEAVES: u32 = 8;
/// Flag of [`Exchange`]: there were bytes behind a request before its answer; stays.
pub const PIPELINED: u32 = 32;
/// Flag of [`Serving`] and of [`TraceRecord`]: the trace is sampled.
pub const SAMPLED: u32 = 16;

/// An outgoing connection.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Outgoing {
    /// What was sent.
    pub stream: Stream,
    /// Bytes at the end of what was sent that are of a body: as many may be taken back.
    pub skipped: u64,
    /// `tcp_sock.write_seq` after all that was seen; anything else means that bytes were not seen, or not sent.
    pub expected: u32,
    /// [`AT_ONCE`], [`AWAITING`]
    pub join: u32,
    /// Of `lines`: the trace.
    pub trace_id: [u8; 16],
    /// Of `lines`: the span.
    pub span_id: [u8; 8],
    /// Of `lines`: [`SAMPLED`] or 0.
    pub sampled: u32,
    /// 1: not all of the message was looked at in the last run.
    pub applied: u32,
    /// Bytes of the message that were looked at in earlier runs.
    pub before: u32,
    /// Zero.
    pub reserved: u32,
    /// While [`AWAITING`]: bytes that were sent on it before.
    pub sent: u64,
    /// Who sends.
    pub by: Identity,
    /// Bytes of a message.
    pub window: [u8; WINDOW],
    /// The lines that are put in; eight bytes more than there is use for, because sizes are masked.
    pub lines: [u8; LINES_MAX + 8],
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            stream: Stream::default(),
            skipped: 0,
            expected: 0,
            join: AT_ONCE,
            trace_id: [0; 16],
            span_id: [0; 8],
            sampled: 0,
            applied: 0,
            before: 0,
            reserved: 0,
            sent: 0,
            by: Identity::default(),
            window: [0; WINDOW],
            lines: [0; LINES_MAX + 8],
        }
    }
}

/// [`Outgoing::join`]: seen from the first byte on.
pub const AT_ONCE: u32 = 0;
/// [`Outgoing::join`]: it was there before, and nothing was sent since the user side looked: the next message begins with
/// a request, or it is not followed.
pub const AWAITING: u32 = 1;

/// The ids that the kernel side has chosen. Sent before the bytes that it is about.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct TraceRecord {
    /// [`Kind::Trace`](crate::event::Kind::Trace)
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Inode number of the socket.
    pub inode: u64,
    /// Cookie of the socket (`SO_COOKIE`), for [`TRACE_OPAQUE`].
    pub cookie: u64,
    /// Entry of the system call that sends, as in its [`DataRecord`](crate::event::DataRecord); 0 for requests that are read.
    pub entered: u64,
    /// Trace; zero if the request was left as it is.
    pub trace_id: [u8; 16],
    /// The span of the call; zero for requests that are read.
    pub span_id: [u8; 8],
    /// Thread.
    pub tid: u32,
    /// [`TRACE_READ`] and others.
    pub what: u32,
}

/// A request was read, and begins this trace.
pub const TRACE_READ: u32 = 0;
/// A request is sent.
pub const TRACE_SENT: u32 = 1;
/// A connection is not, or no longer, one of HTTP requests.
pub const TRACE_OPAQUE: u32 = 2;
/// The number of the above is in these bits, [`SAMPLED`] in others.
pub const TRACE_WHAT: u32 = 3;

const _: () = assert!(size_of::<Serving>() == 40 + STATE_MAX);
const _: () = assert!(size_of::<Exchange>() == 40);
const _: () = assert!(size_of::<LaneKey>() == 16);
const _: () = assert!(size_of::<Lane>() == 24);
const _: () = assert!(size_of::<Acts>() == 24);
const _: () = assert!(size_of::<Outgoing>() == 152 + WINDOW + LINES_MAX);
const _: () = assert!(size_of::<TraceRecord>() == 64);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Outgoing {}
