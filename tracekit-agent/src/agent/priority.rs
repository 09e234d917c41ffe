//! The agent gives way to the applications that it traces.

use std::io;

/// `nice` value of the agent: under full load still about a tenth of a core, which is more than it needs.
const NICE: i32 = 10;
/// How long the agent may keep a core when something else wants it, nanoseconds; kernels before 6.12 use
/// their own.
const SLICE: u64 = 100_000;

/// `struct sched_attr` of its first version: include/uapi/linux/sched/types.h
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Makes the calling thread, and all that it starts, give way: as `SCHED_BATCH` it never interrupts what
/// runs when it wakes up, and a short slice makes it leave the core soon.
///
/// # Errors
/// The kernel refuses; the agent then works as any other process.
pub fn give_way() -> io::Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_BATCH as u32,
        flags: 0,
        nice: NICE,
        priority: 0,
        runtime: SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the structure is valid for the call and has the size that it says.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
