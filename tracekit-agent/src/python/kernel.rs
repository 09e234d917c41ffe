//! What the kernel side is told of an interpreter.

use std::collections::BTreeMap;

use tracekit_common::ABSENT;
use tracekit_common::python::{FRAME_BYTES, ID_IN_DESCRIPTOR, Python};

use super::layout::CurrentFrame;
use super::memory::MemorySource as _;
use super::reader::Reader;
use super::runtime::Target;
use super::thread::{native_id_offset, thread_states};

/// The interpreter of a process as the kernel side needs it; `None` while it is starting: there is no thread
/// with a stack yet.
#[must_use]
pub fn describe(target: &Target) -> Option<Python> {
    let layout = &target.layout;
    let (state, frame) = (&layout.state, &layout.frame);
    target.memory.forget();
    let reader = Reader::new(&target.memory, *layout);
    // Where thread states say their threads' ids, nobody else need be asked.
    let tids = if state.native_thread_id.is_some() { BTreeMap::new() } else { target.thread_ids() };
    let threads = thread_states(&reader, target.runtime, &tids).ok()?;
    let main_interpreter = main_interpreter(target)?;
    let (native_id, in_descriptor) = match state.native_thread_id {
        Some(offset) => (small(offset)?, 0),
        None => (small(native_id_offset(&target.memory, &tids, &threads)? as u64)?, ID_IN_DESCRIPTOR),
    };
    let (newest, cframe_frame) = match state.frame {
        CurrentFrame::Direct(offset) => (offset, ABSENT),
        CurrentFrame::Cframe(offset, frame) => (offset, small(frame)?),
    };
    let ends =
        [frame.code + 8, frame.back + 8, frame.instruction + 8, frame.owner.map_or(0, |owner| owner + 1)];
    let frame_size = ends.into_iter().max().unwrap_or(0);
    if frame_size > FRAME_BYTES as u64 {
        return None;
    }
    Some(Python {
        runtime: target.runtime,
        main_interpreter,
        interpreters_head: small(state.interpreters_head)?,
        interpreter_next: small(state.interpreter_next)?,
        threads_head: small(state.threads_head)?,
        thread_next: small(state.thread_next)?,
        thread_id: small(state.thread_id)?,
        native_id,
        frame: small(newest)?,
        cframe_frame,
        frame_size: small(frame_size)?,
        frame_code: small(frame.code)?,
        frame_back: small(frame.back)?,
        frame_instruction: small(frame.instruction)?,
        frame_owner: small(frame.owner.unwrap_or(0))?,
        first_shim_owner: if frame.owner.is_some() { frame.first_shim_owner.into() } else { u32::MAX },
        flags: in_descriptor,
        family: target.pid,
        code_mask: if layout.tagged_locals { !3 } else { !0 },
    })
}

/// The last in the list of interpreters: each new one is put before the others.
pub(super) fn main_interpreter(target: &Target) -> Option<u64> {
    let state = &target.layout.state;
    let mut interpreter = target.memory.u64(target.runtime.wrapping_add(state.interpreters_head)).ok()?;
    for _ in 0..MAX_INTERPRETERS {
        let next = target.memory.u64(interpreter.wrapping_add(state.interpreter_next)).ok()?;
        if next == 0 {
            return Some(interpreter);
        }
        interpreter = next;
    }
    None
}

/// Interpreters of a process at most.
const MAX_INTERPRETERS: usize = 4096;

pub(super) fn small(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|offset| *offset != ABSENT)
}
