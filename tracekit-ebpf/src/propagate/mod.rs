//! The context of a trace in outgoing requests: plaintext HTTP/1 requests of selected processes get `traceparent`, and
//! `tracestate` if the request that caused them had one, as the last headers of their heads.
//!
//! * [`request`]: the requests that are read, their traces, and what is put in for them;
//! * [`lineage`]: which of them is the one on whose behalf something is sent;
//! * [`socket`]: connections of selected processes are put into a map of sockets when they are established;
//! * [`message`]: what is sent on those is read, and lines are put into heads.

pub mod lineage;
mod message;
pub mod request;
mod socket;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, bpf_sock},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, SockHash},
};
use tracekit_common::{
    ABSENT,
    http::Stream,
    propagate::{Outgoing, Serving},
};

use crate::read::copy_kernel;

/// Where a [`Serving`] is put together: too large for the stack.
#[map]
static FRESH: PerCpuArray<Serving> = PerCpuArray::with_max_entries(1, 0);

/// The head that is being read.
#[map]
static READING: PerCpuArray<Stream> = PerCpuArray::with_max_entries(1, 0);

/// Sockets that connect, by cookie: the number of the first byte that will be sent.
#[map]
static CONNECTING: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4 * 1024, 0);

/// Connections by the cookies of their sockets. An entry belongs to who holds the socket's lock, and stays until the
/// socket is closed.
#[map]
static OUTGOING: HashMap<u64, Outgoing> = HashMap::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

/// Their sockets.
#[map]
static SOCKETS: SockHash<u64> = SockHash::with_max_entries(16 * 1024, 0);

/// What a connection begins as: one entry, all zero.
#[map]
static NOTHING: Array<Outgoing> = Array::with_max_entries(1, 0);

/// A trace without a parent is sampled if 63 bits of its id are below this.
#[unsafe(no_mangle)]
static SAMPLE_BELOW: Global<u64> = Global::new(u64::MAX);

/// 1: a trace with a parent is sampled as that is; 0: as if it had none.
#[unsafe(no_mangle)]
static SAMPLE_AS_PARENT: Global<u32> = Global::new(1);

/// `struct sock`: `__sk_common.skc_cookie`
#[unsafe(no_mangle)]
static SOCK_COOKIE: Global<u32> = Global::new(ABSENT);
/// `struct sock`: `sk_socket`
#[unsafe(no_mangle)]
static SOCK_SOCKET: Global<u32> = Global::new(ABSENT);
/// `struct sock`: `sk_wmem_queued`
#[unsafe(no_mangle)]
static SOCK_QUEUED: Global<u32> = Global::new(ABSENT);
/// `struct sock`: `sk_sndbuf`
#[unsafe(no_mangle)]
static SOCK_SNDBUF: Global<u32> = Global::new(ABSENT);
/// `struct socket`: `file`
#[unsafe(no_mangle)]
static SOCKET_FILE: Global<u32> = Global::new(ABSENT);
/// `struct tcp_sock`: `write_seq`
#[unsafe(no_mangle)]
static TCP_WRITE_SEQ: Global<u32> = Global::new(ABSENT);
/// `struct tcp_sock`: `snd_nxt`
#[unsafe(no_mangle)]
static TCP_SND_NXT: Global<u32> = Global::new(ABSENT);
/// `struct tcp_sock`: `bytes_sent`
#[unsafe(no_mangle)]
static TCP_BYTES_SENT: Global<u32> = Global::new(ABSENT);

/// The address of a socket that the verifier knows as an object: it is put on the stack and read from there as bytes.
#[inline(always)]
fn address_of(sk: *mut bpf_sock) -> u64 {
    let (slot, mut address) = (sk, 0u64);
    // SAFETY: both are on the stack and have 8 bytes.
    unsafe { copy_kernel((&raw mut address).cast(), 8, (&raw const slot) as u64) };
    address
}
