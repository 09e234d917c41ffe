//! CPython 3.15, as far as it differs from 3.14. Sources: `Include/cpython/object.h`, `pystate.h`,
//! `Include/internal/pycore_moduleobject.h`.

use super::*;

/// The layout of 3.15; its debug offsets replace what they have.
pub const LAYOUT: Layout = Layout {
    minor: 15,
    state: StateOffsets {
        interpreters_head: 936,
        interpreter_next: 7264,
        interpreter_id: 7272,
        threads_head: 7336,
        thread_id: 176,
        native_thread_id: Some(184),
        ..v3_14::LAYOUT.state
    },
    task: TaskOffsets {
        modules: 7592,
        context: 232,
        chunk: Some(256),
        running_task: Some(1032),
        ..v3_14::LAYOUT.task
    },
    object: ObjectOffsets { ht_cached_keys: 888, module_name: 40, ..v3_14::LAYOUT.object },
    ..v3_14::LAYOUT
};
