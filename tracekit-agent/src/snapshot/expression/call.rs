//! What the functions and methods of expressions do.

use std::ops::ControlFlow;

use num_bigint::BigInt;
use num_traits::{FromPrimitive as _, Signed as _, ToPrimitive as _};

use super::evaluate::{Evaluated, Evaluation};
use super::function::{Function, Method};
use super::number::{Number, round};
use super::operand::{Category, Operand, Remote, Undefined};
use super::syntax::{Binary, Comparison, Constant, Node, NodeId};
use crate::python::object::access::Container;
use crate::python::object::text;
use crate::python::reader::flags;

/// Digits that Python converts between text and integers (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4300;

impl Evaluation<'_> {
    pub fn call(&self, function: Function, arguments: &[NodeId]) -> Evaluated {
        let first = arguments.first().copied().unwrap_or_default();
        match function {
            Function::Any | Function::All => {
                let stop = function == Function::Any;
                let found = self.each_element(first, |item| {
                    Ok(if self.truth(&item)? == stop {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                })?;
                Ok(Operand::Bool(found.is_some() == stop))
            }
            Function::Min | Function::Max => self.extreme(function, arguments),
            Function::Sum => {
                let start = match arguments.get(1) {
                    Some(start) => self.node(*start)?,
                    None => Operand::int(0),
                };
                self.sum(first, &start)
            }
            Function::HasAttr => {
                let found = self.find_attribute(&self.node(first)?, self.literal(arguments)?);
                match found {
                    // A method is an attribute.
                    Err(Undefined::Unsupported(what)) if what.starts_with("method ") => {
                        Ok(Operand::Bool(true))
                    }
                    found => Ok(Operand::Bool(found?.is_some())),
                }
            }
            Function::GetAttr => {
                let (object, name) = (self.node(first)?, self.literal(arguments)?);
                match (self.find_attribute(&object, name)?, arguments.get(2)) {
                    (Some(found), _) => Ok(found),
                    (None, Some(otherwise)) => self.node(*otherwise),
                    (None, None) => {
                        Err(Undefined::NoAttribute { kind: object.type_name(), name: name.to_owned() })
                    }
                }
            }
            Function::IsInstance => {
                let object = self.node(first)?;
                let class = arguments.get(1).copied().unwrap_or_default();
                self.is_instance(&object, class).map(Operand::Bool)
            }
            Function::Round => {
                let value = self.node(first)?;
                let digits = match arguments.get(1) {
                    Some(digits) => self.digits(&self.node(*digits)?)?,
                    None => None,
                };
                if let Operand::Object(remote) = &value {
                    self.check_method(remote, "__round__")?;
                }
                let number = self.number(&value)?;
                round(&number.ok_or_else(|| wrong_type("round", &value))?, digits)
            }
            _ => self.convert(function, &self.node(first)?),
        }
    }

    /// The string that the second argument is.
    fn literal(&self, arguments: &[NodeId]) -> Result<&str, Undefined> {
        match self.syntax(arguments.get(1).copied().unwrap_or_default())? {
            Node::Constant(Constant::Str(name)) => Ok(name),
            _ => Err(Undefined::Type("an attribute's name must be a string".into())),
        }
    }

    fn digits(&self, operand: &Operand) -> Result<Option<i32>, Undefined> {
        match (self.load(operand)?, self.number(operand)?) {
            (Operand::None, _) => Ok(None),
            (_, Some(Number::Int(digits))) => {
                Ok(Some(digits.to_i32().unwrap_or(if digits.is_negative() { i32::MIN } else { i32::MAX })))
            }
            _ => Err(wrong_type("round", operand)),
        }
    }

    fn convert(&self, function: Function, value: &Operand) -> Evaluated {
        match function {
            Function::Len => Ok(Operand::int(self.length(value)?)),
            Function::Bool => self.truth(value).map(Operand::Bool),
            Function::Abs => {
                if let Operand::Object(remote) = value {
                    self.check_method(remote, "__abs__")?;
                }
                match self.number(value)? {
                    Some(Number::Int(value)) => Ok(Operand::Int(value.abs())),
                    Some(Number::Float(value)) => Ok(Operand::Float(value.abs())),
                    Some(Number::Decimal(_)) => {
                        Err(Undefined::Unsupported("arithmetic with a Decimal".into()))
                    }
                    None => Err(wrong_type("abs", value)),
                }
            }
            Function::Int => self.to_int(value),
            Function::Float => self.to_float(value),
            Function::Str => self.to_text(value).map(|text| Operand::text(&text)),
            Function::Type => match value {
                Operand::Object(remote) => self.lasting(remote.kind.address),
                _ => Err(Undefined::Unsupported("the type of a computed value".into())),
            },
            other => Err(Undefined::Unsupported(format!("function '{}'", other.name()))),
        }
    }

    fn to_int(&self, value: &Operand) -> Evaluated {
        if let Operand::Object(remote) = value {
            for method in ["__int__", "__index__", "__trunc__"] {
                self.check_method(remote, method)?;
            }
        }
        match self.number(value)? {
            Some(Number::Int(value)) => return Ok(Operand::Int(value)),
            Some(Number::Float(value)) => {
                let what = || Undefined::Arithmetic("cannot convert infinity or NaN to an integer".into());
                return BigInt::from_f64(value.trunc()).map(Operand::Int).ok_or_else(what);
            }
            Some(Number::Decimal(value)) => return value.truncated().map(Operand::Int),
            None => {}
        }
        let text = match self.load(value)? {
            Operand::Str(text) => text.to_string(),
            Operand::Bytes(bytes, _) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => return Err(wrong_type("int", value)),
        };
        let trimmed = text.trim_matches(is_space);
        let invalid = || Undefined::Arithmetic("the text is no integer".into());
        let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
        let digits = without_separators(digits).ok_or_else(invalid)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            // Digits of other scripts are integers too.
            return Err(if digits.is_ascii() {
                invalid()
            } else {
                Undefined::Unsupported("an integer that is not in ASCII".into())
            });
        }
        if digits.len() > MAX_DIGITS {
            return Err(Undefined::Limit("digits of an integer"));
        }
        let value: BigInt = digits.parse().map_err(|_| invalid())?;
        Ok(Operand::Int(if trimmed.starts_with('-') { -value } else { value }))
    }

    fn to_float(&self, value: &Operand) -> Evaluated {
        if let Operand::Object(remote) = value {
            for method in ["__float__", "__index__"] {
                self.check_method(remote, method)?;
            }
            if Category::of(&remote.kind) == Category::Decimal {
                let text = self.decimal_text(remote)?;
                return text
                    .parse()
                    .map(Operand::Float)
                    .map_err(|_| Undefined::Unsupported("a special Decimal as a float".into()));
            }
        }
        if let Some(number) = self.number(value)? {
            return number.float().map(Operand::Float);
        }
        let Operand::Str(text) = self.load(value)? else { return Err(wrong_type("float", value)) };
        let invalid = || Undefined::Arithmetic("the text is no float".into());
        let trimmed = text.trim_matches(is_space);
        if !trimmed.is_ascii() {
            return Err(Undefined::Unsupported("a float that is not in ASCII".into()));
        }
        without_separators(trimmed).and_then(|text| text.parse().ok()).map(Operand::Float).ok_or_else(invalid)
    }

    /// `str(value)` of what has one that is known.
    pub fn to_text(&self, value: &Operand) -> Result<String, Undefined> {
        if let Operand::Object(remote) = value {
            if let Some(text) = self.known_text(remote)? {
                self.uses(Operand::text(&text));
                return Ok(text);
            }
            // `int` and others have no `__str__` of their own, so that one of any base would count.
            for method in ["__str__", "__repr__"] {
                self.check_method_before(remote, method, None)?;
            }
            if Category::of(&remote.kind) == Category::Decimal {
                return self.decimal_text(remote);
            }
        }
        Ok(match self.load(value)? {
            Operand::None => "None".to_owned(),
            Operand::Bool(true) => "True".to_owned(),
            Operand::Bool(false) => "False".to_owned(),
            Operand::Int(value) => {
                let digits = value.to_string();
                if digits.len() > MAX_DIGITS {
                    return Err(Undefined::Limit("digits of an integer"));
                }
                digits
            }
            Operand::Float(value) => text::float(value),
            Operand::Str(text) => text.to_string(),
            other => {
                return Err(Undefined::Unsupported(format!("str() of a '{}'", other.type_name())));
            }
        })
    }

    fn extreme(&self, function: Function, arguments: &[NodeId]) -> Evaluated {
        let mut best: Option<Operand> = None;
        let mut consider = |item: Operand| -> Result<ControlFlow<()>, Undefined> {
            let operator = if function == Function::Min { Comparison::Less } else { Comparison::Greater };
            let better = match &best {
                Some(best) => self.ordered(operator, &item, best)?,
                None => true,
            };
            if better {
                best = Some(item);
            }
            Ok(ControlFlow::Continue(()))
        };
        if let [only] = arguments {
            self.each_element(*only, consider)?;
        } else {
            for argument in self.nodes(arguments)? {
                let _ = consider(argument)?;
            }
        }
        best.ok_or_else(|| Undefined::Arithmetic(format!("{}() of nothing", function.name())))
    }

    /// Since 3.12 floats are added with compensation (CPython `Python/bltinmodule.c` `builtin_sum_impl`).
    fn sum(&self, argument: NodeId, start: &Operand) -> Evaluated {
        if matches!(self.load(start)?, Operand::Str(_) | Operand::Bytes(..)) {
            return Err(Undefined::Type("sum() cannot add strings".into()));
        }
        let compensated = self.objects.reader.layout.minor >= 12;
        let (mut total, mut lost) = (start.clone(), 0.0_f64);
        self.each_element(argument, |item| -> Result<ControlFlow<()>, Undefined> {
            let exact = match &item {
                Operand::Object(remote) => remote.kind.class_names.is_empty(),
                _ => true,
            };
            let number = if exact { self.number(&item)? } else { None };
            total = match (&total, number) {
                (Operand::Float(sum), Some(number))
                    if compensated && !matches!(number, Number::Decimal(_)) =>
                {
                    let term = number.float()?;
                    let next = sum + term;
                    if matches!(number, Number::Float(_)) {
                        lost +=
                            if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
                    }
                    Operand::Float(next)
                }
                _ => self.binary(Binary::Add, &total, &item)?,
            };
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(match total {
            Operand::Float(sum) if lost != 0.0 && lost.is_finite() => Operand::Float(sum + lost),
            total => total,
        })
    }

    /// `isinstance(object, class)`. A class that the frame has no name for is compared by name.
    fn is_instance(&self, object: &Operand, class: NodeId) -> Result<bool, Undefined> {
        if let Node::Tuple(classes) = self.syntax(class)? {
            for class in classes {
                if self.is_instance(object, *class)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        match (self.node(class), self.syntax(class)?) {
            (Ok(class), _) => self.is_instance_of(object, &class),
            (
                Err(Undefined::NoName(_) | Undefined::NotCaptured | Undefined::Unreadable(_)),
                Node::Name(name),
            ) => Ok(self.class_names(object)?.iter().any(|found| found == name)),
            (Err(error), _) => Err(error),
        }
    }

    fn class_names(&self, object: &Operand) -> Result<Vec<String>, Undefined> {
        match object {
            Operand::Object(remote) => {
                let native = remote.kind.native_names.iter();
                let short = native.map(|name| name.rsplit('.').next().unwrap_or_default().to_owned());
                Ok(remote.kind.class_names.iter().cloned().chain(short).collect())
            }
            Operand::Redacted(name) => Err(Undefined::Redacted(name.to_string())),
            Operand::Bool(_) => Ok(vec!["bool".into(), "int".into(), "object".into()]),
            other => Ok(vec![other.type_name(), "object".into()]),
        }
    }

    fn is_instance_of(&self, object: &Operand, class: &Operand) -> Result<bool, Undefined> {
        self.deeper(|| self.is_instance_here(object, class))
    }

    fn is_instance_here(&self, object: &Operand, class: &Operand) -> Result<bool, Undefined> {
        let not_a_class = || Undefined::Type("the second argument of isinstance() is no class".into());
        let Operand::Object(wanted) = class else { return Err(not_a_class()) };
        if Category::of(&wanted.kind) == Category::Container(Container::Tuple) {
            for class in self.items(class)? {
                if self.is_instance_of(object, &class)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if !wanted.kind.has(flags::TYPE) {
            let union = matches!(wanted.kind.full_name.as_str(), "types.UnionType" | "typing.Union");
            return Err(if union {
                Undefined::Unsupported("a union of types".into())
            } else {
                not_a_class()
            });
        }
        let inherits = match object {
            Operand::Object(remote) => {
                if remote.kind.address == wanted.address {
                    return Ok(true);
                }
                self.classes.bases(remote.kind.address)?.contains(&wanted.address)
            }
            _ => {
                let name = self.classes.reader().type_at(wanted.address)?.full_name.clone();
                self.class_names(object)?.contains(&name)
            }
        };
        if !inherits && let Operand::Object(remote) = object {
            // A proxy says that it is of the class of what it stands for.
            self.check_method_before(remote, "__class__", None)?;
            self.check_method_before(remote, "__getattribute__", None)?;
            if Category::of(&remote.kind) == Category::Other
                && !self.classes.has_generic_lookup(&remote.kind)?
            {
                return Err(Undefined::Unsupported(format!("isinstance() of a {}", remote.kind.full_name)));
            }
        }
        match self.classes.python_method(&wanted.kind, "__instancecheck__", None)? {
            // An abstract class says yes to all that inherit from it; what else it does only it knows.
            Some(method) if !(inherits && method == "ABCMeta.__instancecheck__") => {
                Err(Undefined::WouldRunCode(method))
            }
            _ => Ok(inherits),
        }
    }

    pub fn method(&self, method: Method, object: &Operand, arguments: &[Operand]) -> Evaluated {
        if let Operand::Object(remote) = object {
            self.check_method(remote, method.name())?;
        }
        if method == Method::StartsWith
            && let Some((part, _)) = self.text_part(object)?
        {
            return match self.text_method(method, &part, arguments)? {
                Operand::Bool(false) if self.is_shorter(&part, arguments)? => Err(Undefined::NotCaptured),
                found => Ok(found),
            };
        }
        let loaded = self.load(object)?;
        match &loaded {
            Operand::Str(text) => self.text_method(method, text, arguments),
            Operand::Dict(_) => self.dict_method(method, &loaded, arguments),
            Operand::List(_) | Operand::Tuple(_) if method == Method::Count => {
                self.count(&loaded, arguments.first())
            }
            Operand::Object(remote) => match Category::of(&remote.kind) {
                Category::Container(Container::Dict) => {
                    self.check_plain_dict(remote)?;
                    self.dict_method(method, &loaded, arguments)
                }
                Category::Container(Container::List | Container::Tuple | Container::Deque)
                    if method == Method::Count =>
                {
                    self.count(&loaded, arguments.first())
                }
                _ => Err(no_method(method, &loaded)),
            },
            _ => Err(no_method(method, &loaded)),
        }
    }

    /// The captured part of a string is shorter than one of those with which it might begin.
    fn is_shorter(&self, part: &str, arguments: &[Operand]) -> Result<bool, Undefined> {
        let Some(wanted) = arguments.first() else { return Ok(false) };
        let wanted = match self.load(wanted)? {
            Operand::Str(text) => return Ok(part.len() < text.len()),
            other => self.items(&other)?,
        };
        for text in wanted {
            if matches!(self.load(&text)?, Operand::Str(text) if part.len() < text.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An instance of a dict's subclass may have an attribute in place of the method.
    fn check_plain_dict(&self, remote: &Remote) -> Result<(), Undefined> {
        self.check_method(remote, "__getattribute__")
    }

    fn count(&self, object: &Operand, wanted: Option<&Operand>) -> Evaluated {
        let mut count = 0;
        self.each_item(object, |item| -> Result<ControlFlow<()>, Undefined> {
            if let Some(wanted) = wanted {
                count += i64::from(
                    matches!((&item, wanted), (Operand::Object(a), Operand::Object(b)) if a.address == b.address)
                        || self.equal(&item, wanted)?,
                );
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Operand::int(count))
    }

    fn dict_method(&self, method: Method, dict: &Operand, arguments: &[Operand]) -> Evaluated {
        if let (Method::Get, [key, otherwise @ ..]) = (method, arguments) {
            let otherwise = otherwise.first().cloned().unwrap_or(Operand::None);
            return Ok(self.lookup(dict, key)?.unwrap_or(otherwise));
        }
        let name = match method {
            Method::Keys => "dict_keys",
            Method::Values => "dict_values",
            Method::Items => "dict_items",
            _ => return Err(no_method(method, dict)),
        };
        let pairs = self.pairs(dict)?.into_iter().map(|(key, value)| match method {
            Method::Keys => key,
            Method::Values => value,
            _ => Operand::Tuple([key, value].into()),
        });
        Ok(Operand::View(pairs.collect(), name))
    }

    fn text_method(&self, method: Method, text: &str, arguments: &[Operand]) -> Evaluated {
        let loaded: Vec<Operand> =
            arguments.iter().map(|argument| self.load(argument)).collect::<Result<_, _>>()?;
        let wrong = || Undefined::Type(format!("arguments of {}() must be strings", method.name()));
        let limit = self.context.limits.text;
        self.objects.budget.take(text.len() / 64)?;
        Ok(match (method, loaded.as_slice()) {
            (Method::StartsWith | Method::EndsWith, [affix]) => {
                let affixes = match affix {
                    Operand::Str(_) => vec![affix.clone()],
                    Operand::Tuple(items) => items.to_vec(),
                    Operand::Object(remote)
                        if Category::of(&remote.kind) == Category::Container(Container::Tuple) =>
                    {
                        self.items(affix)?
                    }
                    _ => return Err(wrong()),
                };
                for affix in affixes {
                    let Operand::Str(affix) = self.load(&affix)? else { return Err(wrong()) };
                    let found = match method {
                        Method::StartsWith => text.starts_with(affix.as_ref()),
                        _ => text.ends_with(affix.as_ref()),
                    };
                    if found {
                        return Ok(Operand::Bool(true));
                    }
                }
                Operand::Bool(false)
            }
            (Method::Lower, _) => Operand::text(&text.to_lowercase()),
            (Method::Upper, _) => Operand::text(&text.to_uppercase()),
            (Method::IsDigit, _) if text.chars().all(|c| c.is_ascii_digit()) => {
                Operand::Bool(!text.is_empty())
            }
            // Which numbers of other scripts are digits is in Python's own tables.
            (Method::IsDigit, _) if text.chars().all(|c| c.is_numeric()) => {
                return Err(Undefined::Unsupported("isdigit() beyond ASCII".into()));
            }
            (Method::IsDigit, _) => Operand::Bool(false),
            (Method::Strip | Method::LStrip | Method::RStrip, given) => {
                let set = match given {
                    [] | [Operand::None] => None,
                    [Operand::Str(set)] => Some(set.clone()),
                    _ => return Err(wrong()),
                };
                let strips = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
                Operand::text(match method {
                    Method::Strip => text.trim_matches(strips),
                    Method::LStrip => text.trim_start_matches(strips),
                    _ => text.trim_end_matches(strips),
                })
            }
            (Method::Find, [Operand::Str(part)]) => {
                let at = text.find(part.as_ref()).and_then(|at| text.get(..at));
                at.map_or_else(|| Operand::int(-1), |before| Operand::int(before.chars().count()))
            }
            (Method::Count, [Operand::Str(part)]) if part.is_empty() => {
                Operand::int(text.chars().count() + 1)
            }
            (Method::Count, [Operand::Str(part)]) => Operand::int(text.matches(part.as_ref()).count()),
            (Method::Replace, [Operand::Str(from), Operand::Str(to)]) => {
                let count =
                    if from.is_empty() { text.len() + 1 } else { text.matches(from.as_ref()).count() };
                if text.len().saturating_add(count.saturating_mul(to.len())) > limit {
                    return Err(Undefined::Limit("characters of a string"));
                }
                Operand::text(&text.replace(from.as_ref(), to))
            }
            (Method::Split, given) => {
                let most = match given.get(1).map(Number::of) {
                    None => usize::MAX,
                    Some(Some(Number::Int(most))) if most.is_negative() => usize::MAX,
                    Some(Some(Number::Int(most))) => most.to_usize().unwrap_or(usize::MAX),
                    Some(_) => return Err(wrong()),
                };
                let parts = match given.first() {
                    None | Some(Operand::None) => split_at_space(text, most),
                    Some(Operand::Str(separator)) if separator.is_empty() => {
                        return Err(Undefined::Arithmetic("empty separator".into()));
                    }
                    Some(Operand::Str(separator)) => {
                        text.splitn(most.saturating_add(1), separator.as_ref()).collect()
                    }
                    Some(_) => return Err(wrong()),
                };
                self.objects.budget.take(parts.len())?;
                Operand::List(parts.into_iter().map(Operand::text).collect())
            }
            (Method::Get | Method::Items | Method::Keys | Method::Values, _) => {
                return Err(no_method(method, &Operand::text("")));
            }
            _ => return Err(wrong()),
        })
    }
}

/// `str.split()` without a separator.
fn split_at_space(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| parts.len() < most);
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

/// `str.isspace()`: what Unicode calls white space, and the separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Digits without the underscores between them; nothing if one is elsewhere.
fn without_separators(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let misplaced =
        |(at, byte): (usize, &u8)| *byte == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1)));
    if bytes.iter().enumerate().any(misplaced) { None } else { Some(text.replace('_', "")) }
}

fn wrong_type(function: &str, value: &Operand) -> Undefined {
    let what = format!("{function}() of a '{}'", value.type_name());
    // Types written in C may have it.
    if matches!(value, Operand::Object(_)) { Undefined::Unsupported(what) } else { Undefined::Type(what) }
}

fn no_method(method: Method, value: &Operand) -> Undefined {
    Undefined::Unsupported(format!("method '{}' of a '{}'", method.name(), value.type_name()))
}
