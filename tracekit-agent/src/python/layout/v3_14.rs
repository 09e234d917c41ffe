//! CPython 3.14, as far as it differs from 3.13. Sources: `Include/internal/pycore_interpframe_structs.h`,
//! `pycore_stackref.h`, `Include/cpython/code.h`, `tupleobject.h`.

use super::*;

/// The layout of 3.14; its debug offsets replace what they have.
pub const LAYOUT: Layout = Layout {
    minor: 14,
    state: StateOffsets {
        interpreters_head: 808,
        interpreter_next: 7272,
        interpreter_id: 7280,
        ..v3_13::LAYOUT.state
    },
    // `_PyThreadStateImpl`: four words behind `PyThreadState` is the running loop, then the running task.
    task: TaskOffsets { modules: 7688, running_task: Some(872), task_context: 144, ..v3_13::LAYOUT.task },
    frame: FrameOffsets { owner: Some(74), locals: 80, ..v3_13::LAYOUT.frame },
    code: CodeOffsets { bytecode: 208, ..v3_13::LAYOUT.code },
    object: ObjectOffsets { tuple_items: 32, ..v3_13::LAYOUT.object },
    tagged_locals: true,
    ..v3_13::LAYOUT
};
