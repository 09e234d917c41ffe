/* Prints what the headers of CPython 3.14 and newer say of layouts, for builds that are not to be had: the names are
 * those of tracekit's `Layout`, `debug_offsets` is what `_PyRuntime` begins with. The outputs are beside this file.
 *
 *   gcc -w -DPy_GIL_DISABLED=1 -I$include -I$include/internal offsets.c -o offsets && ./offsets > 3.14t.txt
 *
 * with the headers of libpython3.14-dev (Debian sid, 3.14.10) and libpython3.15-dev (3.15.2). */
#define Py_BUILD_CORE 1
#include <Python.h>

#include <stddef.h>
#include <stdio.h>

#include "internal/pycore_code.h"
#include "internal/pycore_debug_offsets.h"
#include "internal/pycore_descrobject.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_genobject.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_interpframe_structs.h"
#include "internal/pycore_long.h"
#include "internal/pycore_moduleobject.h"
#include "internal/pycore_runtime.h"
#include "internal/pycore_unicodeobject.h"

#include "datetime.h"

#define SAY(name, type, field) printf(name " %zu\n", offsetof(type, field))

static _Py_DebugOffsets debug_offsets = _Py_DebugOffsets_INIT("xdebugpy");

/* Number of the first bit that `set` sets in the state of a string. */
#define STATE_BIT(name, field)                                                                 \
    do {                                                                                       \
        union { PyASCIIObject text; unsigned char bytes[sizeof(PyASCIIObject)]; } string = {0}; \
        unsigned word;                                                                         \
        string.text.state.field = 1;                                                           \
        memcpy(&word, string.bytes + offsetof(PyASCIIObject, state), 4);                       \
        printf(name " %d\n", __builtin_ctz(word));                                             \
    } while (0)

int main(void) {
    const unsigned long long *words = (const unsigned long long *)&debug_offsets;
    printf("debug_offsets");
    for (size_t at = 0; at < sizeof debug_offsets / 8; at++) {
        printf(" %llu", words[at]);
    }
    printf("\nobject_size %zu\n", sizeof(PyObject));
    SAY("object_type", PyObject, ob_type);
    SAY("ob_size", PyVarObject, ob_size);
    SAY("tp_name", PyTypeObject, tp_name);
    SAY("tp_basicsize", PyTypeObject, tp_basicsize);
    SAY("tp_itemsize", PyTypeObject, tp_itemsize);
    SAY("tp_flags", PyTypeObject, tp_flags);
    SAY("tp_members", PyTypeObject, tp_members);
    SAY("tp_mro", PyTypeObject, tp_mro);
    SAY("tp_dictoffset", PyTypeObject, tp_dictoffset);
    SAY("ht_cached_keys", PyHeapTypeObject, ht_cached_keys);
    SAY("str_length", PyASCIIObject, length);
    SAY("str_state", PyASCIIObject, state);
    printf("str_ascii %zu\nstr_data %zu\n", sizeof(PyASCIIObject), sizeof(PyCompactUnicodeObject));
    STATE_BIT("str_kind_shift", kind);
    STATE_BIT("str_compact", compact);
    STATE_BIT("str_is_ascii", ascii);
    SAY("long_tag", PyLongObject, long_value.lv_tag);
    SAY("long_digits", PyLongObject, long_value.ob_digit);
    SAY("float_value", PyFloatObject, ob_fval);
    SAY("bytes_data", PyBytesObject, ob_sval);
    SAY("bytearray_start", PyByteArrayObject, ob_start);
    SAY("tuple_items", PyTupleObject, ob_item);
    SAY("list_items", PyListObject, ob_item);
    SAY("set_used", PySetObject, used);
    SAY("set_mask", PySetObject, mask);
    SAY("set_table", PySetObject, table);
    SAY("dict_used", PyDictObject, ma_used);
    SAY("dict_keys", PyDictObject, ma_keys);
    SAY("dict_values", PyDictObject, ma_values);
    printf("managed_dict %d\n", -(int)MANAGED_DICT_OFFSET);
    SAY("exception_args", PyBaseExceptionObject, args);
    SAY("exception_cause", PyBaseExceptionObject, cause);
    SAY("function_qualname", PyFunctionObject, func_qualname);
    SAY("function_code", PyFunctionObject, func_code);
    SAY("method_function", PyMethodObject, im_func);
    SAY("method_self", PyMethodObject, im_self);
    SAY("module_name", PyModuleObject, md_name);
    SAY("cell_value", PyCellObject, ob_ref);
    SAY("generator_qualname", PyGenObject, gi_qualname);
    SAY("datetime_has_zone", PyDateTime_DateTime, hastzinfo);
    SAY("timedelta_days", PyDateTime_Delta, days);
    SAY("range_start", PySliceObject, start);
    SAY("code.argcount", PyCodeObject, co_argcount);
    SAY("code.flags", PyCodeObject, co_flags);
    SAY("code.first_line", PyCodeObject, co_firstlineno);
    SAY("code.filename", PyCodeObject, co_filename);
    SAY("code.name", PyCodeObject, co_name);
    SAY("code.qualname", PyCodeObject, co_qualname);
    SAY("code.line_table", PyCodeObject, co_linetable);
    SAY("code.local_names", PyCodeObject, co_localsplusnames);
    SAY("code.local_kinds", PyCodeObject, co_localspluskinds);
    SAY("code.consts", PyCodeObject, co_consts);
    SAY("code.bytecode", PyCodeObject, co_code_adaptive);
#ifdef Py_GIL_DISABLED
    SAY("code.copies", PyCodeObject, co_tlbc);
    SAY("copies.entries", _PyCodeArray, entries);
#endif
    SAY("frame.code", _PyInterpreterFrame, f_executable);
    SAY("frame.back", _PyInterpreterFrame, previous);
    SAY("frame.instruction", _PyInterpreterFrame, instr_ptr);
    SAY("frame.owner", _PyInterpreterFrame, owner);
    SAY("frame.locals_dict", _PyInterpreterFrame, f_locals);
    SAY("frame.locals", _PyInterpreterFrame, localsplus);
    SAY("state.interpreters_head", _PyRuntimeState, interpreters.head);
    SAY("state.interpreter_next", PyInterpreterState, next);
    SAY("state.interpreter_id", PyInterpreterState, id);
    SAY("state.threads_head", PyInterpreterState, threads.head);
    SAY("state.thread_next", PyThreadState, next);
    SAY("state.thread_interpreter", PyThreadState, interp);
    SAY("state.frame", PyThreadState, current_frame);
    SAY("state.thread_id", PyThreadState, thread_id);
    SAY("state.native_thread_id", PyThreadState, native_thread_id);
    SAY("keys.index_bytes", PyDictKeysObject, dk_log2_index_bytes);
    SAY("keys.kind", PyDictKeysObject, dk_kind);
    SAY("keys.count", PyDictKeysObject, dk_nentries);
    SAY("keys.indices", PyDictKeysObject, dk_indices);
    SAY("weakref.object", PyWeakReference, wr_object);
    SAY("builtin.definition", PyCFunctionObject, m_ml);
    SAY("descriptor.type", PyDescrObject, d_type);
    SAY("descriptor.name", PyDescrObject, d_name);
    SAY("memoryview.view", PyMemoryViewObject, view);
    SAY("memoryview.flags", PyMemoryViewObject, flags);
    SAY("datetime.tzinfo", PyDateTime_DateTime, tzinfo);
    SAY("time.tzinfo", PyDateTime_Time, tzinfo);
}
