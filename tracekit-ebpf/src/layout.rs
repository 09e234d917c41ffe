//! Offsets, in bytes, that the user side sets before load: kernel structures from BTF, registers by
//! architecture. [`ABSENT`] marks what the running kernel does not have.

use aya_ebpf::Global;
use tracekit_common::ABSENT;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(ABSENT);)*
    };
}

offsets! {
    /// `struct pt_regs`: number of the system call.
    REGS_NUMBER,
    /// `struct pt_regs`: first argument, as it was at entry.
    REGS_ARG0,
    /// Second argument.
    REGS_ARG1,
    /// Third argument.
    REGS_ARG2,
    /// Fourth argument.
    REGS_ARG3,
    /// `struct task_struct`: `tgid`
    TASK_TGID,
    /// `struct task_struct`: `pid`
    TASK_PID,
    /// `struct task_struct`: `files`
    TASK_FILES,
    /// `struct task_struct`: `thread_pid`
    TASK_THREAD_PID,
    /// `struct task_struct`: `signal`
    TASK_SIGNAL,
    /// `struct signal_struct`: `flags`
    SIGNAL_FLAGS,
    /// `struct pid`: `level`
    PID_LEVEL,
    /// `struct pid`: `numbers`
    PID_NUMBERS,
    /// `struct files_struct`: `fdt`
    FILES_FDT,
    /// `struct fdtable`: `max_fds`
    FDT_MAX_FDS,
    /// `struct fdtable`: `fd`
    FDT_FD,
    /// `struct file`: `f_inode`
    FILE_INODE,
    /// `struct file`: `f_flags`
    FILE_FLAGS,
    /// `struct file`: `private_data`
    FILE_PRIVATE,
    /// `struct inode`: `i_mode`
    INODE_MODE,
    /// `struct inode`: `i_ino`
    INODE_INO,
    /// `struct socket`: `type`
    SOCKET_TYPE,
    /// `struct socket`: `sk`
    SOCKET_SK,
    /// `struct sock`: `__sk_common.skc_family`
    SOCK_FAMILY,
    /// `struct sock`: `__sk_common.skc_num`
    SOCK_NUM,
    /// `struct sock`: `__sk_common.skc_dport`
    SOCK_DPORT,
    /// `struct sock`: `__sk_common.skc_rcv_saddr`
    SOCK_RCV_SADDR,
    /// `struct sock`: `__sk_common.skc_daddr`
    SOCK_DADDR,
    /// `struct sock`: `__sk_common.skc_v6_rcv_saddr`
    SOCK_V6_RCV_SADDR,
    /// `struct sock`: `__sk_common.skc_v6_daddr`
    SOCK_V6_DADDR,
    /// `struct unix_sock`: `addr`
    UNIX_ADDR,
    /// `struct unix_sock`: `peer`
    UNIX_PEER,
    /// `struct unix_address`: `len`
    UNIX_ADDRESS_LEN,
    /// `struct unix_address`: `name`
    UNIX_ADDRESS_NAME,
}

/// 1: report every `exec` of the host, for `tracekit run`; 0: only those of selected processes.
#[unsafe(no_mangle)]
pub static FOLLOW_ALL: Global<u32> = Global::new(0);
