//! Maps.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracekit_common::{
    actor::{Actors, LastInput, ObjectKey},
    event::{HEAD_MAX, TAIL_MAX},
    map::{ConnectionKey, ConnectionState, LOSSES, Loss},
    python::{CodeClass, CodeKey, Frame, Python, Thread},
    syscall::TABLE,
    watchpoint::{
        Armed, ArmedKey, Bucket, Condition, Hits, MAX_ARMED, MAX_BREAKPOINTS, MAX_CONDITIONS, MAX_LAYOUTS,
        ObjectLayout, Recipe, SWITCHES as SWITCH_COUNT, TypeKey,
    },
};

use crate::{actor, stack, watchpoint};

/// Records for the user side. Its size is set at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// Selected processes by thread group.
#[map]
pub static SELECTED: HashMap<u32, u32> = HashMap::with_max_entries(16 * 1024, 0);

/// What each system call number does: codes of `tracekit_common::syscall`.
#[map]
pub static SYSCALLS: Array<u32> = Array::with_max_entries(TABLE, 0);

/// Entry time of the last write call of each thread. An entry stays until its thread exits: overwriting
/// it in place costs a fifth of inserting and removing it for every call.
#[map]
pub static ENTERED: HashMap<u32, u64> = HashMap::with_max_entries(32 * 1024, 0);

/// Connections that were met.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, ConnectionState> =
    LruHashMap::with_max_entries(64 * 1024, 0);

/// Connections of which the process is the server: `SERVER`.
#[map]
pub static ROLES: LruHashMap<ConnectionKey, u32> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Interpreters of selected processes, by thread group.
#[map]
pub static PYTHONS: HashMap<u32, Python> = HashMap::with_max_entries(16 * 1024, 0);

/// Thread states by thread. An entry stays until its thread exits.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(32 * 1024, 0);

/// Where interpreters of selected processes keep what is read of actors, by thread group.
#[map]
pub static ACTORS: HashMap<u32, Actors> = HashMap::with_max_entries(16 * 1024, 0);

/// Numbers of tasks and of handed-over work.
#[map]
pub static ACTOR_NUMBERS: LruHashMap<ObjectKey, u64> = LruHashMap::with_max_entries(64 * 1024, 0);

/// What each thread got last. An entry stays until its thread exits.
#[map]
pub static INPUTS: HashMap<u32, LastInput> = HashMap::with_max_entries(32 * 1024, 0);

/// From where each thread waited for events last without running a task.
#[map]
pub static WAITERS: LruHashMap<u32, Frame> = LruHashMap::with_max_entries(16 * 1024, 0);

/// By thread: the frame that runs its event loop, where that has been told. What is below it has only started that.
#[map]
pub static EVENT_LOOPS: LruHashMap<u32, Frame> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Who acts now.
#[map]
pub static FOUND: PerCpuArray<actor::Found> = PerCpuArray::with_max_entries(1, 0);

/// How far a walk to the oldest frame has come.
#[map]
pub static FRAME: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What the user side knows of code objects.
#[map]
pub static CODES: LruHashMap<CodeKey, CodeClass> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Records lost, by `Loss`.
#[map]
pub static LOSS_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSSES, 0);

/// Room for what the verifier takes for the largest record: its bounds are powers of two, so it believes
/// that a copy of up to twice `HEAD_MAX` may begin just below `HEAD_MAX`.
pub const SCRATCH: usize = 96 + 3 * HEAD_MAX + 2 * TAIL_MAX;

/// When a record was lost last for which there was no room: nanoseconds of `CLOCK_MONOTONIC`.
#[map]
pub static LAST_LOSS: Array<u64> = Array::with_max_entries(1, 0);

/// Where records are put together.
#[map]
pub static BUFFER: PerCpuArray<[u8; SCRATCH]> = PerCpuArray::with_max_entries(1, 0);

/// Where stacks are put together.
#[map]
pub static STACK: PerCpuArray<[u8; stack::SCRATCH]> = PerCpuArray::with_max_entries(1, 0);

/// Watched addresses.
#[map]
pub static BREAKPOINTS: HashMap<ArmedKey, Armed> = HashMap::with_max_entries(MAX_ARMED, 0);

/// Counters of breakpoints.
#[map]
pub static HITS: PerCpuArray<Hits> = PerCpuArray::with_max_entries(MAX_BREAKPOINTS, 0);

/// Conditions of breakpoints, by `Armed::condition`.
#[map]
pub static CONDITIONS: Array<Condition> = Array::with_max_entries(MAX_CONDITIONS, 0);

/// Rate limits of captures: of the agent, of processes, of breakpoints. What has none is not limited.
#[map]
pub static BUCKETS: HashMap<u64, Bucket> = HashMap::with_max_entries(4 * MAX_BREAKPOINTS, 0);

/// What the user side switches while breakpoints are armed.
#[map]
pub static SWITCHES: Array<u32> = Array::with_max_entries(SWITCH_COUNT, 0);

/// Interpreters of processes with breakpoints.
#[map]
pub static LAYOUTS: Array<ObjectLayout> = Array::with_max_entries(MAX_LAYOUTS, 0);

/// How objects of a type are copied.
#[map]
pub static RECIPES: LruHashMap<TypeKey, Recipe> = LruHashMap::with_max_entries(4 * 1024, 0);

/// Records of hits. Its size is set at load.
#[map]
pub static SNAPSHOTS: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// Where those are put together: one for each processor, which is set at load. Not a per-CPU array, whose values
/// have 32 KiB at most.
#[map]
pub static IMAGES: Array<[u8; watchpoint::SCRATCH]> = Array::with_max_entries(1, 0);

/// When the reader was woken last: nanoseconds of `CLOCK_MONOTONIC`.
#[map]
pub static LAST_WAKE: Array<u64> = Array::with_max_entries(1, 0);

/// The reader polls; it is woken early when this many bytes wait.
const WAKE_AT: u64 = 512 * 1024;
/// Nanoseconds between wake-ups: where the reader is behind, one for each record would cost the traced
/// threads several microseconds a record.
const WAKE_EVERY: u64 = 1_000_000;
/// `BPF_RB_AVAIL_DATA` of `bpf_ringbuf_query`.
const AVAILABLE: u64 = 0;

/// Counts a loss.
#[inline(always)]
pub fn lose(loss: Loss) {
    if let Some(count) = LOSS_COUNTS.get_ptr_mut(loss as u32) {
        // SAFETY: the pointer is to this CPU's value and programs are not preempted by themselves.
        unsafe { *count += 1 };
    }
    if matches!(loss, Loss::RingFull)
        && let Some(last) = LAST_LOSS.get_ptr_mut(0)
    {
        // SAFETY: the helper has no preconditions; the pointer comes from the map and was checked. Of two CPUs that
        // write at once either has lost something.
        unsafe { last.write_volatile(bpf_ktime_get_ns()) };
    }
}

/// See `Identity::losses`.
#[inline(always)]
pub fn losses() -> u32 {
    // SAFETY: the pointer comes from the map and was checked.
    LAST_LOSS.get_ptr(0).map_or(0, |last| unsafe { last.read_volatile() } as u32)
}

/// Flags for the next record: a wake-up for each would cost the traced thread more than the copy.
#[inline(always)]
pub fn wakeup() -> u64 {
    if EVENTS.query(AVAILABLE) > WAKE_AT
        && let Some(last) = LAST_WAKE.get_ptr_mut(0)
    {
        // SAFETY: the helper has no preconditions; the pointer comes from the map and was checked. Two CPUs
        // that wake at once wake once too often.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: as above.
        if now - unsafe { *last } > WAKE_EVERY {
            // SAFETY: as above.
            unsafe { *last = now };
            return u64::from(BPF_RB_FORCE_WAKEUP);
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

/// Sends a record of fixed size.
#[inline(always)]
pub fn send<T: 'static>(record: T) {
    match EVENTS.reserve::<T>(0) {
        Some(mut slot) => {
            slot.write(record);
            slot.submit(wakeup());
        }
        None => lose(Loss::RingFull),
    }
}
