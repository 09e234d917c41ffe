//! Who acts when something is sent or received: asyncio tasks, work that was handed to another thread, and
//! where in a thread (its stack, or a greenlet's) that happens.

/// Where one process's interpreter and asyncio keep what the kernel side reads of actors. Names are CPython's
/// own; [`ABSENT`](crate::ABSENT) marks offsets, and 0 addresses, of what there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Actors {
    /// The dict `_asyncio._current_tasks` (3.8 to 3.13): the loops' running tasks.
    pub current_tasks: u64,
    /// `concurrent.futures.thread._WorkItem`: what executors hand to their threads.
    pub item_type: u64,
    /// The code of `WorkerThread.run` of anyio, which runs what a task waits for. Not known before anyio's part for
    /// asyncio is loaded, which is when it is needed first: until then it is known by its name.
    pub worker_code: u64,
    /// `waitress.channel.HTTPChannel`: a connection that is handed to a thread once for each of its requests.
    pub channel_type: u64,
    /// `greenlet.greenlet`, if it is known where a thread keeps its current one.
    pub greenlet_type: u64,
    /// The type `_asyncio.Future`.
    pub future_type: u64,
    /// `PyThreadState.context`
    pub context: u32,
    /// `PyThreadState.datastack_chunk` (3.11+)
    pub chunk: u32,
    /// `_PyThreadStateImpl.asyncio_running_task` (3.14+)
    pub running_task: u32,
    /// `TaskObj.task_context`
    pub task_context: u32,
    /// `PyDictObject.ma_keys`
    pub dict_keys: u32,
    /// [`SIZED_KEYS`], [`GREENLETS`]
    pub flags: u32,
    /// `PyObject.ob_type`
    pub object_type: u32,
    /// `PyCodeObject.co_name`
    pub code_name: u32,
    /// `PyCodeObject.co_qualname` (3.11+); `co_name` before
    pub code_qualname: u32,
    /// `sizeof(PyASCIIObject)`
    pub str_ascii: u32,
    /// `localsplus`, `f_localsplus`
    pub frame_locals: u32,
    /// `FutureObj.fut_callback0`
    pub future_callback: u32,
    /// Where the table of a thread's local variables has those of `greenlet._greenlet`, in bytes.
    pub greenlet_module: u32,
    /// Where its `ThreadState *` is among them.
    pub greenlet_slot: u32,
}

/// Where the C library's descriptor of a thread has the table of its local variables: the same in glibc and musl on
/// x86-64 (`tcbhead_t.dtv`, `struct pthread.dtv`).
pub const THREAD_TABLE: u64 = 8;

/// Flag: `PyDictKeysObject` as it was to 3.10.
pub const SIZED_KEYS: u32 = 1;
/// Flag: `greenlet` is loaded, so that what Python takes for threads of an executor may all be on the process's first one.
pub const GREENLETS: u32 = 2;

/// Key of an actor: an object of a process, or a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ObjectKey {
    /// Its address, or the thread's id.
    pub object: u64,
    /// Thread group (process).
    pub tgid: u32,
    /// [`OBJECT`], [`THREAD`]
    pub sort: u32,
}

/// It is an object.
pub const OBJECT: u32 = 0;
/// It is a thread.
pub const THREAD: u32 = 1;

/// What a thread did last that may be the reason for what it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct LastInput {
    /// Socket that it read from or accepted as a server; 0 if it has waited for events since.
    pub inode: u64,
    /// `PyThreadState.context` at that time.
    pub context: u64,
    /// The newest frame at that time.
    pub frame: u64,
    /// The [lane](Identity::lane) in which it waits for events, 0 if it never did.
    pub waiting_lane: u64,
    /// `PyThreadState.context` when it waited for events last.
    pub waiting_context: u64,
    /// [`CAUSE_READ`], [`CAUSE_ACCEPT`]
    pub what: u32,
    /// Zero.
    pub reserved: u32,
    /// Work that it does of which it is not known who waits for it: its number, the future that is waited for, and the
    /// socket on which it has sent. No number, no such work.
    pub unsettled: u64,
    /// See `unsettled`.
    pub unsettled_future: u64,
    /// See `unsettled`.
    pub unsettled_inode: u64,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Identity {
    /// The task, or the work that was handed over, or the greenlet or thread itself: a number that no other gets; 0 if
    /// it is not known.
    pub actor: u64,
    /// The stack on which it happens, of the thread or of a greenlet in it; 0 if not known.
    pub lane: u64,
    /// [`KNOWN`], [`IN_WAITING_LANE`], [`WAITS_ELSEWHERE`], [`IN_TASK`], [`IN_GREENLET`], [`NESTED`]
    pub flags: u32,
    /// When a record was lost last, for which the ring buffer had no room: the lower half of nanoseconds of
    /// `CLOCK_MONOTONIC`. Another number than before says that something was lost since.
    pub losses: u32,
}

/// The identity was looked for.
pub const KNOWN: u32 = 1;
/// It happens in the lane in which the thread waits for events.
pub const IN_WAITING_LANE: u32 = 2;
/// The thread waits for events in another lane.
pub const WAITS_ELSEWHERE: u32 = 4;
/// The actor is the task that the thread runs.
pub const IN_TASK: u32 = 8;
/// It happens in a greenlet, which is not the one with which its thread began.
pub const IN_GREENLET: u32 = 16;
/// It runs in another context than its own, which it has entered.
pub const NESTED: u32 = 32;

/// Bit of a [lane](Identity::lane): the rest is the number of a greenlet. No number has it.
pub const GREENLET_LANE: u64 = 1 << 63;

/// There is a new actor, or it is known since who made one, or one has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ActorRecord {
    /// `event::Kind::Actor`
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Thread that made it.
    pub tid: u32,
    /// [`CAUSE_NONE`], [`CAUSE_READ`], [`CAUSE_ACCEPT`], [`CAUSE_AFTER`]: what `cause` is; or [`LASTING`], [`ENDED`],
    /// [`CAUSE_NEXT`].
    pub what: u32,
    /// Its number.
    pub actor: u64,
    /// When.
    pub time: u64,
    /// Who made it.
    pub by: Identity,
    /// The socket that the thread has read from or accepted in the same callback of its event loop, or the number of
    /// another actor; 0 if there is none.
    pub cause: u64,
}

/// Nothing.
pub const CAUSE_NONE: u32 = 0;
/// A socket that was read from.
pub const CAUSE_READ: u32 = 1;
/// A socket that was accepted.
pub const CAUSE_ACCEPT: u32 = 2;
/// An actor: the request that the new one acts for is the next one on the same connection.
pub const CAUSE_AFTER: u32 = 3;
/// No cause: the new actor is a thread or a greenlet, and says when it ends.
pub const LASTING: u32 = 4;
/// No cause: the actor, which was a thread or a greenlet, has ended. Nothing is said of `by`.
pub const ENDED: u32 = 5;
/// Its maker has answered a request, and with that a protocol has begun with the one behind it.
pub const CAUSE_NEXT: u32 = 6;

const _: () = assert!(size_of::<Actors>() == 48 + 14 * 4);
const _: () = assert!(size_of::<ObjectKey>() == 16);
const _: () = assert!(size_of::<LastInput>() == 72);
const _: () = assert!(size_of::<Identity>() == 24);
const _: () = assert!(size_of::<ActorRecord>() == 64);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Actors {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for ObjectKey {}
