//! Greenlets: which one a thread runs, and their ends; and what is put into the queues of threads that are written in
//! Python, as those of programs with greenlets are.
//!
//! `greenlet` keeps a `ThreadState` for each thread (`TThreadState.hpp`, 2.0+), whose first members are the greenlet with
//! which the thread began and the one that it runs. A pointer to it is a local variable of the thread, to which the C
//! library's descriptor of the thread leads.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::uprobe, programs::ProbeContext};
use tracekit_common::actor::{LASTING, OBJECT, THREAD_TABLE};

use crate::{
    actor::{actor_ended, handed, new_actor, register},
    maps::{ACTORS, PYTHONS},
    process::selected,
    read::word,
};

/// `greenlet.__init__(self, …)`: a greenlet is made.
#[uprobe]
pub fn greenlet_made_x86_64(ctx: ProbeContext) -> u32 {
    // SAFETY: `di` of `struct pt_regs`; the verifier checks it.
    made(unsafe { register(&ctx, 112) })
}

/// As above.
#[uprobe]
pub fn greenlet_made_arm64(ctx: ProbeContext) -> u32 {
    // SAFETY: `regs[0]` of `struct user_pt_regs`; the verifier checks it.
    made(unsafe { register(&ctx, 0) })
}

/// `tp_dealloc(self)` of `greenlet`: one is gone.
#[uprobe]
pub fn greenlet_gone_x86_64(ctx: ProbeContext) -> u32 {
    // SAFETY: `di` of `struct pt_regs`; the verifier checks it.
    gone(unsafe { register(&ctx, 112) })
}

/// As above.
#[uprobe]
pub fn greenlet_gone_arm64(ctx: ProbeContext) -> u32 {
    // SAFETY: `regs[0]` of `struct user_pt_regs`; the verifier checks it.
    gone(unsafe { register(&ctx, 0) })
}

/// `deque.append(self, item)`: something is handed over.
#[uprobe]
pub fn item_appended_x86_64(ctx: ProbeContext) -> u32 {
    // SAFETY: `si` of `struct pt_regs`; the verifier checks it.
    appended(unsafe { register(&ctx, 104) })
}

/// As above.
#[uprobe]
pub fn item_appended_arm64(ctx: ProbeContext) -> u32 {
    // SAFETY: `regs[1]` of `struct user_pt_regs`; the verifier checks it.
    appended(unsafe { register(&ctx, 8) })
}

/// Process and thread, if the process is selected.
#[inline(always)]
fn selected_caller() -> Option<(u32, u32)> {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    selected(tgid).then_some((tgid, tid))
}

#[inline(always)]
fn made(greenlet: u64) -> u32 {
    selected_caller().map_or(0, |(tgid, tid)| new_actor(tgid, tid, greenlet, LASTING, OBJECT))
}

#[inline(always)]
fn gone(greenlet: u64) -> u32 {
    selected_caller().map_or(0, |(tgid, tid)| actor_ended(tgid, tid, greenlet, OBJECT))
}

#[inline(always)]
fn appended(item: u64) -> u32 {
    selected_caller().map_or(0, |(tgid, tid)| handed(tgid, tid, item))
}

/// The greenlet that the thread runs; 0 if that is the one with which it began, or none.
#[inline(always)]
pub fn running_greenlet(tgid: u32, state: u64) -> u64 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let (Some(python), Some(actors)) = (unsafe { PYTHONS.get(&tgid) }, unsafe { ACTORS.get(&tgid) }) else {
        return 0;
    };
    if actors.greenlet_type == 0 {
        return 0;
    }
    let descriptor = word(state + u64::from(python.thread_id));
    let table = word(descriptor + THREAD_TABLE);
    let variables = word(table + u64::from(actors.greenlet_module));
    let switched = word(variables + u64::from(actors.greenlet_slot));
    let (first, current) = (word(switched), word(switched + 8));
    // A thread that has no greenlets may have anything there.
    if current == first || word(first + u64::from(actors.object_type)) != actors.greenlet_type {
        return 0;
    }
    current
}
