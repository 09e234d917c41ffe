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
        ActorRecord, Actors, CAUSE_NONE, CAUSE_READ, IN_TASK, IN_WAITING_LANE, Identity, KNOWN, LastInput,
        ObjectKey, SIZED_KEYS, WAITS_ELSEWHERE,
    },
    event::Kind,
    python::Python,
};

use crate::{
    maps::{ACTOR_NUMBERS, ACTORS, COUNTERS, FOUND, FRAME, INPUTS, PYTHONS, send},
    process::selected,
    python::{known_running, running},
    read::word,
};

/// Entries of the dict of running tasks that are looked at, from the last on: one for each event loop, and
/// those that were removed.
const TASK_ENTRIES: u64 = 8;
/// Frames that are visited in search of handed-over work, and of a protocol's method.
const FRAMES: usize = 64;
const CALLBACK_FRAMES: usize = 32;
/// Chunks of a stack, and frames of a greenlet or thread before 3.11.
const CHUNKS: usize = 16;
const OLDEST_FRAMES: usize = 96;

/// `data_received`, `buffer_updated`: methods of a protocol that an event loop calls with what it has read.
/// Each as two words, little-endian, the second with the end of the string.
const DATA_RECEIVED: (u64, u64) = (u64::from_le_bytes(*b"data_rec"), u64::from_le_bytes(*b"eived\0\0\0"));
const BUFFER_UPDATED: (u64, u64) = (u64::from_le_bytes(*b"buffer_u"), u64::from_le_bytes(*b"pdated\0\0"));
/// What of the second word is the string and its end.
const DATA_RECEIVED_MASK: u64 = (1 << 48) - 1;
const BUFFER_UPDATED_MASK: u64 = (1 << 56) - 1;

/// It is not known who acts.
pub const NOBODY: Identity = Identity { actor: 0, lane: 0, flags: 0, reserved: 0 };

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
    /// How often somebody was looked for on this processor.
    turn: u64,
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
unsafe fn register(ctx: &ProbeContext, offset: usize) -> u64 {
    // SAFETY: the caller's duty; the verifier checks it.
    unsafe { aya_ebpf::EbpfContext::as_ptr(ctx).byte_add(offset).cast::<u64>().read_volatile() }
}

#[inline(always)]
fn made(task: u64) -> u32 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if selected(tgid) { new_actor(tgid, tid, task) } else { 0 }
}

#[inline(always)]
fn put(arguments: u64) -> u32 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if !selected(tgid) {
        return 0;
    }
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let item = word(arguments);
    if actors.item_type == 0 || word(item + u64::from(actors.object_type)) != actors.item_type {
        return 0;
    }
    new_actor(tgid, tid, item)
}

/// Gives a new task or a new piece of work its number, and reports who made it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn new_actor(tgid: u32, tid: u32, object: u64) -> u32 {
    let Some(Found { identity: by, state, frame, .. }) = who(tgid, tid) else { return 0 };
    let actor = next_number();
    let _ = ACTOR_NUMBERS.insert(&ObjectKey { object, tgid, reserved: 0 }, &actor, 0);
    let mut what = CAUSE_NONE;
    let mut cause = 0;
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    if by.flags & IN_TASK == 0
        && let Some(input) = unsafe { INPUTS.get(&tid) }
        && input.inode != 0
        && is_same_callback(tgid, state, frame, input) != 0
    {
        what = input.what;
        cause = input.inode;
    }
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    #[cfg(feature = "propagate")]
    crate::propagate::lineage::made(tgid, tid, actor, time, &by, what, cause);
    send(ActorRecord { kind: Kind::Actor as u32, tgid, tid, what, actor, time, by, cause });
    0
}

/// Whether the thread is still in the callback of its event loop in which it got this input: in the same
/// context, of which each callback that watches a socket has its own, and the loop itself another one; or, where the loop reads outside of any
/// context (uvloop), in the method of a protocol that the loop has called with what it read.
#[inline(always)]
fn is_same_callback(tgid: u32, state: u64, frame: u64, input: &LastInput) -> u32 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let context = word(state + u64::from(actors.context));
    if context != 0 && context == input.context && context != input.waiting_context {
        return 1;
    }
    if input.what != CAUSE_READ {
        return 0;
    }
    is_in_protocol(tgid, frame, input.frame)
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
    let code = word(called + u64::from(python.frame_code)) & python.code_mask;
    let name = word(code + u64::from(actors.code_name)) + u64::from(actors.str_ascii);
    let (first, second) = (word(name), word(name + 8));
    let data = first == DATA_RECEIVED.0 && second & DATA_RECEIVED_MASK == DATA_RECEIVED.1;
    let buffer = first == BUFFER_UPDATED.0 && second & BUFFER_UPDATED_MASK == BUFFER_UPDATED.1;
    u32::from(data || buffer)
}

/// A number that is given once.
#[inline(always)]
pub fn next_number() -> u64 {
    let Some(counter) = COUNTERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to this CPU's value, and programs are not preempted by themselves.
    let count = unsafe {
        *counter += 1;
        *counter
    };
    // SAFETY: the helper has no preconditions.
    count << 16 | u64::from(unsafe { bpf_get_smp_processor_id() } & 0xffff)
}

/// Who acts. Nobody, if another program has looked for somebody on this processor meanwhile: those on functions and on
/// messages may be preempted.
#[inline(always)]
pub fn who(tgid: u32, tid: u32) -> Option<Found> {
    let found = FOUND.get_ptr(0)?;
    // SAFETY: the pointer comes from the map and was checked. Volatile, here and below: others write to it.
    let turn = unsafe { (&raw const (*found).turn).read_volatile() };
    identify(tgid, tid);
    // SAFETY: as above.
    let now = unsafe { found.read_volatile() };
    if now.turn == turn + 1 { Some(now) } else { None }
}

/// Finds out who acts, into [`FOUND`]: 1 if that is known. Only for programs that can't be preempted; see [`who`].
///
/// A function of its own for the verifier's sake: see [`crate::stack::report_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn identify(tgid: u32, tid: u32) -> u32 {
    let Some(found) = FOUND.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked; the value is this CPU's.
    unsafe {
        (*found).turn += 1;
        (*found).identity = NOBODY;
        (*found).state = 0;
        (*found).frame = 0;
    }
    // SAFETY: as in `is_same_callback`.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    let Some((state, frame)) = running(python, tgid, tid) else { return 0 };
    let lane = lane_of(tgid, state, frame);
    let mut flags = KNOWN;
    // SAFETY: only this thread uses its entry.
    if let Some(input) = unsafe { INPUTS.get(&tid) }
        && input.waiting_lane != 0
    {
        flags |= if input.waiting_lane == lane { IN_WAITING_LANE } else { WAITS_ELSEWHERE };
    }
    let task = current_task(tgid, state);
    let mut actor = 0;
    if task != 0 {
        actor = number_of(tgid, task);
        flags |= IN_TASK;
    } else if actors.item_type != 0 || actors.worker_code != 0 {
        actor = handed_over(tgid, frame);
    }
    // SAFETY: as above.
    unsafe {
        (*found).identity = Identity { actor, lane, flags, reserved: 0 };
        (*found).state = state;
        (*found).frame = frame;
    }
    1
}

/// The number of a task; one that was made before the probes came gets it now.
#[inline(always)]
fn number_of(tgid: u32, object: u64) -> u64 {
    let key = ObjectKey { object, tgid, reserved: 0 };
    if let Some(number) = ACTOR_NUMBERS.get_ptr(&key) {
        // SAFETY: the pointer comes from the map and was checked.
        return unsafe { *number };
    }
    let number = next_number();
    let _ = ACTOR_NUMBERS.insert(&key, &number, 0);
    number
}

/// The task that the thread runs, 0 if it runs none: the one that is current for a loop and has the context that
/// the thread is in.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn current_task(tgid: u32, state: u64) -> u64 {
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
    let context = word(state + u64::from(actors.context));
    if context == 0 {
        return 0;
    }
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

/// The number of the work that was handed to this thread: in one of its frames is the item that an executor's
/// queue has given it, or the future for which a task waits that has asked anyio for a thread.
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
        if first != 0 && word(first + u64::from(actors.object_type)) == actors.item_type {
            let key = ObjectKey { object: first, tgid, reserved: 0 };
            return ACTOR_NUMBERS.get_ptr(&key).map_or(0, |number| {
                // SAFETY: the pointer comes from the map and was checked.
                unsafe { *number }
            });
        }
        let code = word(at + u64::from(python.frame_code)) & python.code_mask;
        if code == actors.worker_code {
            return waiting_task(python, actors, tgid, at);
        }
        at = word(at + u64::from(python.frame_back));
    }
    0
}

/// The number of the task that waits for the future of this frame.
#[inline(always)]
fn waiting_task(python: &Python, actors: &Actors, tgid: u32, frame: u64) -> u64 {
    let at = frame + u64::from(actors.frame_locals) + u64::from(actors.worker_future) * 8;
    let future = word(at) & python.code_mask;
    let callback = word(future + u64::from(actors.future_callback));
    if future == 0 || callback == 0 {
        return 0;
    }
    // `TaskWakeupMethWrapper.ww_task`, or `PyCFunctionObject.m_self`: one of the two is a task's address.
    let head = u64::from(actors.object_type) + 8;
    let mut key = ObjectKey { object: word(callback + head), tgid, reserved: 0 };
    if let Some(number) = ACTOR_NUMBERS.get_ptr(&key) {
        // SAFETY: the pointer comes from the map and was checked.
        return unsafe { *number };
    }
    key.object = word(callback + head + 8);
    ACTOR_NUMBERS.get_ptr(&key).map_or(0, |number| {
        // SAFETY: the pointer comes from the map and was checked.
        unsafe { *number }
    })
}

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
            let input =
                LastInput { inode, context, frame, waiting_lane: 0, waiting_context, what, reserved: 0 };
            let _ = INPUTS.insert(&tid, &input, 0);
        }
    }
    Some(())
}

/// The thread has read something else, so that what it did before is not the reason for what it does next.
#[inline(always)]
pub fn forget_input(tid: u32) {
    if let Some(input) = INPUTS.get_ptr_mut(&tid) {
        // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
        unsafe { (*input).inode = 0 };
    }
}

/// The thread waits for events: it has done with what it read before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn waits(tgid: u32, tid: u32) -> u32 {
    // SAFETY: as in `is_same_callback`.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    let Some((state, frame)) = known_running(python, tid) else { return 0 };
    let waiting_lane = lane_of(tgid, state, frame);
    // SAFETY: as in `is_same_callback`.
    let Some(actors) = (unsafe { ACTORS.get(&tgid) }) else { return 0 };
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
            let input = LastInput {
                inode: 0,
                context: 0,
                frame: 0,
                waiting_lane,
                waiting_context,
                what: CAUSE_NONE,
                reserved: 0,
            };
            let _ = INPUTS.insert(&tid, &input, 0);
        }
    }
    1
}
