//! What a breakpoint is tied to: the function with the line, so that a deploy moves it or makes it stale, and it is
//! never on a wrong line.

use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::python::reader::Code;

/// A line of a function. Two functions are the same if they have the same name and the same instructions on the same
/// lines, counted from their first: bytes of bytecode, lines of them, and names of variables. (The bytecode itself
/// is rewritten by the interpreter while it runs, 3.11+.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// `co_qualname`; before 3.11 `co_name`.
    pub function: String,
    /// Lines from the function's first one.
    pub offset: i32,
    /// Of what makes the function what it is.
    pub hash: u64,
}

impl Anchor {
    /// A line of this code object.
    #[must_use]
    pub fn new(code: &Code, line: i32) -> Self {
        Self { function: code.qualname.clone(), offset: line.wrapping_sub(code.first_line), hash: hash(code) }
    }

    /// The line now; `None` if the file's code has no such function any more, or another one of that name.
    #[must_use]
    pub fn line(&self, codes: &[Rc<Code>], file: &str) -> Option<i32> {
        let same = codes
            .iter()
            .filter(|code| code.filename == file && code.qualname == self.function)
            .find(|code| hash(code) == self.hash)?;
        same.first_line.checked_add(self.offset)
    }
}

/// The same in every run of the agent and for every process: interpreters of one version compile the same source to it.
fn hash(code: &Code) -> u64 {
    let mut hasher = FnvHasher::default();
    code.length.hash(&mut hasher);
    for range in &code.lines {
        let line = range.line.map(|line| line.wrapping_sub(code.first_line));
        (range.start, range.end, line).hash(&mut hasher);
    }
    for (name, _) in &code.locals {
        name.hash(&mut hasher);
    }
    hasher.finish()
}
