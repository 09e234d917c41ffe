//! Kernel side of tracekit.
//!
//! Five raw tracepoints; nothing here writes to a process, overrides a return value or sends a signal:
//! * `sys_enter`, `sys_exit`: what selected processes send and receive on stream sockets ([`socket`]),
//!   and the Python stacks from which they do ([`stack`], [`python`]);
//! * `sched_process_fork`, `sched_process_exec`, `sched_process_exit`: which processes are selected
//!   ([`process`]);
//! * probes on functions of C modules of the interpreter, for who acts ([`actor`], [`greenlet`]).
//!
//! And a perf event program on hardware watchpoints: lines at which there is a breakpoint ([`watchpoint`]).
//!
//! Kernel structures are read with `bpf_probe_read_kernel` at offsets that the user side takes from the
//! running kernel's BTF ([`layout`]). Programs must pass the verifier of Linux 5.10: constant loop
//! bounds, no `bpf_loop`, 512 bytes of stack.

#![no_std]
#![no_main]
// Stable for the architectures that the standard library has; for BPF not yet.
#![feature(asm_experimental_arch)]

mod actor;
mod bounds;
mod capture;
mod greenlet;
mod layout;
mod maps;
mod process;
#[cfg(feature = "propagate")]
mod propagate;
mod python;
mod read;
mod socket;
mod stack;
mod syscall;
mod waiter;
mod watchpoint;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
