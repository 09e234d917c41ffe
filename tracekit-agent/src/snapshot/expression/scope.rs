//! Where the names of an expression come from, and what an evaluation may cost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::python::frame::{Frame, locals, locals_dict};
use crate::python::object::Limits as DecoderLimits;
use crate::python::object::access::Objects;
use crate::python::object::budget::AccessError;
use crate::python::reader::{LocalKind, ReadError, Reader};
use crate::redact::Redactor;

/// What bounds one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Steps: nodes evaluated, items and entries looked at, 64 bytes of text read are one each.
    pub steps: u32,
    /// Time.
    pub time: Duration,
    /// Items of one container that is iterated over.
    pub items: usize,
    /// Characters of a string, bytes of a `bytes`.
    pub text: usize,
    /// The value that is given back, if it is an object of the target.
    pub value: DecoderLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 100_000,
            time: Duration::from_millis(100),
            items: 10_000,
            text: 64 << 10,
            value: DecoderLimits { time: Duration::from_millis(100), ..DecoderLimits::default() },
        }
    }
}

/// The names that are visible in a frame: its local variables, cells included, then its globals, then builtins.
///
/// Of a frame in an image, local variables are those of the moment of the hit. Globals and builtins are in no image: they
/// are what they are when the expression is evaluated, a little later, which [`Outcome::late`](super::Outcome) says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Local variables; 0 for those without a value.
    locals: BTreeMap<String, u64>,
    /// Of these, those that are behind what was captured of the frame.
    not_captured: BTreeSet<String>,
    /// Of a module's or class's body: the dict of its variables.
    locals_dict: Option<u64>,
    globals: Option<u64>,
    builtins: Option<u64>,
}

/// Where a name leads.
pub(super) enum Found {
    /// Of the frame.
    Object(u64),
    /// Of the process.
    Lasting(u64),
    /// A variable of which it is not known where it leads.
    NotCaptured,
    /// A local variable without a value.
    Unset,
    Missing,
}

impl Scope {
    /// The names of a frame.
    ///
    /// # Errors
    /// If the frame cannot be read.
    pub fn of_frame(reader: &Reader<'_>, frame: &Frame) -> Result<Self, ReadError> {
        let offsets = &reader.layout.frame;
        // 3.14 tags some of a frame's references.
        let dict = |offset: u64| match reader.memory.u64(frame.address.wrapping_add(offset)) {
            Ok(address) if address != 0 => Some(address & !3),
            _ => None,
        };
        let mut names = BTreeMap::new();
        if frame.code.is_function() {
            let visible = frame.code.locals.iter().filter(|(_, kind)| *kind != LocalKind::Hidden);
            names.extend(visible.map(|(name, _)| (name.clone(), 0)));
        }
        names.extend(locals(reader, frame)?.into_iter().map(|local| (local.name, local.object)));
        let is_there = |slot: usize| {
            let at = frame.address.wrapping_add(offsets.locals).wrapping_add(8 * slot as u64);
            reader.memory.u64(at).is_ok()
        };
        let not_captured = match reader.is_image() {
            true => {
                let slots = frame.code.locals.iter().enumerate();
                slots.filter(|(slot, _)| !is_there(*slot)).map(|(_, (name, _))| name.clone()).collect()
            }
            false => BTreeSet::new(),
        };
        Ok(Self {
            locals: names,
            not_captured,
            locals_dict: locals_dict(reader, frame)?,
            globals: dict(offsets.globals),
            builtins: dict(offsets.builtins),
        })
    }

    /// Names and addresses of their objects, and nothing else.
    #[must_use]
    pub fn of_locals(locals: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self { locals: locals.into_iter().collect(), ..Self::default() }
    }

    /// Looks for a name among the local variables, and then in the process.
    pub(super) fn find(
        &self,
        objects: &Objects<'_, '_>,
        process: &Objects<'_, '_>,
        name: &str,
    ) -> Result<Found, AccessError> {
        match self.locals.get(name) {
            Some(0) if self.not_captured.contains(name) => return Ok(Found::NotCaptured),
            Some(0) => return Ok(Found::Unset),
            Some(address) => return Ok(Found::Object(*address)),
            None => {}
        }
        let mut globals = self.globals;
        if let Some(variables) = self.locals_dict {
            match objects.dict_entry(variables, name) {
                Ok(Some(address)) => return Ok(Found::Object(address)),
                // A module's variables are its globals: it had no such name then, whatever it has now.
                Ok(None) if globals == self.locals_dict => globals = None,
                Ok(None) => {}
                Err(AccessError::NotCaptured | AccessError::Read(_)) if globals == self.locals_dict => {}
                Err(error) => return Err(error),
            }
        }
        for dict in [globals, self.builtins].into_iter().flatten() {
            if let Some(address) = process.dict_entry(dict, name)? {
                return Ok(Found::Lasting(address));
            }
        }
        Ok(Found::Missing)
    }
}

/// What an evaluation works on.
pub struct Context<'e> {
    /// Reads the target, or an image of it.
    pub reader: &'e Reader<'e>,
    /// The names.
    pub scope: &'e Scope,
    /// What it may cost.
    pub limits: Limits,
    /// What it hides is neither used nor shown.
    pub redactor: &'e Redactor,
}
