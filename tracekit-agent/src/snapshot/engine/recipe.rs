//! What the kernel side is told of objects: where an interpreter keeps what, and how objects of a type are copied.

use tracekit_common::watchpoint::{
    BUFFER, DEQUE, DICT, HEADER, LIST, LONG, MANAGED_INLINE, MANAGED_NONE, MANAGED_PAIR, MANAGED_TAGGED,
    MAX_CHILDREN, ObjectLayout, PLAIN, Recipe, SAME_LEVEL, SET, STR, TUPLE, VARIABLE,
};

use crate::python::Layout;
use crate::python::layout::{DictLayout, ManagedDict};
use crate::python::reader::{Reader, Type, flags};

/// Bytes of an object that are copied at most; the kernel side masks to this.
const MAX_SIZE: u64 = 1024;

/// The kernel side's part of a layout; `None` if an offset is none.
#[must_use]
pub fn object_layout(layout: &Layout) -> Option<ObjectLayout> {
    let small = |offset: u64| u32::try_from(offset).ok();
    let object = &layout.object;
    let (managed, managed_dict) = match layout.managed {
        ManagedDict::None => (MANAGED_NONE, 0),
        ManagedDict::Pair => (MANAGED_PAIR, 24),
        ManagedDict::Tagged => (MANAGED_TAGGED, 24),
        ManagedDict::Inline(offset) => (MANAGED_INLINE, small(offset)?),
    };
    Some(ObjectLayout {
        slot_mask: if layout.tagged_locals || layout.free_threaded { !3 } else { !0 },
        object_type: small(layout.object_type)?,
        object_size: small(layout.object_size)?,
        frame_locals: small(layout.frame.locals)?,
        frame_locals_dict: small(layout.frame.locals_dict)?,
        // CPython `Include/cpython/frameobject.h`, `pycore_frame.h`: `f_globals` is between them to 3.10.
        frame_builtins: small(layout.frame.locals_dict.checked_sub(if layout.minor < 11 {
            16
        } else {
            8
        })?)?,
        reserved: 0,
        tp_basicsize: small(object.tp_basicsize)?,
        tp_flags: small(object.tp_flags)?,
        tp_dictoffset: small(object.tp_dictoffset)?,
        ht_cached_keys: small(object.ht_cached_keys)?,
        ob_size: small(object.ob_size)?,
        str_length: small(object.str_length)?,
        str_state: small(object.str_state)?,
        str_kind_shift: layout.str_kind_shift,
        str_ascii: small(object.str_ascii)?,
        str_data: small(object.str_data)?,
        long_tag: small(object.long_tag)?,
        long_digits: small(object.long_digits)?,
        long_tagged: u32::from(layout.minor >= 12),
        bytes_data: small(object.bytes_data)?,
        tuple_items: small(object.tuple_items)?,
        list_items: small(object.list_items)?,
        dict_keys: small(object.dict_keys)?,
        dict_values: small(object.dict_values)?,
        dict_values_head: if layout.minor >= 13 { 8 } else { 0 },
        dict_logarithmic: u32::from(layout.dict == DictLayout::Logarithmic),
        exception_args: small(object.exception_args)?,
        exception_cause: small(object.exception_cause)?,
        managed,
        managed_dict,
    })
}

/// How objects of a type are copied so that [`Decoder`](crate::python::object::Decoder) can read them; `None` if the
/// type is not one that it reads, or has what is no offset.
#[must_use]
pub fn recipe(reader: &Reader<'_>, found: &Type) -> Option<Recipe> {
    let layout = &reader.layout;
    let offsets = &layout.object;
    let small = |offset: u64| u32::try_from(offset).ok().filter(|offset| u64::from(*offset) < MAX_SIZE);
    let basic_size = u64::try_from(found.basic_size).ok()?;
    let mut made = Recipe {
        keys: 0,
        kind: PLAIN,
        size: u32::try_from(basic_size.clamp(layout.object_size, MAX_SIZE)).ok()?,
        front: 0,
        item: 1,
        count: small(offsets.ob_size)?,
        pointer: small(offsets.list_items)?,
        dict: 0,
        managed: MANAGED_NONE,
        children: [0; MAX_CHILDREN],
    };
    let mut children = Children::default();
    let is = |wanted: &str| found.native_names.iter().any(|native| native == wanted);
    // What is shown without its attributes, in the decoder's order.
    if found.has(flags::TYPE) || is("code") {
        return Some(Recipe { kind: HEADER, size: small(layout.object_size)?, ..made });
    }
    // CPython `Include/datetime.h`, counted for a header of 16 bytes: `tzinfo`; `offset` and `name` of a timezone.
    let zones: &[u64] = if is("datetime.datetime") {
        &[40]
    } else if is("datetime.time") {
        &[32]
    } else if is("datetime.timezone") {
        &[16, 24]
    } else {
        &[]
    };
    if !zones.is_empty() {
        zones.iter().for_each(|offset| children.add(offset + layout.object_size - 16, true));
        return Some(Recipe { children: children.offsets, ..made });
    }
    let name_at = if is("function") {
        Some(offsets.function_qualname)
    } else if is("method") {
        Some(offsets.method_function)
    } else if is("module") {
        Some(offsets.module_name)
    } else if is("generator") || is("coroutine") || is("async_generator") {
        Some(offsets.generator_qualname)
    } else if is("cell") {
        Some(offsets.cell_value)
    } else if ["dict_keys", "dict_values", "dict_items", "mappingproxy"].into_iter().any(is) {
        Some(layout.object_size)
    } else {
        None
    };
    if let Some(offset) = name_at {
        children.add(offset, true);
        return Some(Recipe { children: children.offsets, ..made });
    }
    let parts = if is("range") || is("slice") {
        Some((offsets.range_start, 3))
    } else if is("functools.partial") {
        Some((offsets.partial_function, 3))
    } else if is("property") {
        Some((layout.object_size, 3))
    } else if is("classmethod") || is("staticmethod") || is("weakref") || is("weakref.ReferenceType") {
        Some((layout.object_size, 1))
    } else {
        None
    };
    if let Some((start, count)) = parts {
        (0..count).for_each(|at| children.add(start + 8 * at, false));
        return Some(Recipe { children: children.offsets, ..made });
    }
    if is("float") || is("complex") || is("builtin_function_or_method") || is("NoneType") {
        return Some(Recipe { children: children.offsets, ..made });
    }
    if found.has(flags::LONG) {
        made.kind = LONG;
        made.size = small(offsets.long_digits)?;
    } else if found.has(flags::STR) {
        made.kind = STR;
        made.size = small(offsets.str_ascii)?;
    } else if found.has(flags::BYTES) {
        made.kind = VARIABLE;
        made.size = small(offsets.bytes_data)?;
    } else if found.has(flags::TUPLE) {
        made.kind = TUPLE;
        made.size = small(offsets.tuple_items)?;
    } else if found.has(flags::LIST) {
        made.kind = LIST;
    } else if is("set") || is("frozenset") {
        made.kind = SET;
        made.count = small(offsets.set_mask)?;
        made.pointer = small(offsets.set_table)?;
    } else if is("collections.deque") {
        made.kind = DEQUE;
        made.pointer = small(offsets.deque_left_block)?;
    } else if found.has(flags::DICT) {
        made.kind = DICT;
    } else if is("bytearray") {
        made.kind = BUFFER;
        made.pointer = small(offsets.bytearray_start)?;
    } else if is("array.array") {
        made.kind = BUFFER;
        made.item = 8;
        made.pointer = small(layout.object_size + 8)?;
    } else if found.has(flags::EXCEPTION) {
        children.add(offsets.exception_args, true);
        children.add(offsets.exception_cause, false);
        children.add(offsets.exception_cause - 8, false);
    }
    if made.kind == LONG
        && found.dict_offset < 0
        && !found.has(flags::MANAGED_DICT)
        && found.class_names.iter().any(|class| class == "Enum")
    {
        // To 3.11 the dict is behind the digits: where it is with one digit, which most members of enums have.
        let end = basic_size.checked_add(11)? & !7;
        made.kind = PLAIN;
        made.size = small(basic_size.checked_add(16)?)?;
        made.dict = small(end.checked_add_signed(found.dict_offset)?)?;
        return Some(made);
    }
    if matches!(made.kind, LONG | STR) {
        // Their variable part comes first; attributes of subclasses are behind, and not shown.
        if !found.class_names.iter().any(|class| class == "Enum") {
            return Some(Recipe { children: children.offsets, ..made });
        }
    }
    found.slots.iter().for_each(|(_, offset)| children.add(*offset, false));
    if let Ok(members) = reader.members(found) {
        members.iter().for_each(|(_, offset)| children.add(*offset, false));
    }
    if found.has(flags::MANAGED_DICT) {
        manage(reader, found, basic_size, &mut made)?;
    } else if found.dict_offset > 0 && found.dict_offset < found.basic_size {
        made.dict = small(found.dict_offset.cast_unsigned())?;
    }
    Some(Recipe { children: children.offsets, ..made })
}

/// Attributes that the interpreter manages.
fn manage(reader: &Reader<'_>, found: &Type, basic_size: u64, made: &mut Recipe) -> Option<()> {
    let keys = reader.memory.u64(found.address.wrapping_add(reader.layout.object.ht_cached_keys)).ok()?;
    (made.managed, made.front) = match reader.layout.managed {
        ManagedDict::None => return Some(()),
        ManagedDict::Pair => (MANAGED_PAIR, 32),
        ManagedDict::Tagged => (MANAGED_TAGGED, 24),
        ManagedDict::Inline(offset) => (MANAGED_INLINE, u32::try_from(offset).ok()?),
    };
    made.keys = keys;
    if made.managed == MANAGED_INLINE {
        if found.has(flags::INLINE_VALUES) && made.kind == PLAIN {
            // The head of the values, and they behind it.
            made.size = u32::try_from(basic_size.saturating_add(8))
                .ok()
                .filter(|size| u64::from(*size) <= MAX_SIZE)?;
        } else {
            made.keys = 0;
        }
    }
    Some(())
}

/// Offsets of pointers.
#[derive(Default, Clone, Copy)]
struct Children {
    offsets: [u16; MAX_CHILDREN],
    count: usize,
}

impl Children {
    /// Adds one, if there is room, and none there yet.
    fn add(&mut self, offset: u64, same_level: bool) {
        let Ok(offset) = u16::try_from(offset) else { return };
        if offset == 0 || u64::from(offset) >= MAX_SIZE || !offset.is_multiple_of(8) {
            return;
        }
        if self.offsets.iter().any(|known| known & !SAME_LEVEL == offset) {
            return;
        }
        if let Some(place) = self.offsets.get_mut(self.count) {
            *place = offset | if same_level { SAME_LEVEL } else { 0 };
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_layout() {
        for minor in 8..=15 {
            let layout = object_layout(&Layout::table(minor).unwrap()).unwrap();
            assert_eq!(layout.managed == MANAGED_NONE, minor < 11);
            assert_eq!(layout.long_tagged, u32::from(minor >= 12));
        }
    }

    #[test]
    fn children_are_bounded_and_unique() {
        let mut children = Children::default();
        for offset in [0, 7, 16, 16, 4096] {
            children.add(offset, false);
        }
        assert_eq!(children.count, 1);
        (0..100).for_each(|at| children.add(at * 8, true));
        assert_eq!(children.count, MAX_CHILDREN);
    }
}
