//! `sys_enter` and `sys_exit`: dispatch by what a system call does to a socket.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
#[cfg(feature = "propagate")]
use tracekit_common::syscall::WATCH;
use tracekit_common::{
    actor::CAUSE_ACCEPT,
    event::{CLOSE_LOCAL, CLOSE_LOCAL_WRITE, CLOSE_REMOTE, CloseRecord, INBOUND, Kind, OUTBOUND, UNSEEN},
    map::ACCEPTED,
    syscall::{
        ACCEPT, CLOSE, DUP, DUP2, FCNTL, READ, READV, RECVFROM, RECVMSG, SENDFILE, SENDMMSG, SENDMSG, SENDTO,
        SHUTDOWN, SPLICE, TABLE, WAIT, WRITE, WRITEV,
    },
};

use crate::{
    actor::{identify, note_input, waits},
    capture::{Call, Payload},
    layout::{REGS_ARG0, REGS_ARG1, REGS_ARG2, REGS_ARG3, REGS_NUMBER},
    maps::{CONNECTIONS, ENTERED, SYSCALLS, send},
    process::selected,
    read::{kernel, user},
    socket,
};

/// Flags of `recv` and `recvmsg` whose bytes are not the stream's: include/linux/socket.h
const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;

/// `struct user_msghdr`: include/linux/socket.h
const MSGHDR_IOV: u64 = 16;
const MSGHDR_IOVLEN: u64 = 24;

/// `SHUT_RD`, `SHUT_WR`: include/linux/net.h (`enum sock_shutdown_cmd`)
const SHUT_RD: u64 = 0;
const SHUT_WR: u64 = 1;

/// `F_DUPFD`, `F_DUPFD_CLOEXEC`: include/uapi/linux/fcntl.h
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

/// Errors that say the peer is gone: include/uapi/asm-generic/errno.h
const EPIPE: i64 = -32;
const ECONNRESET: i64 = -104;
const ETIMEDOUT: i64 = -110;

#[inline(always)]
fn class_of(number: u64) -> u32 {
    if number >= u64::from(TABLE) {
        return 0;
    }
    SYSCALLS.get(number as u32).copied().unwrap_or(0)
}

/// `sys_enter(struct pt_regs *regs, long id)`: entry times of writes, and what ends a descriptor.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let class = class_of(ctx.arg(1));
    if class < WRITE {
        return 0;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if !selected(tgid) {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let mut now = unsafe { bpf_ktime_get_ns() };
    if class > SENDMSG && class <= SPLICE {
        now |= UNSEEN;
    }
    match class {
        WRITE..=SPLICE => match ENTERED.get_ptr_mut(&tid) {
            // SAFETY: the pointer comes from the map and was checked; only this thread uses its entry.
            Some(time) => unsafe { *time = now },
            None => {
                let _ = ENTERED.insert(&tid, &now, 0);
            }
        },
        CLOSE | SHUTDOWN | DUP2 => {
            let _ = ended(ctx.arg(0), class, tgid, tid, now);
        }
        WAIT => {
            #[cfg(feature = "propagate")]
            {
                crate::propagate::request::loops(tgid);
                crate::propagate::lineage::waits(tid);
            }
            waits(tgid, tid);
        }
        #[cfg(feature = "propagate")]
        WATCH => {
            let _ = watched(ctx.arg(0), tgid, tid);
        }
        _ => {}
    }
    0
}

/// A descriptor is added to those of an `epoll` instance.
#[cfg(feature = "propagate")]
#[inline(always)]
fn watched(regs: u64, tgid: u32, tid: u32) -> Option<()> {
    let operation: u64 = kernel(regs, REGS_ARG1.load())?;
    let descriptor: u64 = kernel(regs, REGS_ARG2.load())?;
    if operation as u32 == EPOLL_CTL_ADD {
        let key = socket::of_descriptor(descriptor as u32)?.key(tgid);
        crate::propagate::lineage::watched(tid, &key);
    }
    Some(())
}

/// `EPOLL_CTL_ADD`: include/uapi/linux/eventpoll.h
#[cfg(feature = "propagate")]
const EPOLL_CTL_ADD: u32 = 1;

#[inline(always)]
fn ended(regs: u64, class: u32, tgid: u32, tid: u32, time: u64) -> Option<()> {
    let first: u64 = kernel(regs, REGS_ARG0.load())?;
    let second: u64 = kernel(regs, REGS_ARG1.load())?;
    // `dup2(old, new)` closes `new`.
    let fd = if class == DUP2 { second } else { first };
    if class == DUP2 && first == second || class == SHUTDOWN && second == SHUT_RD {
        return None;
    }
    let key = socket::of_descriptor(fd as u32)?.key(tgid);
    let state = CONNECTIONS.get_ptr_mut(&key)?;
    if class != SHUTDOWN {
        // SAFETY: the pointer comes from the map and was checked; a race loses a count at worst.
        let extra = unsafe { &mut (*state).extra_descriptors };
        if *extra > 0 {
            *extra -= 1;
            return None;
        }
        let _ = CONNECTIONS.remove(&key);
        #[cfg(feature = "propagate")]
        crate::propagate::lineage::closed(&key);
    }
    let reason = if class == SHUTDOWN && second == SHUT_WR { CLOSE_LOCAL_WRITE } else { CLOSE_LOCAL };
    send(CloseRecord { kind: Kind::Close as u32, tgid, inode: key.inode, time, tid, reason });
    Some(())
}

/// `sys_exit(struct pt_regs *regs, long ret)`: what was transferred.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if !selected(tgid) {
        return 0;
    }
    let _ = transferred(ctx.arg(0), ctx.arg::<u64>(1) as i64, tgid, tid);
    0
}

#[inline(always)]
fn transferred(regs: u64, returned: i64, tgid: u32, tid: u32) -> Option<()> {
    // `orig_ax` is 64 bits wide, arm64's `syscallno` 32: no number of interest needs more.
    let number: u32 = kernel(regs, REGS_NUMBER.load())?;
    let class = class_of(u64::from(number));
    if class == 0 {
        return None;
    }
    let write = class >= WRITE && class <= SPLICE;
    let first: u64 = kernel(regs, REGS_ARG0.load())?;
    if returned <= 0 {
        let gone = matches!(returned, EPIPE | ECONNRESET | ETIMEDOUT);
        if gone || returned == 0 && class <= RECVMSG {
            return at_end(regs, class, first as u32, returned, tgid, tid);
        }
        // `dup(0) == 0` apart, which is no socket worth the case, nothing went.
        return None;
    }
    if class == ACCEPT {
        return accepted(returned as u32, tgid, tid);
    }
    if class >= CLOSE {
        return duplicated(regs, class, first as u32, tgid);
    }
    let second: u64 = kernel(regs, REGS_ARG1.load())?;
    let third: u64 = kernel(regs, REGS_ARG2.load())?;
    let length = returned as u64;
    let entered = if write {
        // SAFETY: the pointer comes from the map and was checked.
        ENTERED.get_ptr(&tid).map_or(0, |time| unsafe { *time } & !UNSEEN)
    } else {
        0
    };
    let direction = if write { OUTBOUND } else { INBOUND };
    let mut call = Call { tgid, tid, entered, length, direction, counted: true, stack: true };
    let payload = match class {
        READ | WRITE | SENDTO => Payload::bytes(second),
        READV | WRITEV => Payload::vector(second, third),
        RECVFROM => match received(kernel(regs, REGS_ARG3.load())?)? {
            true => Payload::bytes(second),
            false => Payload::NONE,
        },
        RECVMSG | SENDMSG => {
            let known = class == SENDMSG || received(third)?;
            let vector = Payload::vector(user(second + MSGHDR_IOV)?, user(second + MSGHDR_IOVLEN)?);
            if known { vector } else { Payload::NONE }
        }
        SENDMMSG => {
            call.length = 0;
            call.counted = false;
            Payload::NONE
        }
        SENDFILE => Payload::NONE,
        SPLICE => {
            call.stack = false;
            call.emit(third as u32, Payload::NONE);
            call.direction = INBOUND;
            call.entered = 0;
            Payload::NONE
        }
        _ => return None,
    };
    call.emit(first as u32, payload)
}

/// Of the flags of a receive: `None` if the bytes are not the stream's, `false` if they were thrown away.
#[inline(always)]
fn received(flags: u64) -> Option<bool> {
    if flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) != 0 { None } else { Some(flags & MSG_TRUNC == 0) }
}

/// End-of-file or a connection error.
#[inline(always)]
fn at_end(regs: u64, class: u32, fd: u32, returned: i64, tgid: u32, tid: u32) -> Option<()> {
    if returned == 0 && matches!(class, READ | RECVFROM) {
        let asked: u64 = kernel(regs, REGS_ARG2.load())?;
        if asked == 0 {
            return None;
        }
    }
    let key = socket::of_descriptor(fd)?.key(tgid);
    CONNECTIONS.get_ptr(&key)?;
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    send(CloseRecord { kind: Kind::Close as u32, tgid, inode: key.inode, time, tid, reason: CLOSE_REMOTE });
    Some(())
}

/// The process has accepted a connection.
#[inline(always)]
fn accepted(fd: u32, tgid: u32, tid: u32) -> Option<()> {
    let socket = socket::of_descriptor(fd)?;
    let state = socket.state(&socket.key(tgid))?;
    // SAFETY: the pointer comes from the map and was checked; nobody else has the descriptor yet.
    unsafe { (*state).flags |= ACCEPTED };
    #[cfg(feature = "propagate")]
    crate::propagate::lineage::accepted(socket.key(tgid));
    identify(tgid, tid);
    note_input(tgid, tid, socket.inode, CAUSE_ACCEPT)
}

/// A descriptor was duplicated within the process.
#[inline(always)]
fn duplicated(regs: u64, class: u32, fd: u32, tgid: u32) -> Option<()> {
    let duplicates = match class {
        DUP => true,
        DUP2 => kernel::<u64>(regs, REGS_ARG1.load())? as u32 != fd,
        FCNTL => matches!(kernel::<u64>(regs, REGS_ARG1.load())?, F_DUPFD | F_DUPFD_CLOEXEC),
        _ => false,
    };
    if !duplicates {
        return None;
    }
    let key_socket = socket::of_descriptor(fd)?;
    let state = key_socket.state(&key_socket.key(tgid))?;
    // SAFETY: the pointer comes from the map and was checked; a race loses a count at worst.
    unsafe { (*state).extra_descriptors += 1 };
    Some(())
}
