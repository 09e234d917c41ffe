//! Records in the ring buffer. Each starts with its [`Kind`]; times are nanoseconds of
//! `CLOCK_MONOTONIC`; process and thread ids are those of the initial PID namespace.

use crate::actor::Identity;

/// First `u32` of every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`ConnectionRecord`]
    Connection = 1,
    /// [`DataRecord`], followed by the captured bytes.
    Data = 2,
    /// [`CloseRecord`]
    Close = 3,
    /// [`ProcessRecord`]
    Process = 4,
    /// [`StackRecord`](crate::python::StackRecord), followed by its frames.
    Stack = 5,
    /// [`HitRecord`](crate::watchpoint::HitRecord), in a ring buffer of its own.
    Hit = 6,
    /// [`ActorRecord`](crate::actor::ActorRecord)
    Actor = 7,
    /// [`TraceRecord`](crate::propagate::TraceRecord)
    Trace = 8,
}

impl Kind {
    /// The kind with this code.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Connection),
            2 => Some(Self::Data),
            3 => Some(Self::Close),
            4 => Some(Self::Process),
            5 => Some(Self::Stack),
            6 => Some(Self::Hit),
            7 => Some(Self::Actor),
            8 => Some(Self::Trace),
            _ => None,
        }
    }
}

/// Bytes of a Unix socket address that are kept (`sun_path`).
pub const UNIX_PATH: usize = 108;

/// A stream socket of a selected process was met for the first time. Resets what is known of it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ConnectionRecord {
    /// [`Kind::Connection`]
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Inode number of the socket: with `tgid` the identity of the connection.
    pub inode: u64,
    /// When it was met.
    pub time: u64,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// Port of this end, host order; 0 for Unix sockets.
    pub local_port: u16,
    /// Port of the other end, host order; 0 for Unix sockets.
    pub remote_port: u16,
    /// Bytes of `local_path`.
    pub local_path_len: u16,
    /// Address of this end: 4 or 16 bytes of it are used.
    pub local_addr: [u8; 16],
    /// Address of the other end.
    pub remote_addr: [u8; 16],
    /// Bytes of `remote_path`.
    pub remote_path_len: u16,
    /// Zero.
    pub reserved: [u8; 6],
    /// `sun_path` of this end of a Unix socket; abstract names start with a zero byte.
    pub local_path: [u8; UNIX_PATH],
    /// `sun_path` of the other end.
    pub remote_path: [u8; UNIX_PATH],
}

/// Bytes went over a connection: one system call. The record is followed by `head + tail` bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct DataRecord {
    /// [`Kind::Data`]
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Inode number of the socket.
    pub inode: u64,
    /// Entry of the system call for writes; for reads the same as `returned`.
    pub entered: u64,
    /// Return of the system call.
    pub returned: u64,
    /// Bytes that went in this direction before this call, counted from when the socket was met.
    pub offset: u64,
    /// Bytes transferred by this call.
    pub length: u64,
    /// Thread.
    pub tid: u32,
    /// Captured bytes of the start.
    pub head: u32,
    /// Captured bytes of the end; `length - head - tail` bytes between are not captured.
    pub tail: u32,
    /// [`INBOUND`] or [`OUTBOUND`].
    pub direction: u8,
    /// [`NONBLOCKING`], [`UNCOUNTED`]
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Who did it; not looked for when a client receives.
    pub by: Identity,
}

/// Direction: received by the process.
pub const INBOUND: u8 = 0;
/// Direction: sent by the process.
pub const OUTBOUND: u8 = 1;

/// Flag: the socket is in non-blocking mode (`O_NONBLOCK`).
pub const NONBLOCKING: u8 = 1;
/// Flag: bytes went, but how many is not known (`sendmmsg`); `length` is 0.
pub const UNCOUNTED: u8 = 2;

/// A connection, or a direction of it, ended.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CloseRecord {
    /// [`Kind::Close`]
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Inode number of the socket.
    pub inode: u64,
    /// When.
    pub time: u64,
    /// Thread.
    pub tid: u32,
    /// [`CLOSE_LOCAL`], [`CLOSE_REMOTE`] or [`CLOSE_LOCAL_WRITE`].
    pub reason: u32,
}

/// The process closed its last descriptor, or shut both directions down.
pub const CLOSE_LOCAL: u32 = 0;
/// The process read end-of-file or got a connection error.
pub const CLOSE_REMOTE: u32 = 1;
/// The process shut its sending direction down.
pub const CLOSE_LOCAL_WRITE: u32 = 2;

/// A process forked, executed, exited, or is about to be killed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ProcessRecord {
    /// [`Kind::Process`]
    pub kind: u32,
    /// The process: for a fork the child.
    pub tgid: u32,
    /// For a fork the parent, else 0.
    pub parent: u32,
    /// [`PROCESS_FORK`], [`PROCESS_EXEC`], [`PROCESS_EXIT`] or [`PROCESS_TRAPPED`].
    pub what: u32,
    /// When.
    pub time: u64,
}

/// `sched_process_fork`: a new thread group; already selected in the kernel if its parent is.
pub const PROCESS_FORK: u32 = 0;
/// `sched_process_exec`
pub const PROCESS_EXEC: u32 = 1;
/// `sched_process_exit` of the thread group leader.
pub const PROCESS_EXIT: u32 = 2;
/// `signal_generate`: a `SIGTRAP` for a debug exception of which the processor did not say why it came.
pub const PROCESS_TRAPPED: u32 = 3;

/// Bit of an entry time: the bytes of this call can't be captured.
pub const UNSEEN: u64 = 1 << 63;

/// Bytes of a call's start that are captured at most.
pub const HEAD_MAX: usize = 8192;
/// Bytes of a call's end that are captured at most, if the start did not cover it.
pub const TAIL_MAX: usize = 256;

const _: () = assert!(size_of::<ConnectionRecord>() == 24 + 8 + 32 + 8 + 2 * UNIX_PATH);
const _: () = assert!(size_of::<DataRecord>() == 88);
const _: () = assert!(size_of::<CloseRecord>() == 32);
const _: () = assert!(size_of::<ProcessRecord>() == 24);
