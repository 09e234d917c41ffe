//! Conditions, watch expressions and log templates: a subset of Python without side effects, compiled by the
//! agent and evaluated on what it reads of the process. The process runs nothing of it.
//!
//! ```text
//! order.total > 100 and user.plan == "pro"
//! len(items) > 3 and any(item.price > 9 for item in items)
//! headers.get("content-type", "").startswith("text/")
//! isinstance(error, (TimeoutError, OSError))
//! ```
//!
//! `token` and `parse` make a [`Program`] of a text: at most 1 KiB, 200 nodes and 40 levels.
//! `evaluate`, `items`, `compare`, `call` and `number` compute it within a budget of steps, items, bytes and time;
//! [`Scope`] finds names, and [`crate::python::object::access`] attributes and entries.
//!
//! The rules:
//! - A value is what Python's own would be, or it is undefined, with the reason: never a guess. The one
//!   exception is that names of functions mean Python's built-in functions, whatever the process calls so.
//! - What only code of the process knows is undefined: properties, `__getattr__`, and operators, truth values
//!   and lengths that a class defines in Python. Where a class inherits them from a built-in type, they are
//!   those of the built-in type.
//!   `Enum` and `uuid.UUID` are written in Python too, but do what is known.
//! - Integers have up to 20 000 bits; beyond that the result is undefined, not rounded. A `Decimal` is compared
//!   exactly but not computed with: its results depend on a context of the thread.
//! - An expression that names a secret does not compile. Keys that are computed are checked when they are
//!   used, values of secret keys are left out of what is iterated over, and a value that was computed from a
//!   string that looks like a secret is not shown.
//!
//! # A form for the kernel
//!
//! A part of the language could be evaluated by the program that handles a hit, before anything is copied. The
//! part is: conditions of `and`, `or` and `not` over comparisons of a path with a literal, where
//! - a path is a local variable followed by attributes, at most 4 in all. The agent resolves its slot from the
//!   code object (an index into `localsplus`, with a flag for cells), and each attribute from the type that it
//!   saw last: offset of a slot; index of an inline value (3.13+), or of a value in a split table (to 3.12),
//!   valid for one `ht_cached_keys`; index of an entry in a dict, valid while the key at that index is the
//!   interned string that the agent saw there. Each step carries the type's address, and a step that finds
//!   another type gives "unknown".
//! - a literal is None, a bool, an integer below 2^60 (two digits of 30 bits), or an ASCII string of up to 64
//!   bytes; the comparisons are `is` and `==` with their negations, and `<` and its like for integers. Types
//!   are compared by the addresses of `PyLong_Type` and the like, so that no subclass gets there.
//!
//! That is a program of 8-byte words, at most 32, interpreted in one bounded loop: `load slot`, `step kind
//! offset type`, `compare constant`, `jump if`. False ends the hit; true and unknown go on to the capture, and
//! the agent decides on the image as it does today. So the kernel may answer less, but never differently.
//! Generators, calls, containers and floats stay with the agent.

mod call;
mod compare;
mod evaluate;
mod format;
mod function;
mod items;
mod number;
mod operand;
mod parse;
mod scope;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod token;

use std::borrow::Cow;

pub use operand::Undefined;
pub use scope::{Context, Limits, Scope};
pub use syntax::CompileError;
pub use template::{Rendered, Template, UNDEFINED};

use crate::python::object::budget::Budget;
use crate::python::object::{Content, Decoder, NotCaptured, Value};
use crate::redact::names;
use evaluate::Evaluation;
use format::Spec;
use operand::Operand;
use syntax::Program;

/// Characters of one value in a log line at most.
const MAX_TEXT: usize = 4096;
/// Levels of computed containers in a value that is shown.
const MAX_DEPTH: usize = 8;
const REDACTED: &str = "[REDACTED]";

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    program: Program,
}

/// How a value is written into a template.
#[derive(Debug, Clone, PartialEq)]
struct Rendering {
    /// `!r`, or `!s`; nothing if neither was said.
    repr: Option<bool>,
    spec: Spec,
}

impl Expression {
    /// Compiles a text. `is_sensitive` tells which names are those of secrets.
    ///
    /// # Errors
    /// [`CompileError`]: what is wrong, where, and what to do.
    pub fn compile(text: &str, is_sensitive: &dyn Fn(&str) -> bool) -> Result<Self, CompileError> {
        Ok(Self { text: text.to_owned(), program: parse::parse(text, is_sensitive)? })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The truth value, as an `if` of Python would take it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn condition(&self, context: &Context<'_>) -> Result<bool, Undefined> {
        let budget = Budget::new(context.limits.steps, context.limits.time);
        let evaluation = Evaluation::new(context, &self.program, &budget);
        let value = evaluation.run()?;
        evaluation.truth(&value)
    }

    /// The value, with what looks like a secret hidden.
    ///
    /// # Errors
    /// Why there is none.
    pub fn value(&self, context: &Context<'_>) -> Result<Value, Undefined> {
        let budget = Budget::new(context.limits.steps, context.limits.time);
        let evaluation = Evaluation::new(context, &self.program, &budget);
        let value = evaluation.run()?;
        shown(&evaluation, &value, 0)
    }

    /// The value as text, for a template.
    fn render(&self, context: &Context<'_>, rendering: &Rendering) -> Result<String, Undefined> {
        let budget = Budget::new(context.limits.steps, context.limits.time);
        let evaluation = Evaluation::new(context, &self.program, &budget);
        let value = evaluation.run()?;
        let text = written(&evaluation, &value, rendering)?;
        Ok(match text.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
            None => text,
        })
    }
}

fn written(evaluation: &Evaluation<'_>, value: &Operand, rendering: &Rendering) -> Result<String, Undefined> {
    let Rendering { repr, spec } = rendering;
    if *repr == Some(true) {
        return spec.string(&shown(evaluation, value, 0)?.to_string());
    }
    let loaded = evaluation.load(value)?;
    if let Operand::Str(text) = &loaded {
        if let Operand::Object(remote) = value {
            // Classes may have a form of their own in formatted strings, or as strings.
            let formatted = match repr {
                None => evaluation.check_method_before(remote, "__format__", None),
                Some(_) => Ok(()),
            };
            if let Err(error) = formatted.and_then(|()| evaluation.to_text(value).map(drop)) {
                return if spec.is_empty() {
                    Ok(shown(evaluation, value, 0)?.to_string())
                } else {
                    Err(error)
                };
            }
        }
        let computed = !matches!(value, Operand::Object(_));
        return match names::without_secrets(text) {
            _ if computed && evaluation.saw_secret.get() => spec.string(REDACTED),
            text => spec.string(&text),
        };
    }
    if *repr == Some(false) || spec.is_empty() {
        // What has no simple text is shown as a value: nothing of the process is run for it.
        let text = match evaluation.to_text(value) {
            Ok(text) => text,
            Err(Undefined::WouldRunCode(_) | Undefined::Unsupported(_)) => {
                shown(evaluation, value, 0)?.to_string()
            }
            Err(error) => return Err(error),
        };
        return spec.string(&text);
    }
    if let Operand::Object(remote) = value {
        evaluation.check_method_before(remote, "__format__", None)?;
    }
    match evaluation.number(value)? {
        Some(number) => spec.number(&number),
        None => Err(Undefined::Type(format!("a '{}' has no such format", value.type_name()))),
    }
}

/// The value as it leaves the agent.
fn shown(evaluation: &Evaluation<'_>, value: &Operand, depth: usize) -> Result<Value, Undefined> {
    if depth > MAX_DEPTH {
        return Ok(Value::nothing(value.type_name(), NotCaptured::Depth));
    }
    let items = |items: &[Operand]| -> Result<Content, Undefined> {
        let shown: Result<Vec<Value>, _> =
            items.iter().map(|item| shown(evaluation, item, depth + 1)).collect();
        Ok(Content::Elements(shown?))
    };
    let limits = evaluation.context.limits.value;
    let most = limits.items;
    let first = |all: &[Operand]| items(all.get(..most).unwrap_or(all));
    let secret = evaluation.saw_secret.get();
    let (content, length) = match value {
        Operand::Object(remote) => {
            evaluation.objects.budget.take(1)?;
            return Ok(Decoder::new(evaluation.objects.reader, limits, true).value(remote.address));
        }
        Operand::Redacted(name) if depth == 0 => return Err(Undefined::Redacted(name.to_string())),
        Operand::Redacted(_) => return Ok(Value::nothing("", NotCaptured::Redacted)),
        Operand::Str(_) | Operand::Bytes(..) if secret => {
            return Ok(Value::nothing(value.type_name(), NotCaptured::Redacted));
        }
        Operand::None => (Content::None, 0),
        Operand::Bool(value) => (Content::Bool(*value), 0),
        Operand::Int(value) => (Content::Int(value.to_string()), 0),
        Operand::Float(value) => (Content::Float(*value), 0),
        Operand::Str(text) => {
            let text = match names::without_secrets(text) {
                Cow::Borrowed(_) => text.to_string(),
                Cow::Owned(text) => text,
            };
            let cut = text.char_indices().nth(limits.text).map_or(text.len(), |(end, _)| end);
            let length = if cut < text.len() { text.chars().count() } else { 0 };
            (Content::Str(text.get(..cut).unwrap_or_default().to_owned()), length)
        }
        Operand::Bytes(bytes, _) => {
            let cut = bytes.get(..limits.text);
            (Content::Bytes(cut.unwrap_or(bytes).to_vec()), cut.map_or(0, |_| bytes.len()))
        }
        Operand::List(all) | Operand::Tuple(all) | Operand::View(all, _) => (first(all)?, all.len()),
        Operand::Set(all) => {
            let all = evaluation.distinct(all)?;
            (first(&all)?, all.len())
        }
        Operand::Dict(_) => {
            let pairs = evaluation.pairs(value)?;
            let mut entries = Vec::new();
            for (key, value) in pairs.iter().take(most) {
                let name = evaluation.secret_key(key)?;
                let hidden = name.map(Operand::Redacted);
                let value = shown(evaluation, hidden.as_ref().unwrap_or(value), depth + 1)?;
                entries.push((shown(evaluation, key, depth + 1)?, value));
            }
            (Content::Entries(entries), pairs.len())
        }
    };
    let shown = match &content {
        Content::Elements(items) => items.len(),
        Content::Entries(items) => items.len(),
        Content::Str(_) | Content::Bytes(_) if length > 0 => 0,
        _ => length,
    };
    let truncated = (length > shown).then_some(length as u64);
    Ok(Value { truncated, ..Value::new(value.type_name(), content) })
}
