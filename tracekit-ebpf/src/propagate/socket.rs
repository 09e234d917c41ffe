//! Connections of selected processes, from their first byte on.

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    },
    helpers::{bpf_get_current_task, bpf_get_socket_cookie},
    macros::sock_ops,
    programs::SockOpsContext,
};
use tracekit_common::propagate::PROPAGATE;

use super::{CONNECTING, NOTHING, OUTGOING, SOCKETS, TCP_WRITE_SEQ, address_of};
use crate::{layout::TASK_TGID, maps::SELECTED, read::kernel};

/// Connections are marked when they begin, in their process; they are established wherever the answer arrives.
#[sock_ops]
pub fn socket_changed(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            let _ = connects(&ctx);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            let _ = established(&ctx);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            let _ = OUTGOING.remove(&cookie(&ctx));
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is this program's.
    unsafe { bpf_get_socket_cookie(ctx.ops.cast()) }
}

#[inline(always)]
fn connects(ctx: &SockOpsContext) -> Option<()> {
    // Not `bpf_get_current_pid_tgid`: these programs have had it only since Linux 6.10.
    // SAFETY: the helper has no preconditions.
    let tgid: u32 = kernel(unsafe { bpf_get_current_task() }, TASK_TGID.load())?;
    let flags = SELECTED.get_ptr(&tgid)?;
    // SAFETY: the pointer comes from the map and was checked.
    if unsafe { *flags } & PROPAGATE == 0 {
        return None;
    }
    // SAFETY: the context is this program's.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let sequence: u32 = kernel(address_of(sk), TCP_WRITE_SEQ.load())?;
    // The SYN, which is sent next, takes one number.
    CONNECTING.insert(&cookie(ctx), &sequence.wrapping_add(1), 0).ok()
}

#[inline(always)]
fn established(ctx: &SockOpsContext) -> Option<()> {
    let cookie = cookie(ctx);
    // SAFETY: a value that is replaced meanwhile is still a number.
    let expected = unsafe { *CONNECTING.get(&cookie)? };
    let _ = CONNECTING.remove(&cookie);
    let nothing = NOTHING.get_ptr(0)?;
    // SAFETY: the pointer comes from the map and was checked; nobody writes to it.
    OUTGOING.insert(&cookie, unsafe { &*nothing }, u64::from(BPF_NOEXIST)).ok()?;
    let outgoing = OUTGOING.get_ptr_mut(&cookie)?;
    // SAFETY: the pointer comes from the map and was checked.
    unsafe { (*outgoing).expected = expected };
    // SAFETY: the context is this program's.
    let ops = unsafe { &mut *ctx.ops };
    let followed = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32).is_ok()
        && SOCKETS.update(cookie, ops, u64::from(BPF_NOEXIST)).is_ok();
    if !followed {
        let _ = OUTGOING.remove(&cookie);
    }
    Some(())
}
