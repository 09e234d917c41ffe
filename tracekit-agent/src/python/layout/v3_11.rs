//! CPython 3.11, as far as it differs from 3.10. Sources: `Include/internal/pycore_frame.h`,
//! `pycore_interp.h`, `pycore_runtime.h`, `pycore_dict.h`, `Include/cpython/code.h`, `pyerrors.h`, `pystate.h`.

use super::*;

/// The layout of 3.11.
pub const LAYOUT: Layout = Layout {
    minor: 11,
    state: StateOffsets {
        interpreters_head: 40,
        interpreter_id: 48,
        threads_head: 16,
        // Behind a mutex and two conditions.
        gil: Gil::Runtime(if cfg!(target_arch = "aarch64") { 592 } else { 576 }),
        frame: CurrentFrame::Cframe(56, 8),
        thread_id: 152,
        native_thread_id: Some(160),
        ..v3_10::LAYOUT.state
    },
    task: TaskOffsets {
        modules: 888,
        context: 224,
        chunk: Some(296),
        task_context: 152,
        ..v3_10::LAYOUT.task
    },
    frame: FrameOffsets {
        code: 32,
        back: 48,
        instruction: 56,
        owner: Some(69),
        first_shim_owner: 3,
        globals: 8,
        builtins: 16,
        locals_dict: 24,
        locals: 72,
    },
    code: CodeOffsets {
        argcount: 56,
        flags: 48,
        first_line: 72,
        filename: 112,
        name: 120,
        qualname: 128,
        line_table: 136,
        local_names: 96,
        local_kinds: 104,
        free_names: 0,
        cell_names: 0,
        consts: 24,
        bytecode: 184,
    },
    object: ObjectOffsets { exception_cause: 56, generator_qualname: 40, ..v3_10::LAYOUT.object },
    lines: LineTable::Locations,
    dict: DictLayout::Logarithmic,
    managed: ManagedDict::Pair,
    ..v3_10::LAYOUT
};
