//! Debug exceptions without a reason.
//!
//! On x86-64 the processor says in DR6 why a debug exception came. Some virtual machines lose that, once in millions; Linux
//! takes such an exception for the instruction `INT1`, and sends the thread a `SIGTRAP`: `exc_debug_user`,
//! arch/x86/kernel/traps.c. Where that happens no line may be watched any more.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};
use tracekit_common::event::PROCESS_TRAPPED;

use crate::{
    process::{record, selected},
    read::kernel,
};

/// arch/x86/include/uapi/asm/signal.h
const SIGTRAP: u32 = 5;
/// `kernel_siginfo.si_code`, behind number and error on this architecture; `TRAP_BRKPT`: include/uapi/asm-generic/siginfo.h.
/// A debugger's breakpoint, `INT3`, has `SI_KERNEL` there, and a single step `TRAP_TRACE`.
const SI_CODE: u32 = 8;
const TRAP_BRKPT: i32 = 1;

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(0) as u32 != SIGTRAP {
        return 0;
    }
    // Instead of an address there may be 0 or 1, from where nothing can be read.
    let Some(code) = kernel::<i32>(ctx.arg(1), SI_CODE) else { return 0 };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if code == TRAP_BRKPT && selected(tgid) {
        record(PROCESS_TRAPPED, tgid, 0);
    }
    0
}
