//! The stack of a thread: frames, their lines and their local variables.

use std::rc::Rc;

use super::layout::{Layout, LineTable};
use super::memory::{MemorySource, Use};
use super::reader::{Code, LocalKind, ReadError, Reader, bytecodes};

/// Frames of one stack at most; Python's own limit is 1000 unless raised.
pub const MAX_FRAMES: usize = 2048;
/// Frames that are passed over (trampolines between C and Python) at most.
const MAX_SHIMS: usize = 2048;

/// A frame of Python code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it is.
    pub address: u64,
    /// What it runs.
    pub code: Rc<Code>,
    /// The line it is in; `None` if the instruction belongs to none.
    pub line: Option<i32>,
    /// Offset of the instruction in the bytecode.
    pub offset: Option<u32>,
}

/// A local variable: its name and the address of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// The object.
    pub object: u64,
}

/// How far a walk came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more frames, if the walk did not come to the end.
    pub broken: Option<String>,
}

/// Walks the stack from a frame outwards. What cannot be understood ends the walk, with the reason.
#[must_use]
pub fn walk(reader: &Reader<'_>, newest: u64) -> Stack {
    let mut stack = Stack::default();
    let mut at = newest;
    let mut shims = 0;
    while at != 0 {
        if stack.frames.len() >= MAX_FRAMES || shims > MAX_SHIMS {
            stack.broken = Some(format!("more than {MAX_FRAMES} frames"));
            break;
        }
        match step(reader, at) {
            Ok((frame, back)) => {
                match frame {
                    Some(frame) => stack.frames.push(frame),
                    None => shims += 1,
                }
                at = back;
            }
            Err(error) => {
                stack.broken = Some(error.to_string());
                break;
            }
        }
    }
    stack
}

/// A frame's code object, if it is a frame of Python code, and the caller's frame.
fn link(reader: &Reader<'_>, at: u64) -> Result<(Option<u64>, u64), ReadError> {
    let layout = &reader.layout;
    let memory = reader.memory;
    let back = memory.u64(at.wrapping_add(layout.frame.back))?;
    if let Some(owner) = layout.frame.owner
        && memory.u8(at.wrapping_add(owner))? >= layout.frame.first_shim_owner
    {
        return Ok((None, back));
    }
    let code = memory.u64(at.wrapping_add(layout.frame.code))? & if layout.tagged_locals { !3 } else { !0 };
    Ok((Some(code), back))
}

fn step(reader: &Reader<'_>, at: u64) -> Result<(Option<Frame>, u64), ReadError> {
    let (code, back) = link(reader, at)?;
    let Some(code) = code else { return Ok((None, back)) };
    let code = reader.code(code)?;
    let offset = instruction(reader, at, &code)?;
    // Before its first instruction a frame is at its first line.
    let line = match offset {
        Some(offset) => code.line_at(offset).or(if offset == 0 { Some(code.first_line) } else { None }),
        None => None,
    };
    Ok((Some(Frame { address: at, code, line, offset }), back))
}

/// How many frames, counted from the outermost, a stack still has: the same frames of the same code, called by
/// the same frames. The second value says that it has no others and is at the same instructions.
#[must_use]
pub fn still_there(reader: &Reader<'_>, newest: u64, stack: &Stack) -> (usize, bool) {
    let mut now = Vec::new();
    let mut at = newest;
    for _ in 0..MAX_FRAMES + MAX_SHIMS {
        if at == 0 {
            break;
        }
        let Ok((code, back)) = link(reader, at) else { return (0, false) };
        now.extend(code.map(|code| (at, code)));
        at = back;
    }
    let both = stack.frames.iter().rev().zip(now.iter().rev());
    let same = both.take_while(|(frame, now)| (frame.address, frame.code.address) == **now).count();
    let all = same == stack.frames.len() && same == now.len();
    let is_still = |frame: &Frame| {
        instruction(reader, frame.address, &frame.code).is_ok_and(|offset| offset == frame.offset)
    };
    (same, all && stack.frames.iter().all(is_still))
}

/// Offset of the current instruction; `None` if it is not in the code object.
fn instruction(reader: &Reader<'_>, at: u64, code: &Code) -> Result<Option<u32>, ReadError> {
    let layout = &reader.layout;
    let field = at.wrapping_add(layout.frame.instruction);
    let raw = match layout.lines {
        LineTable::Lnotab | LineTable::Ranges => u64::from(reader.memory.u32(field)?),
        LineTable::Locations => reader.memory.u64(field)?,
    };
    Ok(instruction_offset(reader.memory, layout, code, raw))
}

/// Offset in bytes of the instruction that a frame's field (`f_lasti`, in the lower half; `prev_instr`,
/// `instr_ptr`) stands for; `None` if it is not in the code object.
#[must_use]
pub fn instruction_offset(memory: &dyn MemorySource, layout: &Layout, code: &Code, raw: u64) -> Option<u32> {
    let offset = match layout.lines {
        // `f_lasti` counts bytes to 3.9 and code units in 3.10; negative before the start.
        LineTable::Lnotab => i64::from(raw as i32).max(0),
        LineTable::Ranges => i64::from(raw as i32).max(0).saturating_mul(2),
        LineTable::Locations => {
            let within = |start: u64| {
                let offset = raw.wrapping_sub(start).cast_signed();
                // `prev_instr` is one unit before the start of a frame that has not begun.
                if offset == -2 { 0 } else { offset }
            };
            let is_in = |offset: &i64| (0..i64::from(code.length)).contains(offset);
            let own = within(code.bytecode);
            // Without a GIL the thread may run a copy.
            if !is_in(&own) && layout.copies.is_some() {
                let copies = bytecodes(memory, layout, code).ok()?;
                copies.into_iter().filter(|start| *start != 0).map(within).find(is_in).unwrap_or(own)
            } else {
                own
            }
        }
    };
    u32::try_from(offset).ok().filter(|offset| *offset < code.length)
}

/// The local variables of a frame that have a value, in the order of the code object. For a module's or
/// class's body this is empty: its variables are in [`locals_dict`].
///
/// # Errors
/// If the frame cannot be read.
pub fn locals(reader: &Reader<'_>, frame: &Frame) -> Result<Vec<Local>, ReadError> {
    let mut found = Vec::new();
    each_local(reader, frame, |name, object| found.push(Local { name: name.to_owned(), object }))?;
    Ok(found)
}

/// Gives every local variable as [`locals`] does, right after its slot was read.
///
/// # Errors
/// If the frame cannot be read.
pub fn each_local(
    reader: &Reader<'_>,
    frame: &Frame,
    mut each: impl FnMut(&str, u64),
) -> Result<(), ReadError> {
    let layout = &reader.layout;
    let names = &frame.code.locals;
    let slots = frame.address.wrapping_add(layout.frame.locals);
    // 3.14 `pycore_stackref.h`: the low bits are tags, and 1 is NULL.
    let mask = if layout.tagged_locals || layout.free_threaded { !3 } else { !0 };
    // What the slots hold is needed at once, whatever it is by then.
    let mut bytes = vec![0; names.len() * 8];
    reader.memory.read_as(slots, &mut bytes, Use::Passing)?;
    let objects = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    reader.memory.prefetch(&objects.map(|object| object & mask).collect::<Vec<_>>());
    let mut given: Vec<&str> = Vec::new();
    for (at, (name, kind)) in names.iter().enumerate() {
        let mut object = reader.memory.u64(slots.wrapping_add(at as u64 * 8))? & mask;
        if *kind == LocalKind::Cell && object != 0 && is_cell(reader, object) {
            object = reader.memory.u64(object.wrapping_add(layout.object.cell_value))?;
        }
        // To 3.10 a parameter that closures use has two slots of one name.
        let again = *kind == LocalKind::Cell && given.contains(&name.as_str());
        if object != 0 && *kind != LocalKind::Hidden && !again {
            each(name, object);
            given.push(name);
        }
    }
    Ok(())
}

/// The dict of a module's or class's body.
///
/// # Errors
/// If the frame cannot be read.
pub fn locals_dict(reader: &Reader<'_>, frame: &Frame) -> Result<Option<u64>, ReadError> {
    if frame.code.is_function() {
        return Ok(None);
    }
    let dict = reader.memory.u64(frame.address.wrapping_add(reader.layout.frame.locals_dict))?;
    Ok((dict != 0).then_some(dict))
}

fn is_cell(reader: &Reader<'_>, object: u64) -> bool {
    reader.type_of(object).is_ok_and(|found| found.full_name == "cell")
}

#[cfg(test)]
mod tests {
    use super::super::memory::Image;
    use super::*;

    #[test]
    fn a_threads_copy_of_the_bytecode() {
        let table = Layout::table(14).unwrap();
        let layout = Layout { copies: Some(224), free_threaded: true, ..table };
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let memory = Image::new(vec![
            (6000 + 224, words(&[7000])),
            (7000, words(&[3, 0x2000, 0, 0x5000])),
            (8000 + 224, words(&[1])),
        ]);
        let code = Code {
            address: 6000,
            name: "f".into(),
            qualname: "f".into(),
            filename: "f.py".into(),
            first_line: 1,
            flags: 3,
            argument_counts: [0; 3],
            locals: Vec::new(),
            bytecode: 0x2000,
            length: 32,
            lines: Vec::new(),
        };
        let offset = |raw| instruction_offset(&memory, &layout, &code, raw);
        assert_eq!(offset(0x2006), Some(6), "the code object's own");
        assert_eq!(offset(0x5008), Some(8), "a copy");
        assert_eq!(offset(0x5020), None, "behind it");
        assert_eq!(offset(8), None, "in one that was not made");
        let unreadable = Code { address: 8000, ..code.clone() };
        assert_eq!(instruction_offset(&memory, &layout, &unreadable, 0x5008), None);
        assert_eq!(instruction_offset(&memory, &table, &code, 0x5008), None, "with a GIL there are none");
        assert_eq!(bytecodes(&memory, &layout, &code).unwrap(), [0x2000, 0, 0x5000]);
    }
}
