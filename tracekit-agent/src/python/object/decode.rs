//! From an object's address to a [`Value`].

use std::rc::Rc;
use std::time::Instant;

use super::{Content, Limits, NotCaptured, Value};
use crate::python::reader::{ReadError, Reader, Type, flags};
use crate::redact::names;

/// Decodes values of one target, all within one set of limits.
pub struct Decoder<'r, 'm> {
    pub(super) reader: &'r Reader<'m>,
    pub(super) limits: Limits,
    redact: bool,
    deadline: Instant,
    values: usize,
    /// The containers around what is being decoded.
    path: Vec<u64>,
}

impl<'r, 'm> Decoder<'r, 'm> {
    /// A decoder whose time begins now. `redact`: what looks like a secret is not shown.
    #[must_use]
    pub fn new(reader: &'r Reader<'m>, limits: Limits, redact: bool) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(limits.time).unwrap_or(now);
        Self { reader, limits, redact, deadline, values: 0, path: Vec::new() }
    }

    /// The value of a variable or attribute.
    #[must_use]
    pub fn named(&mut self, name: &str, object: u64) -> Value {
        if self.redact && names::is_secret(name) {
            let type_name = self.reader.type_of(object).map(|found| found.name().to_owned());
            return Value::nothing(type_name.unwrap_or_default(), NotCaptured::Redacted);
        }
        self.value(object)
    }

    /// The value of an object.
    #[must_use]
    pub fn value(&mut self, object: u64) -> Value {
        self.values += 1;
        if self.values > self.limits.values || Instant::now() >= self.deadline {
            return Value::nothing("", NotCaptured::Budget);
        }
        let unreadable = if self.reader.is_image() { NotCaptured::Missing } else { NotCaptured::Unreadable };
        let Ok(found) = self.reader.type_of(object) else {
            return Value::nothing("", unreadable);
        };
        if self.path.contains(&object) {
            return Value::nothing(found.name(), NotCaptured::Cycle);
        }
        let decoded = self.decode(object, &found);
        decoded.unwrap_or_else(|_| Value::nothing(found.name(), unreadable))
    }

    fn decode(&mut self, object: u64, found: &Rc<Type>) -> Result<Value, ReadError> {
        if let Some(scalar) = self.scalar(object, found)? {
            return Ok(self.without_secrets(scalar));
        }
        if self.path.len() >= self.limits.depth {
            return Ok(Value::nothing(found.name(), NotCaptured::Depth));
        }
        self.path.push(object);
        let decoded = self.container(object, found);
        self.path.pop();
        decoded
    }

    pub(super) fn without_secrets(&self, value: Value) -> Value {
        match value.content {
            Content::Str(text) if self.redact => {
                let text = names::without_secrets(&text).into_owned();
                Value { content: Content::Str(text), ..value }
            }
            content => Value { content, ..value },
        }
    }

    fn container(&mut self, object: u64, found: &Rc<Type>) -> Result<Value, ReadError> {
        if let Some(value) = self.native(object, found)? {
            return Ok(value);
        }
        if let Some(value) = self.view(object, found)? {
            return Ok(value);
        }
        if let Some(value) = self.numpy(object, found)? {
            return Ok(value);
        }
        let name = found.name();
        let is = |wanted: &str| found.native_names.iter().any(|native| native == wanted);
        let (items, length) = if found.has(flags::LIST) {
            self.list(object)?
        } else if found.has(flags::TUPLE) {
            self.tuple(object)?
        } else if is("set") || is("frozenset") {
            self.set(object)?
        } else if is("collections.deque") {
            self.deque(object)?
        } else if found.has(flags::DICT) {
            let pairs = if is("collections.OrderedDict") {
                self.ordered_pairs(object, self.limits.items)?
            } else {
                self.dict_pairs(object, self.limits.items)?
            };
            return self.entries(name, pairs);
        } else {
            return self.instance(object, found);
        };
        Ok(self.elements(name, items, length))
    }

    /// A sequence of these items, of so many in all.
    pub(super) fn elements(&mut self, name: &str, items: Vec<u64>, length: u64) -> Value {
        let shown = items.len() as u64;
        let elements = items.into_iter().map(|item| self.value(item)).collect();
        Value {
            truncated: (length > shown).then_some(length),
            ..Value::new(name, Content::Elements(elements))
        }
    }

    /// A mapping's items, of so many in all.
    pub(super) fn entries(
        &mut self,
        name: &str,
        (pairs, length): (Vec<(u64, u64)>, u64),
    ) -> Result<Value, ReadError> {
        let shown = pairs.len() as u64;
        let entries = pairs
            .into_iter()
            .map(|(key, value)| {
                let key = self.value(key);
                let value = match &key.content {
                    Content::Str(name) => self.named(&name.clone(), value),
                    _ => self.value(value),
                };
                (key, value)
            })
            .collect();
        Ok(Value {
            truncated: (length > shown).then_some(length),
            ..Value::new(name, Content::Entries(entries))
        })
    }

    /// The variables of a module's or class's body, which are in this dict: those that have names, within the limits of
    /// a container.
    ///
    /// # Errors
    /// If it is no dict, or cannot be read.
    pub fn names_in(&mut self, dict: u64) -> Result<Vec<(String, Value)>, ReadError> {
        let (pairs, _) = self.dict_pairs(dict, self.limits.items)?;
        let named = pairs.into_iter().filter_map(|(key, value)| Some((self.reader.name(key).ok()?, value)));
        Ok(named
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(name, object)| {
                let value = self.named(&name, object);
                (name, value)
            })
            .collect())
    }

    /// An instance: its attributes and its slots.
    fn instance(&mut self, object: u64, found: &Rc<Type>) -> Result<Value, ReadError> {
        let (fields, length) = self.attributes(object, found, self.limits.fields)?;
        let shown = fields.len() as u64;
        let fields = fields
            .into_iter()
            .map(|(name, value)| {
                let decoded = self.named(&name, value);
                (name, decoded)
            })
            .collect();
        Ok(Value {
            truncated: (length > shown).then_some(length),
            ..Value::new(found.name(), Content::Fields(fields))
        })
    }
}
