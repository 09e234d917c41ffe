//! What the kernel side needs to know before it is loaded: offsets and system call numbers.

use tracekit_common::{ABSENT, syscall};

use super::btf::Btf;

/// Name of the global on the kernel side, structure, member; and whether tracing works without it.
const MEMBERS: &[(&str, &str, &str, bool)] = &[
    ("TASK_TGID", "task_struct", "tgid", true),
    ("TASK_PID", "task_struct", "pid", true),
    ("TASK_FILES", "task_struct", "files", true),
    ("TASK_THREAD_PID", "task_struct", "thread_pid", true),
    ("PID_LEVEL", "pid", "level", true),
    ("PID_NUMBERS", "pid", "numbers", true),
    ("FILES_FDT", "files_struct", "fdt", true),
    ("FDT_MAX_FDS", "fdtable", "max_fds", true),
    ("FDT_FD", "fdtable", "fd", true),
    ("FILE_INODE", "file", "f_inode", true),
    ("FILE_FLAGS", "file", "f_flags", true),
    ("FILE_PRIVATE", "file", "private_data", true),
    ("INODE_MODE", "inode", "i_mode", true),
    ("INODE_INO", "inode", "i_ino", true),
    ("SOCKET_TYPE", "socket", "type", true),
    ("SOCKET_SK", "socket", "sk", true),
    ("SOCK_FAMILY", "sock", "__sk_common.skc_family", true),
    ("SOCK_NUM", "sock", "__sk_common.skc_num", true),
    ("SOCK_DPORT", "sock", "__sk_common.skc_dport", true),
    ("SOCK_RCV_SADDR", "sock", "__sk_common.skc_rcv_saddr", true),
    ("SOCK_DADDR", "sock", "__sk_common.skc_daddr", true),
    ("SOCK_V6_RCV_SADDR", "sock", "__sk_common.skc_v6_rcv_saddr", false),
    ("SOCK_V6_DADDR", "sock", "__sk_common.skc_v6_daddr", false),
    ("UNIX_ADDR", "unix_sock", "addr", false),
    ("UNIX_PEER", "unix_sock", "peer", false),
    ("UNIX_ADDRESS_LEN", "unix_address", "len", false),
    ("UNIX_ADDRESS_NAME", "unix_address", "name", false),
];

/// Where a system call's number and first four arguments are in `struct pt_regs`, also at its return.
///
/// x86_64: arch/x86/include/asm/ptrace.h; arm64: arch/arm64/include/asm/ptrace.h, where the first
/// register holds the result at return and `orig_x0` the argument.
#[cfg(target_arch = "x86_64")]
const REGISTERS: &[(&str, u32)] =
    &[("REGS_NUMBER", 120), ("REGS_ARG0", 112), ("REGS_ARG1", 104), ("REGS_ARG2", 96), ("REGS_ARG3", 56)];
#[cfg(target_arch = "aarch64")]
const REGISTERS: &[(&str, u32)] =
    &[("REGS_NUMBER", 280), ("REGS_ARG0", 272), ("REGS_ARG1", 8), ("REGS_ARG2", 16), ("REGS_ARG3", 24)];

/// The structures whose members are read.
pub fn structures() -> Vec<&'static str> {
    let mut names: Vec<_> = MEMBERS.iter().map(|(_, structure, ..)| *structure).collect();
    names.dedup();
    names
}

/// The values of the kernel side's globals.
///
/// # Errors
/// The members that this kernel lacks and tracing needs.
pub fn globals(btf: &Btf<'_>) -> Result<Vec<(&'static str, u32)>, Vec<String>> {
    let mut missing = Vec::new();
    let mut globals = REGISTERS.to_vec();
    for (global, structure, member, required) in MEMBERS {
        match btf.offset(structure, member) {
            Some(offset) => globals.push((global, offset)),
            None if *required => missing.push(format!("struct {structure}: {member}")),
            None => globals.push((global, ABSENT)),
        }
    }
    if missing.is_empty() { Ok(globals) } else { Err(missing) }
}

/// System call numbers of this architecture with what they do to a socket; with those that only propagation needs.
pub fn syscalls(propagate: bool) -> Vec<(u32, u32)> {
    let mut table = vec![
        (libc::SYS_read, syscall::READ),
        (libc::SYS_readv, syscall::READV),
        (libc::SYS_recvfrom, syscall::RECVFROM),
        (libc::SYS_recvmsg, syscall::RECVMSG),
        (libc::SYS_write, syscall::WRITE),
        (libc::SYS_writev, syscall::WRITEV),
        (libc::SYS_sendto, syscall::SENDTO),
        (libc::SYS_sendmsg, syscall::SENDMSG),
        (libc::SYS_sendmmsg, syscall::SENDMMSG),
        (libc::SYS_sendfile, syscall::SENDFILE),
        (libc::SYS_splice, syscall::SPLICE),
        (libc::SYS_close, syscall::CLOSE),
        (libc::SYS_shutdown, syscall::SHUTDOWN),
        (libc::SYS_dup, syscall::DUP),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_dup2, syscall::DUP2),
        (libc::SYS_dup3, syscall::DUP2),
        (libc::SYS_fcntl, syscall::FCNTL),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_accept, syscall::ACCEPT),
        (libc::SYS_accept4, syscall::ACCEPT),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_epoll_wait, syscall::WAIT),
        (libc::SYS_epoll_pwait, syscall::WAIT),
        (libc::SYS_epoll_pwait2, syscall::WAIT),
    ];
    if propagate {
        table.extend([(libc::SYS_epoll_ctl, syscall::WATCH)]);
    }
    table.into_iter().filter_map(|(number, class)| Some((u32::try_from(number).ok()?, class))).collect()
}
