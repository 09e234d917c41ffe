//! The record of one transfer: first and last bytes, with the place in the stream.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracekit_common::{
    event::{DataRecord, HEAD_MAX, INBOUND, Kind, NONBLOCKING, TAIL_MAX, UNCOUNTED},
    map::Loss,
};

use crate::{
    maps::{BUFFER, EVENTS, SCRATCH, lose, wakeup},
    read::{copy_user, user},
    socket,
    syscall::ignored,
};

/// `O_NONBLOCK`: include/uapi/asm-generic/fcntl.h
const O_NONBLOCK: u32 = 0o4000;
/// Elements of a vector that are looked at.
const VECTOR_MAX: usize = 16;
const HEADER: usize = size_of::<DataRecord>();

/// Masks that leave their largest legal value as it is.
const HEAD_MASK: u64 = 2 * HEAD_MAX as u64 - 1;
const TAIL_MASK: u64 = 2 * TAIL_MAX as u64 - 1;

const _: () = assert!(HEADER + HEAD_MAX - 1 + HEAD_MASK as usize <= SCRATCH);
const _: () = assert!(HEADER + (HEAD_MASK + TAIL_MASK) as usize <= SCRATCH);
const _: () = assert!(HEAD_MAX.is_power_of_two() && TAIL_MAX.is_power_of_two());

/// Where the transferred bytes are.
#[derive(Clone, Copy)]
pub enum Payload {
    /// One buffer.
    Bytes(u64),
    /// `struct iovec` array and its length.
    Vector(u64, u64),
    /// Not in the process's memory.
    None,
}

/// One system call that transferred bytes.
#[derive(Clone, Copy)]
pub struct Call {
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Entry time, if known.
    pub entered: Option<u64>,
    /// Bytes transferred.
    pub length: u64,
    /// `INBOUND` or `OUTBOUND`.
    pub direction: u8,
    /// `length` is known.
    pub counted: bool,
}

/// How much of a call was captured.
struct Captured {
    head: u32,
    tail: u32,
}

impl Call {
    /// Sends the record if `fd` is a connection of interest.
    #[inline(always)]
    pub fn emit(&self, fd: u32, payload: Payload) -> Option<()> {
        let socket = socket::of_descriptor(fd)?;
        let state = socket.state(&socket.key(self.tgid))?;
        // SAFETY: the pointer comes from the map and was checked. Two threads that use one direction of
        // a socket at once may lose a count; the stream is then not a protocol's anyway.
        let state = unsafe { &mut *state };
        let place = if self.direction == INBOUND { &mut state.received } else { &mut state.sent };
        let offset = *place;
        *place = offset + self.length;
        if ignored(state.flags) {
            return None;
        }
        let flags = if socket.flags() & O_NONBLOCK != 0 { NONBLOCKING } else { 0 }
            | if self.counted { 0 } else { UNCOUNTED };

        let buffer = BUFFER.get_ptr_mut(0)?.cast::<u8>();
        // SAFETY: the buffer has `SCRATCH` bytes, of which the header takes the first.
        let bytes = unsafe { buffer.add(HEADER) };
        let captured = match payload {
            Payload::Bytes(address) => one(bytes, address, self.length),
            Payload::Vector(vector, count) => several(bytes, vector, count, self.length),
            Payload::None => Captured { head: 0, tail: 0 },
        };
        // SAFETY: the helper has no preconditions.
        let returned = unsafe { bpf_ktime_get_ns() };
        let record = DataRecord {
            kind: Kind::Data as u32,
            tgid: self.tgid,
            inode: socket.inode,
            entered: self.entered.unwrap_or(returned),
            returned,
            offset,
            length: self.length,
            tid: self.tid,
            head: captured.head,
            tail: captured.tail,
            direction: self.direction,
            flags,
            reserved: [0; 2],
        };
        // SAFETY: the buffer is larger than the header and aligned to 8 bytes, as map values are.
        unsafe { *buffer.cast::<DataRecord>() = record };
        let size = HEADER
            + (captured.head as usize & (2 * HEAD_MAX - 1))
            + (captured.tail as usize & (2 * TAIL_MAX - 1));
        if size > SCRATCH {
            return None;
        }
        // SAFETY: `size` is within the buffer.
        let record = unsafe { core::slice::from_raw_parts(buffer, size) };
        if EVENTS.output::<[u8]>(record, wakeup()).is_err() {
            lose(Loss::RingFull);
        }
        Some(())
    }
}

/// The value, masked where the verifier sees it: the compiler knows the value's bounds and would leave the
/// mask out, but verifiers before 5.13 lose them on the way through 32-bit comparisons and the stack.
#[inline(always)]
fn bounded(value: u64, mask: u64) -> usize {
    (black_box(value) & mask) as usize
}

/// Captures of one buffer.
#[inline(always)]
fn one(to: *mut u8, address: u64, length: u64) -> Captured {
    let head = if length < HEAD_MAX as u64 { length as u32 } else { HEAD_MAX as u32 };
    // SAFETY: `head` is at most `HEAD_MAX`, the buffer has more.
    if head == 0 || !unsafe { copy_user(to, bounded(head.into(), HEAD_MASK) as u32, address) } {
        lose(Loss::Fault);
        return Captured { head: 0, tail: 0 };
    }
    Captured { head, tail: tail(to, head, address, length, u64::from(head)) }
}

/// Captures the last bytes of a buffer behind the `head` bytes in `to`, of which `covered` are this
/// buffer's; returns how many.
#[inline(always)]
fn tail(to: *mut u8, head: u32, address: u64, length: u64, covered: u64) -> u32 {
    let rest = length.saturating_sub(covered);
    let size = if rest < TAIL_MAX as u64 { rest as u32 } else { TAIL_MAX as u32 };
    if size == 0 {
        return 0;
    }
    // SAFETY: the head is at most `HEAD_MAX` of the buffer's `SCRATCH` bytes.
    let to = unsafe { to.add(bounded(head.into(), HEAD_MASK)) };
    let from = address + length - u64::from(size);
    // SAFETY: `size` is at most `TAIL_MAX`.
    if unsafe { copy_user(to, bounded(size.into(), TAIL_MASK) as u32, from) } { size } else { 0 }
}

/// Captures of a vector: the head across elements, the tail out of the last one.
#[inline(always)]
fn several(to: *mut u8, vector: u64, count: u64, length: u64) -> Captured {
    let mut head: u32 = 0;
    let mut left = length;
    for index in 0..VECTOR_MAX as u64 {
        if index >= count || left == 0 {
            break;
        }
        let element = vector + index * 16;
        let (Some(address), Some(size)) = (user::<u64>(element), user::<u64>(element + 8)) else {
            lose(Loss::Fault);
            break;
        };
        let size = if size < left { size } else { left };
        left -= size;
        if size == 0 {
            continue;
        }
        if head >= HEAD_MAX as u32 {
            if left == 0 {
                return Captured { head, tail: tail(to, head, address, size, 0) };
            }
            continue;
        }
        let room = HEAD_MAX as u64 - u64::from(head);
        let part = if size < room { size as u32 } else { room as u32 };
        let place = bounded(head.into(), HEAD_MAX as u64 - 1);
        // SAFETY: the buffer has room for an offset below `HEAD_MAX` and a size of up to `HEAD_MASK`.
        if !unsafe { copy_user(to.add(place), bounded(part.into(), HEAD_MASK) as u32, address) } {
            lose(Loss::Fault);
            break;
        }
        head += part;
        if left == 0 {
            return Captured { head, tail: tail(to, head, address, size, u64::from(part)) };
        }
    }
    Captured { head, tail: 0 }
}
