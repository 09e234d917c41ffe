//! CPython 3.9, as far as it differs from 3.8. Sources: `Include/internal/pycore_interp.h`,
//! `pycore_runtime.h`, `Include/cpython/object.h`.

use super::*;

/// The layout of 3.9.
pub const LAYOUT: Layout = Layout {
    minor: 9,
    state: StateOffsets {
        interpreter_id: 24,
        // Behind a mutex and two conditions.
        gil: Gil::Runtime(if cfg!(target_arch = "aarch64") { 584 } else { 568 }),
        ..v3_08::LAYOUT.state
    },
    task: TaskOffsets { modules: 856, task_context: 168, ..v3_08::LAYOUT.task },
    object: ObjectOffsets { ht_cached_keys: 864, ..v3_08::LAYOUT.object },
    ..v3_08::LAYOUT
};
