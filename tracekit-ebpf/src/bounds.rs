//! Sizes and offsets that every verifier believes.

use core::arch::asm;

/// The value, masked where the verifier sees it: the compiler knows the value's bounds and would leave the
/// mask out, but verifiers before 5.13 lose them on the way through 32-bit comparisons and the stack. In
/// assembly, so that the compiler neither drops it nor moves it away from its use.
#[inline(always)]
pub fn bounded<const MASK: i32>(mut value: u64) -> u32 {
    // SAFETY: changes nothing but its operand.
    unsafe {
        asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK, options(nomem, nostack))
    };
    value as u32
}

/// `base` advanced by `value`, masked: in one piece, because a pointer keeps its bounds on the stack and a
/// number does not.
#[inline(always)]
pub fn advanced<const MASK: i32>(mut base: *mut u8, value: u64) -> *mut u8 {
    // SAFETY: changes nothing but its operands.
    unsafe {
        asm!(
            "{value} &= {mask}",
            "{base} += {value}",
            value = inout(reg) value => _,
            base = inout(reg) base,
            mask = const MASK,
            options(nomem, nostack)
        );
    }
    base
}
