//! Which processes are selected: through fork, exec and exit.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use tracekit_common::{
    actor::THREAD,
    event::{Kind, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK, ProcessRecord},
};

use crate::{
    actor::{actor_ended, thread_started},
    layout::{FOLLOW_ALL, SIGNAL_FLAGS, TASK_PID, TASK_SIGNAL, TASK_TGID},
    maps::{ACTORS, ENTERED, EVENT_LOOPS, INPUTS, PYTHONS, SELECTED, THREADS, send},
    read::kernel,
};

/// The whole process ends: include/linux/sched/signal.h
const SIGNAL_GROUP_EXIT: u32 = 4;

/// Selected?
#[inline(always)]
pub fn selected(tgid: u32) -> bool {
    SELECTED.get_ptr(&tgid).is_some()
}

/// Tells the user side.
#[inline(always)]
pub fn record(what: u32, tgid: u32, parent: u32) {
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    send(ProcessRecord { kind: Kind::Process as u32, tgid, parent, what, time });
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`: also for new threads.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let Some(parent_tgid) = kernel::<u32>(parent, TASK_TGID.load()) else { return 0 };
    let Some(flags) = SELECTED.get_ptr(&parent_tgid) else { return 0 };
    let Some(tgid) = kernel::<u32>(child, TASK_TGID.load()) else { return 0 };
    if tgid == parent_tgid {
        if let Some(tid) = kernel::<u32>(child, TASK_PID.load()) {
            thread_started(tgid, tid);
        }
        return 0;
    }
    // SAFETY: the pointer comes from the map and was checked.
    let flags = unsafe { *flags };
    let _ = SELECTED.insert(&tgid, &flags, 0);
    if let Some(python) = PYTHONS.get_ptr(&parent_tgid) {
        // SAFETY: the pointer comes from the map and was checked. The child has the parent's memory.
        let _ = PYTHONS.insert(&tgid, unsafe { &*python }, 0);
    }
    if let Some(actors) = ACTORS.get_ptr(&parent_tgid) {
        // SAFETY: as above.
        let _ = ACTORS.insert(&tgid, unsafe { &*actors }, 0);
    }
    record(PROCESS_FORK, tgid, parent_tgid);
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let tgid = ctx.tgid();
    // Another program, another memory.
    let _ = PYTHONS.remove(&tgid);
    let _ = ACTORS.remove(&tgid);
    let _ = EVENT_LOOPS.remove(&tgid);
    if FOLLOW_ALL.load() != 0 || selected(tgid) {
        record(PROCESS_EXEC, tgid, 0);
    }
    0
}

/// `sched_process_exit(struct task_struct *p)`: every thread.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let tgid = (ids >> 32) as u32;
    if !selected(tgid) {
        return 0;
    }
    let task: u64 = ctx.arg(0);
    let tid = kernel::<u32>(task, TASK_PID.load()).unwrap_or(ids as u32);
    let _ = ENTERED.remove(&tid);
    let _ = THREADS.remove(&tid);
    let _ = INPUTS.remove(&tid);
    let _ = EVENT_LOOPS.remove(&tid);
    // One that ends with its process might have gone on.
    let signal: u64 = kernel(task, TASK_SIGNAL.load()).unwrap_or(0);
    if kernel::<u32>(signal, SIGNAL_FLAGS.load()).is_some_and(|flags| flags & SIGNAL_GROUP_EXIT == 0) {
        actor_ended(tgid, tid, u64::from(tid), THREAD);
    }
    if tid == tgid {
        let _ = SELECTED.remove(&tgid);
        let _ = PYTHONS.remove(&tgid);
        let _ = ACTORS.remove(&tgid);
        record(PROCESS_EXIT, tgid, 0);
    }
    0
}
