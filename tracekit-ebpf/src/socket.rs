//! From a descriptor to the connection behind it.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_task, bpf_ktime_get_ns},
};
use tracekit_common::{
    event::{ConnectionRecord, Kind, UNIX_PATH},
    map::{ConnectionKey, ConnectionState, Loss},
};

use crate::{
    bounds::bounded,
    layout::{
        FDT_FD, FDT_MAX_FDS, FILE_FLAGS, FILE_INODE, FILE_PRIVATE, FILES_FDT, INODE_INO, INODE_MODE,
        SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY, SOCK_NUM, SOCK_RCV_SADDR, SOCK_V6_DADDR, SOCK_V6_RCV_SADDR,
        SOCKET_SK, SOCKET_TYPE, TASK_FILES, UNIX_ADDR, UNIX_ADDRESS_LEN, UNIX_ADDRESS_NAME, UNIX_PEER,
    },
    maps::{BUFFER, CONNECTIONS, EVENTS, lose, wakeup},
    read::{copy_kernel, kernel},
};

/// `S_IFMT`, `S_IFSOCK`: include/uapi/linux/stat.h
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// `SOCK_STREAM`: include/linux/net.h
const SOCK_STREAM: u16 = 1;
/// Address families: include/linux/socket.h
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Bytes of `sun_family` before `sun_path`.
const SUN_FAMILY: u32 = 2;

/// An open socket of the current task.
#[derive(Clone, Copy)]
pub struct Socket {
    /// Inode number.
    pub inode: u64,
    /// `struct file *`
    pub file: u64,
}

/// The socket with this descriptor; `None` if it is no socket.
#[inline(always)]
pub fn of_descriptor(fd: u32) -> Option<Socket> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = kernel(task, TASK_FILES.load())?;
    let fdt: u64 = kernel(files, FILES_FDT.load())?;
    let max: u32 = kernel(fdt, FDT_MAX_FDS.load())?;
    if fd >= max {
        return None;
    }
    let table: u64 = kernel(fdt, FDT_FD.load())?;
    let file: u64 = kernel(table, fd * 8)?;
    let inode: u64 = kernel(file, FILE_INODE.load())?;
    let mode: u16 = kernel(inode, INODE_MODE.load())?;
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    Some(Socket { inode: kernel(inode, INODE_INO.load())?, file })
}

impl Socket {
    /// `f_flags`: `O_NONBLOCK` among them.
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        kernel(self.file, FILE_FLAGS.load()).unwrap_or(0)
    }

    /// The key of this connection.
    #[inline(always)]
    pub fn key(&self, tgid: u32) -> ConnectionKey {
        ConnectionKey { inode: self.inode, tgid, reserved: 0 }
    }

    /// The state of this connection, made and reported if it is met for the first time; `None` if it is
    /// no stream socket of a family that we follow.
    #[inline(always)]
    pub fn state(&self, key: &ConnectionKey) -> Option<*mut ConnectionState> {
        if let Some(state) = CONNECTIONS.get_ptr_mut(key) {
            return Some(state);
        }
        let socket: u64 = kernel(self.file, FILE_PRIVATE.load())?;
        let kind: u16 = kernel(socket, SOCKET_TYPE.load())?;
        let sk: u64 = kernel(socket, SOCKET_SK.load())?;
        let family: u16 = kernel(sk, SOCK_FAMILY.load())?;
        if kind != SOCK_STREAM || !matches!(family, AF_UNIX | AF_INET | AF_INET6) {
            return None;
        }
        let fresh = ConnectionState { received: 0, sent: 0, extra_descriptors: 0, flags: 0 };
        CONNECTIONS.insert(key, &fresh, u64::from(BPF_NOEXIST)).ok()?;
        report(key, sk, family);
        CONNECTIONS.get_ptr_mut(key)
    }
}

/// Tells the user side of a connection.
///
/// Inlined like all else: the name of a function of its own would hold a hash of the checkout's path, and
/// the object must not depend on that; unmangled it would be global, which 5.10 restricts to scalars.
#[inline(always)]
fn report(key: &ConnectionKey, sk: u64, family: u16) -> Option<()> {
    let record = BUFFER.get_ptr_mut(0)?.cast::<ConnectionRecord>();
    // SAFETY: the buffer is this CPU's, larger than the record (asserted by its size), and suitably
    // aligned (map values are aligned to 8 bytes).
    let record = unsafe { &mut *record };
    record.kind = Kind::Connection as u32;
    record.tgid = key.tgid;
    record.inode = key.inode;
    // SAFETY: the helper has no preconditions.
    record.time = unsafe { bpf_ktime_get_ns() };
    record.family = family;
    record.local_port = 0;
    record.remote_port = 0;
    record.local_path_len = 0;
    record.remote_path_len = 0;
    record.local_addr = [0; 16];
    record.remote_addr = [0; 16];
    record.reserved = [0; 6];
    if family == AF_UNIX {
        record.local_path_len = path(sk, &mut record.local_path);
        let peer = kernel(sk, UNIX_PEER.load()).unwrap_or(0);
        record.remote_path_len = path(peer, &mut record.remote_path);
    } else {
        record.local_port = kernel(sk, SOCK_NUM.load()).unwrap_or(0);
        record.remote_port = u16::from_be(kernel(sk, SOCK_DPORT.load()).unwrap_or(0));
        let (size, local, remote) = if family == AF_INET {
            (4, SOCK_RCV_SADDR.load(), SOCK_DADDR.load())
        } else {
            (16, SOCK_V6_RCV_SADDR.load(), SOCK_V6_DADDR.load())
        };
        // SAFETY: both arrays have 16 bytes.
        unsafe {
            copy_kernel(record.local_addr.as_mut_ptr(), size, sk + u64::from(local));
            copy_kernel(record.remote_addr.as_mut_ptr(), size, sk + u64::from(remote));
        }
    }
    if EVENTS.output::<ConnectionRecord>(&*record, wakeup()).is_err() {
        lose(Loss::RingFull);
    }
    Some(())
}

/// Copies the path of a Unix socket; returns its length.
#[inline(always)]
fn path(sk: u64, to: &mut [u8; UNIX_PATH]) -> u16 {
    let Some(address) = kernel::<u64>(sk, UNIX_ADDR.load()) else { return 0 };
    let Some(length) = kernel::<u32>(address, UNIX_ADDRESS_LEN.load()) else { return 0 };
    if length <= SUN_FAMILY || length > UNIX_PATH as u32 + SUN_FAMILY {
        return 0;
    }
    let length = length - SUN_FAMILY;
    let from = address + u64::from(UNIX_ADDRESS_NAME.load()) + u64::from(SUN_FAMILY);
    // SAFETY: `length` is at most `UNIX_PATH`.
    if unsafe { copy_kernel(to.as_mut_ptr(), bounded::<127>(length.into()), from) } {
        length as u16
    } else {
        0
    }
}
