//! CPython 3.12, as far as it differs from 3.11. Sources: `Include/internal/pycore_frame.h`,
//! `pycore_interp.h`, `pycore_gil.h`, `Include/cpython/code.h`, `pystate.h`, `unicodeobject.h`.

use super::*;

/// The layout of 3.12.
pub const LAYOUT: Layout = Layout {
    minor: 12,
    state: StateOffsets {
        interpreter_id: 8,
        threads_head: 72,
        gil: Gil::Interpreter { pointer: 384, holder: 8, locked: 16 },
        frame: CurrentFrame::Cframe(56, 0),
        thread_id: 136,
        native_thread_id: Some(144),
        ..v3_11::LAYOUT.state
    },
    task: TaskOffsets { modules: 944, context: 208, chunk: Some(232), ..v3_11::LAYOUT.task },
    frame: FrameOffsets {
        code: 0,
        back: 8,
        owner: Some(70),
        globals: 24,
        builtins: 32,
        locals_dict: 40,
        ..v3_11::LAYOUT.frame
    },
    code: CodeOffsets { argcount: 52, first_line: 68, bytecode: 192, ..v3_11::LAYOUT.code },
    object: ObjectOffsets {
        ht_cached_keys: 880,
        str_ascii: 40,
        str_data: 56,
        generator_qualname: 32,
        ..v3_11::LAYOUT.object
    },
    managed: ManagedDict::Tagged,
    ..v3_11::LAYOUT
};
