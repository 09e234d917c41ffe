//! The evaluation of a program: names, attributes, items, and the control flow between them.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use num_bigint::BigInt;

use super::number::{Decimal, Number, arithmetic};
use super::operand::{Category, Operand, Remote, Undefined};
use super::scope::{Context, Found};
use super::syntax::{Binary, Comparison, Node, NodeId, Program, Unary};
use crate::python::memory::MemoryError;
use crate::python::object::access::{Attribute, Objects};
use crate::python::object::budget::Budget;
use crate::python::object::classes::Classes;
use crate::python::object::{Content, Decoder, Limits as DecoderLimits, Value};
use crate::python::reader::{ReadError, flags};
use crate::redact::{Counts, Kind};

/// C types that do what the built-in type they inherit from does.
const KNOWN_SUBTYPES: &[&str] =
    &["collections.OrderedDict", "collections.defaultdict", "os.stat_result", "time.struct_time"];
/// Types of objects that do not change, and of those that live as long as their module.
const LASTING: &[&str] = &["NoneType", "bool", "builtin_function_or_method", "function", "module"];
/// Levels of containers in containers that are compared.
const MAX_LEVELS: usize = 20;

pub(super) type Evaluated = Result<Operand, Undefined>;

/// One evaluation.
pub(super) struct Evaluation<'e> {
    pub context: &'e Context<'e>,
    pub objects: Objects<'e, 'e>,
    /// Those of the process; of an evaluation that is not on an image the same.
    process: Objects<'e, 'e>,
    pub classes: Classes<'e, 'e>,
    program: &'e Program,
    /// Variables of generator expressions.
    variables: RefCell<Vec<Option<Operand>>>,
    /// Containers in containers that are being compared.
    levels: Cell<usize>,
    /// Strings and bytes of the target that were used and are still to be searched for secrets.
    used: RefCell<Vec<Operand>>,
    /// What the first secret in those was.
    secret: Cell<Option<Kind>>,
    /// Something that can change was read from the process, after the image.
    late: Cell<bool>,
}

impl<'e> Evaluation<'e> {
    pub fn new(context: &'e Context<'e>, program: &'e Program, budget: &'e Budget) -> Self {
        let objects = Objects::new(context.reader, budget);
        Self {
            context,
            process: objects.lasting(),
            classes: objects.classes(),
            objects,
            program,
            variables: RefCell::default(),
            levels: Cell::new(0),
            used: RefCell::default(),
            secret: Cell::new(None),
            late: Cell::new(false),
        }
    }

    /// Something that can change was read from the process, after the image.
    pub fn is_late(&self) -> bool {
        self.late.get()
    }

    /// What looks into this object: into the image, or the process.
    pub fn at(&self, remote: &Remote) -> &Objects<'e, 'e> {
        if remote.late { &self.process } else { &self.objects }
    }

    fn is_image(&self) -> bool {
        self.objects.reader.is_image()
    }

    /// What could not be read from an image was not captured.
    pub fn reason(&self, error: Undefined) -> Undefined {
        match error {
            Undefined::Unreadable(
                ReadError::Invalid(_) | ReadError::Memory(MemoryError::Unmapped { .. }),
            ) if self.is_image() => Undefined::NotCaptured,
            error => error,
        }
    }

    pub fn run(&self) -> Evaluated {
        self.node(self.program.root)
    }

    /// The program's nodes, for what looks at an argument before it is evaluated.
    pub fn syntax(&self, id: NodeId) -> Result<&'e Node, Undefined> {
        self.program.nodes.get(id).ok_or(Undefined::Limit("nodes"))
    }

    pub fn node(&self, id: NodeId) -> Evaluated {
        self.objects.budget.take(1)?;
        match self.syntax(id)? {
            Node::Constant(constant) => Ok(constant.into()),
            Node::Name(name) => self.name(name),
            Node::Bound(variable) => {
                let value = self.variables.borrow().get(*variable).cloned().flatten();
                value.ok_or(Undefined::Limit("nodes"))
            }
            Node::Attribute(object, name) => {
                let object = self.node(*object)?;
                self.attribute(&object, name)
            }
            Node::Subscript(object, key) => {
                let (object, key) = (self.node(*object)?, self.node(*key)?);
                self.subscript(&object, &key)
            }
            Node::Slice(object, parts) => self.slice_node(*object, parts),
            Node::Unary(operator, operand) => {
                let operand = self.node(*operand)?;
                self.unary(*operator, &operand)
            }
            Node::Binary(operator, left, right) => {
                let (left, right) = (self.node(*left)?, self.node(*right)?);
                self.binary(*operator, &left, &right)
            }
            Node::Compare(first, rest) => self.chain(*first, rest).map(Operand::Bool),
            Node::And(left, right) => {
                let left = self.node(*left)?;
                if self.truth(&left)? { self.node(*right) } else { Ok(left) }
            }
            Node::Or(left, right) => {
                let left = self.node(*left)?;
                if self.truth(&left)? { Ok(left) } else { self.node(*right) }
            }
            Node::Conditional { test, then, otherwise } => {
                let test = self.node(*test)?;
                self.node(if self.truth(&test)? { *then } else { *otherwise })
            }
            Node::Call(function, arguments) => self.call(*function, arguments),
            Node::Method(method, object, arguments) => {
                let object = self.node(*object)?;
                let arguments = self.nodes(arguments)?;
                self.method(*method, &object, &arguments)
            }
            Node::List(items) => Ok(Operand::List(self.nodes(items)?.into())),
            Node::Tuple(items) => Ok(Operand::Tuple(self.nodes(items)?.into())),
            Node::Set(items) => self.set_literal(items),
            Node::Dict(pairs) => self.dict_literal(pairs),
            Node::Generator { .. } => Err(Undefined::Unsupported("a generator as a value".into())),
        }
    }

    fn slice_node(&self, object: NodeId, parts: &[Option<NodeId>; 3]) -> Evaluated {
        let object = self.node(object)?;
        let mut bounds = [None, None, None];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            if let Some(part) = part {
                *bound = self.slice_bound(&self.node(*part)?)?;
            }
        }
        self.slice(&object, &bounds)
    }

    fn chain(&self, first: NodeId, rest: &[(Comparison, NodeId)]) -> Result<bool, Undefined> {
        let mut left = self.node(first)?;
        for (operator, right) in rest {
            let right = self.node(*right)?;
            if !self.comparison(*operator, &left, &right)? {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    fn set_literal(&self, items: &[NodeId]) -> Evaluated {
        let items = self.nodes(items)?;
        items.iter().try_for_each(|item| self.check_hashable(item))?;
        Ok(Operand::Set(items.into()))
    }

    fn dict_literal(&self, pairs: &[(NodeId, NodeId)]) -> Evaluated {
        let mut entries = Vec::new();
        for (key, value) in pairs {
            let key = self.node(*key)?;
            self.check_hashable(&key)?;
            entries.push((key, self.node(*value)?));
        }
        Ok(Operand::Dict(entries.into()))
    }

    /// One level deeper in containers, which may contain themselves.
    pub fn deeper<T>(&self, work: impl FnOnce() -> Result<T, Undefined>) -> Result<T, Undefined> {
        self.objects.budget.take(1)?;
        if self.levels.get() >= MAX_LEVELS {
            return Err(Undefined::Limit("levels of containers"));
        }
        self.levels.set(self.levels.get() + 1);
        let done = work();
        self.levels.set(self.levels.get() - 1);
        done
    }

    pub fn nodes(&self, ids: &[NodeId]) -> Result<Vec<Operand>, Undefined> {
        ids.iter().map(|id| self.node(*id)).collect()
    }

    /// The object at an address of the locals' graph.
    pub fn object(&self, address: u64) -> Evaluated {
        self.object_in(address, false)
    }

    /// The object that a class, a module or the globals have at an address.
    pub fn lasting(&self, address: u64) -> Evaluated {
        self.object_in(address, self.is_image())
    }

    /// The object at an address that was found in another.
    pub fn part(&self, whole: &Remote, address: u64) -> Evaluated {
        self.object_in(address, whole.late)
    }

    fn object_in(&self, address: u64, late: bool) -> Evaluated {
        self.objects.budget.take(1)?;
        let remote = if late {
            let kind = self.process.reader.type_of(address)?;
            // These are what they were.
            let member = kind.class_names.iter().any(|class| class == "Enum");
            let lasts = member || kind.has(flags::TYPE) || LASTING.contains(&kind.full_name.as_str());
            self.late.set(self.late.get() || !lasts);
            Remote { address, kind, late }
        } else {
            match self.objects.reader.type_of(address) {
                Ok(kind) => Remote { address, kind, late },
                Err(error) => self.singleton(address).ok_or(error)?,
            }
        };
        if self.context.redactor.sensitive_type(remote.kind.name()).is_some() {
            return Ok(Operand::Redacted(remote.kind.name().into()));
        }
        Ok(Operand::Object(remote))
    }

    /// An object that is not in the image, but can be told by its address alone: there it was and will be.
    fn singleton(&self, address: u64) -> Option<Remote> {
        let kind = self.process.reader.type_of(address).ok().filter(|_| self.is_image())?;
        let is_one = matches!(kind.full_name.as_str(), "NoneType" | "bool") && kind.class_names.is_empty();
        is_one.then_some(Remote { address, kind, late: true })
    }

    fn name(&self, name: &str) -> Evaluated {
        match self.context.scope.find(&self.objects, &self.process, name)? {
            Found::Object(address) => self.object(address),
            Found::Lasting(address) => self.lasting(address),
            Found::NotCaptured => Err(Undefined::NotCaptured),
            Found::Unset => Err(Undefined::Unset(name.to_owned())),
            Found::Missing => Err(Undefined::NoName(name.to_owned())),
        }
    }

    /// Fails if the object's class has this method in Python. `native`: the C type's own method, if any, is
    /// the one that is meant otherwise.
    pub fn check_method(&self, remote: &Remote, method: &str) -> Result<(), Undefined> {
        let native = Category::of(&remote.kind).native(&remote.kind);
        if let Some(native) = native {
            // A C type in between may do it in its own way.
            let mut before = remote.kind.native_names.iter().take_while(|name| *name != native);
            if let Some(other) = before.find(|name| !KNOWN_SUBTYPES.contains(&name.as_str())) {
                return Err(Undefined::Unsupported(format!("{method} of a {other}")));
            }
        }
        self.check_method_before(remote, method, native)
    }

    pub fn check_method_before(
        &self,
        remote: &Remote,
        method: &str,
        native: Option<&str>,
    ) -> Result<(), Undefined> {
        match self.classes.python_method(&remote.kind, method, native)? {
            Some(method) => Err(Undefined::WouldRunCode(method)),
            None => Ok(()),
        }
    }

    /// Simple values are read; containers and others stay where they are.
    pub fn load(&self, operand: &Operand) -> Evaluated {
        let remote = match operand {
            Operand::Object(remote) => remote,
            Operand::Redacted(name) => return Err(Undefined::Redacted(name.to_string())),
            other => return Ok(other.clone()),
        };
        let reader = self.at(remote).reader;
        match Category::of(&remote.kind) {
            Category::None => Ok(Operand::None),
            Category::Bool | Category::Int | Category::Float => self.number_at(remote),
            Category::Str => {
                let limit = self.context.limits.text;
                let length = reader.memory.u64(remote.address.wrapping_add(reader.layout.object.str_length));
                let length = length.map_err(ReadError::from)?;
                if length > limit as u64 {
                    return Err(Undefined::Limit("characters of a string"));
                }
                self.objects.budget.take(length as usize / 64)?;
                let text = reader.text(remote.address, limit)?.text;
                Ok(self.uses(Operand::text(&text)))
            }
            category @ (Category::Bytes | Category::ByteArray) => {
                let limits = DecoderLimits { text: self.context.limits.text, ..DecoderLimits::default() };
                let value = Decoder::new(reader, limits, false).value(remote.address);
                match (value.content, value.truncated) {
                    (_, Some(length)) if length <= self.context.limits.text as u64 => {
                        Err(Undefined::NotCaptured)
                    }
                    (_, Some(_)) => Err(Undefined::Limit("bytes of a value")),
                    (Content::Bytes(bytes), None) => {
                        self.objects.budget.take(bytes.len() / 64)?;
                        Ok(self.uses(Operand::Bytes(bytes.into(), category == Category::ByteArray)))
                    }
                    _ => Err(unreadable("bytes")),
                }
            }
            _ => Ok(operand.clone()),
        }
    }

    /// The captured part of a string, and the length of the whole, if not all of it was captured.
    pub fn text_part(&self, operand: &Operand) -> Result<Option<(String, u64)>, Undefined> {
        let Operand::Object(remote) = operand else { return Ok(None) };
        if remote.late || !self.is_image() || Category::of(&remote.kind) != Category::Str {
            return Ok(None);
        }
        let part = self.objects.reader.text_there(remote.address, self.context.limits.text)?;
        self.objects.budget.take(part.text.len() / 64)?;
        Ok(Some((part.text, part.length)).filter(|(text, length)| (text.chars().count() as u64) < *length))
    }

    /// A string of the target, of which parts may get into what is shown.
    pub fn uses(&self, text: Operand) -> Operand {
        self.used.borrow_mut().push(text.clone());
        text
    }

    /// What the secret is in the strings that were used: what was made of them may be a part of it. Conditions show
    /// nothing and never ask.
    pub fn used_secret(&self) -> Result<Option<Kind>, Undefined> {
        for text in self.used.take() {
            if self.secret.get().is_some() {
                break;
            }
            let (length, findings) = match &text {
                Operand::Str(text) => (text.len(), self.context.redactor.text(text).findings),
                Operand::Bytes(bytes, _) => (bytes.len(), self.context.redactor.bytes(bytes).1),
                _ => continue,
            };
            self.secret.set(findings.first().map(|finding| finding.kind));
            if let Err(error) = self.objects.budget.take(1 + length / 64) {
                // The others are not searched.
                self.secret.set(Some(Kind::UNEXAMINED));
                return Err(error.into());
            }
        }
        Ok(self.secret.get())
    }

    /// The text of a value that is not cut, or the marker in its place.
    pub fn hidden(&self, value: &Operand, content: Content) -> String {
        let mut value = Value::new(value.type_name(), content);
        self.context.redactor.leaf(&mut value, usize::MAX, &mut Counts::new());
        match value.content {
            Content::Str(text) => text,
            _ => value.to_string(),
        }
    }

    fn number_at(&self, remote: &Remote) -> Evaluated {
        let reader = self.at(remote).reader;
        if Category::of(&remote.kind) == Category::Float {
            let at = remote.address.wrapping_add(reader.layout.object.float_value);
            let bits = reader.memory.u64(at).map_err(ReadError::from)?;
            return Ok(Operand::Float(f64::from_bits(bits)));
        }
        let digits = Decoder::new(reader, DecoderLimits::default(), false).integer(remote.address)?;
        let digits = digits.ok_or(Undefined::Limit("digits of an integer"))?;
        let value: BigInt = digits.parse().map_err(|_| unreadable("int"))?;
        Ok(match Category::of(&remote.kind) {
            Category::Bool => Operand::Bool(value != BigInt::ZERO),
            _ => Operand::Int(value),
        })
    }

    /// The number that an operand is, decimals included.
    pub fn number(&self, operand: &Operand) -> Result<Option<Number>, Undefined> {
        if let Operand::Object(remote) = operand
            && !Category::of(&remote.kind).is_number()
        {
            return Ok(None);
        }
        let loaded = self.load(operand)?;
        if let Operand::Object(remote) = &loaded
            && Category::of(&remote.kind) == Category::Decimal
        {
            return Ok(Some(Number::Decimal(self.decimal(remote)?)));
        }
        Ok(Number::of(&loaded))
    }

    /// `str(value)` of a `Decimal`.
    pub fn decimal_text(&self, remote: &Remote) -> Result<String, Undefined> {
        let value =
            Decoder::new(self.at(remote).reader, DecoderLimits::default(), false).value(remote.address);
        let Content::Text(text) = value.content else { return Err(unreadable("Decimal")) };
        let text = text.strip_prefix("Decimal('").and_then(|rest| rest.strip_suffix("')"));
        Ok(text.ok_or_else(|| unreadable("Decimal"))?.to_owned())
    }

    fn decimal(&self, remote: &Remote) -> Result<Decimal, Undefined> {
        Decimal::parse(&self.decimal_text(remote)?).ok_or_else(|| unreadable("Decimal"))
    }

    /// `bool(value)`
    pub fn truth(&self, operand: &Operand) -> Result<bool, Undefined> {
        if let Operand::Object(remote) = operand {
            for method in ["__bool__", "__len__"] {
                self.check_method(remote, method)?;
            }
        }
        if let Some(number) = self.number(operand)? {
            return Ok(!number.is_zero());
        }
        if self.text_part(operand)?.is_some() {
            return Ok(true);
        }
        match self.load(operand)? {
            Operand::None => Ok(false),
            Operand::Object(remote) => match Category::of(&remote.kind) {
                Category::Container(_) => Ok(self.length(operand)? != 0),
                Category::DateTime | Category::Date | Category::Time => Ok(true),
                Category::Delta => Ok(self.date_parts(&remote)?.iter().any(|part| *part != 0)),
                _ if self.classes.is_always_true(&remote.kind)? => Ok(true),
                _ => Err(Undefined::Unsupported(format!("the truth value of a {}", remote.kind.full_name))),
            },
            other => Ok(self.length(&other)? != 0),
        }
    }

    /// `len(value)`
    pub fn length(&self, operand: &Operand) -> Result<u64, Undefined> {
        if let Some((_, length)) = self.text_part(operand)? {
            return Ok(length);
        }
        let loaded = self.load(operand)?;
        Ok(match &loaded {
            Operand::Str(text) => text.chars().count() as u64,
            Operand::Bytes(bytes, _) => bytes.len() as u64,
            Operand::List(items) | Operand::Tuple(items) | Operand::View(items, _) => items.len() as u64,
            Operand::Set(items) => self.distinct(items)?.len() as u64,
            Operand::Dict(entries) => {
                let keys: Vec<Operand> = entries.iter().map(|(key, _)| key.clone()).collect();
                self.distinct(&keys)?.len() as u64
            }
            Operand::Object(remote) => {
                self.check_method(remote, "__len__")?;
                let Category::Container(container) = Category::of(&remote.kind) else {
                    return Err(Undefined::Type(format!("a '{}' has no len()", loaded.type_name())));
                };
                self.at(remote).length(remote.address, container)?
            }
            _ => return Err(Undefined::Type(format!("a '{}' has no len()", loaded.type_name()))),
        })
    }

    /// The items without those that equal an earlier one.
    pub fn distinct(&self, items: &[Operand]) -> Result<Vec<Operand>, Undefined> {
        let mut found: Vec<Operand> = Vec::new();
        for item in items {
            if !self.holds(&found, item)? {
                found.push(item.clone());
            }
        }
        Ok(found)
    }

    /// `value.name`
    pub fn attribute(&self, operand: &Operand, name: &str) -> Evaluated {
        match self.find_attribute(operand, name)? {
            Some(found) => Ok(found),
            None => Err(Undefined::NoAttribute { kind: operand.type_name(), name: name.to_owned() }),
        }
    }

    /// `value.name`, or nothing if there is none of this name.
    pub fn find_attribute(&self, operand: &Operand, name: &str) -> Result<Option<Operand>, Undefined> {
        let remote = match operand {
            Operand::Object(remote) => remote,
            Operand::Redacted(key) => return Err(Undefined::Redacted(key.to_string())),
            _ => return Err(Undefined::Unsupported(format!("attribute '{name}' of a computed value"))),
        };
        let category = Category::of(&remote.kind);
        let found = if category == Category::Static {
            self.check_static(remote)?;
            self.classes.static_attribute(remote.address, name)?
        } else {
            if let Some(found) = self.known_attribute(remote, category, name)? {
                return Ok(Some(found));
            }
            self.at(remote).attribute(remote.address, name)?
        };
        Ok(Some(match found {
            Attribute::Object(address) => self.part(remote, address)?,
            Attribute::Lasting(address) => self.lasting(address)?,
            Attribute::Integer(value) => Operand::int(value),
            Attribute::Float(value) => Operand::Float(value),
            Attribute::Text(text) => Operand::text(&text),
            Attribute::Method => {
                return Err(Undefined::Unsupported(format!("method '{name}' as a value")));
            }
            Attribute::Computed(by) => {
                return Err(Undefined::WouldRunCode(format!("attribute '{name}' ({by})")));
            }
            Attribute::Missing => return Ok(None),
        }))
    }

    /// A class or module of the image is still what is at its address.
    fn check_static(&self, remote: &Remote) -> Result<(), Undefined> {
        if remote.late || self.process.reader.type_address(remote.address)? == remote.kind.address {
            return Ok(());
        }
        Err(Undefined::NotCaptured)
    }

    /// Calls `each` with what an argument gives: items of a container, or elements of a generator expression.
    pub fn each_element<T>(
        &self,
        argument: NodeId,
        mut each: impl FnMut(Operand) -> Result<ControlFlow<T>, Undefined>,
    ) -> Result<Option<T>, Undefined> {
        let Node::Generator { element, first, count, iterable, condition } = self.syntax(argument)? else {
            return self.each_item(&self.node(argument)?, each);
        };
        let iterable = self.node(*iterable)?;
        self.each_item(&iterable, |item| {
            self.bind(*first, *count, item)?;
            if let Some(condition) = condition
                && !self.truth(&self.node(*condition)?)?
            {
                return Ok(ControlFlow::Continue(()));
            }
            each(self.node(*element)?)
        })
    }

    fn bind(&self, first: usize, count: usize, item: Operand) -> Result<(), Undefined> {
        let values = if count == 1 { vec![item] } else { self.items(&item)? };
        if values.len() != count {
            let what = format!("cannot unpack {} items into {count} variables", values.len());
            return Err(Undefined::Arithmetic(what));
        }
        let mut variables = self.variables.borrow_mut();
        if variables.len() < first + count {
            variables.resize(first + count, None);
        }
        for (variable, value) in variables.iter_mut().skip(first).zip(values) {
            *variable = Some(value);
        }
        Ok(())
    }

    fn unary(&self, operator: Unary, operand: &Operand) -> Evaluated {
        let method = match operator {
            Unary::Not => return Ok(Operand::Bool(!self.truth(operand)?)),
            Unary::Minus => "__neg__",
            Unary::Plus => "__pos__",
            Unary::Invert => "__invert__",
        };
        if let Operand::Object(remote) = operand {
            self.check_method(remote, method)?;
        }
        match (operator, self.number(operand)?) {
            (Unary::Minus, Some(Number::Int(value))) => Ok(Operand::Int(-value)),
            (Unary::Plus, Some(Number::Int(value))) => Ok(Operand::Int(value)),
            (Unary::Invert, Some(Number::Int(value))) => Ok(Operand::Int(-value - 1)),
            (Unary::Minus, Some(Number::Float(value))) => Ok(Operand::Float(-value)),
            (Unary::Plus, Some(Number::Float(value))) => Ok(Operand::Float(value)),
            (_, Some(Number::Decimal(_))) => Err(Undefined::Unsupported("arithmetic with a Decimal".into())),
            _ => Err(Undefined::Unsupported(format!("{method} of a '{}'", operand.type_name()))),
        }
    }

    /// `left + right` and the like.
    pub fn binary(&self, operator: Binary, left: &Operand, right: &Operand) -> Evaluated {
        let method = match operator {
            Binary::Add => "add",
            Binary::Subtract => "sub",
            Binary::Multiply => "mul",
            Binary::Divide => "truediv",
            Binary::FloorDivide => "floordiv",
            Binary::Remainder => "mod",
            Binary::Power => "pow",
            Binary::And => "and",
            Binary::Or => "or",
            Binary::Xor => "xor",
            Binary::Left => "lshift",
            Binary::Right => "rshift",
        };
        for (side, method) in [(left, format!("__{method}__")), (right, format!("__r{method}__"))] {
            if let Operand::Object(remote) = side {
                self.check_method(remote, &method)?;
            }
        }
        if let (Some(a), Some(b)) = (self.number(left)?, self.number(right)?) {
            return match (operator, self.load(left)?, self.load(right)?) {
                // Logical operators of two bools are bools.
                (Binary::And, Operand::Bool(a), Operand::Bool(b)) => Ok(Operand::Bool(a & b)),
                (Binary::Or, Operand::Bool(a), Operand::Bool(b)) => Ok(Operand::Bool(a | b)),
                (Binary::Xor, Operand::Bool(a), Operand::Bool(b)) => Ok(Operand::Bool(a ^ b)),
                _ => arithmetic(operator, &a, &b),
            };
        }
        self.sequences(operator, left, right)
    }

    fn comparison(&self, operator: Comparison, left: &Operand, right: &Operand) -> Result<bool, Undefined> {
        match operator {
            Comparison::Is => self.identical(left, right),
            Comparison::IsNot => Ok(!self.identical(left, right)?),
            Comparison::In => self.contains(right, left),
            Comparison::NotIn => Ok(!self.contains(right, left)?),
            Comparison::Equal => self.equal(left, right),
            Comparison::NotEqual => {
                for side in [left, right] {
                    if let Operand::Object(remote) = side {
                        self.check_method(remote, "__ne__")?;
                    }
                }
                Ok(!self.equal(left, right)?)
            }
            order => self.ordered(order, left, right),
        }
    }
}

pub(super) fn unreadable(what: &'static str) -> Undefined {
    Undefined::Unreadable(ReadError::Invalid(what))
}
