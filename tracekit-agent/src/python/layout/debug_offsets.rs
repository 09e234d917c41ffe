//! `_Py_DebugOffsets`: what an interpreter since 3.13 says of its own layout, at the start of `_PyRuntime`.
//!
//! Source: `Include/internal/pycore_debug_offsets.h` (3.14+), `pycore_runtime.h` (3.13). It is an array of
//! u64 behind an eight-byte cookie, in groups; the groups only grow from version to version.

use super::*;

const COOKIE: &[u8] = b"xdebugpy";
/// No struct that is read is larger; `PyInterpreterState` has 380 KiB in 3.12.
const MAX_STATE: u64 = 4 << 20;
/// Nor any offset in an object, a frame or a thread state.
const MAX_OBJECT: u64 = 4096;

type Fields = &'static [&'static str];
type Group = (&'static str, Fields, Fields, Fields);

/// The groups of 3.13, 3.14 and 3.15: name, fields in 3.13, those that 3.14 adds, those that 3.15 adds.
/// A field with `>` goes behind the field named before the sign.
const GROUPS: &[Group] = &[
    ("head", &["cookie", "version", "free_threaded"], &[], &[]),
    ("runtime", &["size", "finalizing", "interpreters_head"], &[], &[]),
    (
        "interpreter",
        &[
            "size",
            "id",
            "next",
            "threads_head",
            "gc",
            "modules",
            "sysdict",
            "builtins",
            "gil",
            "gil_state",
            "gil_enabled",
            "gil_locked",
            "gil_holder",
        ],
        &["threads_head>threads_main", "gil_holder>code_generation", "code_generation>tlbc_generation"],
        &[],
    ),
    (
        "thread",
        &["size", "prev", "next", "interp", "frame", "thread_id", "native_thread_id", "chunk", "status"],
        &[],
        &[
            "frame>base_frame",
            "base_frame>last_profiled",
            "last_profiled>last_profiled_seq",
            "status>holds_gil",
            "holds_gil>gil_requested",
            "gil_requested>current_exception",
            "current_exception>exc_state",
        ],
    ),
    ("exception_item", &[], &[], &[">value"]),
    (
        "frame",
        &["size", "back", "code", "instruction", "locals", "owner"],
        &["owner>stackpointer", "stackpointer>tlbc"],
        &[],
    ),
    (
        "code",
        &[
            "size",
            "filename",
            "name",
            "qualname",
            "line_table",
            "first_line",
            "argcount",
            "local_names",
            "local_kinds",
            "bytecode",
        ],
        &["bytecode>tlbc"],
        &[],
    ),
    ("object", &["size", "type"], &[], &[]),
    ("type", &["size", "name", "repr", "flags"], &[], &["flags>basicsize", "basicsize>dictoffset"]),
    ("heap_type", &[], &[], &[">size", "size>cached_keys"]),
    ("tuple", &["size", "items", "count"], &[], &[]),
    ("list", &["size", "items", "count"], &[], &[]),
    ("set", &[], &[">size", "size>used", "used>table", "table>mask"], &[]),
    ("dict", &["size", "keys", "values"], &[], &[]),
    ("float", &["size", "value"], &[], &[]),
    ("long", &["size", "tag", "digits"], &[], &[]),
    ("bytes", &["size", "count", "data"], &[], &[]),
    ("str", &["size", "state", "length", "ascii_size"], &[], &["ascii_size>compact_size"]),
];

/// The names of the fields in their order.
fn names(minor: u8) -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    for (group, oldest, in_14, in_15) in GROUPS {
        let mut fields: Vec<&'static str> = oldest.to_vec();
        let newer = [(14, in_14), (15, in_15)];
        for added in newer.iter().filter(|(since, _)| minor >= *since).flat_map(|(_, added)| added.iter()) {
            let (after, name) = added.split_once('>').unwrap_or(("", added));
            let at = fields.iter().position(|field| *field == after).map_or(0, |at| at + 1);
            fields.insert(at, name);
        }
        all.extend(fields.into_iter().map(|field| (*group, field)));
    }
    all
}

struct Offsets {
    names: Vec<(&'static str, &'static str)>,
    values: Vec<u64>,
}

impl Offsets {
    /// A field's value, at most `limit`.
    fn get(&self, group: &str, field: &str, limit: u64) -> Result<u64, LayoutError> {
        let at = self.names.iter().position(|name| *name == (group, field));
        let value = at.and_then(|at| self.values.get(at)).copied();
        value.filter(|value| *value <= limit).ok_or(LayoutError::DebugOffsets("an offset is out of bounds"))
    }
}

/// Puts what the interpreter says of itself into the table of its version.
pub fn apply(table: Layout, memory: &dyn MemorySource, runtime: u64) -> Result<Layout, LayoutError> {
    if memory.bytes(runtime, COOKIE.len())? != COOKIE {
        return Err(LayoutError::DebugOffsets("they do not begin with their cookie"));
    }
    let names = names(table.minor);
    let values = memory.words(runtime, names.len())?;
    let offsets = Offsets { names, values };
    if offsets.get("head", "version", u64::from(u32::MAX))? >> 16 != 0x300 | u64::from(table.minor) {
        return Err(LayoutError::DebugOffsets("they are of another version"));
    }
    let object = |group: &str, field: &str| offsets.get(group, field, MAX_OBJECT);
    let state = |group: &str, field: &str| offsets.get(group, field, MAX_STATE);
    let base = if offsets.get("head", "free_threaded", 1)? == 1 {
        table.without_gil(object("object", "size")?, object("object", "type")?)
    } else {
        table
    };
    let gil_state = state("interpreter", "gil_state")?;
    let below_gil = |field| {
        let value = state("interpreter", field)?;
        value
            .checked_sub(gil_state)
            .filter(|offset| *offset < 64)
            .ok_or(LayoutError::DebugOffsets("the GIL's fields are not in it"))
    };
    let copies = if base.free_threaded && base.minor >= 14 { Some(object("code", "tlbc")?) } else { None };
    let layout = Layout {
        copies,
        object_size: object("object", "size")?,
        object_type: object("object", "type")?,
        state: StateOffsets {
            interpreters_head: state("runtime", "interpreters_head")?,
            interpreter_next: state("interpreter", "next")?,
            interpreter_id: state("interpreter", "id")?,
            threads_head: state("interpreter", "threads_head")?,
            gil: Gil::Interpreter {
                pointer: state("interpreter", "gil")?,
                holder: below_gil("gil_holder")?,
                locked: below_gil("gil_locked")?,
            },
            thread_next: object("thread", "next")?,
            thread_interpreter: object("thread", "interp")?,
            frame: CurrentFrame::Direct(object("thread", "frame")?),
            thread_id: object("thread", "thread_id")?,
            native_thread_id: Some(object("thread", "native_thread_id")?),
        },
        task: TaskOffsets {
            modules: state("interpreter", "modules")?,
            chunk: Some(object("thread", "chunk")?),
            running_task: match base.minor {
                // `PyThreadState` has grown in patch releases, and `_PyThreadStateImpl` with it.
                14 => Some(object("thread", "size")? + 40),
                _ => base.task.running_task,
            },
            ..base.task
        },
        frame: FrameOffsets {
            code: object("frame", "code")?,
            back: object("frame", "back")?,
            instruction: object("frame", "instruction")?,
            owner: Some(object("frame", "owner")?),
            locals: object("frame", "locals")?,
            ..base.frame
        },
        code: CodeOffsets {
            argcount: object("code", "argcount")?,
            first_line: object("code", "first_line")?,
            filename: object("code", "filename")?,
            name: object("code", "name")?,
            qualname: object("code", "qualname")?,
            line_table: object("code", "line_table")?,
            local_names: object("code", "local_names")?,
            local_kinds: object("code", "local_kinds")?,
            bytecode: object("code", "bytecode")?,
            ..base.code
        },
        object: ObjectOffsets {
            tp_name: object("type", "name")?,
            tp_flags: object("type", "flags")?,
            tuple_items: object("tuple", "items")?,
            list_items: object("list", "items")?,
            dict_keys: object("dict", "keys")?,
            dict_values: object("dict", "values")?,
            float_value: object("float", "value")?,
            long_tag: object("long", "tag")?,
            long_digits: object("long", "digits")?,
            bytes_data: object("bytes", "data")?,
            str_state: object("str", "state")?,
            str_length: object("str", "length")?,
            str_ascii: object("str", "ascii_size")?,
            ..base.object
        },
        ..base
    };
    if !matches!((layout.object_size, layout.object_type), (16, 8) | (32, 24)) {
        return Err(LayoutError::DebugOffsets("the header of objects has an unknown size"));
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::super::memory::Image;
    use super::*;

    #[test]
    fn the_groups_have_the_sizes_of_the_headers() {
        // `sizeof(_Py_DebugOffsets)` without the groups behind `unicode_object`: 3.13 568, 3.14 648, 3.15 752.
        assert_eq!([13, 14, 15].map(|minor| names(minor).len() * 8), [568, 648, 752]);
    }

    /// What the headers of builds say that are not to be had: see `offsets.c` beside the texts.
    fn from_headers(minor: u8, text: &str) {
        let mut said = HashMap::new();
        let mut words: Vec<u8> = Vec::new();
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap();
            match name {
                "debug_offsets" => {
                    words = value.split(' ').flat_map(|w| w.parse::<u64>().unwrap().to_le_bytes()).collect()
                }
                _ => drop(said.insert(name, value.parse::<u64>().unwrap())),
            }
        }
        let memory = Image::new(vec![(4096, words)]);
        let layout = Layout::of(minor, &memory, 4096).unwrap();
        let CurrentFrame::Direct(frame) = layout.state.frame else { panic!("{:?}", layout.state.frame) };
        let ManagedDict::Inline(managed) = layout.managed else { panic!("{:?}", layout.managed) };
        let copies = layout.copies.unwrap();
        let (object, code, state) = (layout.object, layout.code, layout.state);
        let shift = u64::from(layout.str_kind_shift);
        let has = [
            ("object_size", layout.object_size),
            ("object_type", layout.object_type),
            ("ob_size", object.ob_size),
            ("tp_name", object.tp_name),
            ("tp_basicsize", object.tp_basicsize),
            ("tp_itemsize", object.tp_itemsize),
            ("tp_flags", object.tp_flags),
            ("tp_members", object.tp_members),
            ("tp_mro", object.tp_mro),
            ("tp_dictoffset", object.tp_dictoffset),
            ("ht_cached_keys", object.ht_cached_keys),
            ("str_length", object.str_length),
            ("str_state", object.str_state),
            ("str_ascii", object.str_ascii),
            ("str_data", object.str_data),
            ("str_kind_shift", shift),
            ("str_compact", shift + 3),
            ("str_is_ascii", shift + 4),
            ("long_tag", object.long_tag),
            ("long_digits", object.long_digits),
            ("float_value", object.float_value),
            ("bytes_data", object.bytes_data),
            ("bytearray_start", object.bytearray_start),
            ("tuple_items", object.tuple_items),
            ("list_items", object.list_items),
            ("set_used", object.set_used),
            ("set_mask", object.set_mask),
            ("set_table", object.set_table),
            ("dict_used", object.dict_used),
            ("dict_keys", object.dict_keys),
            ("dict_values", object.dict_values),
            ("managed_dict", managed),
            ("exception_args", object.exception_args),
            ("exception_cause", object.exception_cause),
            ("function_qualname", object.function_qualname),
            ("function_code", object.function_code),
            ("method_function", object.method_function),
            ("method_self", object.method_self),
            ("module_name", object.module_name),
            ("cell_value", object.cell_value),
            ("generator_qualname", object.generator_qualname),
            ("datetime_has_zone", object.datetime_has_zone),
            ("timedelta_days", object.timedelta_days),
            ("range_start", object.range_start),
            ("code.argcount", code.argcount),
            ("code.flags", code.flags),
            ("code.first_line", code.first_line),
            ("code.filename", code.filename),
            ("code.name", code.name),
            ("code.qualname", code.qualname),
            ("code.line_table", code.line_table),
            ("code.local_names", code.local_names),
            ("code.local_kinds", code.local_kinds),
            ("code.consts", code.consts),
            ("code.bytecode", code.bytecode),
            ("code.copies", copies),
            ("copies.entries", 8),
            ("frame.code", layout.frame.code),
            ("frame.back", layout.frame.back),
            ("frame.instruction", layout.frame.instruction),
            ("frame.owner", layout.frame.owner.unwrap()),
            ("frame.locals_dict", layout.frame.locals_dict),
            ("frame.locals", layout.frame.locals),
            ("state.interpreters_head", state.interpreters_head),
            ("state.interpreter_next", state.interpreter_next),
            ("state.interpreter_id", state.interpreter_id),
            ("state.threads_head", state.threads_head),
            ("state.thread_next", state.thread_next),
            ("state.thread_interpreter", state.thread_interpreter),
            ("state.frame", frame),
            ("state.thread_id", state.thread_id),
            ("state.native_thread_id", state.native_thread_id.unwrap()),
            // What the decoders count from the header themselves.
            ("keys.index_bytes", 9),
            ("keys.kind", 10),
            ("keys.count", 24),
            ("keys.indices", 32),
            ("weakref.object", layout.object_size),
            ("builtin.definition", layout.object_size),
            ("descriptor.type", layout.object_size),
            ("descriptor.name", layout.object_size + 8),
            ("memoryview.view", layout.object_size + 40),
            ("memoryview.flags", layout.object_size + 24),
            ("datetime.tzinfo", layout.object_size + 24),
            ("time.tzinfo", layout.object_size + 16),
        ];
        for (name, offset) in has {
            assert_eq!(said.remove(name), Some(offset), "{name} of 3.{minor}t");
        }
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn free_threaded_builds_as_their_headers_say() {
        from_headers(14, include_str!("../../../tests/layouts/3.14t.txt"));
        from_headers(15, include_str!("../../../tests/layouts/3.15t.txt"));
    }

    #[test]
    fn nonsense_is_refused() {
        let table = Layout::table(13).unwrap();
        let refused = |bytes: Vec<u8>| apply(table, &Image::new(vec![(64, bytes)]), 64).unwrap_err();
        assert!(matches!(refused(vec![1; 1000]), LayoutError::DebugOffsets(_)));
        let mut bytes = vec![0xff; 1000];
        bytes[..8].copy_from_slice(COOKIE);
        bytes[8..16].copy_from_slice(&0x030d_00f0_u64.to_le_bytes());
        assert!(matches!(refused(bytes.clone()), LayoutError::DebugOffsets(_)));
        bytes.truncate(100);
        assert!(matches!(refused(bytes), LayoutError::Memory(_)));
    }
}
