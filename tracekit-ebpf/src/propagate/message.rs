//! What is sent on a connection, and the lines that are put into it.
//!
//! The program runs in the thread that sends, with the socket locked, after the bytes have been copied from the process
//! and before they are TCP's. It knows at every moment how many bytes TCP must have taken (`write_seq`): if that is not
//! so, because bytes went another way or were taken back, the connection is left alone from then on.

use core::arch::asm;

use aya_ebpf::{
    bindings::sk_action,
    helpers::{
        bpf_get_current_pid_tgid, bpf_msg_apply_bytes, bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data,
    },
    macros::sk_msg,
    programs::SkMsgContext,
};
use tracekit_common::{
    event::{HEAD_MAX, Kind, UNSEEN},
    http::{BLANK, CONNECT, NEXT, OPAQUE, TRACEPARENT},
    propagate::{
        AT_ONCE, AWAITING, LINES_MAX, Outgoing, PARENT_LINE, STATE_MAX, TRACE_OPAQUE, TRACE_SENT,
        TraceRecord, WINDOW,
    },
};

use super::{
    OUTGOING, SOCK_COOKIE, SOCK_QUEUED, SOCK_SNDBUF, SOCK_SOCKET, SOCKET_FILE, TCP_BYTES_SENT, TCP_SND_NXT,
    TCP_WRITE_SEQ, address_of,
    request::{STEPS, cause, compose},
};
use crate::{
    bounds::{advanced, bounded},
    layout::{FILE_INODE, INODE_INO},
    maps::{ENTERED, send},
    read::{copy_kernel, kernel},
};

/// Windows that are looked at in one run; then what was seen is sent, and the program runs again.
const ROUNDS: u32 = 8;
/// Of sizes of windows: their largest legal value is left as it is.
const SIZE_MASK: i32 = 2 * WINDOW as i32 - 1;
/// Of offsets in windows.
const AT_MASK: i32 = WINDOW as i32 - 1;
/// Bytes of lines, at most: both lines with the longest `tracestate`.
const LINES_LEN: u32 = 72 + 12 + STATE_MAX as u32;
/// Bytes that are copied at once.
const WORD: usize = 8;
/// Of offsets in lines.
const LINES_MASK: i32 = 1023;
/// Of a send buffer, what must be free beside the head: TCP counts its own structures, too.
const SPARE: u64 = 2048;
/// Of [`read_window`]: there is nothing more to read.
const WINDOW_END: u32 = 3;

const _: () = assert!(SIZE_MASK as usize <= WINDOW + LINES_MAX && LINES_LEN as usize <= LINES_MAX);

/// One message, or the rest of one.
#[sk_msg]
pub fn message_sent(ctx: SkMsgContext) -> u32 {
    look(&ctx).unwrap_or(sk_action::SK_PASS)
}

#[inline(always)]
fn look(ctx: &SkMsgContext) -> Option<u32> {
    // SAFETY: the context is this program's.
    let sk = address_of(unsafe { (*ctx.msg).__bindgen_anon_3.sk });
    let cookie: u64 = kernel(sk, SOCK_COOKIE.load())?;
    let entry = OUTGOING.get_ptr_mut(&cookie)?;
    // SAFETY: the pointer comes from the map and was checked; this thread holds the socket's lock.
    let outgoing = unsafe { &mut *entry };
    if outgoing.stream.phase == OPAQUE {
        return None;
    }
    let sequence: u32 = kernel(sk, TCP_WRITE_SEQ.load())?;
    if !agree(outgoing, sk, sequence) {
        return give_up(outgoing, sk, cookie);
    }
    let mut size = ctx.size();
    let mut at = 0u32;
    for _ in 0..ROUNDS {
        if at >= size {
            break;
        }
        let skipped = outgoing.stream.skip(u64::from(size - at));
        if skipped != 0 {
            outgoing.skipped += skipped;
            at += skipped as u32;
            continue;
        }
        let rest = size - at;
        let length = if rest < WINDOW as u32 { rest } else { WINDOW as u32 };
        // SAFETY: the context is this program's.
        if unsafe { bpf_msg_pull_data(ctx.msg, at, at + length, 0) } != 0 {
            return give_up(outgoing, sk, cookie);
        }
        let window = outgoing.window.as_mut_ptr();
        // SAFETY: there is room for whatever the mask lets through.
        if !unsafe { copy_kernel(window, bounded::<SIZE_MASK>(length.into()), ctx.data() as u64) } {
            return give_up(outgoing, sk, cookie);
        }
        outgoing.stream.set_position(0);
        let mut ended = NEXT;
        for _ in 0..WINDOW as u32 / STEPS {
            if ended == NEXT {
                ended = read_window(cookie, length);
            }
        }
        at += outgoing.stream.position();
        if outgoing.stream.is_opaque() {
            return give_up(outgoing, sk, cookie);
        }
        if ended == BLANK {
            let lines = insert(ctx, outgoing, sk, cookie, at);
            if lines == BROKEN {
                return Some(sk_action::SK_DROP);
            }
            at += lines;
            size += lines;
        }
    }
    // The number stays with the message: what is left over would go past this program.
    if at < size || outgoing.applied != 0 {
        // SAFETY: the context is this program's.
        unsafe { bpf_msg_apply_bytes(ctx.msg, at) };
    }
    outgoing.applied = u32::from(at < size);
    outgoing.before = if at < size { outgoing.before.saturating_add(at) } else { 0 };
    outgoing.expected = sequence.wrapping_add(at);
    None
}

/// Whether TCP has taken all that was seen. If it took less, and what is missing is of a body, those bytes will be sent
/// again.
#[inline(always)]
fn agree(outgoing: &mut Outgoing, sk: u64, sequence: u32) -> bool {
    if outgoing.join == AWAITING {
        outgoing.join = AT_ONCE;
        outgoing.expected = sequence;
        let (next, sent) = (kernel(sk, TCP_SND_NXT.load()), kernel(sk, TCP_BYTES_SENT.load()));
        return next == Some(sequence) && sent == Some(outgoing.sent);
    }
    let missing = u64::from(outgoing.expected.wrapping_sub(sequence));
    if missing > outgoing.skipped {
        return false;
    }
    outgoing.skipped -= missing;
    outgoing.stream.remaining += missing;
    true
}

/// Leaves the connection alone from now on.
#[inline(always)]
fn give_up(outgoing: &mut Outgoing, sk: u64, cookie: u64) -> Option<u32> {
    outgoing.stream.phase = OPAQUE;
    outgoing.trace_id = [0; 16];
    outgoing.span_id = [0; 8];
    report(outgoing, sk, cookie, TRACE_OPAQUE);
    None
}

/// Reads the window to its end, or to where lines can be put in.
///
/// What is read from memory anew in each turn is any number to the verifier: turns look the same.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_window(cookie: u64, length: u32) -> u32 {
    let Some(outgoing) = OUTGOING.get_ptr_mut(&cookie) else { return WINDOW_END };
    // SAFETY: the pointer comes from the map and was checked; this thread holds the socket's lock.
    let outgoing = unsafe { &mut *outgoing };
    let window = outgoing.window.as_mut_ptr();
    for _ in 0..STEPS {
        let at = outgoing.stream.position();
        if at >= length || outgoing.stream.is_opaque() {
            return WINDOW_END;
        }
        let skipped = outgoing.stream.skip(u64::from(length - at)) as u32;
        if skipped != 0 {
            outgoing.skipped += u64::from(skipped);
            outgoing.stream.set_position(at + skipped);
            continue;
        }
        // SAFETY: the offset is masked to the room.
        let byte = unsafe { *advanced::<AT_MASK>(window, at.into()) };
        if outgoing.stream.step(byte, at) == BLANK {
            return BLANK;
        }
        outgoing.skipped = 0;
        outgoing.stream.set_position(at + 1);
    }
    NEXT
}

/// Of [`insert`]: there is room in the message that could not be filled.
const BROKEN: u32 = u32::MAX;

/// Puts lines into the message before the byte `at`; their length.
#[inline(always)]
fn insert(ctx: &SkMsgContext, outgoing: &mut Outgoing, sk: u64, cookie: u64, at: u32) -> u32 {
    outgoing.trace_id = [0; 16];
    outgoing.span_id = [0; 8];
    outgoing.sampled = 0;
    let own = outgoing.stream.flags & (TRACEPARENT | CONNECT) != 0;
    let entered = entered();
    // A request whose head is not captured has no span.
    let seen = entered & UNSEEN == 0 && u64::from(outgoing.before) + u64::from(at) < HEAD_MAX as u64;
    let mut length = if own || !seen || !has_room(sk, at) { 0 } else { compose(cookie, cause(cookie)) };
    if length >= PARENT_LINE as u32 && length <= LINES_LEN {
        // SAFETY: the context is this program's.
        if unsafe { bpf_msg_push_data(ctx.msg, at, length, 0) } != 0 {
            length = 0;
        } else if !fill(ctx, outgoing, at, length) {
            // SAFETY: as above. What was put in is whatever memory held before: it must not leave.
            if unsafe { bpf_msg_pop_data(ctx.msg, at, length, 0) } != 0 {
                return BROKEN;
            }
            length = 0;
        }
    } else {
        length = 0;
    }
    if length == 0 {
        outgoing.trace_id = [0; 16];
        outgoing.span_id = [0; 8];
    }
    report(outgoing, sk, cookie, TRACE_SENT | outgoing.sampled);
    length
}

/// Writes the lines to their place in the message.
#[inline(always)]
fn fill(ctx: &SkMsgContext, outgoing: &mut Outgoing, at: u32, length: u32) -> bool {
    // SAFETY: the context is this program's.
    if unsafe { bpf_msg_pull_data(ctx.msg, at, at + length, 0) } != 0 {
        return false;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    let lines = outgoing.lines.as_mut_ptr();
    for index in 0..LINES_LEN as usize / WORD {
        let at = index * WORD;
        if (at + WORD) as u32 > length {
            break;
        }
        if data + at + WORD > end {
            return false;
        }
        // SAFETY: the place is in the message, as was just seen, and the word in the lines.
        unsafe { copy_word((data + at) as *mut u8, lines.add(at)) };
    }
    // The rest, together with bytes that are there already.
    let at = u64::from(length - WORD as u32);
    let to = advanced::<LINES_MASK>(data as *mut u8, at);
    if to as usize + WORD > end {
        return false;
    }
    // SAFETY: as above; wherever the mask leads there are eight bytes of lines.
    unsafe { copy_word(to, advanced::<LINES_MASK>(lines, at)) };
    true
}

/// Copies eight bytes between places of any alignment, which the compiler would do byte by byte.
///
/// # Safety
/// Both must have eight bytes; the verifier checks it.
#[inline(always)]
unsafe fn copy_word(to: *mut u8, from: *const u8) {
    // SAFETY: the caller's duty.
    unsafe {
        asm!(
            "{word} = *(u64 *)({from} + 0)",
            "*(u64 *)({to} + 0) = {word}",
            word = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack)
        );
    }
}

/// Whether TCP will take a head as a whole: if it took only a part of the lines, the process would be told a wrong number
/// of bytes.
#[inline(always)]
fn has_room(sk: u64, at: u32) -> bool {
    let queued: Option<u32> = kernel(sk, SOCK_QUEUED.load());
    let room: Option<u32> = kernel(sk, SOCK_SNDBUF.load());
    match (queued, room) {
        (Some(queued), Some(room)) => {
            u64::from(queued) + u64::from(at) + u64::from(LINES_LEN) + SPARE <= u64::from(room)
        }
        _ => false,
    }
}

/// When the current system call was entered, and whether its bytes are captured.
#[inline(always)]
fn entered() -> u64 {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
    ENTERED.get_ptr(&tid).map_or(UNSEEN, |time| unsafe { *time })
}

/// Tells the user side what became of a head, or of the connection.
#[inline(always)]
fn report(outgoing: &Outgoing, sk: u64, cookie: u64, what: u32) {
    let ids = bpf_get_current_pid_tgid();
    let inode = (|| {
        let socket: u64 = kernel(sk, SOCK_SOCKET.load())?;
        let file: u64 = kernel(socket, SOCKET_FILE.load())?;
        let inode: u64 = kernel(file, FILE_INODE.load())?;
        kernel(inode, INODE_INO.load())
    })();
    send(TraceRecord {
        kind: Kind::Trace as u32,
        tgid: (ids >> 32) as u32,
        inode: inode.unwrap_or(0),
        cookie,
        entered: entered() & !UNSEEN,
        trace_id: outgoing.trace_id,
        span_id: outgoing.span_id,
        tid: ids as u32,
        what,
    });
}
