//! Log templates: text with expressions in braces, as Python's formatted strings have them.

use super::format::Spec;
use super::syntax::CompileError;
use super::{Context, Expression, Rendering, Undefined};
use crate::redact::Redactor;

/// Bytes of a template at most.
const MAX_LENGTH: usize = 4096;
/// Expressions of a template at most.
const MAX_EXPRESSIONS: usize = 32;

/// What a part that has no value is written as.
pub const UNDEFINED: &str = "UNDEFINED";

/// A compiled template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value { expression: Expression, rendering: Rendering },
}

/// A template's text at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The expressions that had no value, and why.
    pub undefined: Vec<(String, Undefined)>,
    /// Some of it was read after the moment of the hit: see [`Outcome::late`](super::Outcome).
    pub late: bool,
}

impl Template {
    /// Compiles a template: `'total={order.total:.2f} user={user.id!r} {len(items)=}'`; braces themselves are
    /// written twice. The redactor says which names are those of secrets.
    ///
    /// # Errors
    /// [`CompileError`], with the column in the template.
    pub fn compile(text: &str, redactor: &Redactor) -> Result<Self, CompileError> {
        if text.len() > MAX_LENGTH {
            let what = format!("the template has {} bytes, more than {MAX_LENGTH}", text.len());
            return Err(CompileError::new(what, 1));
        }
        let characters: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        let (mut plain, mut at, mut count) = (String::new(), 0, 0);
        while let Some(c) = characters.get(at) {
            let twice = characters.get(at + 1) == Some(c);
            match c {
                '{' | '}' if twice => {
                    plain.push(*c);
                    at += 2;
                }
                '}' => {
                    return Err(CompileError::new("unexpected '}'", at + 1)
                        .hint("braces that are text are written twice: }}"));
                }
                '{' => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    count += 1;
                    if count > MAX_EXPRESSIONS {
                        let what = format!("the template has more than {MAX_EXPRESSIONS} expressions");
                        return Err(CompileError::new(what, at + 1));
                    }
                    let field = Field::find(&characters, at + 1)?;
                    let (part, label) = field.compile(&characters, redactor)?;
                    if let Some(label) = label {
                        parts.push(Part::Text(label));
                    }
                    parts.push(part);
                    at = field.end + 1;
                }
                _ => {
                    plain.push(*c);
                    at += 1;
                }
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many levels below local variables its expressions look: see [`Expression::depth`].
    #[must_use]
    pub fn depth(&self) -> usize {
        let depth = |part: &Part| match part {
            Part::Text(_) => 0,
            Part::Value { expression, .. } => expression.depth(),
        };
        self.parts.iter().map(depth).max().unwrap_or(0)
    }

    /// The text with the values of this moment; parts without one are [`UNDEFINED`].
    #[must_use]
    pub fn render(&self, context: &Context<'_>) -> Rendered {
        let mut rendered = Rendered { text: String::new(), undefined: Vec::new(), late: false };
        for part in &self.parts {
            match part {
                Part::Text(text) => rendered.text.push_str(text),
                Part::Value { expression, rendering } => {
                    let outcome = expression.render(context, rendering);
                    rendered.late |= outcome.late;
                    match outcome.value {
                        Ok(text) => rendered.text.push_str(&text),
                        Err(reason) => {
                            rendered.text.push_str(UNDEFINED);
                            rendered.undefined.push((expression.text().to_owned(), reason));
                        }
                    }
                }
            }
        }
        rendered
    }
}

/// Where the parts of `{expression=!r:spec}` are, in characters.
struct Field {
    start: usize,
    /// Behind the expression.
    stop: usize,
    /// Behind the `=`, if there is one.
    label: Option<usize>,
    conversion: Option<usize>,
    spec: Option<usize>,
    /// The closing brace.
    end: usize,
}

impl Field {
    /// From the character after the opening brace on. Brackets and strings are passed over.
    fn find(characters: &[char], start: usize) -> Result<Self, CompileError> {
        let open = || {
            CompileError::new("'}' is missing for the '{'", start)
                .hint("braces that are text are written twice: {{")
        };
        let at = |index: usize| characters.get(index).copied();
        let (mut depth, mut index) = (0_usize, start);
        let (stop, label) = loop {
            let c = at(index).ok_or_else(open)?;
            match c {
                '\'' | '"' => {
                    index += 1;
                    while at(index).ok_or_else(open)? != c {
                        index += usize::from(at(index) == Some('\\')) + 1;
                    }
                }
                '(' | '[' | '{' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '}' if depth > 0 => depth -= 1,
                '}' | ':' if depth == 0 => break (index, None),
                '!' if depth == 0 && at(index + 1) != Some('=') => break (index, None),
                '=' if depth == 0 => {
                    let mut next = index + 1;
                    while at(next) == Some(' ') {
                        next += 1;
                    }
                    let before = index.checked_sub(1).and_then(at);
                    let compares = matches!(before, Some('=' | '!' | '<' | '>'));
                    if !compares && matches!(at(next), Some('}' | '!' | ':')) {
                        break (index, Some(next));
                    }
                }
                _ => {}
            }
            index += 1;
        };
        let mut next = label.unwrap_or(stop);
        let mut field = Self { start, stop, label, conversion: None, spec: None, end: 0 };
        if at(next) == Some('!') {
            field.conversion = Some(next + 1);
            next += 2;
        }
        match at(next).ok_or_else(open)? {
            '}' => field.end = next,
            ':' => {
                field.spec = Some(next + 1);
                let length = characters.iter().skip(next + 1).position(|c| matches!(c, '{' | '}'));
                field.end = next + 1 + length.ok_or_else(open)?;
                if at(field.end) == Some('{') {
                    return Err(CompileError::new("unexpected '{'", field.end + 1)
                        .hint("a format cannot contain expressions"));
                }
            }
            _ => return Err(CompileError::new("'}' is missing", next + 1)),
        }
        Ok(field)
    }

    fn compile(
        &self,
        characters: &[char],
        redactor: &Redactor,
    ) -> Result<(Part, Option<String>), CompileError> {
        let slice = |from: usize, to: usize| -> String {
            characters.get(from..to).unwrap_or_default().iter().collect()
        };
        let text = slice(self.start, self.stop);
        let expression = Expression::compile(&text, redactor)
            .map_err(|error| CompileError { column: error.column + self.start, ..error })?;
        let repr = match self.conversion.map(|at| (at, characters.get(at))) {
            None => None,
            Some((_, Some('r'))) => Some(true),
            Some((_, Some('s'))) => Some(false),
            Some((at, _)) => {
                return Err(CompileError::new("unknown conversion", at + 1).hint("!r and !s are supported"));
            }
        };
        let spec = match self.spec {
            Some(from) => {
                Spec::parse(&slice(from, self.end)).map_err(|what| CompileError::new(what, from + 1))?
            }
            None => Spec::default(),
        };
        let label = self.label.map(|to| slice(self.start, to));
        // As Python does it: with a label, and nothing said of the form, it is that of `repr`.
        let repr = repr.or((label.is_some() && self.spec.is_none()).then_some(true));
        Ok((Part::Value { expression, rendering: Rendering { repr, spec } }, label))
    }
}
