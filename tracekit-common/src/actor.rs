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
    /// [`SIZED_KEYS`]
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
}

/// Flag: `PyDictKeysObject` as it was to 3.10.
pub const SIZED_KEYS: u32 = 1;

/// Key of a task or of handed-over work: an object of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ObjectKey {
    /// Its address.
    pub object: u64,
    /// Thread group (process).
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

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
    /// The task, or the work that was handed over: a number that no other gets; 0 if it is neither.
    pub actor: u64,
    /// The stack on which it happens, of the thread or of a greenlet in it; 0 if not known.
    pub lane: u64,
    /// [`KNOWN`], [`IN_WAITING_LANE`], [`WAITS_ELSEWHERE`], [`IN_TASK`], [`NESTED`]
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
/// It runs in another context than its own, which it has entered.
pub const NESTED: u32 = 16;

/// There is a new actor, or it is known since who made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ActorRecord {
    /// `event::Kind::Actor`
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Thread that made it.
    pub tid: u32,
    /// [`CAUSE_NONE`], [`CAUSE_READ`], [`CAUSE_ACCEPT`]: what `cause` is; or [`CAUSE_NEXT`].
    pub what: u32,
    /// Its number.
    pub actor: u64,
    /// When.
    pub time: u64,
    /// Who made it.
    pub by: Identity,
    /// The socket that the thread has read from or accepted in the same callback of its event loop; 0 if it
    /// has not.
    pub cause: u64,
}

/// Nothing.
pub const CAUSE_NONE: u32 = 0;
/// A socket that was read from.
pub const CAUSE_READ: u32 = 1;
/// A socket that was accepted.
pub const CAUSE_ACCEPT: u32 = 2;
/// Its maker has answered a request, and with that a protocol has begun with the one behind it.
pub const CAUSE_NEXT: u32 = 3;

const _: () = assert!(size_of::<Actors>() == 32 + 12 * 4);
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
