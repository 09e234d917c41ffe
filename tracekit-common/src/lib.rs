//! What the kernel side and the user side of tracekit share: event records, map keys and values, and
//! the codes that both know.
//!
//! Everything is `repr(C)` without implicit padding, so that a record is the same bytes on both sides.

#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod actor;
pub mod event;
pub mod http;
pub mod map;
pub mod propagate;
pub mod python;
pub mod syscall;
pub mod watchpoint;

/// An offset of what this kernel, or this version of CPython, does not have: leave out what needs it.
pub const ABSENT: u32 = u32::MAX;
