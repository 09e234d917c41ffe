//! Where CPython keeps what: one [`Layout`] a minor version, each in a file of its own.
//!
//! Offsets are in bytes. Names are CPython's own; each table names the headers it was taken from. The tables
//! were compared with the debug information of pyenv's and Debian's builds; x86_64 and arm64 agree but for
//! what follows a mutex, which is marked. From 3.13 the interpreter's own `_Py_DebugOffsets` replace the
//! values that it has.

mod debug_offsets;
mod v3_08;
mod v3_09;
mod v3_10;
mod v3_11;
mod v3_12;
mod v3_13;
mod v3_14;
mod v3_15;

use super::memory::{MemoryError, MemorySource};

/// Defines a struct of offsets that can all be moved at once.
macro_rules! offsets {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $name {
            /// The same with a larger object header before every field.
            fn shifted(self, by: u64) -> Self {
                Self { $($field: self.$field + by,)* }
            }
        }
    };
}

offsets! {
    /// Offsets in objects other than code and frames, from the object's start.
    ObjectOffsets {
        /// `PyVarObject.ob_size`
        ob_size,
        /// `PyTypeObject.tp_name`
        tp_name,
        /// `PyTypeObject.tp_basicsize`
        tp_basicsize,
        /// `PyTypeObject.tp_itemsize`
        tp_itemsize,
        /// `PyTypeObject.tp_as_number`
        tp_as_number,
        /// `PyTypeObject.tp_as_sequence`
        tp_as_sequence,
        /// `PyTypeObject.tp_as_mapping`
        tp_as_mapping,
        /// `PyTypeObject.tp_getattro`
        tp_getattro,
        /// `PyTypeObject.tp_flags`
        tp_flags,
        /// `PyTypeObject.tp_richcompare`
        tp_richcompare,
        /// `PyTypeObject.tp_methods`
        tp_methods,
        /// `PyTypeObject.tp_members`
        tp_members,
        /// `PyTypeObject.tp_getset`
        tp_getset,
        /// `PyTypeObject.tp_dict`: 0 for static types of the interpreter since 3.12
        tp_dict,
        /// `PyTypeObject.tp_descr_get`
        tp_descr_get,
        /// `PyTypeObject.tp_descr_set`
        tp_descr_set,
        /// `PyTypeObject.tp_mro`
        tp_mro,
        /// `PyTypeObject.tp_dictoffset`
        tp_dictoffset,
        /// `PyHeapTypeObject.ht_cached_keys`
        ht_cached_keys,
        /// `PyASCIIObject.length`
        str_length,
        /// `PyASCIIObject.state`
        str_state,
        /// Where the characters of an ASCII string begin: `sizeof(PyASCIIObject)`
        str_ascii,
        /// Where those of another compact string begin, and the pointer of one that is not compact is:
        /// `sizeof(PyCompactUnicodeObject)`
        str_data,
        /// `PyLongObject.ob_size` (to 3.11) or `lv_tag`
        long_tag,
        /// `PyLongObject.ob_digit`
        long_digits,
        /// `PyFloatObject.ob_fval`, `PyComplexObject.cval`
        float_value,
        /// `PyBytesObject.ob_sval`
        bytes_data,
        /// `PyByteArrayObject.ob_start`
        bytearray_start,
        /// `PyTupleObject.ob_item`
        tuple_items,
        /// `PyListObject.ob_item`
        list_items,
        /// `PySetObject.used`
        set_used,
        /// `PySetObject.mask`
        set_mask,
        /// `PySetObject.table`
        set_table,
        /// `PyDictObject.ma_used`
        dict_used,
        /// `PyDictObject.ma_keys`
        dict_keys,
        /// `PyDictObject.ma_values`
        dict_values,
        /// `PyBaseExceptionObject.args`
        exception_args,
        /// `PyBaseExceptionObject.cause`; `context` is in front of it, `suppress_context` behind
        exception_cause,
        /// `PyFunctionObject.func_qualname`
        function_qualname,
        /// `PyFunctionObject.func_code`
        function_code,
        /// `PyMethodObject.im_func`
        method_function,
        /// `PyMethodObject.im_self`
        method_self,
        /// `PyModuleObject.md_name`
        module_name,
        /// `PyModuleObject.md_dict`
        module_dict,
        /// `PyMemberDescrObject.d_member`
        member_descriptor,
        /// `_tuplegetterobject.index`
        tuple_getter,
        /// `PyCellObject.ob_ref`
        cell_value,
        /// `PyGenObject.gi_qualname`
        generator_qualname,
        /// `dequeobject.leftblock`
        deque_left_block,
        /// `dequeobject.leftindex`
        deque_left_index,
        /// `PyDateTime_DateTime.hastzinfo`: the common head of the types of `datetime`
        datetime_has_zone,
        /// `PyDateTime_Delta.days`
        timedelta_days,
        /// `PyDecObject.dec`
        decimal,
        /// `rangeobject.start`, `PySliceObject.start`
        range_start,
        /// `partialobject.fn`
        partial_function,
    }
}

offsets! {
    /// Offsets in `PyCodeObject`.
    CodeOffsets {
        /// `co_argcount`
        argcount,
        /// `co_flags`
        flags,
        /// `co_firstlineno`
        first_line,
        /// `co_filename`
        filename,
        /// `co_name`
        name,
        /// `co_qualname` (3.11+); the same as `co_name` before
        qualname,
        /// `co_lnotab` (to 3.9), `co_linetable`
        line_table,
        /// `co_varnames` (to 3.10), `co_localsplusnames`
        local_names,
        /// `co_localspluskinds` (3.11+)
        local_kinds,
        /// `co_freevars` (to 3.10)
        free_names,
        /// `co_cellvars` (to 3.10)
        cell_names,
        /// `co_consts`
        consts,
        /// `co_code` (to 3.10), a pointer to bytes; `co_code_adaptive`, the instructions themselves
        bytecode,
    }
}

/// How a code object maps instructions to lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTable {
    /// `co_lnotab` (to 3.9)
    Lnotab,
    /// `co_linetable` of 3.10
    Ranges,
    /// `co_linetable` since 3.11
    Locations,
}

/// How a thread state leads to its newest frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurrentFrame {
    /// A pointer to the frame at this offset.
    Direct(u64),
    /// A pointer at the first offset to a `_PyCFrame`, which has the pointer at the second (3.11, 3.12).
    Cframe(u64, u64),
}

/// Where a thread state or runtime says who has the GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gil {
    /// The running thread state, at this offset of `_PyRuntime` (to 3.11).
    Runtime(u64),
    /// A pointer at this offset of the interpreter to a `_gil_runtime_state` with `last_holder` and `locked`
    /// at these offsets (3.12+).
    Interpreter {
        /// `PyInterpreterState.ceval.gil`
        pointer: u64,
        /// `last_holder`
        holder: u64,
        /// `locked`
        locked: u64,
    },
}

/// Offsets in a frame: `PyFrameObject` to 3.10, `_PyInterpreterFrame` since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameOffsets {
    /// The code object.
    pub code: u64,
    /// The caller's frame.
    pub back: u64,
    /// `f_lasti` (i32, to 3.10), `prev_instr`, `instr_ptr`
    pub instruction: u64,
    /// `owner` (3.11+)
    pub owner: Option<u64>,
    /// Owners from here on are not frames of Python code.
    pub first_shim_owner: u8,
    /// `f_globals`
    pub globals: u64,
    /// `f_builtins`
    pub builtins: u64,
    /// `f_locals`: the dict of module and class bodies
    pub locals_dict: u64,
    /// `localsplus`
    pub locals: u64,
}

/// Offsets in interpreter and thread states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateOffsets {
    /// `_PyRuntimeState.interpreters.head`
    pub interpreters_head: u64,
    /// `PyInterpreterState.next`
    pub interpreter_next: u64,
    /// `PyInterpreterState.id`
    pub interpreter_id: u64,
    /// `PyInterpreterState.threads.head`
    pub threads_head: u64,
    /// Who has the GIL.
    pub gil: Gil,
    /// `PyThreadState.next`
    pub thread_next: u64,
    /// `PyThreadState.interp`
    pub thread_interpreter: u64,
    /// The newest frame.
    pub frame: CurrentFrame,
    /// `PyThreadState.thread_id`: `pthread_self()`
    pub thread_id: u64,
    /// `PyThreadState.native_thread_id` (3.11+): `gettid()` in the process's own pid namespace
    pub native_thread_id: Option<u64>,
}

/// Offsets of what tells one task from another: in interpreter and thread states, and in `_asyncio`'s objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskOffsets {
    /// `PyInterpreterState.modules`, `imports.modules`: the dict `sys.modules`
    pub modules: u64,
    /// `PyThreadState.context`
    pub context: u64,
    /// `PyThreadState.datastack_chunk` (3.11+)
    pub chunk: Option<u64>,
    /// `_PyThreadStateImpl.asyncio_running_task` (3.14+)
    pub running_task: Option<u64>,
    /// `TaskObj.task_context`: Modules/_asynciomodule.c
    pub task_context: u64,
    /// `FutureObj.fut_callback0`
    pub future_callback: u64,
    /// `PyTypeObject.tp_init`
    pub tp_init: u64,
}

/// How the parts of a `dict` are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DictLayout {
    /// To 3.10: `dk_size`, entries of hash, key and value.
    Sized,
    /// 3.11+: `dk_log2_size`, with entries of key and value for keys that are all strings.
    Logarithmic,
}

/// Where instances keep their attributes besides `tp_dictoffset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagedDict {
    /// Nowhere (to 3.10).
    None,
    /// 3.11: values at -32, dict at -24.
    Pair,
    /// 3.12: one tagged word at -24.
    Tagged,
    /// 3.13+: dict at this many bytes before the object, or values inline behind it.
    Inline(u64),
}

/// Where one version of CPython keeps what the agent reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// `sys.version_info.minor`
    pub minor: u8,
    /// `sizeof(PyObject)`
    pub object_size: u64,
    /// `PyObject.ob_type`
    pub object_type: u64,
    /// Interpreter and thread states.
    pub state: StateOffsets,
    /// Tasks.
    pub task: TaskOffsets,
    /// Frames.
    pub frame: FrameOffsets,
    /// Code objects.
    pub code: CodeOffsets,
    /// Other objects.
    pub object: ObjectOffsets,
    /// Line tables.
    pub lines: LineTable,
    /// Dicts.
    pub dict: DictLayout,
    /// Attributes of instances.
    pub managed: ManagedDict,
    /// First bit of `kind` in `PyASCIIObject.state`.
    pub str_kind_shift: u32,
    /// Locals are `_PyStackRef` with tag bits (3.14+).
    pub tagged_locals: bool,
    /// The interpreter has no GIL.
    pub free_threaded: bool,
    /// `PyCodeObject.co_tlbc` of builds without the GIL (3.14+): each thread may run a copy of the bytecode, so that its
    /// specialised instructions are its own.
    pub copies: Option<u64>,
}

/// Why the layout of an interpreter is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No table has this version.
    #[error("Python 3.{0} is not a version whose memory layout is known (3.8 to 3.15 are)")]
    Version(u8),
    /// What the interpreter says of itself cannot be.
    #[error("the interpreter's own debug offsets are not plausible: {0}")]
    DebugOffsets(&'static str),
    /// They could not be read.
    #[error("cannot read the interpreter's debug offsets: {0}")]
    Memory(#[from] MemoryError),
}

impl Layout {
    /// The table of a minor version of the default build.
    #[must_use]
    pub fn table(minor: u8) -> Option<Self> {
        Some(match minor {
            8 => v3_08::LAYOUT,
            9 => v3_09::LAYOUT,
            10 => v3_10::LAYOUT,
            11 => v3_11::LAYOUT,
            12 => v3_12::LAYOUT,
            13 => v3_13::LAYOUT,
            14 => v3_14::LAYOUT,
            15 => v3_15::LAYOUT,
            _ => return None,
        })
    }

    /// The layout of the interpreter whose `_PyRuntime` is at `runtime`: the table of its version, and from
    /// 3.13 what the interpreter says of itself.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn of(minor: u8, memory: &dyn MemorySource, runtime: u64) -> Result<Self, LayoutError> {
        let table = Self::table(minor).ok_or(LayoutError::Version(minor))?;
        if minor < 13 { Ok(table) } else { debug_offsets::apply(table, memory, runtime) }
    }

    /// The layout of the same version built without the GIL: every object's header is larger
    /// (`object.h`, `Py_GIL_DISABLED`), and there is no GC header before objects.
    fn without_gil(self, object_size: u64, object_type: u64) -> Self {
        let by = object_size.saturating_sub(self.object_size);
        Self {
            object_size,
            object_type,
            code: self.code.shifted(by),
            object: self.object.shifted(by),
            managed: ManagedDict::Inline(8),
            str_kind_shift: if self.minor >= 14 { 8 } else { self.str_kind_shift },
            free_threaded: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_a_table() {
        for minor in 8..=15 {
            assert_eq!(Layout::table(minor).unwrap().minor, minor);
        }
        assert_eq!(Layout::table(7), None);
        assert_eq!(Layout::table(crate::discovery::interpreter::NEWEST_READ.1 + 1), None);
    }
}
