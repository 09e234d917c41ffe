//! The record of one transfer: first and last bytes, with the place in the stream.

use core::arch::asm;

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
const HEAD_MASK: i32 = 2 * HEAD_MAX as i32 - 1;
const TAIL_MASK: i32 = 2 * TAIL_MAX as i32 - 1;
/// Of a whole record: the header, a head, a tail.
const RECORD_MASK: i32 = 2 * HEAD_MAX as i32 - 1;

const _: () = assert!(HEADER + HEAD_MAX - 1 + HEAD_MASK as usize <= SCRATCH);
const _: () = assert!((HEAD_MASK + TAIL_MASK) as usize + HEADER <= SCRATCH);
const _: () =
    assert!(HEADER + HEAD_MAX + TAIL_MAX <= RECORD_MASK as usize && RECORD_MASK as usize <= SCRATCH);
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
        let captured = capture(bytes, payload, self.length);
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
        let record = unsafe { core::slice::from_raw_parts(buffer, size as usize) };
        if EVENTS.output::<[u8]>(record, wakeup()).is_err() {
            lose(Loss::RingFull);
        }
        Some(())
    }
}

/// The value, masked where the verifier sees it: the compiler knows the value's bounds and would leave the
/// mask out, but verifiers before 5.13 lose them on the way through 32-bit comparisons and the stack. In
/// assembly, so that the compiler neither drops it nor moves it away from its use.
#[inline(always)]
fn bounded<const MASK: i32>(mut value: u64) -> u32 {
    // SAFETY: changes nothing but its operand.
    unsafe {
        asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK, options(nomem, nostack))
    };
    value as u32
}

/// `base` advanced by `value`, masked: in one piece, because a pointer keeps its bounds on the stack and a
/// number does not.
#[inline(always)]
fn advanced<const MASK: i32>(mut base: *mut u8, value: u64) -> *mut u8 {
    // SAFETY: changes nothing but its operands.
    unsafe {
        asm!(
            "{value} &= {mask}",
            "{base} += {value}",
            value = inout(reg) value => _,
            base = inout(reg) base,
            mask = const MASK,
            options(nomem, nostack)
        );
    }
    base
}

/// Captures the first bytes across elements, and the last ones of the last element.
#[inline(always)]
fn capture(to: *mut u8, payload: Payload, length: u64) -> Captured {
    // One buffer is a vector of one element that need not be read.
    let (vector, count, mut address, mut size) = match payload {
        Payload::Bytes(address) => (0, 1, address, length),
        Payload::Vector(vector, count) => (vector, count, 0, 0),
        Payload::None => return Captured { head: 0, tail: 0 },
    };
    let mut head: u32 = 0;
    let mut left = length;
    // Bytes of the last element that are in the head.
    let mut covered = 0;
    for index in 0..VECTOR_MAX as u64 {
        if index >= count || left == 0 {
            break;
        }
        if vector != 0 {
            let element = vector + index * 16;
            address = user(element).unwrap_or(0);
            size = user(element + 8).unwrap_or(0);
        }
        if size > left {
            size = left;
        }
        left -= size;
        let room = HEAD_MAX as u64 - u64::from(head);
        let part = if size < room { size } else { room };
        covered = part;
        if part == 0 {
            continue;
        }
        let place = advanced::<{ HEAD_MAX as i32 - 1 }>(to, head.into());
        // SAFETY: the buffer has room for an offset below `HEAD_MAX` and a size of up to `HEAD_MASK`.
        if !unsafe { copy_user(place, bounded::<HEAD_MASK>(part), address) } {
            lose(Loss::Fault);
            return Captured { head, tail: 0 };
        }
        head += part as u32;
    }
    let rest = size.saturating_sub(covered);
    if left != 0 || rest == 0 {
        return Captured { head, tail: 0 };
    }
    let tail = if rest < TAIL_MAX as u64 { rest } else { TAIL_MAX as u64 };
    let place = advanced::<HEAD_MASK>(to, head.into());
    // SAFETY: the buffer has room for an offset and a size of up to their masks.
    let read = unsafe { copy_user(place, bounded::<TAIL_MASK>(tail), address + (size - tail)) };
    Captured { head, tail: if read { tail as u32 } else { 0 } }
}
