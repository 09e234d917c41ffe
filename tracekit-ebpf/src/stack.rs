//! The Python stack of the running thread.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracekit_common::{
    event::Kind,
    map::Loss,
    python::{
        APPLICATION, CodeKey, DEEPER, DEEPER_FRAMES, END_APPLICATION, END_EVENT_LOOP, END_FAULT, END_LIMIT,
        END_OLDEST, FRAME_BYTES, Frame, MAX_FRAMES, Python, STACKS, StackRecord,
    },
};

use crate::{
    bounds::{advanced, bounded},
    maps::{CODES, EVENT_LOOPS, EVENTS, PYTHONS, STACK, WAITERS, lose, wakeup},
    python::running,
    read::copy_user,
};

const HEADER: usize = size_of::<StackRecord>();
/// Of the index of a frame, in bytes.
const FRAME_MASK: i32 = (MAX_FRAMES as i32 - 1) * size_of::<Frame>() as i32;
/// Of offsets in a frame: of pointers, of a byte.
const POINTER_MASK: i32 = 120;
const BYTE_MASK: i32 = 127;
/// Of a whole record.
const RECORD_MASK: i32 = 2047;
/// Frames that are visited: some are no frames of Python code.
const VISITS: usize = MAX_FRAMES + 16;

/// Bytes of a scratch record: behind the frames there is room for the memory of one, and for what the
/// verifier takes for the largest record.
pub const SCRATCH: usize = RECORD_MASK as usize + 1;
const FRAME_AT: usize = HEADER + MAX_FRAMES * size_of::<Frame>();

const _: () =
    assert!(FRAME_BYTES <= BYTE_MASK as usize && FRAME_AT + 2 * (BYTE_MASK as usize + 1) <= SCRATCH);
const _: () = assert!(HEADER + MAX_FRAMES * size_of::<Frame>() <= RECORD_MASK as usize);
const _: () = assert!(MAX_FRAMES.is_power_of_two());

/// Reports the Python stack of the current thread, if its process is one of which stacks are wanted, and it
/// has one.
///
/// A function of its own, and global, so that the verifier judges it once and not again for every way to its
/// caller: together they would be too much for it. Linux 5.10 allows that for numbers as arguments. Not
/// mangled, because a mangled name holds a hash of the checkout's path.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_stack(tgid: u32, tid: u32) -> u32 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    if python.flags & STACKS == 0 {
        return 0;
    }
    u32::from(report(python, tgid, tid).is_some())
}

#[inline(always)]
fn report(python: &Python, tgid: u32, tid: u32) -> Option<()> {
    let (state, newest) = running(python, tgid, tid)?;
    let record = STACK.get_ptr_mut(0)?.cast::<u8>();
    let end = walk::<false>(python, tgid, newest, record, tid);
    // SAFETY: the buffer is this CPU's, larger than the header, and aligned to 8 bytes, as map values are.
    let StackRecord { tid: owner, count, application, .. } =
        unsafe { record.cast::<StackRecord>().read_volatile() };
    // A probe in user code may be interrupted by another thread, which then has written its own stack here.
    if owner != tid {
        return None;
    }
    // SAFETY: only this thread uses its entry.
    let waiter = unsafe { WAITERS.get(&tid) }.copied().unwrap_or(NO_FRAME);
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let kind = Kind::Stack as u32;
    let head = StackRecord { kind, tgid, tid, count, state, time, end, application, waiter };
    // SAFETY: as above.
    unsafe { *record.cast::<StackRecord>() = head };
    let size = bounded::<RECORD_MASK>((HEADER + count as usize * size_of::<Frame>()) as u64) as usize;
    // SAFETY: `size` is within the buffer.
    let bytes = unsafe { core::slice::from_raw_parts(record, size) };
    if EVENTS.output::<[u8]>(bytes, wakeup()).is_err() {
        lose(Loss::RingFull);
    }
    Some(())
}

/// Writes the whole stack from a frame on into [`STACK`], as [`report_stack`] does, but reports nothing; how the walk
/// ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_whole(tgid: u32, newest: u64) -> u32 {
    // SAFETY: as in `report_stack`.
    let (Some(python), Some(record)) = (unsafe { PYTHONS.get(&tgid) }, STACK.get_ptr_mut(0)) else {
        return END_FAULT;
    };
    walk::<true>(python, tgid, newest, record.cast(), 0)
}

/// Writes frames behind the header of `record`, and their number into it; how the walk ended. `owner` is left in the
/// record for who looks whether it is still his. A walk that is not `WHOLE` ends at the first frame of the application, or a
/// few behind it, and at that of the event loop of the thread `owner`.
///
/// What differs from frame to frame is kept in memory, and nothing branches on what is known of the process:
/// so every turn of the loop looks the same to the verifier, and it need not follow them all.
#[inline(always)]
fn walk<const WHOLE: bool>(python: &Python, tgid: u32, newest: u64, record: *mut u8, owner: u32) -> u32 {
    // SAFETY: all are within the buffer's `SCRATCH` bytes, and aligned.
    let (count, frames, memory) =
        unsafe { (&raw mut (*record.cast::<StackRecord>()).count, record.add(HEADER), record.add(FRAME_AT)) };
    // SAFETY: as above. `end` and `time` are not used before the walk is over: here they are how many frames are left,
    // and how many will be once one of the application is met.
    let (application, left, behind) = unsafe {
        let head = record.cast::<StackRecord>();
        (&raw mut (*head).application, &raw mut (*head).end, &raw mut (*head).time)
    };
    let deeper = if python.flags & DEEPER != 0 { u64::from(DEEPER_FRAMES) } else { 0 };
    // SAFETY: as above, here and at each use below; volatile, so that it stays in memory.
    unsafe {
        (&raw mut (*record.cast::<StackRecord>()).tid).write_volatile(owner);
        count.write_volatile(0);
        application.write_volatile(0);
        left.write_volatile(u32::MAX);
        behind.write_volatile(deeper);
    }
    let event_loop = if WHOLE { NO_FRAME } else { event_loop(owner) };
    let mut at = newest;
    for _ in 0..VISITS {
        if at == 0 {
            return END_OLDEST;
        }
        // SAFETY: as above.
        let index = unsafe { count.read_volatile() };
        if index >= MAX_FRAMES as u32 {
            return END_LIMIT;
        }
        if !WHOLE {
            // SAFETY: as above.
            let rest = unsafe { left.read_volatile() };
            if rest == 0 {
                return END_APPLICATION;
            }
            // SAFETY: as above.
            unsafe { left.write_volatile(rest - 1) };
        }
        // SAFETY: there is room for whatever the mask lets through.
        if !unsafe { copy_user(memory, bounded::<BYTE_MASK>(python.frame_size.into()), at) } {
            lose(Loss::Fault);
            return END_FAULT;
        }
        at = pointer(memory, python.frame_back);
        // SAFETY: the offset is masked to the room.
        let owner = unsafe { *advanced::<BYTE_MASK>(memory, python.frame_owner.into()) };
        if u32::from(owner) >= python.first_shim_owner {
            continue;
        }
        let code = pointer(memory, python.frame_code) & python.code_mask;
        let instruction = pointer(memory, python.frame_instruction);
        let place = advanced::<FRAME_MASK>(frames, u64::from(index) * size_of::<Frame>() as u64);
        // SAFETY: the place is masked to the room for `MAX_FRAMES`, and aligned.
        unsafe { *place.cast::<Frame>() = Frame { code, instruction } };
        // SAFETY: as above.
        unsafe { count.write_volatile(index + 1) };
        if WHOLE {
            continue;
        }
        if code == event_loop.code && instruction == event_loop.instruction {
            return END_EVENT_LOOP;
        }
        // SAFETY: as above.
        if unsafe { application.read_volatile() } != 0 {
            continue;
        }
        let key = CodeKey { code, tgid, reserved: 0 };
        // SAFETY: a value that is replaced meanwhile is still a number.
        if let Some(class) = unsafe { CODES.get(&key) }
            && *class == APPLICATION
        {
            // SAFETY: as above.
            unsafe {
                application.write_volatile(index + 1);
                left.write_volatile(behind.read_volatile() as u32);
            }
        }
    }
    END_LIMIT
}

/// No frame of Python code.
const NO_FRAME: Frame = Frame { code: 0, instruction: 0 };

/// Where walks of a thread end.
#[inline(always)]
fn event_loop(tid: u32) -> Frame {
    // SAFETY: a value that is replaced meanwhile is compared with frames that it may not be of, and so at worst not found.
    unsafe { EVENT_LOOPS.get(&tid) }.copied().unwrap_or(NO_FRAME)
}

/// A pointer in the copied memory of a frame.
#[inline(always)]
fn pointer(memory: *mut u8, offset: u32) -> u64 {
    // SAFETY: the offset is masked to the room, and aligned.
    unsafe { *advanced::<POINTER_MASK>(memory, offset.into()).cast::<u64>() }
}
