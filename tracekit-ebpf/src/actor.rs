//! Who acts: the asyncio task that a thread runs, the work that was handed to it, and on which stack.
//!
//! Tasks get a number when they are made, by a probe on `Task.__init__` of `_asyncio`; so does what is put into
//! the queue of an executor. A number is never used twice, which addresses are.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::uprobe,
    programs::ProbeContext,
};
use tracekit_common::{
    ABSENT,
    actor::{
        ActorRecord, Actors, CAUSE_AFTER, CAUSE_NEXT, CAUSE_NONE, CAUSE_READ, ENDED, GREENLET_LANE,
        GREENLETS, IN_GREENLET, IN_TASK, IN_WAITING_LANE, Identity, KNOWN, LASTING, LastInput, NESTED,
        OBJECT, ObjectKey, SIZED_KEYS, THREAD, WAITS_ELSEWHERE,
    },
    event::Kind,
    python::Python,
};

use crate::{
    greenlet::running_greenlet,
    maps::{ACTOR_NUMBERS, ACTORS, FOUND, FRAME, INPUTS, PYTHONS, losses, send},
    process::selected,
    python::{known_running, running},
    read::word,
    stack::report_stack,
    waiter::note_waiter,
};

/// Entries of the dict of running tasks that are looked at, from the last on: one for each event loop, and
/// those that were removed.
const TASK_ENTRIES: u64 = 8;
/// Frames that are visited in search of handed-over work, of a protocol's method, and of the begin of a request.
const FRAMES: usize = 64;
/// In a frame is work that was handed over, but its number is not known.
const NOT_NUMBERED: u64 = u64::MAX;
const CALLBACK_FRAMES: usize = 32;
const REQUEST_FRAMES: usize = 16;
/// Contexts that are looked at: that in which a thread is, and those from which it has entered that.
const CONTEXTS: usize = 4;
/// Variables of a worker of anyio that are looked at for its future.
const WORKER_LOCALS: u64 = 12;
/// How often who makes an actor is looked for, where others come between.
const TRIES: usize = 3;
/// Chunks of a stack, and frames of a greenlet or thread before 3.11.
const CHUNKS: usize = 16;
const OLDEST_FRAMES: usize = 96;

/// `data_received`, `buffer_updated`: methods of a protocol that an event loop calls with what it has read.
/// Each as two words, little-endian, the second with the end of the string.
const DATA_RECEIVED: (u64, u64) = (u64::from_le_bytes(*b"data_rec"), u64::from_le_bytes(*b"eived\0\0\0"));
const BUFFER_UPDATED: (u64, u64) = (u64::from_le_bytes(*b"buffer_u"), u64::from_le_bytes(*b"pdated\0\0"));
/// `requestReceived` of Twisted: called for each request, with whose last byte or with the answer to the one before.
const REQUEST_RECEIVED: (u64, u64) = (u64::from_le_bytes(*b"requestR"), u64::from_le_bytes(*b"eceived\0"));
/// `connection_made` of protocols: called for each connection.
#[cfg(feature = "propagate")]
const CONNECTION_MADE: (u64, u64) = (u64::from_le_bytes(*b"connecti"), u64::from_le_bytes(*b"on_made\0"));
/// `WorkerThread.run` of anyio.
const WORKER_RUN: (u64, u64) = (u64::from_le_bytes(*b"WorkerTh"), u64::from_le_bytes(*b"read.run"));
/// What of the second word is the string and its end.
const DATA_RECEIVED_MASK: u64 = (1 << 48) - 1;
const BUFFER_UPDATED_MASK: u64 = (1 << 56) - 1;

/// What [`identify`] found.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Found {
    /// Who acts.
    pub identity: Identity,
    /// The thread state; 0 if the thread runs no Python code.
    pub state: u64,
    /// Its newest frame.
    pub frame: u64,
    /// The future for which nobody waits yet of the work that it does; 0 if that is not so.
    pub future: u64,
    /// Counts who was looked for: a probe in user code may be interrupted by another thread, which then is found here.
    pub turn: u32,
    /// Zero.
    pub reserved: u32,
}

/// `Task.__init__(self, …)`: a task is made.
#[uprobe]
pub fn task_made_x86_64(ctx: ProbeContext) -> u32 {
    // SAFETY: `di` of `struct pt_regs`; the verifier checks it.
    made(unsafe { register(&ctx, 112) })
}

/// As above.
#[uprobe]
pub fn task_made_arm64(ctx: ProbeContext) -> u32 {
    // SAFETY: `regs[0]` of `struct user_pt_regs`; the verifier checks it.
    made(unsafe { register(&ctx, 0) })
}

/// `SimpleQueue.put(self, args, …)`: something is handed over.
#[uprobe]
pub fn item_put_x86_64(ctx: ProbeContext) -> u32 {
    // SAFETY: `si` of `struct pt_regs`; the verifier checks it.
    put(unsafe { register(&ctx, 104) })
}

/// As above.
#[uprobe]
pub fn item_put_arm64(ctx: ProbeContext) -> u32 {
    // SAFETY: `regs[1]` of `struct user_pt_regs`; the verifier checks it.
    put(unsafe { register(&ctx, 8) })
}

/// A register of the interrupted program.
///
/// # Safety
/// `offset` must be that of a register in `struct pt_regs` of this architecture.
#[inline(always)]
pub unsafe fn register(ctx: &ProbeContext, offset: usize) -> u64 {
    // SAFETY: the caller's duty; the verifier checks it.
    unsafe { aya_ebpf::EbpfContext::as_ptr(ctx).byte_add(offset).cast::<u64>().read_volatile() }
}

#[inline(always)]
fn made(object: u64) -> u32 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if selected(tgid) { new_actor(tgid, tid, object, CAUSE_NONE, OBJECT) } else { 0 }
}

#[inline(always)]
fn put(arguments: u64) -> u32 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if selected(tgid) { handed(tgid, tid, word(arguments)) } else { 0 }
}

/// An object was put into a queue, which may be work for another thread.
#[inline(always)]
pub fn handed(tgid: u32, tid: u32, object: u64) -> u32 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let kind = word(object + u64::from(actors.object_type));
    if kind == 0 {
        0
    } else if kind == actors.item_type {
        new_actor(tgid, tid, object, CAUSE_NONE, OBJECT)
    } else if kind == actors.channel_type {
        new_actor(tgid, tid, object, CAUSE_AFTER, OBJECT)
    } else {
        0
    }
}

/// A thread has started another one of its process.
#[inline(always)]
pub fn thread_started(tgid: u32, child: u32) {
    // Of processes without an interpreter nobody asks.
    if ACTORS.get_ptr(&tgid).is_some() {
        let tid = bpf_get_current_pid_tgid() as u32;
        new_actor(tgid, tid, u64::from(child), LASTING, THREAD);
    }
}

/// A thread or a greenlet has ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn actor_ended(tgid: u32, tid: u32, object: u64, sort: u32) -> u32 {
    let key = ObjectKey { object, tgid, sort };
    let Some(number) = ACTOR_NUMBERS.get_ptr(&key) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked.
    let actor = unsafe { *number };
    let _ = ACTOR_NUMBERS.remove(&key);
    report(tgid, tid, actor, NOBODY, ENDED, 0);
    0
}

/// Gives a new actor its number, and reports who made it. `what` as in [`ActorRecord`]: with [`CAUSE_NONE`] its
/// cause is looked for, with [`CAUSE_AFTER`] it follows the last one of the same object.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn new_actor(tgid: u32, tid: u32, object: u64, what: u32, sort: u32) -> u32 {
    let (by, state, frame) = who(tgid, tid, |found| {
        // SAFETY: the pointer comes from the map and was checked. Volatile: see `who`.
        let found = unsafe { found.read_volatile() };
        (found.identity, found.state, found.frame)
    })
    .unwrap_or((NOBODY, 0, 0));
    let actor = next_number();
    let key = ObjectKey { object, tgid, sort };
    let mut what = what;
    let mut cause = 0;
    if what == CAUSE_AFTER {
        if let Some(last) = ACTOR_NUMBERS.get_ptr(&key) {
            // SAFETY: the pointer comes from the map and was checked.
            cause = unsafe { *last };
        }
        // Who has just read from a connection hands that one over.
        // SAFETY: only this thread uses its entry.
        if let Some(input) = unsafe { INPUTS.get(&tid) }
            && input.inode != 0
            && input.what == CAUSE_READ
        {
            what = CAUSE_READ;
            cause = input.inode;
        }
    } else if what != CAUSE_NONE {
        // Nothing is looked for.
    } else if by.flags & NESTED != 0 {
        // A protocol begins with a request here.
        if is_called(tgid, frame, REQUEST_RECEIVED.0, REQUEST_RECEIVED.1) != 0 {
            what = CAUSE_NEXT;
        }
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    } else if by.flags & IN_TASK == 0
        && let Some(input) = unsafe { INPUTS.get(&tid) }
        && input.inode != 0
        && is_same_callback(tgid, state, frame, input) != 0
    {
        what = input.what;
        cause = input.inode;
    }
    // Right before the record: what it does later, it may do for who stands there.
    report_stack(tgid, tid);
    let _ = ACTOR_NUMBERS.insert(&key, &actor, 0);
    report(tgid, tid, actor, by, what, cause);
    #[cfg(feature = "propagate")]
    if what == CAUSE_NONE
        && by.actor == 0
        && is_called(tgid, frame, CONNECTION_MADE.0, CONNECTION_MADE.1) != 0
    {
        crate::propagate::lineage::made_by_connection(tid, actor);
    }
    0
}

#[inline(always)]
fn report(tgid: u32, tid: u32, actor: u64, by: Identity, what: u32, cause: u64) {
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let by = Identity { losses: losses(), ..by };
    #[cfg(feature = "propagate")]
    crate::propagate::lineage::made(tgid, tid, actor, time, &by, what, cause);
    send(ActorRecord { kind: Kind::Actor as u32, tgid, tid, what, actor, time, by, cause });
}

/// Whether the thread is still in the callback of its event loop in which it got this input: in the same
/// context, of which each callback that watches a socket has its own, and the loop itself another one, or in one
/// that was entered from there (Twisted); or, where the loop reads outside of any context (uvloop), in the method
/// of a protocol that the loop has called with what it read.
#[inline(always)]
fn is_same_callback(tgid: u32, state: u64, frame: u64, input: &LastInput) -> u32 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let mut context = word(state + u64::from(actors.context));
    for _ in 0..CONTEXTS {
        if context == 0 || context == input.waiting_context {
            break;
        }
        if context == input.context {
            return 1;
        }
        context = entered_from(actors, context);
    }
    if input.what != CAUSE_READ {
        return 0;
    }
    is_in_protocol(tgid, frame, input.frame)
}

/// `PyContext.ctx_prev`, the first member behind the object's head: the context from which this one was entered, 0 if it
/// was from none. Include/internal/pycore_context.h
#[inline(always)]
fn entered_from(actors: &Actors, context: u64) -> u64 {
    word(context + u64::from(actors.object_type) + 8)
}

/// The first two words of a name: `offset` is where a code object refers to it.
#[inline(always)]
fn name_of(python: &Python, actors: &Actors, frame: u64, offset: u32) -> (u64, u64) {
    let code = word(frame + u64::from(python.frame_code)) & python.code_mask;
    let name = word(code + u64::from(offset)) + u64::from(actors.str_ascii);
    (word(name), word(name + 8))
}

/// Whether one of the newest frames is that of a function with this name, in two words.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_called(tgid: u32, newest: u64, first: u64, second: u64) -> u32 {
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    let mut at = newest;
    for _ in 0..REQUEST_FRAMES {
        if at == 0 {
            break;
        }
        if name_of(python, actors, at, actors.code_name) == (first, second) {
            return 1;
        }
        at = word(at + u64::from(python.frame_back));
    }
    0
}

/// Whether the frame that `base` has called through the event loop is that of a protocol's method.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_in_protocol(tgid: u32, newest: u64, base: u64) -> u32 {
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    let mut at = newest;
    let mut called = 0;
    for _ in 0..CALLBACK_FRAMES {
        if at == 0 || at == base {
            break;
        }
        let owner = word(at + u64::from(python.frame_owner)) as u32 & 0xff;
        if owner < python.first_shim_owner {
            called = at;
        }
        at = word(at + u64::from(python.frame_back));
    }
    if called == 0 || at != base {
        return 0;
    }
    let (first, second) = name_of(python, actors, called, actors.code_name);
    let data = first == DATA_RECEIVED.0 && second & DATA_RECEIVED_MASK == DATA_RECEIVED.1;
    let buffer = first == BUFFER_UPDATED.0 && second & BUFFER_UPDATED_MASK == BUFFER_UPDATED.1;
    u32::from(data || buffer)
}

/// A number that is given once: what the clock says, and the processor. Not a count, which two threads could get
/// at once where probes in user code can be interrupted.
#[inline(always)]
pub fn next_number() -> u64 {
    // SAFETY: the helpers have no preconditions.
    let number = unsafe { bpf_ktime_get_ns() << 10 | u64::from(bpf_get_smp_processor_id() & 0x3ff) };
    // A lane has its highest bit for something else: the same number comes again after a hundred days.
    number & !GREENLET_LANE
}

/// Nothing is known.
pub const NOBODY: Identity = Identity { actor: 0, lane: 0, flags: 0, losses: 0 };

/// Who acts, for programs that may be preempted: those on functions and on messages. Gives what `take` takes of it;
/// `None` if nothing is known, or somebody else was looked for on this processor again and again.
#[inline(always)]
pub fn who<T>(tgid: u32, tid: u32, take: impl Fn(*const Found) -> T) -> Option<T> {
    for _ in 0..TRIES {
        let turn = identify(tgid, tid);
        let found = FOUND.get_ptr(0)?;
        if turn == 0 {
            return None;
        }
        let taken = take(found);
        // SAFETY: the pointer comes from the map and was checked; the value is this CPU's. Volatile, because another
        // thread may write it between.
        if unsafe { (&raw const (*found).turn).read_volatile() } == turn {
            return Some(taken);
        }
    }
    None
}

/// Of what [`who`] found: the identity.
#[inline(always)]
pub fn identity(found: *const Found) -> Identity {
    // SAFETY: the pointer comes from the map and was checked. Volatile, as above.
    unsafe { (&raw const (*found).identity).read_volatile() }
}

/// Finds out who acts, into [`FOUND`]; gives the turn there, 0 if nobody is.
///
/// A function of its own for the verifier's sake: see [`crate::stack::report_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn identify(tgid: u32, tid: u32) -> u32 {
    let Some(found) = FOUND.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
    let turn = unsafe { (*found).turn.wrapping_add(1) | 1 };
    // SAFETY: as above.
    unsafe { *found = Found { identity: NOBODY, state: 0, frame: 0, future: 0, turn, reserved: 0 } };
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    let Some((state, frame)) = running(python, tgid, tid) else { return 0 };
    let lane = lane_at(actors, tgid, state, frame);
    let mut flags = KNOWN;
    // SAFETY: only this thread uses its entry.
    if let Some(input) = unsafe { INPUTS.get(&tid) }
        && input.waiting_lane != 0
    {
        flags |= if input.waiting_lane == lane { IN_WAITING_LANE } else { WAITS_ELSEWHERE };
    }
    if lane & GREENLET_LANE != 0 {
        flags |= IN_GREENLET;
    }
    let task = current_task(tgid, state);
    let mut actor = 0;
    if task != 0 {
        actor = number_of(tgid, task & !1);
        flags |= IN_TASK;
        if task & 1 != 0 {
            flags |= NESTED;
        }
    // Executors have threads of their own, which the first one of a process is not; but greenlets may be such threads.
    } else if (tid != tgid || actors.flags & GREENLETS != 0)
        && actors.item_type | actors.worker_code | actors.future_type | actors.channel_type != 0
    {
        actor = handed_over(tgid, frame);
    }
    if actor == NOT_NUMBERED {
        actor = 0;
    } else if actor == 0 {
        actor = if flags & IN_GREENLET != 0 { lane & !GREENLET_LANE } else { number_of_thread(tgid, tid) };
    }
    let identity = Identity { actor, lane, flags, losses: 0 };
    // SAFETY: as above. The turn is left as it is, whoever has taken one since.
    unsafe { ((*found).identity, (*found).state, (*found).frame) = (identity, state, frame) };
    turn
}

/// The number of a thread, 0 if it was there before the probes.
#[inline(always)]
fn number_of_thread(tgid: u32, tid: u32) -> u64 {
    ACTOR_NUMBERS.get_ptr(&ObjectKey { object: u64::from(tid), tgid, sort: THREAD }).map_or(0, |number| {
        // SAFETY: the pointer comes from the map and was checked.
        unsafe { *number }
    })
}

/// The number of a task or greenlet; one that was made before the probes came gets it now.
#[inline(always)]
fn number_of(tgid: u32, object: u64) -> u64 {
    let key = ObjectKey { object, tgid, sort: OBJECT };
    if let Some(number) = ACTOR_NUMBERS.get_ptr(&key) {
        // SAFETY: the pointer comes from the map and was checked.
        return unsafe { *number };
    }
    let number = next_number();
    let _ = ACTOR_NUMBERS.insert(&key, &number, 0);
    number
}

/// The task that the thread runs, 0 if it runs none: the one that is current for a loop and has the context that
/// the thread is in, or, with the lowest bit set, one from which it has entered that.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn current_task(tgid: u32, state: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let mut context = word(state + u64::from(actors.context));
    let mut nested = 0;
    for _ in 0..CONTEXTS {
        if context == 0 {
            break;
        }
        let task = task_in(tgid, state, context);
        if task != 0 {
            return task | nested;
        }
        nested = 1;
        context = entered_from(actors, context);
    }
    0
}

/// The running task that has this context, 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn task_in(tgid: u32, state: u64, context: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    if actors.running_task != ABSENT {
        let task = word(state + u64::from(actors.running_task));
        let same = task != 0 && word(task + u64::from(actors.task_context)) == context;
        return if same { task } else { 0 };
    }
    if actors.current_tasks == 0 {
        return 0;
    }
    let keys = word(actors.current_tasks + u64::from(actors.dict_keys));
    if keys == 0 {
        return 0;
    }
    // `struct _dictkeysobject`: Objects/dict-common.h, Include/internal/pycore_dict.h
    let (count, entries) = if actors.flags & SIZED_KEYS != 0 {
        let size = word(keys + 8);
        let width = if size <= 0xff { 1 } else { 2 };
        (word(keys + 32), keys + 40 + size * width)
    } else {
        let log2_index_bytes = word(keys + 9) & 0xff;
        (word(keys + 24), keys + 32 + (1 << (log2_index_bytes & 31)))
    };
    for back in 1..=TASK_ENTRIES {
        if back > count {
            break;
        }
        // Hash, key, value.
        let task = word(entries + (count - back) * 24 + 16);
        if task != 0 && word(task + u64::from(actors.task_context)) == context {
            return task;
        }
    }
    0
}

/// The lane that the thread is in. Not one function that calls the other: the stacks of functions that call each other
/// add up.
#[inline(always)]
fn lane_at(actors: &Actors, tgid: u32, state: u64, frame: u64) -> u64 {
    let lane = if actors.greenlet_type == 0 { 0 } else { greenlet_lane(tgid, state) };
    if lane != 0 { lane } else { lane_of(tgid, state, frame) }
}

/// The lane of the greenlet that the thread runs, 0 if that is not known.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn greenlet_lane(tgid: u32, state: u64) -> u64 {
    let greenlet = running_greenlet(tgid, state);
    if greenlet == 0 { 0 } else { number_of(tgid, greenlet) | GREENLET_LANE }
}

/// The stack that the thread is on: greenlets have their own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lane_of(tgid: u32, state: u64, frame: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    if actors.chunk != ABSENT {
        // `_PyStackChunk.previous`: Include/cpython/pystate.h
        let mut chunk = word(state + u64::from(actors.chunk));
        for _ in 0..CHUNKS {
            let previous = word(chunk);
            if previous == 0 {
                break;
            }
            chunk = previous;
        }
        return chunk;
    }
    oldest_frame(tgid, frame)
}

/// The frame at which a stack begins, 0 if that is too far.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn oldest_frame(tgid: u32, frame: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(place)) = (unsafe { PYTHONS.get(&tgid) }, FRAME.get_ptr_mut(0)) else { return 0 };
    let back = u64::from(python.frame_back);
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's. Volatile, here and below, so
    // that what differs from turn to turn stays in memory.
    unsafe { place.write_volatile(frame) };
    for _ in 0..OLDEST_FRAMES {
        // SAFETY: as above.
        let at = unsafe { place.read_volatile() };
        let older = word(at + back);
        if older == 0 {
            return at;
        }
        // SAFETY: as above.
        unsafe { place.write_volatile(older) };
    }
    0
}

/// The number of the work that was handed to this thread, 0 if there is none: in one of its frames is the item that an
/// executor's queue has given it, or the future for which a task waits that has asked anyio for a thread. That future is
/// noted in [`FOUND`]: no number and a future, if the task does not wait yet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn handed_over(tgid: u32, newest: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    let mut at = newest;
    for _ in 0..FRAMES {
        if at == 0 {
            break;
        }
        let first = word(at + u64::from(actors.frame_locals)) & python.code_mask;
        let kind = word(first + u64::from(actors.object_type));
        if first != 0 && kind != 0 && (kind == actors.item_type || kind == actors.channel_type) {
            let key = ObjectKey { object: first, tgid, sort: OBJECT };
            return ACTOR_NUMBERS.get_ptr(&key).map_or(NOT_NUMBERED, |number| {
                // SAFETY: the pointer comes from the map and was checked.
                unsafe { *number }
            });
        }
        let is_worker = if actors.worker_code != 0 {
            word(at + u64::from(python.frame_code)) & python.code_mask == actors.worker_code
        } else {
            name_of(python, actors, at, actors.code_qualname) == WORKER_RUN
        };
        if is_worker {
            let future = worker_future(tgid, at);
            if let Some(found) = FOUND.get_ptr_mut(0) {
                // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
                unsafe { (*found).future = future };
            }
            return waiting_task(actors, tgid, future);
        }
        at = word(at + u64::from(python.frame_back));
    }
    0
}

/// The future of a worker of anyio, 0 if it is none of `_asyncio`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn worker_future(tgid: u32, frame: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    if actors.future_type == 0 {
        return 0;
    }
    let locals = frame + u64::from(actors.frame_locals);
    for index in 0..WORKER_LOCALS {
        let object = word(locals + index * 8) & python.code_mask;
        if object != 0 && word(object + u64::from(actors.object_type)) == actors.future_type {
            return object;
        }
    }
    0
}

/// The number of the task that waits for this future.
#[inline(always)]
fn waiting_task(actors: &Actors, tgid: u32, future: u64) -> u64 {
    let callback = word(future + u64::from(actors.future_callback));
    if future == 0 || callback == 0 {
        return NOT_NUMBERED;
    }
    // `TaskWakeupMethWrapper.ww_task`, or `PyCFunctionObject.m_self`: one of the two is a task's address.
    let head = u64::from(actors.object_type) + 8;
    let mut key = ObjectKey { object: word(callback + head), tgid, sort: OBJECT };
    if let Some(number) = ACTOR_NUMBERS.get_ptr(&key) {
        // SAFETY: the pointer comes from the map and was checked.
        return unsafe { *number };
    }
    key.object = word(callback + head + 8);
    ACTOR_NUMBERS.get_ptr(&key).map_or(NOT_NUMBERED, |number| {
        // SAFETY: the pointer comes from the map and was checked.
        unsafe { *number }
    })
}

/// Finds out who reads.
#[inline(always)]
pub fn reader(tgid: u32, tid: u32) -> Identity {
    identify(tgid, tid);
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
    FOUND.get_ptr(0).map_or(NOBODY, |found| unsafe { (*found).identity })
}

/// Finds out who sends on this socket. Work of which it is not known yet who waits for it has a number of its own,
/// until the thread receives something there.
#[inline(always)]
pub fn sender(tgid: u32, tid: u32, inode: u64) -> Identity {
    identify(tgid, tid);
    let Some(found) = FOUND.get_ptr(0) else { return NOBODY };
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
    let (mut by, future) = unsafe { ((*found).identity, (*found).future) };
    if by.actor == 0 && future != 0 {
        by.actor = unsettled(tgid, tid, inode, future);
    }
    by
}

/// The number of work for which nobody waits yet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unsettled(tgid: u32, tid: u32, inode: u64, future: u64) -> u64 {
    if INPUTS.get_ptr(&tid).is_none() {
        let _ = INPUTS.insert(&tid, &NO_INPUT, 0);
    }
    let Some(input) = INPUTS.get_ptr_mut(&tid) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    let input = unsafe { &mut *input };
    if input.unsettled == 0 || input.unsettled_inode != inode || input.unsettled_future != future {
        input.unsettled = next_number();
        input.unsettled_inode = inode;
        input.unsettled_future = future;
        report(tgid, tid, input.unsettled, NOBODY, CAUSE_NONE, 0);
    }
    input.unsettled
}

/// The thread has received the answer to what work of it has sent of which it was not known who waits for it. Who does
/// is known now: a task waits as soon as it gets to run, and this thread has let others run while it sent and received.
/// [`identify`] has just been called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn settle(tgid: u32, tid: u32, inode: u64) -> u32 {
    let Some(input) = INPUTS.get_ptr_mut(&tid) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    let input = unsafe { &mut *input };
    let (actor, future) = (input.unsettled, input.unsettled_future);
    if input.unsettled_inode == inode {
        let Some(found) = FOUND.get_ptr(0) else { return 0 };
        // SAFETY: as above; the value is this CPU's.
        let (by, of) = unsafe { ((*found).identity, (*found).future) };
        if of == future {
            if by.actor == 0 {
                return 0;
            }
            report(tgid, tid, actor, by, CAUSE_NONE, 0);
        }
    }
    input.unsettled = 0;
    1
}

const NO_INPUT: LastInput = LastInput {
    inode: 0,
    context: 0,
    frame: 0,
    waiting_lane: 0,
    waiting_context: 0,
    what: CAUSE_NONE,
    reserved: 0,
    unsettled: 0,
    unsettled_future: 0,
    unsettled_inode: 0,
};

/// Notes what [`identify`] has just found to have read from or accepted a socket as its server.
#[inline(always)]
pub fn note_input(tgid: u32, tid: u32, inode: u64, what: u32) -> Option<()> {
    let found = FOUND.get_ptr(0)?;
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
    let (state, frame) = unsafe { ((*found).state, (*found).frame) };
    if state == 0 {
        return None;
    }
    // SAFETY: as in `is_same_callback`.
    let actors = unsafe { ACTORS.get(&tgid) }?;
    let context = word(state + u64::from(actors.context));
    match INPUTS.get_ptr_mut(&tid) {
        Some(input) => {
            // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
            let input = unsafe { &mut *input };
            input.inode = inode;
            input.context = context;
            input.frame = frame;
            input.what = what;
        }
        None => {
            // Nothing is known of its event loop yet.
            let waiting_context = context;
            let input = LastInput { inode, context, frame, waiting_context, what, ..NO_INPUT };
            let _ = INPUTS.insert(&tid, &input, 0);
        }
    }
    Some(())
}

/// The thread has read something else, so that what it did before is not the reason for what it does next.
#[inline(always)]
pub fn forget_input(tgid: u32, tid: u32, inode: u64) {
    if let Some(input) = INPUTS.get_ptr_mut(&tid) {
        // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
        let input = unsafe { &mut *input };
        input.inode = 0;
        if input.unsettled != 0 {
            // Not in there: the stacks of functions that call each other add up.
            identify(tgid, tid);
            settle(tgid, tid, inode);
        }
    }
}

/// The thread waits for events: it has done with what it read before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn waits(tgid: u32, tid: u32) -> u32 {
    // SAFETY: as in `is_same_callback`.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    let Some((state, frame)) = known_running(python, tid) else { return 0 };
    if let Some(found) = FOUND.get_ptr_mut(0) {
        // SAFETY: the pointer comes from the map and was checked; the value is this CPU's. What was looked for between
        // may have to be looked for again: `FRAME` is used below.
        unsafe { (*found).turn = (*found).turn.wrapping_add(2) };
    }
    note_waiter(tgid, tid, state, frame);
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let waiting_lane = lane_at(actors, tgid, state, frame);
    let waiting_context = word(state + u64::from(actors.context));
    match INPUTS.get_ptr_mut(&tid) {
        Some(input) => {
            // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
            let input = unsafe { &mut *input };
            input.inode = 0;
            input.waiting_lane = waiting_lane;
            input.waiting_context = waiting_context;
        }
        None => {
            let input = LastInput { waiting_lane, waiting_context, ..NO_INPUT };
            let _ = INPUTS.insert(&tid, &input, 0);
        }
    }
    1
}
