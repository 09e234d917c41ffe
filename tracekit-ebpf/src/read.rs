//! Reads of kernel and user memory at an address.

use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_user,
    generated::{bpf_probe_read_kernel as kernel_bytes, bpf_probe_read_user as user_bytes},
};

use tracekit_common::ABSENT;

/// Reads a value of kernel memory; `None` if the member is absent on this kernel or the read fails.
#[inline(always)]
pub fn kernel<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Reads a value of the process's memory.
#[inline(always)]
pub fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

/// A word of the process's memory; 0 where there is none: the helper clears what it could not read, which saves the
/// verifier a branch.
#[inline(always)]
pub fn word(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the destination has eight bytes; the helper checks the address and fails instead of faulting.
    unsafe { user_bytes((&raw mut word).cast(), 8, address as *const _) };
    word
}

/// Copies `length` bytes of kernel memory.
///
/// # Safety
/// `to` must have room for `length` bytes; the verifier checks it.
#[inline(always)]
pub unsafe fn copy_kernel(to: *mut u8, length: u32, from: u64) -> bool {
    // SAFETY: the destination is the caller's duty; the helper checks the source.
    unsafe { kernel_bytes(to.cast(), length, from as *const _) == 0 }
}

/// Copies `length` bytes of the process's memory.
///
/// # Safety
/// `to` must have room for `length` bytes; the verifier checks it.
#[inline(always)]
pub unsafe fn copy_user(to: *mut u8, length: u32, from: u64) -> bool {
    // SAFETY: the destination is the caller's duty; the helper checks the source.
    unsafe { user_bytes(to.cast(), length, from as *const _) == 0 }
}
