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
//! `known` has classes of the standard library; [`Scope`] finds names, and [`crate::python::object::access`] attributes and entries; `shown` is what leaves the
//! agent.
//!
//! The rules:
//! - A value is what Python's own would be, or it is undefined, with the reason: never a guess. The one
//!   exception is that names of functions mean Python's built-in functions, whatever the process calls so.
//! - What only code of the process knows is undefined: properties, `__getattr__`, and operators, truth values
//!   and lengths that a class defines in Python. Where a class inherits them from a built-in type, they are
//!   those of the built-in type.
//!   `Enum` and `uuid.UUID` are written in Python too, but do what is known.
//! - On the image of a hit, values are those of that moment: what the image lacks is undefined, and a part of a container
//!   is never taken for the whole. Classes, modules, globals and builtins are in no image; they are read from the
//!   process a little later, and if such a value can have changed in between, [`Outcome::late`] says so.
//! - Integers have up to 20 000 bits; beyond that the result is undefined, not rounded. A `Decimal` is compared
//!   exactly but not computed with: its results depend on a context of the thread.
//! - An expression that names a secret does not compile. Keys that are computed are checked when they are
//!   used, values of secret keys are left out of what is iterated over, and a value that was computed from a
//!   string that looks like a secret is not shown.
//!
//! # A form for the kernel
//!
//! Conditions of a part of the language are evaluated by the program that handles a hit, before anything is copied and
//! before the rate limit: [`Decision`]. The part is: `and`, `or`, `not` and `if`/`else` over comparisons of a local variable
//! with a literal, and over variables whose truth value is asked for. A literal is None, a bool, an integer below 2^60, a
//! float, or an ASCII string of up to 64 bytes; the comparisons are `==`, `!=`, `in` and `not in` a tuple of literals, `is` with
//! None and bools, and `<` and its like with numbers.
//!
//! The kernel side knows objects of `int`, `float` and `str` by the addresses of these types, so that no subclass gets
//! there. At the first other object it says that it does not know. False ends the hit; true and unknown go on to the
//! capture, and the agent decides on the image. So the kernel may answer less, but never differently.
//! Attributes, cells, globals, generators, calls and containers stay with the agent.

mod call;
mod compare;
mod depth;
mod evaluate;
mod format;
mod function;
mod items;
mod kernel;
mod known;
mod number;
mod operand;
mod parse;
mod scope;
mod shown;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod token;

pub use kernel::Decision;
pub use operand::Undefined;
pub use scope::{Context, Limits, Scope};
pub use syntax::CompileError;
pub use template::{Rendered, Template, UNDEFINED};

use crate::python::object::Value;
use crate::python::object::budget::Budget;
use crate::redact::Redactor;
use evaluate::Evaluation;
use format::Spec;
use operand::Operand;
use shown::{shown, written};
use syntax::Program;

/// Characters of one value in a log line at most.
const MAX_TEXT: usize = 4096;

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
    /// Compiles a text. The redactor says which names are those of secrets.
    ///
    /// # Errors
    /// [`CompileError`]: what is wrong, where, and what to do.
    pub fn compile(text: &str, redactor: &Redactor) -> Result<Self, CompileError> {
        Ok(Self { text: text.to_owned(), program: parse::parse(text, redactor)? })
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
        self.decide(context).value
    }

    /// As [`Self::condition`], and how it was found out.
    #[must_use]
    pub fn decide(&self, context: &Context<'_>) -> Outcome<bool> {
        self.run(context, |evaluation, value| evaluation.truth(&value))
    }

    /// The value, with what looks like a secret hidden.
    ///
    /// # Errors
    /// Why there is none.
    pub fn value(&self, context: &Context<'_>) -> Result<Value, Undefined> {
        self.evaluate(context).value
    }

    /// As [`Self::value`], and how it was found out.
    #[must_use]
    pub fn evaluate(&self, context: &Context<'_>) -> Outcome<Value> {
        self.run(context, |evaluation, value| shown(evaluation, &value))
    }

    /// How many levels below a local variable the expression looks: an image that is to answer it needs at least this
    /// depth. `order.customer.address.country` looks 3 levels deep, `any(item.price > 9 for item in order.items)` too.
    /// What is shown of a value has levels of its own.
    #[must_use]
    pub fn depth(&self) -> usize {
        depth::of(&self.program)
    }

    /// The form for the kernel, if the whole condition has one.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        Decision::of(&self.program)
    }

    /// The value as text, for a template.
    fn render(&self, context: &Context<'_>, rendering: &Rendering) -> Outcome<String> {
        self.run(context, |evaluation, value| {
            let text = written(evaluation, &value, rendering)?;
            Ok(match text.char_indices().nth(MAX_TEXT) {
                Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
                None => text,
            })
        })
    }

    fn run<T>(
        &self,
        context: &Context<'_>,
        answer: impl FnOnce(&Evaluation<'_>, Operand) -> Result<T, Undefined>,
    ) -> Outcome<T> {
        let budget = Budget::new(context.limits.steps, context.limits.time);
        let evaluation = Evaluation::new(context, &self.program, &budget);
        let value = evaluation.run().and_then(|value| answer(&evaluation, value));
        let value = value.map_err(|error| evaluation.reason(error));
        Outcome { value, late: evaluation.is_late() }
    }
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<T> {
    /// The value, or why there is none.
    pub value: Result<T, Undefined>,
    /// On an image: it was made of values that are not in the image (globals, attributes of classes and modules). They
    /// were read from the process, after the moment of the hit, and may have changed in between.
    pub late: bool,
}
