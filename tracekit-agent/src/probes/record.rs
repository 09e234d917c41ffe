//! Records of the ring buffer, decoded and checked.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use tracekit_common::actor::{
    ActorRecord, CAUSE_ACCEPT, CAUSE_AFTER, CAUSE_NEXT, CAUSE_NONE, CAUSE_READ, ENDED, Identity, LASTING,
};
use tracekit_common::event::{
    CLOSE_LOCAL, CLOSE_LOCAL_WRITE, CLOSE_REMOTE, CloseRecord, ConnectionRecord, DataRecord, INBOUND, Kind,
    NONBLOCKING, OUTBOUND, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK, PROCESS_TRAPPED, ProcessRecord,
    UNCOUNTED, UNIX_PATH,
};
use tracekit_common::propagate::{SAMPLED, TRACE_OPAQUE, TRACE_READ, TRACE_SENT, TRACE_WHAT, TraceRecord};
use tracekit_common::python::{
    END_APPLICATION, END_EVENT_LOOP, END_FAULT, END_LIMIT, END_OLDEST, Frame, MAX_FRAMES, StackRecord,
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
        /// When, nanoseconds of `CLOCK_MONOTONIC`.
        time: u64,
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
    /// Somebody new acts.
    Actor(NewActor),
    /// A thread or a greenlet has ended.
    ActorEnded {
        /// Process.
        tgid: u32,
        /// Its number.
        actor: u64,
    },
    /// The Python stack of a thread, from which it does what its next record says.
    Stack(Stack),
    /// The kernel side has chosen ids for a request.
    Chosen(ConnectionId, Chosen),
    /// There is no HTTP on the socket with this cookie that could get headers.
    NotHttp(u64),
}

/// Ids of a request that the kernel side has chosen: its record comes before those of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Thread.
    pub tid: u32,
    /// Entry of the call that sends, as in its [`Data`]; 0 for a request that was read.
    pub entered: u64,
    /// Trace and span, and whether the trace is sampled; `None` if the request was sent as it is.
    pub ids: Option<([u8; 16], [u8; 8], bool)>,
    /// The process reads this request; otherwise it sends it.
    pub read: bool,
}

/// How a walk of a stack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// At the oldest frame: it is whole.
    Oldest,
    /// After [`MAX_FRAMES`].
    Limit,
    /// At a frame that could not be read.
    Fault,
    /// At the first frame of the application, or as far behind it as was wanted.
    Application,
    /// At the frame that runs the thread's event loop: see `Probes::end_walks_at`.
    EventLoop,
}

/// A Python stack as the kernel side read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// `PyThreadState *`
    pub state: u64,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// The newest frame first.
    pub frames: Vec<Frame>,
    /// How the walk ended.
    pub end: WalkEnd,
    /// Which of the frames is the first that the kernel side knew to be the application's.
    pub application: Option<usize>,
    /// From where the thread waited for events last without running a task; zeroes if it did not.
    pub waiter: Frame,
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
    /// Who did it.
    pub by: Identity,
}

/// A task, thread or greenlet was made, or work handed over; or it is known since who did that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewActor {
    /// Process.
    pub tgid: u32,
    /// Thread that made it.
    pub tid: u32,
    /// Its number.
    pub actor: u64,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Who made it.
    pub by: Identity,
    /// What the same callback of the event loop has got before.
    pub cause: Cause,
}

/// Why there is a new actor, besides who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Not known.
    None,
    /// An event loop has read from this connection, and called back.
    Read(ConnectionId),
    /// It has accepted this connection.
    Accept(ConnectionId),
    /// For the request behind the one that this actor acts for, on the same connection.
    After(u64),
    /// It is a thread or a greenlet, which says when it ends.
    Lasting,
    /// The maker has answered its request, and a protocol has begun with the one behind it.
    Next,
}

/// A process forked, executed, exited, or is about to be killed.
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
    /// A debug exception came of which the processor did not say why: it gets a `SIGTRAP`, which is the end of most.
    Trapped(u32),
}

/// Types that may be read from bytes of a record.
trait Plain: Copy {}
impl Plain for ConnectionRecord {}
impl Plain for DataRecord {}
impl Plain for ActorRecord {}
impl Plain for CloseRecord {}
impl Plain for ProcessRecord {}
impl Plain for StackRecord {}
impl Plain for TraceRecord {}
impl Plain for Frame {}

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
        Kind::Stack => stack(&plain(bytes)?, bytes.get(size_of::<StackRecord>()..)?),
        Kind::Trace => chosen(&plain(bytes)?),
        // In a ring buffer of its own: `snapshot::engine::hit`.
        Kind::Hit => None,
        Kind::Actor => actor(&plain(bytes)?),
        Kind::Process => {
            let record: ProcessRecord = plain(bytes)?;
            Some(Record::Process(match record.what {
                PROCESS_FORK => ProcessEvent::Fork { parent: record.parent, child: record.tgid },
                PROCESS_EXEC => ProcessEvent::Exec(record.tgid),
                PROCESS_EXIT => ProcessEvent::Exit(record.tgid),
                PROCESS_TRAPPED => ProcessEvent::Trapped(record.tgid),
                _ => return None,
            }))
        }
    }
}

fn actor(record: &ActorRecord) -> Option<Record<'static>> {
    if record.what == ENDED {
        return Some(Record::ActorEnded { tgid: record.tgid, actor: record.actor });
    }
    let id = ConnectionId { tgid: record.tgid, inode: record.cause };
    Some(Record::Actor(NewActor {
        tgid: record.tgid,
        tid: record.tid,
        actor: record.actor,
        time: record.time,
        by: record.by,
        cause: match record.what {
            CAUSE_NONE => Cause::None,
            CAUSE_READ => Cause::Read(id),
            CAUSE_ACCEPT => Cause::Accept(id),
            CAUSE_AFTER => Cause::After(record.cause),
            LASTING => Cause::Lasting,
            CAUSE_NEXT => Cause::Next,
            _ => return None,
        },
    }))
}

fn chosen(record: &TraceRecord) -> Option<Record<'static>> {
    let id = ConnectionId { tgid: record.tgid, inode: record.inode };
    let read = match record.what & TRACE_WHAT {
        TRACE_READ => true,
        TRACE_SENT => false,
        TRACE_OPAQUE => return Some(Record::NotHttp(record.cookie)),
        _ => return None,
    };
    let ids = (record.trace_id, record.span_id, record.what & SAMPLED != 0);
    let ids = (record.trace_id != [0; 16]).then_some(ids);
    Some(Record::Chosen(id, Chosen { tid: record.tid, entered: record.entered, ids, read }))
}

fn stack(record: &StackRecord, frames: &[u8]) -> Option<Record<'static>> {
    let count = usize::try_from(record.count).ok().filter(|count| *count <= MAX_FRAMES)?;
    let frames = frames.get(..count * size_of::<Frame>())?;
    Some(Record::Stack(Stack {
        tgid: record.tgid,
        tid: record.tid,
        state: record.state,
        time: record.time,
        frames: frames.chunks_exact(size_of::<Frame>()).filter_map(plain).collect(),
        end: match record.end {
            END_OLDEST => WalkEnd::Oldest,
            END_LIMIT => WalkEnd::Limit,
            END_FAULT => WalkEnd::Fault,
            END_APPLICATION => WalkEnd::Application,
            END_EVENT_LOOP => WalkEnd::EventLoop,
            _ => return None,
        },
        application: (record.application as usize).checked_sub(1),
        waiter: record.waiter,
    }))
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
        time: record.time,
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
        by: record.by,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<T: Plain>(record: &T) -> Vec<u8> {
        let start = std::ptr::from_ref(record).cast::<u8>();
        // SAFETY: `Plain` types have no padding, and the slice does not outlive the record.
        unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
    }

    fn data_record(head: u32, tail: u32, length: u64, flags: u8) -> DataRecord {
        DataRecord {
            kind: Kind::Data as u32,
            tgid: 1,
            inode: 2,
            entered: 3,
            returned: 4,
            offset: 5,
            length,
            tid: 6,
            head,
            tail,
            direction: OUTBOUND,
            flags,
            reserved: [0; 2],
            by: Identity::default(),
        }
    }

    #[test]
    fn data_is_split_into_head_and_tail() {
        let mut record = bytes(&data_record(3, 2, 100, NONBLOCKING));
        record.extend(b"heata");
        let Some(Record::Data(data)) = decode(&record) else { panic!("no data record") };
        assert_eq!((data.head, data.tail), (&b"hea"[..], &b"ta"[..]));
        assert_eq!((data.length, data.nonblocking, data.direction), (Some(100), true, Direction::Outbound));
    }

    #[test]
    fn records_that_contradict_themselves_are_refused() {
        let mut short = bytes(&data_record(10, 0, 100, 0));
        short.extend(b"short");
        assert_eq!(decode(&short), None);
        let mut long = bytes(&data_record(5, 0, 2, 0));
        long.extend(b"bytes");
        assert_eq!(decode(&long), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&99u32.to_ne_bytes()), None);
    }

    #[test]
    fn addresses_are_those_of_the_family() {
        let mut record = ConnectionRecord {
            kind: Kind::Connection as u32,
            tgid: 1,
            inode: 2,
            time: 3,
            family: libc::AF_INET6 as u16,
            local_port: 80,
            remote_port: 4711,
            local_path_len: 0,
            local_addr: "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets(),
            remote_addr: "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(),
            remote_path_len: 0,
            reserved: [0; 6],
            local_path: [0; UNIX_PATH],
            remote_path: [0; UNIX_PATH],
        };
        let Some(Record::Connection { local, remote, .. }) = decode(&bytes(&record)) else { panic!() };
        assert_eq!(local, Endpoint::Ip("10.0.0.1:80".parse().unwrap()));
        assert_eq!(remote, Endpoint::Ip("[2001:db8::1]:4711".parse().unwrap()));

        record.family = libc::AF_UNIX as u16;
        record.local_path[..9].copy_from_slice(b"/run/sock");
        record.local_path_len = 10;
        record.remote_path[..4].copy_from_slice(b"\0abs");
        record.remote_path_len = 4;
        let Some(Record::Connection { local, remote, .. }) = decode(&bytes(&record)) else { panic!() };
        assert_eq!(local, Endpoint::Unix(Some("/run/sock".into())));
        assert_eq!(remote, Endpoint::Unix(Some("@abs".into())));
        record.local_path_len = u16::MAX;
        assert_eq!(decode(&bytes(&record)), None);
    }

    #[test]
    fn stacks_have_the_frames_that_they_say() {
        let head = StackRecord {
            kind: Kind::Stack as u32,
            tgid: 1,
            tid: 2,
            count: 2,
            state: 3,
            time: 4,
            end: END_APPLICATION,
            application: 2,
            waiter: Frame { code: 7, instruction: 8 },
        };
        let frames = [Frame { code: 5, instruction: 6 }, Frame { code: 7, instruction: u64::MAX }];
        let mut record = bytes(&head);
        record.extend(frames.iter().flat_map(bytes));
        let Some(Record::Stack(stack)) = decode(&record) else { panic!("no stack") };
        assert_eq!((stack.frames.as_slice(), stack.end), (&frames[..], WalkEnd::Application));
        assert_eq!((stack.application, stack.waiter.instruction), (Some(1), 8));
        record.pop();
        assert_eq!(decode(&record), None);
        let mut long = bytes(&StackRecord { count: MAX_FRAMES as u32 + 1, ..head });
        long.resize(5000, 0);
        assert_eq!(decode(&long), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 0u32..8, rest in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut record = kind.to_ne_bytes().to_vec();
            record.extend(rest);
            let _ = decode(&record);
        }
    }
}
