//! From where a thread waits for events: if it runs an event loop, what stands there has only started that.

use tracekit_common::python::Frame;

use crate::{
    actor::current_task,
    maps::{PYTHONS, WAITERS},
    read::word,
};

/// The thread is about to wait for events; `frame` is its newest one. A task that waits is no event loop.
///
/// A function of its own for the verifier's sake: see [`crate::stack::report_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_waiter(tgid: u32, tid: u32, state: u64, frame: u64) -> u32 {
    // SAFETY: the value is not removed while this runs; one that is replaced is of the same process.
    let Some(python) = (unsafe { PYTHONS.get(&tgid) }) else { return 0 };
    let now = Frame {
        code: word(frame + u64::from(python.frame_code)) & python.code_mask,
        instruction: word(frame + u64::from(python.frame_instruction)),
    };
    // SAFETY: only this thread uses its entry.
    if let Some(known) = unsafe { WAITERS.get(&tid) }
        && known.code == now.code
        && known.instruction == now.instruction
    {
        return 0;
    }
    if current_task(tgid, state) == 0 {
        let _ = WAITERS.insert(&tid, &now, 0);
    }
    1
}
