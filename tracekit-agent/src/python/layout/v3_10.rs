//! CPython 3.10, as far as it differs from 3.9. Sources: `Include/cpython/frameobject.h`,
//! `Include/cpython/funcobject.h`, `Include/genobject.h`, `Include/cpython/object.h`.

use super::*;

/// The layout of 3.10.
pub const LAYOUT: Layout = Layout {
    minor: 10,
    frame: FrameOffsets { instruction: 96, locals: 352, ..v3_09::LAYOUT.frame },
    task: TaskOffsets { task_context: 176, ..v3_09::LAYOUT.task },
    object: ObjectOffsets {
        ht_cached_keys: 872,
        function_qualname: 40,
        function_code: 48,
        generator_qualname: 48,
        ..v3_09::LAYOUT.object
    },
    lines: LineTable::Ranges,
    ..v3_09::LAYOUT
};
