//! CPython 3.13, as far as it differs from 3.12. Sources: `Include/internal/pycore_frame.h`,
//! `pycore_interp.h`, `pycore_runtime.h`, `pycore_dict.h`, `Include/cpython/code.h`, `pystate.h`.

use super::*;

/// The layout of 3.13; its debug offsets replace what they have.
pub const LAYOUT: Layout = Layout {
    minor: 13,
    state: StateOffsets {
        interpreters_head: 632,
        interpreter_next: 7264,
        interpreter_id: 7272,
        threads_head: 7344,
        gil: Gil::Interpreter { pointer: 16, holder: 8, locked: 16 },
        frame: CurrentFrame::Direct(72),
        thread_id: 152,
        native_thread_id: Some(160),
        ..v3_12::LAYOUT.state
    },
    task: TaskOffsets { modules: 7656, task_context: 136, ..v3_12::LAYOUT.task },
    code: CodeOffsets { bytecode: 200, ..v3_12::LAYOUT.code },
    managed: ManagedDict::Inline(24),
    ..v3_12::LAYOUT
};
