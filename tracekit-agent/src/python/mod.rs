//! Reads a CPython from outside: threads, frames, objects, code objects; 3.8 to 3.15.
//!
//! `memory` is where bytes come from; `layout` says where CPython keeps what; `runtime` finds the interpreter
//! in a process; `reader` turns addresses into strings, types and code objects (`evidence` tells whether those
//! that it remembers still hold); `thread` and `frame` walk the stacks; `object` decodes values; `dump` puts
//! stacks and variables together; `code` enumerates code objects; `kernel` tells the kernel side what it needs
//! to walk stacks itself, `actors` and `greenlets` what it needs to tell who acts, and `stack` resolves what it reports; `sdk` finds a tracer of the
//! process's own, and `library` what of a stack is whose (`modules` looks through `sys.modules` for both).
//! Nothing is written to the process and nothing stops it, so whatever is read may be about to change: types and bounds are checked, everything of a dump is read
//! twice, `rest` tells which threads ran meanwhile, and what does not hold is marked, not believed.

pub mod actors;
pub mod code;
pub mod dump;
pub mod evidence;
pub mod frame;
mod greenlets;
#[cfg(test)]
pub(crate) mod hostile;
pub mod kernel;
pub mod layout;
pub mod library;
pub mod line_table;
pub mod memory;
pub mod modules;
pub mod object;
pub mod reader;
pub mod rest;
pub mod runtime;
pub mod sdk;
pub mod stack;
pub mod thread;

pub use layout::Layout;
pub use memory::{LiveProcess, MemoryError, MemorySource};
pub use reader::{ReadError, Reader};
pub use runtime::{AttachError, Target};
