//! Stacks that the kernel side has read: code objects and lines of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tracekit_common::python::Frame;

use super::code::{acts_for_its_caller, is_event_loop, is_library, runs_on_another_stack, waits_for_work};
use super::evidence::Evidence;
use super::frame::instruction_offset;
use super::library::{Library, of_file};
use super::reader::{Code, Reader};
use super::runtime::Target;

/// Code objects of one process that are remembered.
const MAX_CODES: usize = 32 * 1024;
/// How long a code object is believed to be what it was: its memory may be another's later.
const BELIEVED: Duration = Duration::from_secs(1);

/// A code object as it was read.
#[derive(Debug)]
pub struct KnownCode {
    /// What it is.
    pub code: Code,
    /// Python's own or an installed package's.
    pub is_library: bool,
    /// It runs an event loop.
    pub is_event_loop: bool,
    /// It runs functions of the application on another stack.
    pub runs_on_another_stack: bool,
    /// It hands work over and waits for that.
    pub waits_for_work: bool,
    /// It makes tasks for who calls it, not for itself.
    pub acts_for_its_caller: bool,
    /// The client library or tracer that it is of.
    pub library: Option<Library>,
}

/// One frame of a stack, resolved.
#[derive(Debug, Clone)]
pub struct ResolvedFrame {
    /// Its code; `None` if what was there is no code object (any more).
    pub code: Option<Arc<KnownCode>>,
    /// Its line, if known.
    pub line: Option<i32>,
}

struct Entry {
    known: Arc<KnownCode>,
    /// What it was made from.
    evidence: Evidence,
    checked: Instant,
}

/// Resolves the stacks of one process.
pub struct Resolver {
    target: Target,
    codes: HashMap<u64, Entry>,
}

impl Resolver {
    /// For an interpreter that was found.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, codes: HashMap::new() }
    }

    /// The interpreter.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// For a process that was forked from this one: it has the same code at the same places.
    #[must_use]
    pub fn forked(&self, pid: u32) -> Self {
        let entry = |entry: &Entry| Entry {
            known: Arc::clone(&entry.known),
            evidence: entry.evidence.clone(),
            checked: entry.checked,
        };
        let codes = self.codes.iter().map(|(address, known)| (*address, entry(known))).collect();
        Self { target: self.target.forked(pid), codes }
    }

    /// The frames of a stack.
    pub fn resolve(&mut self, frames: &[Frame]) -> Vec<ResolvedFrame> {
        frames.iter().map(|frame| self.frame(frame)).collect()
    }

    /// One frame of a stack.
    pub fn frame(&mut self, frame: &Frame) -> ResolvedFrame {
        let code = self.code(frame.code);
        let line = code.as_ref().and_then(|known| self.line(known, frame));
        ResolvedFrame { code, line }
    }

    /// The line at which a frame of this code is, if it is known.
    #[must_use]
    pub fn line(&self, known: &KnownCode, frame: &Frame) -> Option<i32> {
        let (memory, layout) = (&self.target.memory, &self.target.layout);
        if layout.copies.is_some() {
            // A copy may have been made since.
            memory.forget();
        }
        let offset = instruction_offset(memory, layout, &known.code, frame.instruction)?;
        // Before its first instruction a frame is at its first line.
        let first = (offset == 0).then_some(known.code.first_line);
        known.code.line_at(offset).or(first)
    }

    /// The code object at an address.
    pub fn code(&mut self, address: u64) -> Option<Arc<KnownCode>> {
        self.code_at(address, Instant::now())
    }

    /// As [`code`](Self::code), for many at one time.
    pub fn code_at(&mut self, address: u64, now: Instant) -> Option<Arc<KnownCode>> {
        if let Some(entry) = self.codes.get(&address)
            && now.duration_since(entry.checked) < BELIEVED
        {
            return Some(Arc::clone(&entry.known));
        }
        self.target.memory.forget();
        if let Some(entry) = self.codes.get_mut(&address)
            && entry.evidence.holds(&self.target.memory)
        {
            entry.checked = now;
            return Some(Arc::clone(&entry.known));
        }
        let reader = Reader::new(&self.target.memory, self.target.layout);
        let (code, evidence) = reader.code_with_evidence(address).ok()?;
        let code = Rc::unwrap_or_clone(code);
        let known = Arc::new(KnownCode {
            is_library: is_library(&code.filename),
            is_event_loop: is_event_loop(&code.filename, &code.qualname),
            runs_on_another_stack: runs_on_another_stack(&code.filename, &code.qualname),
            waits_for_work: waits_for_work(&code.filename),
            acts_for_its_caller: acts_for_its_caller(&code.filename),
            library: of_file(&code.filename),
            code,
        });
        if self.codes.len() >= MAX_CODES {
            self.codes.clear();
        }
        self.codes.insert(address, Entry { known: Arc::clone(&known), evidence, checked: now });
        Some(known)
    }
}
