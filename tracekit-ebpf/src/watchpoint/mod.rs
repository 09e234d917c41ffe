//! Line breakpoints: a program on hardware watchpoints.
//!
//! A watchpoint is on the second byte of the first instruction of a line, and the interpreter reads that exactly
//! when it comes to the line; the thread has the GIL, and its variables are up to date. But others read it as
//! well: other processes have something else at that address, and the interpreter looks at its own instructions.
//! So the hit counts if the process, or one that it was forked from, has a breakpoint at that address, and the frame
//! that it runs has the code object of the line. The
//! frame's instruction pointer is still the previous one's and says nothing.
//!
//! The watched byte itself must not be read here: that would be another hit.

mod condition;
mod image;
mod objects;
mod trapped;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::perf_event,
    programs::PerfEventContext,
};
use tracekit_common::{
    event::Kind,
    python::{Frame, MAX_FRAMES, Python, StackRecord},
    watchpoint::{
        Armed, ArmedKey, BUCKET_OF_AGENT, Bucket, CAPTURE, HIT_HEAD, HitRecord, Hits, KILL_SWITCH, MET,
        NO_FAMILY, UNMET, bucket_of_breakpoint, bucket_of_process,
    },
};

pub use self::image::SCRATCH;
use self::image::{RECORD_MASK, Work};
use crate::{
    actor::{NOBODY, identity, who},
    bounds::bounded,
    maps::{BREAKPOINTS, BUCKETS, HITS, IMAGES, PYTHONS, SNAPSHOTS, STACK, SWITCHES},
    process::selected,
    python::certainly_running,
    read::{copy_kernel, user},
    stack::walk_whole,
};

/// `struct bpf_perf_event_data`: `addr`, which is the address that the event watches. It is behind the registers,
/// whose size is the architecture's: arch/x86/include/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h
const ADDRESS_X86_64: usize = 21 * 8 + 8;
const ADDRESS_ARM64: usize = 34 * 8 + 8;

/// A hit on x86_64.
#[perf_event]
pub fn line_hit_x86_64(ctx: PerfEventContext) -> u32 {
    // SAFETY: the member is there on this architecture; the verifier checks it.
    line_executed(unsafe { ctx.as_ptr().byte_add(ADDRESS_X86_64).cast::<u64>().read_volatile() })
}

/// A hit on arm64.
#[perf_event]
pub fn line_hit_arm64(ctx: PerfEventContext) -> u32 {
    // SAFETY: the member is there on this architecture; the verifier checks it.
    line_executed(unsafe { ctx.as_ptr().byte_add(ADDRESS_ARM64).cast::<u64>().read_volatile() })
}

/// The time: nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// This processor's room for a record.
#[inline(always)]
fn scratch() -> Option<*mut u8> {
    // SAFETY: the helper has no preconditions.
    let processor = unsafe { bpf_get_smp_processor_id() };
    Some(IMAGES.get_ptr_mut(processor)?.cast())
}

/// What is done at an access to a watched address.
#[inline(always)]
fn line_executed(address: u64) -> u32 {
    let start = now();
    let ids = bpf_get_current_pid_tgid();
    let tgid = (ids >> 32) as u32;
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let python = unsafe { PYTHONS.get(&tgid) }.filter(|_| selected(tgid));
    if let Some(python) = python
        && let Some(armed) = of_process(address, tgid, python.family)
    {
        let Some(hits) = counters(armed) else { return 0 };
        judge(address, armed, hits, python, (tgid, ids as u32), start);
        hits.nanoseconds += now() - start;
    } else if let Some(hits) = breakpoint(address, NO_FAMILY).and_then(counters) {
        hits.foreign += 1;
        hits.nanoseconds += now() - start;
    }
    0
}

/// What is armed at an address in a process, or in the one that it was forked from.
#[inline(always)]
fn of_process(address: u64, tgid: u32, family: u32) -> Option<&'static Armed> {
    match breakpoint(address, tgid) {
        None if family != tgid => breakpoint(address, family),
        own => own,
    }
}

/// What is armed at an address in a family of processes.
#[inline(always)]
fn breakpoint(address: u64, family: u32) -> Option<&'static Armed> {
    // SAFETY: the value is replaced as a whole; it is read once or twice as old or new.
    unsafe { BREAKPOINTS.get(&ArmedKey { address, family, reserved: 0 }) }
}

#[inline(always)]
fn counters(armed: &Armed) -> Option<&'static mut Hits> {
    // SAFETY: the pointer is to this CPU's value, and programs are not preempted by themselves.
    HITS.get_ptr_mut(armed.index).map(|hits| unsafe { &mut *hits })
}

#[inline(always)]
fn judge(
    address: u64,
    armed: &Armed,
    hits: &mut Hits,
    python: &Python,
    (tgid, tid): (u32, u32),
    time: u64,
) -> Option<()> {
    let Some((state, frame)) = certainly_running(python, tgid, tid) else {
        hits.unknown += 1;
        return None;
    };
    let code = user::<u64>(frame + u64::from(python.frame_code)).unwrap_or(0) & python.code_mask;
    if code != armed.code {
        hits.spurious += 1;
        return None;
    }
    hits.hits += 1;
    hits.last = time;
    if armed.flags & CAPTURE == 0 {
        return None;
    }
    if SWITCHES.get(KILL_SWITCH).is_some_and(|switch| *switch != 0) {
        hits.killed += 1;
        return None;
    }
    if armed.condition != 0 {
        let end = condition::decide(u64::from(armed.condition - 1), frame, armed.layout.into());
        if end == u32::from(UNMET) {
            hits.unmet += 1;
            return None;
        }
        if end != u32::from(MET) {
            hits.undecided += 1;
        }
    }
    if !is_allowed(armed.index, tgid, time) {
        hits.limited += 1;
        return None;
    }
    if capture(address, armed, python, (tgid, tid), (state, frame), time).is_some() {
        hits.captured += 1;
    } else {
        hits.lost += 1;
    }
    None
}

/// Takes one from each of the buckets that there are; or from none, if one of them is empty. Two CPUs that do so at
/// once may take one too many.
#[inline(always)]
fn is_allowed(index: u32, tgid: u32, now: u64) -> bool {
    let breakpoint = BUCKETS.get_ptr_mut(&bucket_of_breakpoint(index));
    let process = BUCKETS.get_ptr_mut(&bucket_of_process(tgid));
    let agent = BUCKETS.get_ptr_mut(&BUCKET_OF_AGENT);
    if !has_one(breakpoint, now) || !has_one(process, now) || !has_one(agent, now) {
        return false;
    }
    take_one(breakpoint, now);
    take_one(process, now);
    take_one(agent, now);
    true
}

#[inline(always)]
fn has_one(bucket: Option<*mut Bucket>, now: u64) -> bool {
    match bucket {
        // SAFETY: the pointer comes from the map and was checked.
        Some(bucket) => unsafe { (*bucket).left != 0 && (*bucket).due <= now + (*bucket).tolerance },
        None => true,
    }
}

#[inline(always)]
fn take_one(bucket: Option<*mut Bucket>, now: u64) {
    let Some(bucket) = bucket else { return };
    // SAFETY: the pointer comes from the map and was checked.
    unsafe {
        let due = (*bucket).due;
        (*bucket).due = if due > now { due } else { now } + (*bucket).interval;
        if (*bucket).left != u64::MAX {
            (*bucket).left -= 1;
        }
    }
}

/// Copies stack and variables, and reports them; `None` if there was no room.
#[inline(always)]
fn capture(
    address: u64,
    armed: &Armed,
    python: &Python,
    (tgid, tid): (u32, u32),
    (state, frame): (u64, u64),
    time: u64,
) -> Option<()> {
    let record = scratch()?;
    let end = walk_whole(tgid, frame);
    let stack = STACK.get_ptr(0)?.cast::<u8>();
    // SAFETY: the buffer has a `StackRecord` and its frames, and is this CPU's.
    let frames = unsafe { (*stack.cast::<StackRecord>()).count };
    let (from, to) = (size_of::<StackRecord>(), size_of::<HitRecord>());
    const FRAMES: u32 = (MAX_FRAMES * size_of::<Frame>()) as u32;
    // SAFETY: both buffers have room for all frames behind their heads.
    unsafe { copy_kernel(record.add(to), FRAMES, stack.add(from) as u64) };
    let work = Work::begin(record, armed, tgid);
    image::copy_variables(address, frame, python.family);
    let by = who(tgid, tid, identity).unwrap_or(NOBODY);
    let took = now() - time;
    let (image, flags, objects) = work.outcome();
    let head = HitRecord {
        kind: Kind::Hit as u32,
        tgid,
        tid,
        index: armed.index,
        address,
        code: armed.code,
        frame,
        state,
        time,
        took,
        frames,
        end,
        image,
        flags,
        objects,
        reserved: 0,
        by,
    };
    // SAFETY: the room is larger than the head, and aligned to 8 bytes, as map values are.
    unsafe { *record.cast::<HitRecord>() = head };
    let size = bounded::<RECORD_MASK>(HIT_HEAD as u64 + u64::from(image)) as usize;
    // SAFETY: the room is larger than what the mask lets through.
    let bytes = unsafe { core::slice::from_raw_parts(record, size) };
    SNAPSHOTS.output::<[u8]>(bytes, 0).ok()
}
