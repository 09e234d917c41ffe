//! The record of one transfer: first and last bytes, with the place in the stream.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracekit_common::{
    actor::CAUSE_READ,
    event::{DataRecord, HEAD_MAX, INBOUND, Kind, NONBLOCKING, TAIL_MAX, UNCOUNTED},
    map::{ACCEPTED, IGNORE, Loss, SENDING},
};

#[cfg(feature = "propagate")]
use crate::propagate::request;
use crate::{
    actor::{NOBODY, forget_input, note_input, reader, sender},
    bounds::{advanced, bounded},
    maps::{BUFFER, EVENTS, ROLES, SCRATCH, lose, losses, wakeup},
    read::{copy_user, user},
    socket, stack,
};

/// `O_NONBLOCK`: include/uapi/asm-generic/fcntl.h
const O_NONBLOCK: u32 = 0o4000;
/// Elements of a vector that are looked at.
const VECTOR_MAX: usize = 16;
const HEADER: usize = size_of::<DataRecord>();

/// Masks that leave their largest legal value as it is.
const HEAD_MASK: i32 = 2 * HEAD_MAX as i32 - 1;
const TAIL_MASK: i32 = 2 * TAIL_MAX as i32 - 1;

const _: () = assert!(HEADER + HEAD_MAX - 1 + HEAD_MASK as usize <= SCRATCH);
const _: () = assert!((HEAD_MASK + TAIL_MASK) as usize + HEADER <= SCRATCH);
const _: () = assert!(HEAD_MAX.is_power_of_two() && TAIL_MAX.is_power_of_two());

/// Where the transferred bytes are. All is always set: what is not would be a register that no verifier
/// lets a program store.
#[derive(Clone, Copy)]
pub struct Payload {
    /// `struct iovec` array; 0 if there is none.
    vector: u64,
    /// Buffers.
    count: u64,
    /// The one buffer.
    address: u64,
}

impl Payload {
    /// Not in the process's memory.
    pub const NONE: Self = Self { vector: 0, count: 0, address: 0 };

    /// One buffer.
    #[inline(always)]
    pub fn bytes(address: u64) -> Self {
        // One buffer is a vector of one element that need not be read.
        Self { vector: 0, count: 1, address }
    }

    /// `struct iovec` array and its length.
    #[inline(always)]
    pub fn vector(vector: u64, count: u64) -> Self {
        Self { vector, count, address: 0 }
    }
}

/// One system call that transferred bytes.
#[derive(Clone, Copy)]
pub struct Call {
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Entry time, 0 if it is not known.
    pub entered: u64,
    /// Bytes transferred.
    pub length: u64,
    /// `INBOUND` or `OUTBOUND`.
    pub direction: u8,
    /// `length` is known.
    pub counted: bool,
    /// Report the stack from which it was made.
    pub stack: bool,
}

impl Call {
    /// Sends the record if `fd` is a connection of interest.
    #[inline(always)]
    pub fn emit(&self, fd: u32, payload: Payload) -> Option<()> {
        let socket = socket::of_descriptor(fd)?;
        let key = socket.key(self.tgid);
        let state = socket.state(&key)?;
        // SAFETY: the pointer comes from the map and was checked. Two threads that use one direction of
        // a socket at once may lose a count; the stream is then not a protocol's anyway.
        let state = unsafe { &mut *state };
        let place = if self.direction == INBOUND { &mut state.received } else { &mut state.sent };
        let offset = *place;
        *place = offset + self.length;
        let server = state.flags & ACCEPTED != 0 || ROLES.get_ptr(&key).is_some();
        if self.direction == INBOUND && (!server || state.flags & IGNORE != 0) {
            forget_input(self.tgid, self.tid, socket.inode);
        }
        if state.flags & IGNORE != 0 {
            return None;
        }
        let turned = state.flags & SENDING == 0;
        let mut by = NOBODY;
        #[cfg(feature = "propagate")]
        let fresh = offset == 0 || !turned;
        if self.direction == INBOUND {
            state.flags &= !SENDING;
            if server {
                by = reader(self.tgid, self.tid);
                note_input(self.tgid, self.tid, socket.inode, CAUSE_READ);
            }
        } else {
            by = sender(self.tgid, self.tid, socket.inode);
            state.flags |= SENDING;
            // The first bytes after an answer, unless they are an answer themselves.
            if turned && self.stack && !server {
                stack::report_stack(self.tgid, self.tid);
            }
        }
        by.losses = losses();
        let flags = if socket.flags() & O_NONBLOCK != 0 { NONBLOCKING } else { 0 }
            | if self.counted { 0 } else { UNCOUNTED };

        let buffer = BUFFER.get_ptr_mut(0)?.cast::<u8>();
        let captured = capture_bytes(payload.vector, payload.count, payload.address, self.length);
        let (head, tail) = (captured as u32, (captured >> 32) as u32);
        #[cfg(feature = "propagate")]
        if self.direction == INBOUND {
            let nonblocking = socket.flags() & O_NONBLOCK != 0;
            request::received(self, key, fresh, nonblocking, head, &by);
        } else {
            request::sent(key, head, by.actor);
        }
        // SAFETY: the helper has no preconditions.
        let returned = unsafe { bpf_ktime_get_ns() };
        let record = DataRecord {
            kind: Kind::Data as u32,
            tgid: self.tgid,
            inode: socket.inode,
            entered: if self.entered == 0 { returned } else { self.entered },
            returned,
            offset,
            length: self.length,
            tid: self.tid,
            head,
            tail,
            direction: self.direction,
            flags,
            reserved: [0; 2],
            by,
        };
        // SAFETY: the buffer is larger than the header and aligned to 8 bytes, as map values are.
        unsafe { *buffer.cast::<DataRecord>() = record };
        let size =
            HEADER + bounded::<HEAD_MASK>(head.into()) as usize + bounded::<TAIL_MASK>(tail.into()) as usize;
        // SAFETY: `size` is within the buffer.
        let record = unsafe { core::slice::from_raw_parts(buffer, size) };
        if EVENTS.output::<[u8]>(record, wakeup()).is_err() {
            lose(Loss::RingFull);
        }
        Some(())
    }
}

/// How far a capture has come. It is kept where the header will be: what is read back from memory is any
/// number to the verifier, so that every turn of the loop looks the same to it.
struct Progress {
    /// Bytes of the head.
    head: u64,
    /// Bytes of the call that are in later elements.
    left: u64,
    /// The last element and its bytes.
    address: u64,
    size: u64,
    /// Bytes of the last element that are in the head.
    covered: u64,
}

const _: () = assert!(size_of::<Progress>() <= HEADER);

/// Captures the first bytes across elements, and the last ones of the last element, behind the header of the
/// buffer. Gives how many: of the head, and in the upper half of the tail.
///
/// A function of its own for the verifier's sake: see [`stack::report_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_bytes(vector: u64, count: u64, address: u64, length: u64) -> u64 {
    let Some(buffer) = BUFFER.get_ptr_mut(0) else { return 0 };
    let progress = buffer.cast::<Progress>();
    // SAFETY: the buffer has `SCRATCH` bytes, of which the header takes the first.
    let to = unsafe { buffer.cast::<u8>().add(HEADER) };
    // SAFETY: the buffer is this CPU's, larger than a `Progress` and aligned to 8 bytes, as map values are.
    let store = |now: Progress| unsafe { progress.write_volatile(now) };
    // SAFETY: as above.
    let load = || unsafe { progress.read_volatile() };
    store(Progress { head: 0, left: length, address, size: 0, covered: 0 });
    for index in 0..VECTOR_MAX as u64 {
        let Progress { head, left, mut address, .. } = load();
        if index >= count || left == 0 {
            break;
        }
        let mut size = left;
        if vector != 0 {
            let element = vector + index * 16;
            address = user(element).unwrap_or(0);
            size = user(element + 8).unwrap_or(0);
            if size > left {
                size = left;
            }
        }
        let room = (HEAD_MAX as u64).saturating_sub(head);
        let part = if size < room { size } else { room };
        if part != 0 {
            let place = advanced::<{ HEAD_MAX as i32 - 1 }>(to, head);
            // SAFETY: the buffer has room for an offset below `HEAD_MAX` and a size of up to `HEAD_MASK`.
            if !unsafe { copy_user(place, bounded::<HEAD_MASK>(part), address) } {
                lose(Loss::Fault);
                return head;
            }
        }
        store(Progress { head: head + part, left: left - size, address, size, covered: part });
    }
    let Progress { head, left, address, size, covered } = load();
    let rest = size.saturating_sub(covered);
    if left != 0 || rest == 0 {
        return head;
    }
    let tail = if rest < TAIL_MAX as u64 { rest } else { TAIL_MAX as u64 };
    let place = advanced::<HEAD_MASK>(to, head);
    // SAFETY: the buffer has room for an offset and a size of up to their masks.
    let read = unsafe { copy_user(place, bounded::<TAIL_MASK>(tail), address + (size - tail)) };
    if read { head | tail << 32 } else { head }
}
