//! Where a thread keeps the greenlet that it runs.
//!
//! `greenlet` (2.0+) has one variable in each thread (`thread_local ThreadStateCreator g_thread_state_global`):
//! a pointer to a `ThreadState`, whose first members are the greenlet with which the thread began and the one that it
//! runs. Which of the C library's modules that is, and where in its variables, is found by looking for just that: at the
//! first address lies an object of the very type `greenlet`.

use std::collections::BTreeMap;

use tracekit_common::actor::THREAD_TABLE;

use super::memory::MemorySource as _;
use super::reader::Reader;
use super::runtime::Target;
use super::thread::thread_states;

/// Threads that are looked at, of each the modules with local variables, and of each of those the words.
const MAX_THREADS: usize = 32;
const MAX_MODULES: u64 = 256;
const WORDS: u64 = 8;
/// Bytes of an element of the table: `dtv_t` of glibc has a pointer and what is to be freed, musl only the pointer.
const ELEMENTS: [u64; 2] = [16, 8];

/// Where the table of a thread's local variables has those of `greenlet`, and where they have the pointer, in bytes;
/// `None` while no thread has used a greenlet, and where the C library is laid out in another way (not x86-64).
#[must_use]
pub fn place(reader: &Reader<'_>, target: &Target, greenlet: u64) -> Option<(u32, u32)> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let threads = thread_states(reader, target.runtime, &BTreeMap::new()).ok()?;
    // The first thread, which is the last in the list, is the one that has greenlets in most programs.
    threads.iter().rev().take(MAX_THREADS).find_map(|thread| in_thread(target, thread.thread_id, greenlet))
}

fn in_thread(target: &Target, descriptor: u64, greenlet: u64) -> Option<(u32, u32)> {
    let word = |address: u64| target.memory.u64(address).ok();
    let table = word(descriptor.wrapping_add(THREAD_TABLE))?;
    // `dtv[-1]` of glibc, `dtv[0]` of musl: how many there are.
    let counts = [word(table.wrapping_sub(16)), word(table)];
    for (element, count) in ELEMENTS.into_iter().zip(counts) {
        for module in 1..=count.unwrap_or(0).min(MAX_MODULES) {
            let Some(variables) = word(table.wrapping_add(module * element)) else { continue };
            for slot in (0..WORDS).map(|index| index * 8) {
                let Some(state) = word(variables.wrapping_add(slot)) else { break };
                let first = word(state).filter(|first| *first != 0);
                let kind = first.and_then(|first| word(first.wrapping_add(target.layout.object_type)));
                if kind == Some(greenlet) && word(state.wrapping_add(8)).is_some_and(|current| current != 0) {
                    return Some((u32::try_from(module * element).ok()?, u32::try_from(slot).ok()?));
                }
            }
        }
    }
    None
}
