//! The form of a condition that the kernel side evaluates at a hit.

use num_bigint::BigInt;
use num_traits::ToPrimitive as _;
use tracekit_common::watchpoint::{
    Condition, EQUAL, GREATER, IDENTITY, Known, LESS, MAX_LITERAL, MAX_SLOTS, MAX_STEPS, MAX_WORDS, MET,
    NO_FLOAT, NONE, NUMBER, OTHER, Step, TEXT, TRUTH, UNMET, float_order,
};

use super::syntax::{Comparison, Constant, Node, NodeId, Program, Unary};
use crate::python::reader::{Code, LocalKind};

/// Integers beyond this, either side of 0, are not compared: two digits of 30 bits.
const MAX_INTEGER: u64 = 1 << 60;

/// A condition of which the kernel side knows how to decide every part. The names are not yet those of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// In reverse: the first is the last.
    checks: Vec<Check>,
}

/// What follows a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Met,
    Unmet,
    Check(usize),
}

#[derive(Debug, Clone, PartialEq)]
struct Check {
    name: String,
    /// Outcomes that are true.
    accepted: u8,
    operand: Literal,
    then: End,
    otherwise: End,
}

#[derive(Debug, Clone, PartialEq)]
enum Literal {
    /// `is` None, True or False.
    Identity(Option<bool>),
    None,
    Number {
        /// The next integer below, if it is a fraction.
        integer: i64,
        fraction: bool,
        float: Option<f64>,
    },
    Text(String),
    /// The truth value is asked for.
    Truth,
}

impl Decision {
    /// The form of a program; `None` if a part of it has none.
    pub(super) fn of(program: &Program) -> Option<Self> {
        let mut builder = Builder { program, checks: Vec::new() };
        let entry = builder.decide(program.root, End::Met, End::Unmet)?;
        // The first step of a condition is where it begins.
        let begins = entry == End::Check(builder.checks.len().checked_sub(1)?);
        (begins && builder.checks.len() <= MAX_STEPS).then_some(Self { checks: builder.checks })
    }

    /// As the kernel side takes it, for frames of this code; `None` if a name is not that of a local variable there, or if
    /// the texts are too long.
    #[must_use]
    pub fn bind(&self, code: &Code, known: &Known) -> Option<Condition> {
        let mut made =
            Condition { known: *known, steps: [Step::default(); MAX_STEPS], words: [0; MAX_WORDS] };
        let mut used = 0;
        let place = |end: End| match end {
            End::Met => Some(MET),
            End::Unmet => Some(UNMET),
            End::Check(at) => u8::try_from(self.checks.len().checked_sub(at + 1)?).ok(),
        };
        for (check, step) in self.checks.iter().rev().zip(&mut made.steps) {
            *step = Step {
                accepted: check.accepted,
                then: place(check.then)?,
                otherwise: place(check.otherwise)?,
                slot: slot(code, &check.name)?,
                float: NO_FLOAT,
                ..Step::default()
            };
            match &check.operand {
                Literal::Identity(of) => {
                    step.operand = IDENTITY;
                    step.integer = match of {
                        None => known.none,
                        Some(true) => known.truth,
                        Some(false) => known.falsehood,
                    };
                }
                Literal::None => step.operand = NONE,
                Literal::Number { integer, fraction, float } => {
                    step.operand = NUMBER;
                    step.integer = integer.cast_unsigned();
                    step.length = u32::from(*fraction);
                    step.float = float.map_or(NO_FLOAT, |float| float_order(float.to_bits()).cast_unsigned());
                }
                Literal::Text(text) => {
                    step.operand = TEXT;
                    step.text = u32::try_from(used).ok()?;
                    step.length = u32::try_from(text.len()).ok()?;
                    for chunk in text.as_bytes().chunks(8) {
                        let mut word = [0; 8];
                        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
                        *made.words.get_mut(used)? = u64::from_ne_bytes(word);
                        used += 1;
                    }
                }
                Literal::Truth => step.operand = TRUTH,
            }
        }
        Some(made)
    }
}

/// Where frames of a code object have a variable that is no cell, and is the only one of its name.
fn slot(code: &Code, name: &str) -> Option<u32> {
    if !code.is_function() {
        return None;
    }
    let mut slots = code.locals.iter().enumerate().filter(|(_, (local, _))| local == name);
    let (slot, (_, kind)) = slots.next()?;
    let slot = u32::try_from(slot).ok().filter(|slot| *slot < MAX_SLOTS)?;
    (*kind == LocalKind::Fast && slots.next().is_none()).then_some(slot)
}

struct Builder<'p> {
    program: &'p Program,
    checks: Vec<Check>,
}

/// Outcomes for which a comparison is true.
fn accepted(comparison: Comparison) -> Option<u8> {
    Some(match comparison {
        Comparison::Equal | Comparison::Is => EQUAL,
        Comparison::NotEqual | Comparison::IsNot => LESS | GREATER | OTHER,
        Comparison::Less => LESS,
        Comparison::LessOrEqual => LESS | EQUAL,
        Comparison::Greater => GREATER,
        Comparison::GreaterOrEqual => GREATER | EQUAL,
        Comparison::In | Comparison::NotIn => return None,
    })
}

/// `a < b` is `b > a`.
fn turned(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        other => other,
    }
}

impl Builder<'_> {
    fn node(&self, id: NodeId) -> Option<&Node> {
        self.program.nodes.get(id)
    }

    /// Adds the checks of a node from the last to the first; where they begin.
    fn decide(&mut self, id: NodeId, then: End, otherwise: End) -> Option<End> {
        match self.node(id)?.clone() {
            Node::Name(name) => {
                let accepted = LESS | GREATER | OTHER;
                self.check(Check { name, accepted, operand: Literal::Truth, then, otherwise })
            }
            Node::Unary(Unary::Not, of) => self.decide(of, otherwise, then),
            Node::And(a, b) => {
                let second = self.decide(b, then, otherwise)?;
                self.decide(a, second, otherwise)
            }
            Node::Or(a, b) => {
                let second = self.decide(b, then, otherwise)?;
                self.decide(a, then, second)
            }
            Node::Conditional { test, then: yes, otherwise: no } => {
                let no = self.decide(no, then, otherwise)?;
                let yes = self.decide(yes, then, otherwise)?;
                self.decide(test, yes, no)
            }
            Node::Compare(first, rest) => {
                let lefts = std::iter::once(first).chain(rest.iter().map(|(_, right)| *right));
                let pairs: Vec<_> = lefts.zip(&rest).collect();
                let mut next = then;
                for (left, (comparison, right)) in pairs.into_iter().rev() {
                    next = self.compare(left, *comparison, *right, next, otherwise)?;
                }
                Some(next)
            }
            _ => None,
        }
    }

    fn compare(
        &mut self,
        left: NodeId,
        comparison: Comparison,
        right: NodeId,
        then: End,
        otherwise: End,
    ) -> Option<End> {
        let (name, comparison, right) = match (self.node(left)?, self.node(right)?) {
            (Node::Name(name), _) => (name.clone(), comparison, right),
            (_, Node::Name(name)) => (name.clone(), turned(comparison), left),
            _ => return None,
        };
        match comparison {
            Comparison::In => self.is_one_of(&name, left, right, then, otherwise),
            Comparison::NotIn => self.is_one_of(&name, left, right, otherwise, then),
            Comparison::Is | Comparison::IsNot => {
                let of = match self.node(right)? {
                    Node::Constant(Constant::None) => None,
                    Node::Constant(Constant::Bool(value)) => Some(*value),
                    _ => return None,
                };
                let (accepted, operand) = (accepted(comparison)?, Literal::Identity(of));
                self.check(Check { name, accepted, operand, then, otherwise })
            }
            _ => {
                let operand = self.literal(right)?;
                let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
                if !equality && !matches!(operand, Literal::Number { .. }) {
                    return None;
                }
                let accepted = accepted(comparison)?;
                self.check(Check { name, accepted, operand, then, otherwise })
            }
        }
    }

    /// `name in (1, 2)`
    fn is_one_of(
        &mut self,
        name: &str,
        left: NodeId,
        right: NodeId,
        then: End,
        otherwise: End,
    ) -> Option<End> {
        // Not `1 in name`.
        if !matches!(self.node(left)?, Node::Name(_)) {
            return None;
        }
        let items = match self.node(right)? {
            Node::Tuple(items) | Node::List(items) if !items.is_empty() => items.clone(),
            _ => return None,
        };
        let mut next = otherwise;
        for item in items.into_iter().rev() {
            let (name, operand) = (name.to_owned(), self.literal(item)?);
            next = self.check(Check { name, accepted: EQUAL, operand, then, otherwise: next })?;
        }
        Some(next)
    }

    fn check(&mut self, check: Check) -> Option<End> {
        if self.checks.len() >= MAX_STEPS {
            return None;
        }
        self.checks.push(check);
        Some(End::Check(self.checks.len() - 1))
    }

    fn literal(&self, id: NodeId) -> Option<Literal> {
        match self.node(id)? {
            Node::Constant(Constant::None) => Some(Literal::None),
            Node::Constant(Constant::Bool(value)) => integer(&u8::from(*value).into(), false),
            Node::Constant(Constant::Int(value)) => integer(value, false),
            Node::Constant(Constant::Float(value)) => float(*value),
            Node::Constant(Constant::Str(text)) if text.is_ascii() && text.len() <= MAX_LITERAL => {
                Some(Literal::Text(text.clone()))
            }
            Node::Unary(Unary::Minus, of) => match self.node(*of)? {
                Node::Constant(Constant::Int(value)) => integer(value, true),
                Node::Constant(Constant::Float(value)) => float(-value),
                _ => None,
            },
            _ => None,
        }
    }
}

fn integer(value: &BigInt, negative: bool) -> Option<Literal> {
    let value = value.to_i64().filter(|value| value.unsigned_abs() < MAX_INTEGER)?;
    let integer = if negative { -value } else { value };
    // Some are no float.
    let float = Some(integer as f64).filter(|float| *float as i64 == integer);
    Some(Literal::Number { integer, fraction: false, float })
}

fn float(value: f64) -> Option<Literal> {
    // NaN is not.
    if value.abs() < MAX_INTEGER as f64 {
        let below = value.floor();
        return Some(Literal::Number { integer: below as i64, fraction: below < value, float: Some(value) });
    }
    None
}
