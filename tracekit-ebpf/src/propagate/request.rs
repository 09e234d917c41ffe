//! The requests that a process reads: their traces; and the lines that say so in what is sent for them.
//!
//! What the user side's correlation would not call a parent is not known here either, and what is sent then is left as
//! it is.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_prandom_u32, bpf_probe_read_kernel},
};
use tracekit_common::{
    actor::Identity,
    event::{DataRecord, HEAD_MAX, Kind},
    http::{BLANK, HEAD, NEXT, OPAQUE, START, Stream, TRACEPARENT, TRACESTATE, TWICE},
    map::ConnectionKey,
    propagate::{
        LOOPS, LaneKey, NO_LENGTH, PARENT_LINE, PROPAGATE, SAMPLED, SERVES, STATE_MAX, Serving, TRACE_READ,
        TraceRecord, UNKNOWN,
    },
};

use super::{
    FRESH, OUTGOING, READING, SAMPLE_AS_PARENT, SAMPLE_BELOW,
    lineage::{self, READS_NONBLOCKING_INPUT, look_for_sender, request_of_sender},
};
use crate::{
    actor::next_number,
    bounds::{advanced, bounded},
    capture::Call,
    maps::{BUFFER, SELECTED, send},
};

/// Steps of one loop: the verifier walks them all.
pub const STEPS: u32 = 64;
/// Of offsets in what was captured.
const HEAD_MASK: i32 = HEAD_MAX as i32 - 1;
/// Of the length of a `tracestate`.
const STATE_MASK: i32 = STATE_MAX as i32 - 1;
/// Of [`read_head`]: there is nothing more to read.
const STOPPED: u32 = HEAD + 1;
/// Where captured bytes are in the buffer.
const CAPTURED: usize = size_of::<DataRecord>();
/// `traceparent: 00-`
const NAME_LEN: usize = 16;
const STATE_NAME: &[u8; 12] = b"tracestate: ";

/// The process waits for many descriptors at once.
#[inline(always)]
pub fn loops(tgid: u32) {
    mark(tgid, LOOPS);
}

#[inline(always)]
fn mark(tgid: u32, flag: u32) {
    if let Some(flags) = SELECTED.get_ptr_mut(&tgid) {
        // SAFETY: the pointer comes from the map and was checked; of two flags that are set at once one may be lost,
        // and is set with the next call.
        unsafe {
            if *flags & flag == 0 {
                *flags |= flag;
            }
        }
    }
}

/// The process sent on a connection what is in [`BUFFER`]. If it is the server, it answers.
#[inline(always)]
pub fn sent(key: ConnectionKey, captured: u32, actor: u64) {
    if !is_interim(captured) {
        lineage::wrote(&key, actor);
    }
}

/// The captured bytes are an answer before the answer, as `100 Continue` is: RFC 9110 §15.2. `101` is an answer.
#[inline(always)]
fn is_interim(captured: u32) -> bool {
    /// `HTTP/1.1`, little-endian.
    const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.1");
    /// ` 10`, and the third digit of 101.
    const STATUS: u32 = u32::from_le_bytes(*b" 10\0");
    if captured < 12 {
        return false;
    }
    let Some(bytes) = BUFFER.get_ptr(0) else { return false };
    // SAFETY: the buffer is larger, and what is captured in it aligned to 8 bytes.
    let (version, status) = unsafe {
        let bytes = bytes.cast::<u8>().add(CAPTURED);
        (bytes.cast::<u64>().read(), bytes.add(8).cast::<u32>().read())
    };
    version == VERSION && status & 0x00ff_ffff == STATUS && status >> 24 != u32::from(b'1')
}

/// The process received what is in [`BUFFER`]; `fresh`: the first bytes since it sent last on this connection.
#[inline(always)]
pub fn received(
    call: &Call,
    key: ConnectionKey,
    fresh: bool,
    nonblocking: bool,
    captured: u32,
    by: &Identity,
) {
    if !fresh || lineage::reads_body(&key) {
        lineage::read_more(&key, call.length);
        return;
    }
    let found = read_request(call.tgid, key.inode, captured);
    if found != 0 {
        let flags = by.flags | if nonblocking { READS_NONBLOCKING_INPUT } else { 0 };
        begin_request(u64::from(call.tgid) << 32 | u64::from(call.tid), call.length, by.lane, flags, found);
    }
}

/// Of [`read_request`]: there is a request.
const FOUND: u32 = 1;
/// Of [`read_request`]: it begins a trace.
const BEGINS: u32 = 2;

/// Looks whether the first captured bytes are a request, and if so puts that into [`FRESH`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_request(tgid: u32, inode: u64, captured: u32) -> u32 {
    let Some(process) = SELECTED.get_ptr(&tgid) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked.
    if unsafe { *process } & PROPAGATE == 0 {
        return 0;
    }
    let (Some(stream), Some(bytes)) = (READING.get_ptr_mut(0), BUFFER.get_ptr_mut(0)) else { return 0 };
    // SAFETY: the buffer is larger, here and below.
    let bytes = unsafe { bytes.cast::<u8>().add(CAPTURED) };
    // SAFETY: this CPU's entry, here and below.
    unsafe { *stream = Stream::default() };
    let mut ended = NEXT;
    for _ in 0..HEAD_MAX as u32 / STEPS {
        if ended == NEXT {
            ended = read_head(captured);
        }
    }
    // SAFETY: as above; volatile, because another function wrote to it.
    let phase = unsafe { (&raw const (*stream).phase).read_volatile() };
    if ended != HEAD && matches!(phase, OPAQUE | START) {
        return 0;
    }
    mark(tgid, SERVES);
    let Some(fresh) = FRESH.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above.
    let (fresh, stream) = unsafe { (&mut *fresh, &*stream) };
    fresh.inode = inode;
    fresh.tgid = tgid;
    fresh.state_len = 0;
    fresh.reserved = 0;
    // A head that was not captured as a whole is for the user side to read.
    fresh.flags = if ended == HEAD { 0 } else { UNKNOWN };
    if ended == HEAD && identify(fresh, stream, bytes) { FOUND | BEGINS } else { FOUND }
}

/// Notes the request in [`FRESH`], whose head is in [`READING`]. `who` is process and thread, `length` are the bytes that
/// were received with it.
///
/// Not called by [`read_request`], because the stacks of functions that call each other add up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_request(who: u64, length: u64, lane: u64, flags: u32, found: u32) -> u32 {
    let (Some(stream), Some(fresh)) = (READING.get_ptr_mut(0), FRESH.get_ptr(0)) else { return 0 };
    // SAFETY: this CPU's entries.
    let (stream, fresh) = unsafe { (&mut *stream, &*fresh) };
    let (mut left, mut more) = (NO_LENGTH, false);
    if fresh.flags & UNKNOWN == 0 && stream.phase == START {
        // Behind the head, in the same read.
        let behind = length.saturating_sub(u64::from(stream.position()));
        more = behind > stream.remaining;
        left = stream.remaining.saturating_sub(behind);
    }
    let by = LaneKey { lane, tgid: (who >> 32) as u32, tid: who as u32 };
    let key = ConnectionKey { inode: fresh.inode, tgid: by.tgid, reserved: 0 };
    lineage::began(&key, next_number(), fresh, by, flags, left, more);
    if found & BEGINS != 0 {
        send(TraceRecord {
            kind: Kind::Trace as u32,
            tgid: by.tgid,
            inode: fresh.inode,
            cookie: 0,
            entered: 0,
            trace_id: fresh.trace_id,
            span_id: [0; 8],
            tid: by.tid,
            what: TRACE_READ,
        });
    }
    0
}

/// Sets the trace of a request: the one that it brings, or a new one. True if it is new. What is anything but regular
/// is left to the user side.
#[inline(always)]
fn identify(fresh: &mut Serving, stream: &Stream, bytes: *mut u8) -> bool {
    if stream.flags & TWICE != 0 {
        fresh.flags |= UNKNOWN;
        return false;
    }
    if stream.flags & TRACEPARENT == 0 {
        fresh.trace_id = new_trace_id();
        fresh.flags |= sampled(&fresh.trace_id);
        return true;
    }
    let flags = parse_parent(stream.parent_at);
    if flags & INVALID != 0 {
        fresh.flags |= UNKNOWN;
        return false;
    }
    fresh.flags |= if SAMPLE_AS_PARENT.load() == 0 {
        sampled(&fresh.trace_id)
    } else if flags & 1 != 0 {
        SAMPLED
    } else {
        0
    };
    // After the space behind the colon.
    let start = stream.state_at + 1;
    let length = stream.state_end.saturating_sub(start);
    if stream.flags & TRACESTATE != 0 && length != 0 && length < STATE_MAX as u32 {
        let from = advanced::<HEAD_MASK>(bytes, start.into());
        // SAFETY: both have room for what the mask lets through.
        unsafe {
            bpf_probe_read_kernel(
                fresh.state.as_mut_ptr().cast(),
                bounded::<STATE_MASK>(length.into()),
                from.cast(),
            )
        };
        fresh.state_len = length;
    }
    false
}

/// No digits, or no `traceparent`.
const INVALID: u32 = 0x100;

/// Parses ` 00-<32>-<16>-<2>\r` in the captured bytes (one space after the colon is how everybody writes it), into the
/// trace of [`FRESH`]; gives its flags, or [`INVALID`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_parent(at: u32) -> u32 {
    let (Some(fresh), Some(bytes)) = (FRESH.get_ptr_mut(0), BUFFER.get_ptr_mut(0)) else { return INVALID };
    // SAFETY: the buffer is larger.
    let text = advanced::<HEAD_MASK>(unsafe { bytes.cast::<u8>().add(CAPTURED) }, at.into());
    for (index, expected) in SHAPE {
        // SAFETY: 64 bytes from anywhere below `HEAD_MAX` are in the buffer.
        if unsafe { *text.add(index) } != expected {
            return INVALID;
        }
    }
    let (mut trace, mut span) = (0u32, 0u32);
    for index in 0..16 {
        let value = hex(at + 4 + 2 * index);
        // SAFETY: this CPU's entry; the trace has 16 bytes.
        unsafe { *(&raw mut (*fresh).trace_id).cast::<u8>().add(index as usize) = value as u8 };
        trace |= value;
    }
    for index in 0..8 {
        span |= hex(at + 37 + 2 * index);
    }
    let flags = hex(at + 54);
    if (trace | span | flags) & INVALID != 0 || trace == 0 || span == 0 { INVALID } else { flags }
}

/// What is where in a regular `traceparent`, beside digits.
const SHAPE: [(usize, u8); 7] =
    [(0, b' '), (1, b'0'), (2, b'0'), (3, b'-'), (36, b'-'), (53, b'-'), (56, b'\r')];

/// The value of two lower-case digits in the captured bytes, or [`INVALID`].
///
/// A function of its own: inlined two dozen times it would take more stack than there is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hex(at: u32) -> u32 {
    let Some(bytes) = BUFFER.get_ptr_mut(0) else { return INVALID };
    // SAFETY: the buffer is larger, and has two bytes wherever the mask leads.
    let pair = advanced::<HEAD_MASK>(unsafe { bytes.cast::<u8>().add(CAPTURED) }, at.into());
    // SAFETY: as above.
    let (high, low) = unsafe { (*pair, *pair.add(1)) };
    let value = digit(high) << 4 | digit(low);
    if value < INVALID { value } else { INVALID }
}

/// The value of a lower-case digit, or [`INVALID`].
#[inline(always)]
fn digit(byte: u8) -> u32 {
    match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        b'a'..=b'f' => u32::from(byte - b'a' + 10),
        _ => INVALID,
    }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_prandom_u32() }
}

#[inline(always)]
fn new_trace_id() -> [u8; 16] {
    // The last word is never zero, so that neither is the id.
    let words = [random(), random(), random(), random() | 1];
    // SAFETY: the same size, and all bit patterns are values.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}

/// [`SAMPLED`] if a trace without a parent is; as `Sampler::decide`.
#[inline(always)]
fn sampled(id: &[u8; 16]) -> u32 {
    let mut low = 0u64;
    for byte in &id[8..] {
        low = low << 8 | u64::from(*byte);
    }
    if low >> 1 < SAMPLE_BELOW.load() { SAMPLED } else { 0 }
}

/// Reads on in the captured bytes until the head ends, or as far as one loop goes.
///
/// What is read from memory anew in each turn is any number to the verifier: turns look the same.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_head(captured: u32) -> u32 {
    let (Some(stream), Some(bytes)) = (READING.get_ptr_mut(0), BUFFER.get_ptr_mut(0)) else { return HEAD };
    // SAFETY: the pointer comes from the map and was checked; this CPU's.
    let stream = unsafe { &mut *stream };
    // SAFETY: the buffer is larger.
    let bytes = unsafe { bytes.cast::<u8>().add(CAPTURED) };
    for _ in 0..STEPS {
        let at = stream.position();
        if at >= captured || stream.is_opaque() {
            return STOPPED;
        }
        // SAFETY: the offset is masked to the room.
        let byte = unsafe { *advanced::<HEAD_MASK>(bytes, at.into()) };
        let what = stream.step(byte, at);
        // Otherwise the byte is to be given again.
        if what != BLANK {
            stream.set_position(at + 1);
        }
        if what == HEAD {
            return HEAD;
        }
    }
    NEXT
}

/// Of [`cause`]: by no request, because the process serves none.
const NOTHING: u64 = u64::MAX;

/// The number of the request by which it is caused that the current thread sends on a connection, [`NOTHING`], or 0: that
/// can't be told here.
///
/// Not called by [`compose`], because the stacks of functions that call each other add up.
#[inline(always)]
pub fn cause(cookie: u64) -> u64 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    let Some(process) = SELECTED.get_ptr(&tgid) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked.
    let process = unsafe { *process };
    if process & PROPAGATE == 0 {
        0
    } else if process & SERVES == 0 {
        NOTHING
    } else if look_for_sender(cookie, tgid, tid) == 0 {
        0
    } else {
        request_of_sender(cookie, tgid, tid)
    }
}

/// Puts the lines for a request that the current thread sends together, in the entry of its connection; gives their
/// length, 0 if there are to be none. It is caused by `number` (see [`cause`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn compose(cookie: u64, number: u64) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(outgoing) = OUTGOING.get_ptr_mut(&cookie) else { return 0 };
    // SAFETY: the pointer comes from the map and was checked; this thread holds the socket's lock.
    let lines = unsafe { (&raw mut (*outgoing).lines).cast::<u8>() };
    let (trace_id, flags, state) = match lineage::request(tgid, number) {
        Some(serving) => {
            // SAFETY: the pointer comes from the map and was checked.
            let serving = unsafe { &*serving };
            (serving.trace_id, serving.flags, Some(serving))
        }
        None if number == NOTHING => {
            let id = new_trace_id();
            (id, sampled(&id), None)
        }
        None => return 0,
    };
    let words = [random(), random() | 1];
    // SAFETY: the same size, and all bit patterns are values.
    let span_id = unsafe { core::mem::transmute::<[u32; 2], [u8; 8]>(words) };
    // SAFETY: all offsets are below `PARENT_LINE`, which is less than the lines have.
    unsafe {
        put(lines, b"traceparent: 00-");
        put_hex(lines.add(NAME_LEN), &trace_id);
        *lines.add(48) = b'-';
        put_hex(lines.add(49), &span_id);
        put(lines.add(65), if flags & SAMPLED != 0 { b"-01\r\n" } else { b"-00\r\n" });
        (*outgoing).trace_id = trace_id;
        (*outgoing).span_id = span_id;
        (*outgoing).sampled = flags & SAMPLED;
    }
    let mut length = PARENT_LINE as u32;
    if let Some(serving) = state
        && serving.state_len != 0
    {
        let size = bounded::<STATE_MASK>(serving.state_len.into());
        // SAFETY: name, value and end fit, whatever the mask lets through.
        unsafe {
            put(lines.add(PARENT_LINE), STATE_NAME);
            let value = lines.add(PARENT_LINE + STATE_NAME.len());
            bpf_probe_read_kernel(value.cast(), size, (&raw const serving.state).cast());
            put(advanced::<STATE_MASK>(value, size.into()), b"\r\n");
        }
        length += STATE_NAME.len() as u32 + size + 2;
    }
    length
}

/// # Safety
/// There must be room for the text.
#[inline(always)]
unsafe fn put<const N: usize>(to: *mut u8, text: &[u8; N]) {
    for (index, byte) in text.iter().enumerate() {
        // SAFETY: the caller's duty.
        unsafe { *to.add(index) = *byte };
    }
}

/// # Safety
/// There must be room for two digits for each byte.
#[inline(always)]
unsafe fn put_hex<const N: usize>(to: *mut u8, bytes: &[u8; N]) {
    for (index, byte) in bytes.iter().enumerate() {
        // One after the other: digits that wait for their turn are so many more ways for the verifier of 5.10.
        // SAFETY: the caller's duty.
        unsafe {
            to.add(2 * index).write_volatile(to_digit(byte >> 4));
            to.add(2 * index + 1).write_volatile(to_digit(byte & 15));
        }
    }
}

#[inline(always)]
fn to_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}
