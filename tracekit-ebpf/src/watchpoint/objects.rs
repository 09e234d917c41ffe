//! How objects are copied: by the recipe of their type. A type without one gets one made of what its `tp_flags` say;
//! the user side, which knows more, replaces it later.

use tracekit_common::watchpoint::{
    BUFFER, DEQUE, DICT, HEADER, LIST, LONG, MANAGED_INLINE, MANAGED_NONE, MANAGED_PAIR, MANAGED_TAGGED,
    MAX_CHILDREN, MAX_COPY, ObjectLayout, PLAIN, Recipe, SAME_LEVEL, SET, STR, TUPLE, TypeKey, VARIABLE,
};

use super::image::{copy_range, extend_range, push, push_part, push_words, word, work};
use crate::{maps::RECIPES, read::user};

/// `tp_flags`: CPython `Include/object.h`
const INLINE_VALUES: u64 = 1 << 2;
const MANAGED: u64 = 1 << 4;
const READY: u64 = 1 << 12;
const IS_LONG: u64 = 1 << 24;
const IS_LIST: u64 = 1 << 25;
const IS_TUPLE: u64 = 1 << 26;
const IS_BYTES: u64 = 1 << 27;
const IS_STR: u64 = 1 << 28;
const IS_DICT: u64 = 1 << 29;
const IS_EXCEPTION: u64 = 1 << 30;
const IS_TYPE: u64 = 1 << 31;

/// Bytes of an object without variable part at most.
const MAX_SIZE: u64 = 1024;
/// An object of up to so many bytes may have nothing but pointers: cells, ranges, slices, methods.
const SMALL: u64 = 48;
/// Attributes of split tables: CPython `SHARED_KEYS_MAX_SIZE`.
const MAX_VALUES: u64 = 30;
/// Bytes of `PyDictKeysObject` before its indices: `Sized`, `Logarithmic`.
const KEYS_SIZED: u64 = 40;
const KEYS_LOGARITHMIC: u64 = 32;
/// Entries of a set's table that are looked at.
const MAX_TABLE: u64 = 255;
/// Bytes of a block of a deque: link, 64 objects, link.
const DEQUE_BLOCK: u64 = 66 * 8;

#[inline(always)]
fn least(one: u64, other: u64) -> u64 {
    if one < other { one } else { other }
}

/// Copies an object on a level, and pushes what it leads to if that is not too deep.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_object(address: u64, level: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let Some(layout) = work.layout() else { return 0 };
    let Some(kind) = user::<u64>(address + u64::from(layout.object_type)) else { return 0 };
    if find_recipe(kind) == 0 {
        return 0;
    }
    let recipe = &work.recipe;
    let (front, size) = (u64::from(recipe.front) & 63, u64::from(recipe.size) & (MAX_SIZE * 2 - 1));
    let start = copy_range(address - front, front + size);
    if start == 0 {
        return 0;
    }
    let body = start + front;
    let rest = variable(body);
    let items = if rest == 0 || extend_range(address + size, rest) == 0 { 0 } else { rest / 8 };
    if recipe.kind == STR {
        return copy_text(body);
    }
    if level > work.depth {
        return copy_children(body, level);
    }
    let recipe = &work.recipe;
    match recipe.kind {
        TUPLE => drop_result(push_words(body + size, items, 8, level + 1, !0)),
        LIST | SET | DEQUE | BUFFER => drop_result(copy_items(body, level)),
        DICT => drop_result(copy_dict(body, level)),
        _ => {}
    }
    if recipe.dict != 0 {
        push_part(word(body + u64::from(recipe.dict)), level);
    }
    if recipe.managed != MANAGED_NONE {
        copy_attributes(address, body, level);
    }
    copy_children(body, level)
}

/// The result is of no interest; whoever is called says in the image what went wrong.
#[inline(always)]
fn drop_result(_: u32) {}

/// Bytes that follow the fixed size of the object whose fixed bytes are at `body` of the image.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn variable(body: u64) -> u64 {
    let Some(work) = work() else { return 0 };
    let Some(layout) = work.layout() else { return 0 };
    let recipe = &work.recipe;
    match recipe.kind {
        VARIABLE => least(word(body + u64::from(recipe.count)), work.text) * u64::from(recipe.item),
        TUPLE => least(word(body + u64::from(layout.ob_size)), work.items) * 8,
        LONG => {
            let tag = word(body + u64::from(layout.long_tag));
            let digits = if layout.long_tagged != 0 {
                tag >> 3
            } else if tag >> 63 != 0 {
                tag.wrapping_neg()
            } else {
                tag
            };
            least(digits, 512) * 4
        }
        STR => {
            let state = word(body + (u64::from(layout.str_state) & !7));
            let state = state >> ((layout.str_state & 4) * 8) >> (layout.str_kind_shift & 31);
            let length = least(word(body + u64::from(layout.str_length)), work.text) * (state & 7);
            let (compact, ascii) = (state & 8 != 0, state & 16 != 0);
            if compact && ascii {
                length
            } else if compact {
                u64::from(layout.str_data - layout.str_ascii) + length
            } else {
                u64::from(layout.str_data - layout.str_ascii) + 8
            }
        }
        _ => 0,
    }
}

/// The characters of a string that is not compact (an instance of a subclass), of which there is a pointer to them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_text(body: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let Some(layout) = work.layout() else { return 0 };
    let state = word(body + (u64::from(layout.str_state) & !7));
    let state = state >> ((layout.str_state & 4) * 8) >> (layout.str_kind_shift & 31);
    if state & 8 != 0 {
        return 1;
    }
    let length = least(word(body + u64::from(layout.str_length)), work.text) * (state & 7);
    copy_range(word(body + u64::from(layout.str_data)), length) as u32
}

/// Objects that are not in the container itself: of a list, a set, a deque; and bytes of a buffer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_items(body: u64, level: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let recipe = &work.recipe;
    let count = word(body + u64::from(recipe.count));
    let mut at = word(body + u64::from(recipe.pointer));
    if recipe.kind == BUFFER {
        let length = least(count, work.text) * u64::from(recipe.item);
        return copy_range(at, least(length, MAX_COPY.into())) as u32;
    }
    if recipe.kind == DEQUE {
        // Two blocks have at least 66 objects, and on the average 97.
        for _ in 0..2 {
            let block = copy_range(at, DEQUE_BLOCK);
            if block == 0 {
                break;
            }
            push_words(block + 8, 64, 8, level + 1, !0);
            at = word(block + DEQUE_BLOCK - 8);
        }
        return 1;
    }
    if recipe.kind == SET {
        let count = least(count.wrapping_add(1), MAX_TABLE);
        let entries = copy_range(at, count * 16);
        return if entries == 0 { 0 } else { push_words(entries, count, 16, level + 1, !0) };
    }
    let count = least(count, work.items);
    let items = copy_range(at, count * 8);
    if items == 0 { 0 } else { push_words(items, count, 8, level + 1, !0) }
}

/// The keys and values of a dict.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_dict(body: u64, level: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let Some(layout) = work.layout() else { return 0 };
    let keys = word(body + u64::from(layout.dict_keys));
    let values = word(body + u64::from(layout.dict_values));
    let logarithmic = layout.dict_logarithmic != 0;
    let head = copy_range(keys, if logarithmic { KEYS_LOGARITHMIC } else { KEYS_SIZED });
    if head == 0 {
        return 0;
    }
    let (entries, count, wide) = if logarithmic {
        let sizes = word(head + 8);
        let (index_bytes, kind) = ((sizes >> 8) & 63, (sizes >> 16) & 255);
        (keys + KEYS_LOGARITHMIC + (1 << index_bytes), word(head + 24), kind == 0)
    } else {
        let size = word(head + 8);
        let width = if size <= 0xff {
            1
        } else if size <= 0xffff {
            2
        } else {
            4
        };
        (keys + KEYS_SIZED + size * width, word(head + 32), true)
    };
    let count = least(count, work.items);
    let entries = copy_range(entries, count * if wide { 24 } else { 16 });
    if entries == 0 {
        return 0;
    }
    if wide {
        push_words(entries + 8, count, 24, level + 1, !0);
        push_words(entries + 16, count, 24, level + 1, !0);
    } else {
        push_words(entries, count * 2, 8, level + 1, !0);
    }
    if values != 0 {
        copy_values(values + u64::from(layout.dict_values_head), count, level);
    }
    1
}

/// The values of a split table. No function of its own: no more than eight may be in one another.
#[inline(always)]
fn copy_values(values: u64, count: u64, level: u64) -> u32 {
    let count = least(count, MAX_VALUES);
    let at = copy_range(values, count * 8);
    if at == 0 { 0 } else { push_words(at, count, 8, level + 1, !0) }
}

/// The attributes of an instance that the interpreter manages.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_attributes(address: u64, body: u64, level: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let Some(layout) = work.layout() else { return 0 };
    let recipe = &work.recipe;
    // The word in front, and the one in front of that.
    let mut dict = word(body - u64::from(layout.managed_dict));
    let mut values = 0;
    if recipe.managed == MANAGED_PAIR {
        values = word(body - u64::from(layout.managed_dict) - 8);
    } else if recipe.managed == MANAGED_TAGGED && dict & 1 != 0 {
        values = dict + 1;
        dict = 0;
    } else if recipe.managed == MANAGED_INLINE && recipe.keys != 0 {
        values = address + u64::from(recipe.size);
    }
    if dict != 0 {
        return push_part(dict, level);
    }
    if values == 0 || recipe.keys == 0 {
        return 0;
    }
    let Some(count) = user::<u64>(recipe.keys + 24) else { return 0 };
    copy_values(values, count, level)
}

/// Other pointers in the object. Those to what is on the same level are followed on any.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_children(body: u64, level: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    for at in 0..MAX_CHILDREN {
        let child = u64::from(work.recipe.children[at]);
        if child == 0 {
            break;
        }
        let object = word(body + (child & !7));
        if child & u64::from(SAME_LEVEL) != 0 {
            push_part(object, level);
        } else if level <= work.depth {
            push(object, level + 1);
        }
    }
    1
}

/// Finds or makes the recipe of a type. 0 if it is no type.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_recipe(address: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let key = TypeKey { address, tgid: work.tgid as u32, reserved: 0 };
    // SAFETY: a value that is replaced meanwhile is of the same type; all of it is masked before use.
    if let Some(known) = unsafe { RECIPES.get(&key) } {
        work.recipe = *known;
        return 1;
    }
    let Some(layout) = work.layout() else { return 0 };
    if make_recipe(layout, address, &mut work.recipe).is_none() {
        return 0;
    }
    let _ = RECIPES.insert(&key, &work.recipe, 0);
    1
}

#[inline(always)]
fn make_recipe(layout: &ObjectLayout, address: u64, recipe: &mut Recipe) -> Option<()> {
    let flags: u64 = user(address + u64::from(layout.tp_flags))?;
    let size: u64 = user(address + u64::from(layout.tp_basicsize))?;
    if flags & READY == 0 || address & 7 != 0 || size < layout.object_size.into() || size > 1 << 20 {
        return None;
    }
    let dict: i64 = user(address + u64::from(layout.tp_dictoffset))?;
    let size = least(size, MAX_SIZE);
    recipe.keys = 0;
    recipe.kind = PLAIN;
    recipe.size = size as u32;
    recipe.front = 0;
    recipe.item = 1;
    recipe.count = layout.ob_size;
    recipe.pointer = layout.list_items;
    recipe.dict = 0;
    recipe.managed = MANAGED_NONE;
    for at in 0..MAX_CHILDREN {
        // SAFETY: within the array; volatile, so that it becomes no call of a function.
        unsafe { (&raw mut recipe.children[at]).write_volatile(0) };
    }
    if flags & IS_LONG != 0 {
        recipe.kind = LONG;
        recipe.size = layout.long_digits;
    } else if flags & IS_STR != 0 {
        recipe.kind = STR;
        recipe.size = layout.str_ascii;
    } else if flags & IS_BYTES != 0 {
        recipe.kind = VARIABLE;
        recipe.size = layout.bytes_data;
    } else if flags & IS_TUPLE != 0 {
        recipe.kind = TUPLE;
        recipe.size = layout.tuple_items;
    } else if flags & IS_LIST != 0 {
        recipe.kind = LIST;
    } else if flags & IS_DICT != 0 {
        recipe.kind = DICT;
    } else if flags & IS_TYPE != 0 {
        recipe.kind = HEADER;
        recipe.size = layout.object_size;
        return Some(());
    } else if flags & IS_EXCEPTION != 0 {
        recipe.children[0] = layout.exception_args as u16 | SAME_LEVEL;
        recipe.children[1] = layout.exception_cause as u16;
        recipe.children[2] = layout.exception_cause as u16 - 8;
    } else if size <= SMALL && flags & MANAGED == 0 && dict == 0 {
        for at in 0..3 {
            let child = layout.object_size as u64 + 8 * at as u64;
            recipe.children[at] = if child + 8 <= size { child as u16 } else { 0 };
        }
    }
    if flags & MANAGED != 0 {
        recipe.managed = layout.managed;
        recipe.front = layout.managed_dict;
        if layout.managed == MANAGED_PAIR {
            recipe.front += 8;
        }
        recipe.keys = user(address + u64::from(layout.ht_cached_keys)).unwrap_or(0);
        if layout.managed == MANAGED_INLINE {
            if flags & INLINE_VALUES == 0 {
                recipe.keys = 0;
            } else {
                // The values' head, and they behind it.
                recipe.size = (size + 8) as u32;
            }
        }
    } else if dict > 0 && dict < size as i64 {
        recipe.dict = dict as u32;
    }
    Some(())
}
