//! Conditions of breakpoints: whether a hit is of interest is decided on the process's own memory, before anything is
//! copied.
//!
//! A condition is a chain of comparisons of local variables with literals. Only objects of Python's own types are
//! compared, which are told by their type's address; at any other the answer is left to the user side.

use tracekit_common::watchpoint::{
    Condition, EQUAL, GREATER, IDENTITY, INFINITY, LESS, MAX_LITERAL, MAX_STEPS, MAX_WORDS, NO_FLOAT, NONE,
    NUMBER, OTHER, ObjectLayout, Step, TEXT, TRUTH, UNDECIDED, float_order,
};

use super::scratch;
use crate::{
    bounds::{advanced, bounded},
    maps::{CONDITIONS, LAYOUTS},
    read::{copy_user, user},
};

const STEP_MASK: i32 = ((MAX_STEPS - 1) * size_of::<Step>()) as i32;
const WORD_MASK: i32 = ((MAX_WORDS - 1) * 8) as i32;
const TEXT_MASK: i32 = 2 * MAX_LITERAL as i32 - 1;
/// In a processor's room, where the record is put together later: which step is next, and behind it a text.
const TEXT_AT: usize = 64;

/// How a condition ends: `MET`, `UNMET`; anything else is not known.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide(condition: u64, frame: u64, layout: u64) -> u32 {
    let Some(room) = scratch() else { return UNDECIDED.into() };
    let next = room.cast::<u64>();
    // SAFETY: the room is larger and aligned; volatile, so that it is the same to all turns for the verifier.
    unsafe { next.write_volatile(0) };
    for _ in 0..MAX_STEPS {
        // SAFETY: as above.
        let at = unsafe { next.read_volatile() };
        if at >= MAX_STEPS as u64 {
            break;
        }
        let after = step(condition, at, frame, layout);
        // SAFETY: as above.
        unsafe { next.write_volatile(after.into()) };
    }
    // SAFETY: as above.
    unsafe { next.read_volatile() as u32 }
}

/// What follows a step.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step(condition: u64, at: u64, frame: u64, layout: u64) -> u32 {
    let Some(all) = CONDITIONS.get(condition as u32) else { return UNDECIDED.into() };
    let Some(layout) = LAYOUTS.get(layout as u32) else { return UNDECIDED.into() };
    let first = (&raw const all.steps).cast::<u8>().cast_mut();
    // SAFETY: the offset is masked to the steps, and a multiple of their size.
    let step = unsafe { &*advanced::<STEP_MASK>(first, at * size_of::<Step>() as u64).cast::<Step>() };
    let Some(outcome) = compare(all, step, layout, condition, frame) else { return UNDECIDED.into() };
    // Between values that have no order only equality is known.
    let equality = step.accepted == EQUAL || step.accepted == LESS | GREATER | OTHER;
    if outcome == UNEQUAL && !equality {
        return UNDECIDED.into();
    }
    let outcome = if outcome == UNEQUAL { OTHER } else { outcome };
    if step.accepted & outcome != 0 { step.then.into() } else { step.otherwise.into() }
}

/// Unequal, because of different kinds.
const UNEQUAL: u8 = 16;

#[inline(always)]
fn compare(all: &Condition, step: &Step, layout: &ObjectLayout, condition: u64, frame: u64) -> Option<u8> {
    let slot = frame + u64::from(layout.frame_locals) + 8 * u64::from(step.slot);
    let object = user::<u64>(slot)? & layout.slot_mask;
    if object == 0 {
        return None;
    }
    let known = &all.known;
    if step.operand == IDENTITY {
        return Some(if object == step.integer { EQUAL } else { OTHER });
    }
    if object == known.none {
        let equal = step.operand == NONE || step.operand == TRUTH;
        return Some(if equal { EQUAL } else { UNEQUAL });
    }
    if object == known.truth || object == known.falsehood {
        return with_integer(step, i64::from(object == known.truth));
    }
    let kind: u64 = user(object + u64::from(layout.object_type))?;
    if kind == known.int {
        return with_integer(step, integer(layout, object)?);
    }
    if kind == known.float {
        return with_float(step, user(object + u64::from(layout.object_size))?);
    }
    if kind == known.text {
        return with_text(step, layout, condition, object);
    }
    None
}

#[inline(always)]
fn order(a: i64, b: i64) -> u8 {
    if a < b {
        LESS
    } else if a > b {
        GREATER
    } else {
        EQUAL
    }
}

#[inline(always)]
fn with_integer(step: &Step, value: i64) -> Option<u8> {
    Some(match step.operand {
        NUMBER => match order(value, step.integer as i64) {
            EQUAL if step.length != 0 => LESS,
            order => order,
        },
        TRUTH => order(value, 0),
        _ => UNEQUAL,
    })
}

#[inline(always)]
fn with_float(step: &Step, bits: u64) -> Option<u8> {
    let wanted = match step.operand {
        NUMBER => step.float,
        TRUTH => 0,
        _ => return Some(UNEQUAL),
    };
    if wanted == NO_FLOAT {
        return None;
    }
    if bits & i64::MAX as u64 > INFINITY {
        // Of nothing is it less or greater, nor is it equal.
        return Some(OTHER);
    }
    Some(order(float_order(bits), wanted as i64))
}

#[inline(always)]
fn with_text(step: &Step, layout: &ObjectLayout, condition: u64, object: u64) -> Option<u8> {
    if step.operand != TEXT && step.operand != TRUTH {
        return Some(UNEQUAL);
    }
    // Kind, and whether it is compact and of ASCII: `PyASCIIObject.state`.
    let state: u64 = user(object + u64::from(layout.str_state & !7))?;
    let state = state >> ((layout.str_state & 4) * 8) >> (layout.str_kind_shift & 31);
    let length: u64 = user(object + u64::from(layout.str_length))?;
    if state & 8 == 0 {
        return None;
    }
    if step.operand == TRUTH {
        return Some(if length == 0 { EQUAL } else { OTHER });
    }
    // As `unicode_eq` of CPython: length, kind, and bytes.
    if length != u64::from(step.length) || state & 7 != 1 {
        return Some(UNEQUAL);
    }
    if state & 16 == 0 {
        return None;
    }
    match same_text(condition, step.text.into(), length, object + u64::from(layout.str_ascii)) {
        0 => Some(UNEQUAL),
        1 => Some(EQUAL),
        _ => None,
    }
}

/// The value of an `int`; of one of more than 60 bits only that it is more than any that it is compared with.
#[inline(always)]
fn integer(layout: &ObjectLayout, object: u64) -> Option<i64> {
    let tag: u64 = user(object + u64::from(layout.long_tag))?;
    let (count, negative) = if layout.long_tagged != 0 {
        (tag >> 3, tag & 3 == 2)
    } else if tag >> 63 != 0 {
        (tag.wrapping_neg(), true)
    } else {
        (tag, false)
    };
    let digits = object + u64::from(layout.long_digits);
    let mut value = 0;
    if count > 2 {
        value = i64::MAX as u64;
    } else if count != 0 {
        value = user::<u32>(digits)?.into();
        if count == 2 {
            value |= u64::from(user::<u32>(digits + 4)?) << 30;
        }
    }
    Some(if negative { -(value as i64) } else { value as i64 })
}

/// Whether the process has a condition's text at an address: 1, 0, and 2 if it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn same_text(condition: u64, at: u64, length: u64, address: u64) -> u32 {
    let Some(all) = CONDITIONS.get(condition as u32) else { return 2 };
    let Some(room) = scratch() else { return 2 };
    if length > MAX_LITERAL as u64 {
        return 2;
    }
    // SAFETY: the room is larger, the place is aligned.
    let text = unsafe { room.add(TEXT_AT) };
    for word in 0..MAX_LITERAL / 8 {
        // SAFETY: as above; volatile, so that it becomes no call of a function.
        unsafe { text.cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: there is room for any masked length.
    if length != 0 && !unsafe { copy_user(text, bounded::<TEXT_MASK>(length), address) } {
        return 2;
    }
    let words = (&raw const all.words).cast::<u8>().cast_mut();
    let mut differs = 0;
    for word in 0..(MAX_LITERAL / 8) as u64 {
        if word * 8 >= length {
            break;
        }
        let wanted = advanced::<WORD_MASK>(words, (at + word) * 8).cast::<u64>();
        // SAFETY: the offset is masked to the words; the text is in the room.
        differs |= unsafe { wanted.read_volatile() ^ text.cast::<u64>().add(word as usize).read_volatile() };
    }
    u32::from(differs == 0)
}
