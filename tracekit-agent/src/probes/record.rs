//! Records of the ring buffer, decoded and checked.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use tracekit_common::event::{
    CLOSE_LOCAL, CLOSE_LOCAL_WRITE, CLOSE_REMOTE, CloseRecord, ConnectionRecord, DataRecord, INBOUND, Kind,
    NONBLOCKING, OUTBOUND, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK, ProcessRecord, UNCOUNTED, UNIX_PATH,
};
use tracekit_protocol::{Close, Direction};

/// A connection: a socket as one process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Process.
    pub tgid: u32,
    /// Inode number of the socket.
    pub inode: u64,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket; without a path if it is not bound. Abstract names begin with `@`.
    Unix(Option<PathBuf>),
}

/// What the kernel side reported.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<'a> {
    /// A connection was met for the first time.
    Connection {
        /// Which.
        id: ConnectionId,
        /// This end.
        local: Endpoint,
        /// The other end.
        remote: Endpoint,
    },
    /// Bytes were transferred.
    Data(Data<'a>),
    /// A connection ended.
    Close {
        /// Which.
        id: ConnectionId,
        /// Nanoseconds of `CLOCK_MONOTONIC`.
        time: u64,
        /// Thread.
        tid: u32,
        /// Which end, which direction.
        close: Close,
    },
    /// A process forked, executed or exited.
    Process(ProcessEvent),
}

/// Bytes transferred by one system call.
#[derive(Debug, Clone, PartialEq)]
pub struct Data<'a> {
    /// On which connection.
    pub id: ConnectionId,
    /// Thread.
    pub tid: u32,
    /// Entry of the call, nanoseconds of `CLOCK_MONOTONIC`.
    pub entered: u64,
    /// Its return.
    pub returned: u64,
    /// Which way.
    pub direction: Direction,
    /// Bytes before this call.
    pub offset: u64,
    /// Bytes of this call; `None` if unknown.
    pub length: Option<u64>,
    /// The first bytes.
    pub head: &'a [u8],
    /// The last bytes, what lies between was not captured.
    pub tail: &'a [u8],
    /// The socket is in non-blocking mode.
    pub nonblocking: bool,
}

/// A process forked, executed or exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A child of a selected process.
    Fork {
        /// The parent.
        parent: u32,
        /// The new process.
        child: u32,
    },
    /// A new program.
    Exec(u32),
    /// The end.
    Exit(u32),
}

/// Types that may be read from bytes of a record.
trait Plain: Copy {}
impl Plain for ConnectionRecord {}
impl Plain for DataRecord {}
impl Plain for CloseRecord {}
impl Plain for ProcessRecord {}

fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, `read_unaligned` needs no alignment, and `Plain` types are
    // integers and arrays of integers: every bit pattern is a value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Decodes one record; `None` if it is malformed (another version of the kernel side).
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let kind = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    match Kind::from_code(kind)? {
        Kind::Connection => connection(&plain(bytes)?),
        Kind::Data => data(&plain(bytes)?, bytes.get(size_of::<DataRecord>()..)?),
        Kind::Close => {
            let record: CloseRecord = plain(bytes)?;
            let close = match record.reason {
                CLOSE_LOCAL => Close::Local,
                CLOSE_REMOTE => Close::Remote,
                CLOSE_LOCAL_WRITE => Close::LocalWrite,
                _ => return None,
            };
            let id = ConnectionId { tgid: record.tgid, inode: record.inode };
            Some(Record::Close { id, time: record.time, tid: record.tid, close })
        }
        Kind::Process => {
            let record: ProcessRecord = plain(bytes)?;
            Some(Record::Process(match record.what {
                PROCESS_FORK => ProcessEvent::Fork { parent: record.parent, child: record.tgid },
                PROCESS_EXEC => ProcessEvent::Exec(record.tgid),
                PROCESS_EXIT => ProcessEvent::Exit(record.tgid),
                _ => return None,
            }))
        }
    }
}

fn connection(record: &ConnectionRecord) -> Option<Record<'static>> {
    let end = |addr: &[u8; 16], port: u16, path: &[u8; UNIX_PATH], length: u16| match i32::from(record.family)
    {
        libc::AF_INET => {
            let [a, b, c, d, ..] = *addr;
            Some(Endpoint::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)))
        }
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        libc::AF_INET6 => Some(Endpoint::Ip(SocketAddr::new(Ipv6Addr::from(*addr).to_canonical(), port))),
        libc::AF_UNIX => Some(Endpoint::Unix(unix_path(path.get(..usize::from(length))?))),
        _ => None,
    };
    Some(Record::Connection {
        id: ConnectionId { tgid: record.tgid, inode: record.inode },
        local: end(&record.local_addr, record.local_port, &record.local_path, record.local_path_len)?,
        remote: end(&record.remote_addr, record.remote_port, &record.remote_path, record.remote_path_len)?,
    })
}

fn unix_path(bytes: &[u8]) -> Option<PathBuf> {
    let text = match bytes {
        [] => return None,
        [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name)),
        path => String::from_utf8_lossy(path.split(|b| *b == 0).next().unwrap_or_default()).into_owned(),
    };
    Some(PathBuf::from(text))
}

fn data<'a>(record: &DataRecord, payload: &'a [u8]) -> Option<Record<'a>> {
    let (head, tail) = (record.head as usize, record.tail as usize);
    let captured = payload.get(..head.checked_add(tail)?)?;
    let length = (record.flags & UNCOUNTED == 0).then_some(record.length);
    if length.is_some_and(|length| length < captured.len() as u64) {
        return None;
    }
    let (head, tail) = captured.split_at(head);
    Some(Record::Data(Data {
        id: ConnectionId { tgid: record.tgid, inode: record.inode },
        tid: record.tid,
        entered: record.entered,
        returned: record.returned,
        direction: match record.direction {
            INBOUND => Direction::Inbound,
            OUTBOUND => Direction::Outbound,
            _ => return None,
        },
        offset: record.offset,
        length,
        head,
        tail,
        nonblocking: record.flags & NONBLOCKING != 0,
    }))
}
