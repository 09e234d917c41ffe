//! Objects that an interpreter has once: `None`, the bools, and the types of numbers and strings.

use std::time::Duration;

use tracekit_common::watchpoint::Known;

use crate::python::frame::Frame;
use crate::python::object::access::Objects;
use crate::python::object::budget::Budget;
use crate::python::reader::{Reader, flags};
use crate::python::runtime::Target;

/// Frames in which the builtins are looked for.
const MAX_FRAMES: usize = 64;

/// Finds them in the builtins of a frame that runs; `None` if there is no frame, or if they are not what they should be.
pub fn find(target: &Target) -> Option<Known> {
    let reader = target.reader().ok()?;
    let stacks = target.stacks(&reader, None, |_, _| true).ok()?;
    let mut frames = stacks.iter().flat_map(|thread| &thread.stack.frames).take(MAX_FRAMES);
    frames.find_map(|frame| of_frame(&reader, frame))
}

/// What code of the process puts among its builtins is none of it: types and objects of the interpreter itself are told by
/// their flags and names.
fn of_frame(reader: &Reader<'_>, frame: &Frame) -> Option<Known> {
    let budget = Budget::new(10_000, Duration::from_millis(100));
    let objects = Objects::new(reader, &budget);
    // 3.14 tags some of a frame's references.
    let builtins = reader.memory.u64(frame.address.wrapping_add(reader.layout.frame.builtins)).ok()? & !3;
    let object = |name: &str| objects.dict_entry(builtins, name).ok().flatten();
    let is_type = |address: u64, name: &str| {
        reader.type_at(address).is_ok_and(|found| !found.has(flags::HEAP_TYPE) && found.full_name == name)
    };
    let singleton = |name: &str, kind: &str| {
        object(name).filter(|address| reader.type_address(*address).is_ok_and(|of| is_type(of, kind)))
    };
    let kind = |name: &str, flag: u64| {
        object(name).filter(|address| {
            is_type(*address, name)
                && reader.type_at(*address).is_ok_and(|found| flag == 0 || found.has(flag))
        })
    };
    let known = Known {
        none: singleton("None", "NoneType")?,
        truth: singleton("True", "bool")?,
        falsehood: singleton("False", "bool")?,
        int: kind("int", flags::LONG)?,
        float: kind("float", 0)?,
        text: kind("str", flags::STR)?,
    };
    let digit = |object: u64| reader.memory.u32(object.wrapping_add(reader.layout.object.long_digits)).ok();
    (digit(known.truth) == Some(1) && digit(known.falsehood) == Some(0)).then_some(known)
}
