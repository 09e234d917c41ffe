//! Interpreters of a process and their threads.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{CurrentFrame, Gil};
use super::memory::MemorySource;
use super::reader::{ReadError, Reader};

/// Interpreters, and threads of all of them, at most.
const MAX_STATES: usize = 65_536;
/// Bytes of a C library's thread descriptor in which the thread id is looked for.
const DESCRIPTOR: usize = 2048;

/// A thread state (`PyThreadState`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadState {
    /// Where it is.
    pub address: u64,
    /// `PyInterpreterState.id`: 0 is the main interpreter.
    pub interpreter: i64,
    /// `pthread_self()`
    pub thread_id: u64,
    /// `gettid()` in the process's own pid namespace.
    pub native_id: Option<u32>,
    /// It holds the GIL; `None` if there is no GIL.
    pub holds_gil: Option<bool>,
}

/// Every thread state of the process, in the order of its lists: the newest first. `tids` are the thread ids
/// of the process in its own pid namespace: before 3.11 thread states do not have them, so they are looked
/// for in the C library's descriptors of the threads.
///
/// # Errors
/// If a list cannot be followed.
pub fn thread_states(
    reader: &Reader<'_>,
    runtime: u64,
    tids: &BTreeMap<u32, u32>,
) -> Result<Vec<ThreadState>, ReadError> {
    let state = &reader.layout.state;
    let memory = reader.memory;
    let mut found = Vec::new();
    let mut interpreter = memory.u64(runtime.wrapping_add(state.interpreters_head))?;
    for _ in 0..MAX_STATES {
        if interpreter == 0 {
            break;
        }
        let id = memory.i64(interpreter.wrapping_add(state.interpreter_id))?;
        let holder = gil_holder(reader, runtime, interpreter)?;
        let mut thread = memory.u64(interpreter.wrapping_add(state.threads_head))?;
        while thread != 0 && found.len() < MAX_STATES {
            if memory.u64(thread.wrapping_add(state.thread_interpreter))? != interpreter {
                return Err(ReadError::Invalid("thread state"));
            }
            let native = match state.native_thread_id {
                Some(offset) => u32::try_from(memory.u64(thread.wrapping_add(offset))?).ok(),
                None => None,
            };
            found.push(ThreadState {
                address: thread,
                interpreter: id,
                thread_id: memory.u64(thread.wrapping_add(state.thread_id))?,
                native_id: native.filter(|id| *id != 0),
                holds_gil: holder.map(|holder| holder == thread),
            });
            thread = memory.u64(thread.wrapping_add(state.thread_next))?;
        }
        interpreter = memory.u64(interpreter.wrapping_add(state.interpreter_next))?;
    }
    if state.native_thread_id.is_none() {
        find_native_ids(memory, tids, &mut found);
    }
    Ok(found)
}

/// The thread state that holds the GIL, 0 if none does; `None` without a GIL.
fn gil_holder(reader: &Reader<'_>, runtime: u64, interpreter: u64) -> Result<Option<u64>, ReadError> {
    if reader.layout.free_threaded {
        return Ok(None);
    }
    let memory = reader.memory;
    Ok(Some(match reader.layout.state.gil {
        Gil::Runtime(offset) => memory.u64(runtime.wrapping_add(offset))?,
        Gil::Interpreter { pointer, holder, locked } => {
            let gil = memory.u64(interpreter.wrapping_add(pointer))?;
            let is_locked = memory.i32(gil.wrapping_add(locked))? == 1;
            if is_locked { memory.u64(gil.wrapping_add(holder))? } else { 0 }
        }
    }))
}

/// The C library keeps a thread's id in its descriptor.
fn find_native_ids(memory: &dyn MemorySource, tids: &BTreeMap<u32, u32>, threads: &mut [ThreadState]) {
    let Some(offset) = native_id_offset(memory, tids, threads) else { return };
    for thread in threads {
        let id = memory.u32(thread.thread_id.wrapping_add(offset as u64)).ok();
        thread.native_id = id.filter(|id| tids.contains_key(id));
    }
}

/// Where in a thread's descriptor (to which `thread_id` points) the C library keeps the thread's id: the
/// first offset at which every descriptor has the id of a different thread of the process.
#[must_use]
pub fn native_id_offset(
    memory: &dyn MemorySource,
    tids: &BTreeMap<u32, u32>,
    threads: &[ThreadState],
) -> Option<usize> {
    // A thread that has run several interpreters has a thread state in each, and one descriptor.
    let addresses: BTreeSet<u64> = threads.iter().map(|thread| thread.thread_id).collect();
    let descriptors: Vec<Vec<u8>> = addresses
        .into_iter()
        .filter_map(|address| {
            (0..4).map(|part| DESCRIPTOR >> part).find_map(|size| memory.bytes(address, size).ok())
        })
        .collect();
    let id_at = |descriptor: &Vec<u8>, offset: usize| -> Option<u32> {
        let word = descriptor.get(offset..offset + 4)?;
        let id = u32::from_le_bytes(word.try_into().ok()?);
        tids.contains_key(&id).then_some(id)
    };
    (0..DESCRIPTOR).step_by(4).find(|offset| {
        let ids: Option<BTreeSet<u32>> = descriptors.iter().map(|found| id_at(found, *offset)).collect();
        ids.is_some_and(|ids| !ids.is_empty() && ids.len() == descriptors.len())
    })
}

/// The newest frame of a thread; 0 if it runs no Python code.
///
/// # Errors
/// If the thread state cannot be read.
pub fn newest_frame(reader: &Reader<'_>, thread: &ThreadState) -> Result<u64, ReadError> {
    let memory = reader.memory;
    Ok(match reader.layout.state.frame {
        CurrentFrame::Direct(offset) => memory.u64(thread.address.wrapping_add(offset))?,
        CurrentFrame::Cframe(offset, frame) => {
            let cframe = memory.u64(thread.address.wrapping_add(offset))?;
            if cframe == 0 { 0 } else { memory.u64(cframe.wrapping_add(frame))? }
        }
    })
}
