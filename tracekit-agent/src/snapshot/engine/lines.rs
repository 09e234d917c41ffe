//! From a file and a line to the instructions with which executions of that line begin.
//!
//! A line can begin at several instructions: code objects in one another share lines (a lambda and the line that
//! makes it), compilers copy code (the test of `while` loops in 3.10 to 3.13, `finally` blocks since 3.9), and an
//! expression of several lines comes back to its first one. The first instruction of the line in a code object is
//! where it begins; of the others those that are a copy of it. An execution thus is one hit, as a reader of the source
//! would count, with one exception: a line that runs in several code objects (a lambda, a function on one line)
//! is hit in each.

use std::path::Path;
use std::rc::Rc;

use crate::python::line_table::LineRange;
use crate::python::reader::Code;

/// Instructions with their arguments: two bytes.
const UNIT: u32 = 2;
/// Bytes of a function's first instructions that belong to no statement, at most: cells, `RETURN_GENERATOR`, `POP_TOP`,
/// `RESUME` (3.11+).
const PROLOGUE: u32 = 16;
/// Lines with code that are named in place of one that has none.
const NEAREST: usize = 4;
/// Code objects that are expressions, in the code object of their line.
const INNER: &[&str] = &["<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"];

/// Where an execution of a line begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The code object.
    pub code: Rc<Code>,
    /// Offset of the instruction in its bytecode.
    pub offset: u32,
}

impl Place {
    /// The address to be watched: that of the instruction's argument, which is read once for each execution, where the
    /// opcode is not always (super-instructions of 3.11 and 3.12).
    #[must_use]
    pub fn address(&self) -> u64 {
        self.code.bytecode.wrapping_add(u64::from(self.offset)).wrapping_add(1)
    }
}

/// What a copy has in common with its original: argument and columns; the opcode may be specialised in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The opcode, where the interpreter does not specialise it (to 3.10).
    pub opcode: Option<u8>,
    /// The argument.
    pub argument: u8,
    /// Entry of the location table (3.11+): its columns and last line.
    pub columns: Option<(i32, i32, i32)>,
}

/// Why there is no such line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No code object is of such a file: it is not loaded, or has another name.
    #[error("no loaded module's path ends with {0}")]
    NoFile(String),
    /// Several files are.
    #[error("several files match: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    /// Nothing begins on the line.
    #[error("nothing is executed on line {line} of {file}; the nearest lines are {}", list(.nearest))]
    NoCode {
        /// The file.
        file: String,
        /// The line.
        line: i32,
        /// Lines near it.
        nearest: Vec<i32>,
    },
}

fn list(lines: &[i32]) -> String {
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The one of these files whose path ends with these components.
///
/// # Errors
/// [`LineError::NoFile`], [`LineError::Ambiguous`]
pub fn file_of<'c>(files: impl Iterator<Item = &'c str>, suffix: &str) -> Result<&'c str, LineError> {
    let mut files: Vec<&str> = files.filter(|file| Path::new(file).ends_with(suffix)).collect();
    files.sort_unstable();
    files.dedup();
    match files.as_slice() {
        [] => Err(LineError::NoFile(suffix.to_owned())),
        [file] => Ok(file),
        several => Err(LineError::Ambiguous(several.iter().map(|file| (*file).to_owned()).collect())),
    }
}

/// Where executions of a line begin, in the order of the code objects. `signature` looks at an instruction.
///
/// # Errors
/// [`LineError::NoCode`]
pub fn places(
    codes: &[Rc<Code>],
    file: &str,
    line: i32,
    signature: impl Fn(&Code, u32) -> Option<Signature>,
) -> Result<Vec<Place>, LineError> {
    let of_file: Vec<&Rc<Code>> = codes.iter().filter(|code| code.filename == file).collect();
    let starting: Vec<&Rc<Code>> =
        of_file.iter().copied().filter(|code| !starts(code, line).is_empty()).collect();
    let has_outer = starting.iter().any(|code| !INNER.contains(&code.name.as_str()));
    let mut found = Vec::new();
    for code in &starting {
        // What is evaluated within the line's own expression is no execution of its own.
        if has_outer && INNER.contains(&code.name.as_str()) {
            continue;
        }
        let starts = starts(code, line);
        let Some(first) = starts.first() else { continue };
        // A class's body begins with its own line, which was executed outside.
        let is_class = !code.is_function() && code.name != "<module>" && line == code.first_line;
        if is_class && first.start <= UNIT * 2 && starting.len() > 1 {
            continue;
        }
        // A function on one line: at its first instruction its frame may not be the current one yet (3.13 of Debian).
        let mut offset = first.start;
        if offset == 0 && code.is_function() {
            let steps = (0..PROLOGUE).step_by(UNIT as usize).take_while(|at| *at < first.end);
            offset = steps.into_iter().find(|at| !is_prologue(signature(code, *at))).unwrap_or(0);
        }
        let original = signature(code, offset);
        found.push(Place { code: Rc::clone(code), offset });
        for start in starts.iter().skip(1) {
            if original.is_some_and(|original| signature(code, start.start) == Some(original)) {
                found.push(Place { code: Rc::clone(code), offset: start.start });
            }
        }
    }
    if found.is_empty() {
        let nearest = nearest(of_file.iter().flat_map(|code| code.breakable_lines()).collect(), line);
        return Err(LineError::NoCode { file: file.to_owned(), line, nearest });
    }
    Ok(found)
}

/// Of lines with code those next to one that has none, ascending.
#[must_use]
pub fn nearest(mut lines: Vec<i32>, line: i32) -> Vec<i32> {
    lines.sort_unstable();
    lines.dedup();
    lines.sort_by_key(|known| known.abs_diff(line));
    lines.truncate(NEAREST);
    lines.sort_unstable();
    lines
}

/// What makes a frame ready has no columns, or none that are in the source.
fn is_prologue(signature: Option<Signature>) -> bool {
    match signature {
        Some(Signature { columns: Some(columns), .. }) => columns == (0, 0, 0),
        Some(Signature { opcode: Some(_), .. }) => false,
        _ => true,
    }
}

/// The ranges of a line in a code object, without what only begins a function.
fn starts(code: &Code, line: i32) -> Vec<LineRange> {
    let of_line = code.lines.iter().filter(|range| range.line == Some(line)).copied();
    let others = code.lines.iter().any(|range| range.line.is_some_and(|other| other != line));
    of_line
        .filter(|range| {
            let is_prologue = code.is_function()
                && line == code.first_line
                && range.start <= UNIT * 2
                && range.end <= PROLOGUE
                && others
                && code.name != "<lambda>";
            !is_prologue
        })
        .collect()
}

/// The signature of an instruction: argument, and columns from a location table (3.11+, CPython
/// `Objects/locations.md`), or the opcode.
#[must_use]
pub fn signature(instruction: [u8; 2], locations: Option<&[u8]>, offset: u32) -> Option<Signature> {
    let [opcode, argument] = instruction;
    match locations {
        None => Some(Signature { opcode: Some(opcode), argument, columns: None }),
        Some(table) => {
            let columns = columns_at(table, offset)?;
            Some(Signature { opcode: None, argument, columns: Some(columns) })
        }
    }
}

/// Last line (from the first on) and columns of the entry that covers an offset; `None` if it has none.
fn columns_at(table: &[u8], offset: u32) -> Option<(i32, i32, i32)> {
    let mut bytes = table.iter().copied().peekable();
    let mut at = 0;
    while let Some(first) = bytes.next() {
        let size = (u32::from(first & 7) + 1) * UNIT;
        let mut rest = Vec::new();
        while let Some(byte) = bytes.next_if(|byte| byte & 0x80 == 0) {
            rest.push(byte);
        }
        if offset < at + size {
            let byte = |index: usize| rest.get(index).map(|byte| i32::from(*byte));
            return match (first >> 3) & 15 {
                kind @ 0..=9 => {
                    let second = byte(0)?;
                    let start = i32::from(kind) * 8 + (second >> 4);
                    Some((0, start, start + (second & 15)))
                }
                10..=12 => Some((0, byte(0)?, byte(1)?)),
                14 => {
                    let mut rest = rest.iter().copied();
                    let mut varint = || {
                        let (mut value, mut shift) = (0_i32, 0);
                        for byte in rest.by_ref() {
                            if shift < 30 {
                                value |= i32::from(byte & 63) << shift;
                            }
                            shift += 6;
                            if byte & 64 == 0 {
                                break;
                            }
                        }
                        value
                    };
                    // The line, as far as it is another; columns are one more than they are.
                    let _line = varint();
                    Some((varint(), varint() - 1, varint() - 1))
                }
                _ => None,
            };
        }
        at += size;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str, flags: u32, first_line: i32, lines: &[(u32, u32, i32)]) -> Rc<Code> {
        Rc::new(Code {
            address: 0x1000,
            name: name.into(),
            qualname: name.into(),
            filename: "/srv/app/shop.py".into(),
            first_line,
            flags,
            argument_counts: [0; 3],
            locals: Vec::new(),
            bytecode: 0x2000,
            length: 100,
            lines: lines
                .iter()
                .map(|(start, end, line)| LineRange { start: *start, end: *end, line: Some(*line) })
                .collect(),
        })
    }

    fn found(codes: &[Rc<Code>], line: i32, arguments: &[(u32, u8)]) -> Vec<(String, u32)> {
        let signature = |_: &Code, offset: u32| {
            let (_, argument) = arguments.iter().find(|(at, _)| *at == offset)?;
            Some(Signature { opcode: None, argument: *argument, columns: Some((0, 1, 2)) })
        };
        let places = places(codes, "/srv/app/shop.py", line, signature).unwrap();
        places.iter().map(|place| (place.code.name.clone(), place.offset)).collect()
    }

    #[test]
    fn copies_are_executions_and_returns_to_a_line_are_not() {
        let codes = [code("f", 3, 1, &[(0, 2, 1), (2, 10, 3), (10, 20, 4), (20, 30, 3), (30, 40, 3)])];
        assert_eq!(found(&codes, 3, &[(2, 7), (20, 7), (30, 8)]), [("f".into(), 2), ("f".into(), 20)]);
        assert_eq!(found(&codes, 4, &[]), [("f".into(), 10)]);
    }

    #[test]
    fn code_in_code() {
        let codes = [
            code("<module>", 0, 1, &[(0, 4, 1), (4, 8, 5), (8, 12, 7)]),
            code("<listcomp>", 3, 5, &[(0, 2, 5), (2, 8, 6)]),
            code("C", 0, 7, &[(0, 8, 7), (8, 12, 8)]),
            code("f", 3, 1, &[(0, 2, 1), (2, 8, 2)]),
            code("<lambda>", 3, 8, &[(0, 8, 8)]),
        ];
        assert_eq!(found(&codes, 5, &[]), [("<module>".into(), 4)]);
        assert_eq!(found(&codes, 6, &[]), [("<listcomp>".into(), 2)]);
        assert_eq!(found(&codes, 7, &[]), [("<module>".into(), 8)]);
        assert_eq!(found(&codes, 1, &[]), [("<module>".into(), 0)]);
        assert_eq!(found(&codes, 8, &[]), [("C".into(), 8), ("<lambda>".into(), 0)]);
        let error = places(&codes, "/srv/app/shop.py", 3, |_, _| None).unwrap_err();
        assert!(error.to_string().ends_with("nearest lines are 1, 2, 5, 6"), "{error}");
    }

    #[test]
    fn files_by_the_end_of_their_path() {
        let codes = [code("f", 3, 1, &[])];
        let files = || codes.iter().map(|code| code.filename.as_str());
        assert_eq!(file_of(files(), "app/shop.py"), Ok("/srv/app/shop.py"));
        assert!(matches!(file_of(files(), "p/shop.py"), Err(LineError::NoFile(_))));
    }

    #[test]
    fn columns_of_entries() {
        // Short form, one line form, long form, no columns.
        let table = [0x80, 0x23, 0xd9, 4, 9, 0xf0, 0, 2, 1, 7, 0xe8, 0x0d];
        assert_eq!(columns_at(&table, 0), Some((0, 2, 5)));
        assert_eq!(columns_at(&table, 4), Some((0, 4, 9)));
        assert_eq!(columns_at(&table, 6), Some((2, 0, 6)));
        assert_eq!(columns_at(&table, 8), None);
        assert_eq!(columns_at(&table, 100), None);
    }
}
