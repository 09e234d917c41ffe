//! The Python thread state of the running thread.
//!
//! A thread state has the id of its thread as the thread's own PID namespace has it (3.11+), or leads to the
//! C library's descriptor, which has it. The state found is remembered and believed as long as its
//! `thread_id` is the same.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_ktime_get_ns};
use tracekit_common::{
    ABSENT,
    python::{ID_IN_DESCRIPTOR, Python, Thread},
};

use crate::{
    layout::{PID_LEVEL, PID_NUMBERS, TASK_THREAD_PID},
    maps::{PYTHONS, THREADS},
    read::{kernel, user, word},
};

/// Size of `struct upid`, whose first member is the number: include/linux/pid.h
const UPID_BYTES: u32 = 16;
/// Interpreters of a process that are searched: those started last.
const INTERPRETERS: usize = 4;
/// Threads of each that are searched: those started last.
const STATES: usize = 128;
/// A thread without a thread state is looked at again after this many nanoseconds.
const RETRY: u64 = 10_000_000;

/// The id of the current thread in its own PID namespace.
#[inline(always)]
fn native_id() -> Option<u32> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let pid: u64 = kernel(task, TASK_THREAD_PID.load())?;
    let level: u32 = kernel(pid, PID_LEVEL.load())?;
    // `MAX_PID_NS_LEVEL` is 32: include/linux/pid_namespace.h
    kernel(pid, PID_NUMBERS.load() + (level & 31) * UPID_BYTES)
}

/// The newest frame of a thread state; 0 if it runs no Python code.
#[inline(always)]
pub fn newest_frame(python: &Python, state: u64) -> Option<u64> {
    let frame: u64 = user(state + u64::from(python.frame))?;
    if python.cframe_frame == ABSENT || frame == 0 {
        return Some(frame);
    }
    user(frame + u64::from(python.cframe_frame))
}

/// The thread state of the current thread, and its newest frame; `None` if it runs no Python code.
#[inline(always)]
pub fn running(python: &Python, tgid: u32, tid: u32) -> Option<(u64, u64)> {
    find(python, tgid, tid, RETRY)
}

/// As [`running`], for a thread that does run Python code: it is looked for however short ago it had no state.
#[inline(always)]
pub fn certainly_running(python: &Python, tgid: u32, tid: u32) -> Option<(u64, u64)> {
    find(python, tgid, tid, 0)
}

/// As [`running`], but only a thread whose state was found before.
#[inline(always)]
pub fn known_running(python: &Python, tid: u32) -> Option<(u64, u64)> {
    // SAFETY: only this thread uses its entry.
    let known = unsafe { THREADS.get(&tid) }?;
    if known.state == 0 || word(known.state + u64::from(python.thread_id)) != known.thread_id {
        return None;
    }
    let frame = newest_frame(python, known.state)?;
    if frame == 0 { None } else { Some((known.state, frame)) }
}

#[inline(always)]
fn find(python: &Python, tgid: u32, tid: u32, retry: u64) -> Option<(u64, u64)> {
    let head: u64 = user(python.runtime + u64::from(python.interpreters_head))?;
    // With several interpreters a thread has several thread states, and may have changed between them.
    let single = head == python.main_interpreter;
    if single && let Some(known) = THREADS.get_ptr_mut(&tid) {
        // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
        let known = unsafe { *known };
        if known.state != 0
            && user::<u64>(known.state + u64::from(python.thread_id)) == Some(known.thread_id)
            && let Some(frame) = newest_frame(python, known.state)
            && frame != 0
        {
            return Some((known.state, frame));
        }
        // It has none, runs no Python code, or has another since: not worth a search at every call.
        // SAFETY: the helper has no preconditions.
        if unsafe { bpf_ktime_get_ns() } - known.looked < retry {
            return None;
        }
    }
    let state = find_thread(tgid, head);
    if single {
        let thread_id = word(state + u64::from(python.thread_id));
        // SAFETY: the helper has no preconditions.
        let looked = unsafe { bpf_ktime_get_ns() };
        let _ = THREADS.insert(&tid, &Thread { state, thread_id, looked }, 0);
    }
    if state == 0 {
        return None;
    }
    let frame = newest_frame(python, state)?;
    if frame == 0 { None } else { Some((state, frame)) }
}

/// The thread state of the current thread in a process with this interpreter list, 0 if there is none.
///
/// The newest interpreter comes first: of several thread states of one thread the one that runs Python code
/// and was made last is taken, because it was entered from the others.
///
/// A function of its own for the verifier's sake: see [`crate::stack::report_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_thread(tgid: u32, head: u64) -> u64 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    let mut interpreter = head;
    let mut idle = 0;
    for _ in 0..INTERPRETERS {
        if interpreter == 0 {
            break;
        }
        let state = thread_in(tgid, word(interpreter + u64::from(python.threads_head)));
        if state != 0 {
            if newest_frame(python, state).unwrap_or(0) != 0 {
                return state;
            }
            idle = state;
        }
        interpreter = word(interpreter + u64::from(python.interpreter_next));
    }
    idle
}

/// The thread state of the current thread in the list that begins here, 0 if it is not in it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn thread_in(tgid: u32, first: u64) -> u64 {
    // SAFETY: as in `find_thread`.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    if python.native_id == ABSENT {
        return 0;
    }
    let Some(wanted) = native_id() else { return 0 };
    let mut state = first;
    for _ in 0..STATES {
        if state == 0 {
            break;
        }
        let mut holder = state;
        if python.flags & ID_IN_DESCRIPTOR != 0 {
            holder = word(state + u64::from(python.thread_id));
        }
        if word(holder + u64::from(python.native_id)) as u32 == wanted {
            return state;
        }
        state = word(state + u64::from(python.thread_next));
    }
    0
}
