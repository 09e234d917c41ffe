//! Identity, equality, order and membership, as Python's built-in types have them.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::evaluate::{Evaluated, Evaluation};
use super::number::Number;
use super::operand::{Category, Operand, Remote, Undefined};
use super::syntax::Comparison;
use crate::python::object::access::Container;
use crate::python::object::budget::AccessError;

/// Which kinds of sequences equal each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    List,
    Tuple,
    Deque,
    Set,
    Dict,
    View,
}

fn shape(operand: &Operand) -> Option<Shape> {
    Some(match operand {
        Operand::List(_) => Shape::List,
        Operand::Tuple(_) => Shape::Tuple,
        Operand::Set(_) => Shape::Set,
        Operand::Dict(_) => Shape::Dict,
        Operand::View(..) => Shape::View,
        Operand::Object(remote) => match Category::of(&remote.kind) {
            Category::Container(Container::List) => Shape::List,
            Category::Container(Container::Tuple) => Shape::Tuple,
            Category::Container(Container::Deque) => Shape::Deque,
            Category::Container(Container::Set) => Shape::Set,
            Category::Container(Container::Dict) => Shape::Dict,
            _ => return None,
        },
        _ => return None,
    })
}

impl Evaluation<'_> {
    /// `a is b`
    pub fn identical(&self, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        if let (Operand::Object(a), Operand::Object(b)) = (a, b) {
            return Ok(a.address == b.address);
        }
        match (self.constant(a)?, self.constant(b)?) {
            (Operand::None, Operand::None) => Ok(true),
            (Operand::Bool(a), Operand::Bool(b)) => Ok(a == b),
            // What was computed has no identity, but it is none of these.
            (Operand::None | Operand::Bool(_), _) | (_, Operand::None | Operand::Bool(_)) => Ok(false),
            _ => Err(Undefined::Unsupported("'is' with a computed value".into())),
        }
    }

    /// None and bools are read; others stay where they are.
    fn constant(&self, operand: &Operand) -> Evaluated {
        match operand {
            Operand::Object(remote)
                if !matches!(Category::of(&remote.kind), Category::None | Category::Bool) =>
            {
                Ok(operand.clone())
            }
            _ => self.load(operand),
        }
    }

    /// The same object, or equal: how containers look for items.
    fn same(&self, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        if let (Operand::Object(a), Operand::Object(b)) = (a, b)
            && a.address == b.address
        {
            return Ok(true);
        }
        self.equal(a, b)
    }

    /// `a == b`
    pub fn equal(&self, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        self.deeper(|| self.equal_here(a, b))
    }

    fn equal_here(&self, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        if let (Operand::Object(left), Operand::Object(right)) = (a, b)
            && let (Some(left), Some(right)) = (self.uuid(left)?, self.uuid(right)?)
        {
            return Ok(left == right);
        }
        for side in [a, b] {
            if let Operand::Object(remote) = side {
                self.check_method(remote, "__eq__")?;
            }
        }
        if let (Some(a), Some(b)) = (self.number(a)?, self.number(b)?) {
            return Ok(a.compare(&b) == Some(Ordering::Equal));
        }
        match (self.text_part(a)?, self.text_part(b)?) {
            (None, None) => {}
            (Some(a), Some(b)) => return equal_parts(&a, &b),
            (Some(part), None) => return self.equal_part(&part, b),
            (None, Some(part)) => return self.equal_part(&part, a),
        }
        let (a, b) = (self.load(a)?, self.load(b)?);
        match (&a, &b) {
            (Operand::None, Operand::None) => return Ok(true),
            (Operand::Str(a), Operand::Str(b)) => return Ok(a == b),
            (Operand::Bytes(a, _), Operand::Bytes(b, _)) => return Ok(a == b),
            _ => {}
        }
        match (shape(&a), shape(&b)) {
            (Some(Shape::View), Some(_)) | (Some(_), Some(Shape::View)) => {
                return Err(Undefined::Unsupported("comparing a view of a dict".into()));
            }
            (Some(left), Some(right)) if left != right => return Ok(false),
            (Some(Shape::Dict), Some(_)) => return self.equal_dicts(&a, &b),
            (Some(Shape::Set), Some(_)) => {
                let (a, b) = (self.items(&a)?, self.items(&b)?);
                return Ok(a.len() == b.len() && self.all_in(&a, &b)?);
            }
            (Some(_), Some(_)) => {
                if self.length(&a)? != self.length(&b)? {
                    return Ok(false);
                }
                for (a, b) in self.items(&a)?.iter().zip(&self.items(&b)?) {
                    if !self.same(a, b)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            _ => {}
        }
        if let (Operand::Object(left), Operand::Object(right)) = (&a, &b) {
            if let Some(order) = self.compare_dates(&a, &b)? {
                return Ok(order == Ordering::Equal);
            }
            self.check_identity_rules(&a)?;
            self.check_identity_rules(&b)?;
            return Ok(left.address == right.address);
        }
        // Of different kinds: unequal, unless one of them knows better.
        self.check_identity_rules(&a)?;
        self.check_identity_rules(&b)?;
        Ok(false)
    }

    /// The string of which a part was captured equals another value.
    fn equal_part(&self, part: &(String, u64), other: &Operand) -> Result<bool, Undefined> {
        match self.load(other)? {
            Operand::Str(text) => equal_parts(part, &(text.to_string(), text.chars().count() as u64)),
            Operand::None | Operand::Bool(_) | Operand::Int(_) | Operand::Float(_) => Ok(false),
            _ => Err(Undefined::NotCaptured),
        }
    }

    /// Fails for objects whose comparison only C code of theirs knows.
    fn check_identity_rules(&self, operand: &Operand) -> Result<(), Undefined> {
        let Operand::Object(remote) = operand else { return Ok(()) };
        let known = !matches!(Category::of(&remote.kind), Category::Other);
        if known || self.classes.compares_by_identity(&remote.kind)? {
            return Ok(());
        }
        Err(Undefined::Unsupported(format!("comparing a {}", remote.kind.full_name)))
    }

    fn equal_dicts(&self, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        let ordered = |operand: &Operand| match operand {
            Operand::Object(remote) => {
                remote.kind.native_names.iter().any(|name| name == "collections.OrderedDict")
            }
            _ => false,
        };
        if self.length(a)? != self.length(b)? {
            return Ok(false);
        }
        let entries = self.pairs(a)?;
        if ordered(a) && ordered(b) {
            // Their order is in a list that is not read.
            return Err(Undefined::Unsupported("comparing two OrderedDicts".into()));
        }
        for (key, value) in &entries {
            let Some(other) = self.lookup(b, key)? else { return Ok(false) };
            if !self.same(value, &other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keys and values of a dict.
    pub fn pairs(&self, dict: &Operand) -> Result<Vec<(Operand, Operand)>, Undefined> {
        match dict {
            Operand::Dict(entries) => {
                let keys: Vec<Operand> = entries.iter().map(|(key, _)| key.clone()).collect();
                let mut pairs = Vec::new();
                for key in self.distinct(&keys)? {
                    // The last value of a key counts.
                    for (candidate, value) in entries.iter().rev() {
                        if self.same(candidate, &key)? {
                            pairs.push((key, value.clone()));
                            break;
                        }
                    }
                }
                Ok(pairs)
            }
            Operand::Object(remote) => self.entries(remote),
            other => Err(Undefined::Type(format!("a '{}' is no dict", other.type_name()))),
        }
    }

    fn all_in(&self, items: &[Operand], others: &[Operand]) -> Result<bool, Undefined> {
        for item in items {
            if !self.holds(others, item)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The hash table of these items has this one. An item whose equality only its own code knows may have
    /// another hash, and then it is never asked: it matters only if nothing else is found.
    pub fn holds(&self, items: &[Operand], wanted: &Operand) -> Result<bool, Undefined> {
        self.any_same(items.iter().map(|item| Ok(item.clone())), wanted)
    }

    fn any_same(&self, items: impl Iterator<Item = Evaluated>, wanted: &Operand) -> Result<bool, Undefined> {
        let mut unsure = None;
        for item in items {
            match item.and_then(|item| self.same(&item, wanted)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if self.is_unsure(&error) => unsure = Some(error),
                Err(error) => return Err(error),
            }
        }
        unsure.map_or(Ok(false), Err)
    }

    /// Whether it is the same is not known, but another may be.
    fn is_unsure(&self, error: &Undefined) -> bool {
        match error {
            Undefined::WouldRunCode(_) | Undefined::Unsupported(_) | Undefined::NotCaptured => true,
            Undefined::Unreadable(_) => self.objects.reader.is_image(),
            _ => false,
        }
    }

    /// The hash table of a set or dict has this item.
    fn holds_key(&self, container: &Operand, wanted: &Operand) -> Result<bool, Undefined> {
        let Operand::Object(remote) = container else { return self.holds(&self.items(container)?, wanted) };
        let Category::Container(kind) = Category::of(&remote.kind) else { return Ok(false) };
        self.check_method(remote, "__iter__")?;
        let (items, whole) = self.addresses(remote, kind)?;
        let found = self.any_same(items.into_iter().map(|item| self.part(remote, item)), wanted)?;
        if found || whole { Ok(found) } else { Err(Undefined::NotCaptured) }
    }

    /// Fails for what cannot be a key.
    pub fn check_hashable(&self, key: &Operand) -> Result<(), Undefined> {
        self.deeper(|| self.check_hashable_here(key))
    }

    fn check_hashable_here(&self, key: &Operand) -> Result<(), Undefined> {
        let unhashable = || Undefined::Type(format!("a '{}' cannot be a key", key.type_name()));
        match key {
            Operand::Bytes(_, true) | Operand::View(..) => Err(unhashable()),
            Operand::Redacted(name) => Err(Undefined::Redacted(name.to_string())),
            Operand::Tuple(items) => items.iter().try_for_each(|item| self.check_hashable(item)),
            Operand::Object(remote) => {
                let mutable = match Category::of(&remote.kind) {
                    Category::ByteArray => true,
                    Category::Container(Container::Set) => {
                        !remote.kind.native_names.iter().any(|name| name == "frozenset")
                    }
                    Category::Container(Container::Tuple) => {
                        return self.items(key)?.iter().try_for_each(|item| self.check_hashable(item));
                    }
                    Category::Container(_) => true,
                    _ => false,
                };
                match self.check_method(remote, "__hash__") {
                    // It goes with the identity of the member.
                    Err(Undefined::WouldRunCode(method))
                        if method == "Enum.__hash__" || self.uuid(remote)?.is_some() => {}
                    checked => checked?,
                }
                if mutable { Err(unhashable()) } else { Ok(()) }
            }
            _ if shape(key).is_some() => Err(unhashable()),
            _ => Ok(()),
        }
    }

    /// The value of a key of a dict.
    pub fn lookup(&self, dict: &Operand, key: &Operand) -> Result<Option<Operand>, Undefined> {
        self.check_hashable(key)?;
        if let Some(name) = self.secret_key(key)? {
            return Err(Undefined::Redacted(name.to_string()));
        }
        let key = self.load(key)?;
        let remote = match dict {
            Operand::Object(remote) => remote,
            Operand::Dict(entries) => {
                for (candidate, value) in entries.iter().rev() {
                    if self.same(candidate, &key)? {
                        return Ok(Some(value.clone()));
                    }
                }
                return Ok(None);
            }
            other => return Err(Undefined::Type(format!("a '{}' is no dict", other.type_name()))),
        };
        let mut unsure = None;
        let text = match &key {
            Operand::Str(text) => Some((text.clone(), text.chars().count() as u64)),
            _ => None,
        };
        let objects = self.at(remote);
        let found = objects.each_entry(remote.address, |candidate, value| {
            // Most keys are strings, and compared as such.
            let exactly = match &text {
                Some((text, characters)) => match objects.has_text(candidate, text, *characters) {
                    // It may be this key, or another.
                    Err(AccessError::Read(_)) if objects.reader.is_image() => {
                        unsure = Some(Undefined::NotCaptured);
                        return Ok(ControlFlow::Continue(()));
                    }
                    found => found?,
                },
                None => None,
            };
            let found = match exactly {
                Some(found) => found,
                None => match self.part(remote, candidate).and_then(|found| self.same(&found, &key)) {
                    Ok(found) => found,
                    Err(error) if self.is_unsure(&error) => {
                        unsure = Some(error);
                        false
                    }
                    Err(error) => return Err(error),
                },
            };
            Ok(if found { ControlFlow::Break(value) } else { ControlFlow::Continue(()) })
        })?;
        match (found, unsure) {
            (Some(value), _) => self.part(remote, value).map(Some),
            (None, Some(unsure)) => Err(unsure),
            (None, None) => Ok(None),
        }
    }

    /// `item in container`
    pub fn contains(&self, container: &Operand, item: &Operand) -> Result<bool, Undefined> {
        if let Operand::Object(remote) = container {
            self.check_method(remote, "__contains__")?;
        }
        if let Some((part, _)) = self.text_part(container)?
            && let Operand::Str(wanted) = self.load(item)?
        {
            return if part.contains(wanted.as_ref()) { Ok(true) } else { Err(Undefined::NotCaptured) };
        }
        let container = self.load(container)?;
        match &container {
            Operand::Str(text) => match self.load(item)? {
                Operand::Str(part) => return Ok(text.contains(part.as_ref())),
                other => {
                    let what = format!("'in' a str needs a str, not '{}'", other.type_name());
                    return Err(Undefined::Type(what));
                }
            },
            Operand::Bytes(bytes, _) => {
                return match (self.load(item)?, self.number(item)?) {
                    (Operand::Bytes(part, _), _) => {
                        Ok(part.is_empty() || bytes.windows(part.len()).any(|window| *window == *part))
                    }
                    (_, Some(Number::Int(byte))) => match u8::try_from(byte) {
                        Ok(byte) => Ok(bytes.contains(&byte)),
                        Err(_) => Err(Undefined::Arithmetic("a byte is below 256".into())),
                    },
                    (other, _) => {
                        Err(Undefined::Type(format!("'in' bytes needs bytes, not '{}'", other.type_name())))
                    }
                };
            }
            _ => {}
        }
        match shape(&container) {
            Some(Shape::Dict) => {
                self.check_hashable(item)?;
                match self.lookup(&container, item) {
                    // That a dict has a key of this name is not hidden.
                    Err(Undefined::Redacted(_)) => self.holds_key(&container, item),
                    found => Ok(found?.is_some()),
                }
            }
            Some(Shape::Set) => {
                // A set is looked for as if it were frozen.
                if shape(item) != Some(Shape::Set) {
                    self.check_hashable(item)?;
                }
                self.holds_key(&container, item)
            }
            Some(_) => {
                let found = self.each_item(&container, |candidate| {
                    let same = self.same(&candidate, item)?;
                    Ok(if same { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })?;
                Ok(found.is_some())
            }
            None => match &container {
                Operand::Object(remote) => {
                    self.check_method(remote, "__iter__")?;
                    self.check_method(remote, "__getitem__")?;
                    Err(Undefined::Unsupported(format!("'in' a {}", remote.kind.full_name)))
                }
                other => Err(Undefined::Type(format!("a '{}' contains nothing", other.type_name()))),
            },
        }
    }

    /// `a < b` and the like.
    pub fn ordered(&self, operator: Comparison, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        self.deeper(|| self.ordered_here(operator, a, b))
    }

    fn ordered_here(&self, operator: Comparison, a: &Operand, b: &Operand) -> Result<bool, Undefined> {
        let (method, reflected) = match operator {
            Comparison::Less => ("__lt__", "__gt__"),
            Comparison::LessOrEqual => ("__le__", "__ge__"),
            Comparison::Greater => ("__gt__", "__lt__"),
            _ => ("__ge__", "__le__"),
        };
        for (side, method) in [(a, method), (b, reflected)] {
            if let Operand::Object(remote) = side {
                self.check_method(remote, method)?;
            }
        }
        if let (Some(a), Some(b)) = (self.number(a)?, self.number(b)?) {
            let decimal = matches!(a, Number::Decimal(_)) || matches!(b, Number::Decimal(_));
            return match a.compare(&b) {
                Some(order) => Ok(holds_for(operator, order)),
                // Of a Decimal, an order with NaN is an error unless the context says otherwise.
                None if decimal => Err(Undefined::Arithmetic("NaN has no order".into())),
                None => Ok(false),
            };
        }
        let (a, b) = (self.load(a)?, self.load(b)?);
        match (&a, &b) {
            (Operand::Str(a), Operand::Str(b)) => return Ok(holds_for(operator, a.cmp(b))),
            (Operand::Bytes(a, _), Operand::Bytes(b, _)) => return Ok(holds_for(operator, a.cmp(b))),
            _ => {}
        }
        match (shape(&a), shape(&b)) {
            (Some(left @ (Shape::List | Shape::Tuple | Shape::Deque)), Some(right)) if left == right => {
                let (a, b) = (self.items(&a)?, self.items(&b)?);
                for (a, b) in a.iter().zip(&b) {
                    if !self.same(a, b)? {
                        return self.ordered(operator, a, b);
                    }
                }
                return Ok(holds_for(operator, a.len().cmp(&b.len())));
            }
            (Some(Shape::Set), Some(Shape::Set)) => {
                let (mut a, mut b) = (self.items(&a)?, self.items(&b)?);
                if matches!(operator, Comparison::Greater | Comparison::GreaterOrEqual) {
                    std::mem::swap(&mut a, &mut b);
                }
                let strict = matches!(operator, Comparison::Less | Comparison::Greater);
                let fits = if strict { a.len() < b.len() } else { a.len() <= b.len() };
                return Ok(fits && self.all_in(&a, &b)?);
            }
            (Some(Shape::View), _) | (_, Some(Shape::View)) => {
                return Err(Undefined::Unsupported("comparing a view of a dict".into()));
            }
            _ => {}
        }
        if let Some(order) = self.compare_dates(&a, &b)? {
            return Ok(holds_for(operator, order));
        }
        for side in [&a, &b] {
            self.check_identity_rules(side)?;
        }
        Err(Undefined::Type(format!("a '{}' and a '{}' have no order", a.type_name(), b.type_name())))
    }

    /// The order of two values of one type of `datetime`; nothing for other operands.
    fn compare_dates(&self, a: &Operand, b: &Operand) -> Result<Option<Ordering>, Undefined> {
        let (Operand::Object(a), Operand::Object(b)) = (a, b) else { return Ok(None) };
        let category = Category::of(&a.kind);
        let dates = [Category::DateTime, Category::Date, Category::Time, Category::Delta];
        if category != Category::of(&b.kind) || !dates.contains(&category) {
            return Ok(None);
        }
        if matches!(category, Category::DateTime | Category::Time) && self.zone(a)? != self.zone(b)? {
            return Err(Undefined::Unsupported("comparing times of two time zones".into()));
        }
        Ok(Some(self.date_parts(a)?.cmp(&self.date_parts(b)?)))
    }

    /// The address of the time zone object, 0 for none.
    pub fn zone(&self, remote: &Remote) -> Result<u64, Undefined> {
        let reader = self.at(remote).reader;
        let flag = remote.address.wrapping_add(reader.layout.object.datetime_has_zone);
        let read = || {
            if reader.memory.u8(flag)? == 0 {
                return Ok(0);
            }
            // Counted for a header of 16 bytes: `PyDateTime_DateTime.tzinfo`, `PyDateTime_Time.tzinfo`.
            let offset = if Category::of(&remote.kind) == Category::DateTime { 40 } else { 32 };
            reader.memory.u64(remote.address.wrapping_add(offset + reader.layout.object_size - 16))
        };
        read().map_err(|error: crate::python::MemoryError| Undefined::Unreadable(error.into()))
    }
}

/// Strings of which the beginning and the length are known are equal.
fn equal_parts(a: &(String, u64), b: &(String, u64)) -> Result<bool, Undefined> {
    let ((a, a_length), (b, b_length)) = (a, b);
    if a_length != b_length || !(a.starts_with(b.as_str()) || b.starts_with(a.as_str())) {
        return Ok(false);
    }
    Err(Undefined::NotCaptured)
}

/// The comparison is true for this order.
fn holds_for(operator: Comparison, order: Ordering) -> bool {
    match operator {
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        _ => order.is_ge(),
    }
}
