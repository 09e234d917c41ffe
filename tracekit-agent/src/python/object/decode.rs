//! From an object's address to a [`Value`].

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::{Content, Limits, NotCaptured, Value};
use crate::python::reader::{ReadError, Reader, Type, flags};
use crate::redact::{Counts, Kind, LOOK_AHEAD, Members, Redactor, is_naming, name_of};

/// Decodes values of one target, all within one set of limits.
pub struct Decoder<'r, 'm> {
    pub(super) reader: &'r Reader<'m>,
    pub(super) limits: Limits,
    redactor: Option<&'r Redactor>,
    hidden: Counts,
    /// `_fields` of classes of named tuples.
    pub(super) fields: HashMap<u64, Rc<[Option<String>]>>,
    deadline: Instant,
    values: usize,
    /// The containers around what is being decoded.
    path: Vec<u64>,
}

impl<'r, 'm> Decoder<'r, 'm> {
    /// A decoder whose time begins now. `redact`: what looks like a secret is not shown, by the settings in use.
    #[must_use]
    pub fn new(reader: &'r Reader<'m>, limits: Limits, redact: bool) -> Self {
        Self::with_redactor(reader, limits, redact.then(Redactor::in_use))
    }

    /// A decoder whose time begins now. What the redactor hides is in no value.
    #[must_use]
    pub fn with_redactor(reader: &'r Reader<'m>, limits: Limits, redactor: Option<&'r Redactor>) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(limits.time).unwrap_or(now);
        Self {
            reader,
            limits,
            redactor,
            hidden: Counts::new(),
            fields: HashMap::new(),
            deadline,
            values: 0,
            path: Vec::new(),
        }
    }

    /// How often what was hidden since this was asked last.
    #[must_use]
    pub fn take_hidden(&mut self) -> Counts {
        std::mem::take(&mut self.hidden)
    }

    /// What looks like a secret is not shown.
    pub(super) fn searches(&self) -> bool {
        self.redactor.is_some()
    }

    /// Characters of a string, bytes of a `bytes`, that are read.
    pub(super) fn text_limit(&self) -> usize {
        self.limits.text.saturating_add(if self.redactor.is_some() { LOOK_AHEAD } else { 0 })
    }

    /// The value of a variable or attribute.
    #[must_use]
    pub fn named(&mut self, name: &str, object: u64) -> Value {
        match self.redactor.and_then(|redactor| redactor.sensitive(name)) {
            Some(kind) => self.sensitive(kind, object),
            None => self.value(object),
        }
    }

    /// The value of a variable of a frame. [`Self::beside`] is still to see it: it can be the name of another.
    #[must_use]
    pub fn variable(&mut self, name: &str, object: u64) -> Value {
        if is_naming(name) { self.value(object) } else { self.named(name, object) }
    }

    /// The variables of a frame, of which one can be the name of others: `for name, value in headers`.
    pub fn beside(&mut self, variables: &mut [(&str, &mut Value)]) {
        let Some(redactor) = self.redactor else { return };
        let members = Members::of(variables.iter().map(|(name, _)| Some(*name)));
        for (at, (name, value)) in variables.iter_mut().enumerate() {
            if let Some(name) = members.name_of(at, Some(name)).filter(|name| is_naming(name)) {
                redactor.named(name, value, &mut self.hidden);
            }
        }
        let mut values: Vec<&mut Value> = variables.iter_mut().map(|(_, value)| &mut **value).collect();
        redactor.beside(&members, &mut values, &mut self.hidden);
    }

    /// The values of attributes, or of the variables of a frame. One can be the name of another.
    pub fn named_values(&mut self, variables: Vec<(String, u64)>) -> Vec<(String, Value)> {
        let (names, objects): (Vec<Option<String>>, Vec<u64>) =
            variables.into_iter().map(|(name, object)| (Some(name), object)).unzip();
        let values = self.members(&names, &objects);
        names.into_iter().flatten().zip(values).collect()
    }

    /// The value of a variable whose name is that of a secret: read only if its type says that it is none.
    fn sensitive(&mut self, kind: Kind, object: u64) -> Value {
        let Ok(found) = self.reader.type_of(object) else {
            return Value::nothing("", NotCaptured::Unreadable);
        };
        let code = ["NoneType", "bool", "builtin_function_or_method", "code", "function", "method", "module"];
        if found.has(flags::TYPE) || code.contains(&found.full_name.as_str()) {
            return self.value(object);
        }
        // An empty text, or a mask.
        if let Ok(text) = self.reader.text(object, 8)
            && found.has(flags::STR)
            && text.length <= 8
            && Redactor::is_nothing(&text.text)
        {
            return self.value(object);
        }
        *self.hidden.entry(kind).or_default() += 1;
        Value::nothing(found.name(), NotCaptured::Redacted(kind))
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
        if let Some(kind) = self.redactor.and_then(|redactor| redactor.sensitive_type(found.name())) {
            *self.hidden.entry(kind).or_default() += 1;
            return Value::nothing(found.name(), NotCaptured::Redacted(kind));
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
        Ok(self.without_secrets(decoded?))
    }

    /// A value without parts, or elements that say what others are.
    pub(super) fn without_secrets(&mut self, mut value: Value) -> Value {
        let Some(redactor) = self.redactor else { return value };
        match &mut value.content {
            Content::Elements(items) => redactor.elements(&value.type_name, items, &mut self.hidden),
            Content::Entries(_) | Content::Fields(_) => {}
            _ => redactor.leaf(&mut value, self.limits.text, &mut self.hidden),
        }
        value
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
        let names = if self.redactor.is_some() { self.field_names(found) } else { Rc::from([]) };
        Ok(self.elements(name, &names, &items, length))
    }

    /// A sequence of these items, of so many in all. Some may have names, by which they are hidden.
    pub(super) fn elements(
        &mut self,
        name: &str,
        names: &[Option<String>],
        items: &[u64],
        length: u64,
    ) -> Value {
        let shown = items.len() as u64;
        let elements = self.members(names, items);
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
        let (keys, objects): (Vec<Value>, Vec<u64>) =
            pairs.into_iter().map(|(key, value)| (self.plain(key), value)).unzip();
        let values = self.members(&names_of(&keys), &objects);
        let mut entries: Vec<(Value, Value)> = keys.into_iter().zip(values).collect();
        if let Some(redactor) = self.redactor {
            for (key, _) in &mut entries {
                redactor.key(key, &mut self.hidden);
            }
        }
        Ok(Value {
            truncated: (length > shown).then_some(length),
            ..Value::new(name, Content::Entries(entries))
        })
    }

    /// The values of a mapping, of so many in all, which its keys hide.
    pub(super) fn mapped(&mut self, name: &str, (pairs, length): (Vec<(u64, u64)>, u64)) -> Value {
        let (keys, objects): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
        let names = match self.redactor {
            Some(_) => names_of(&keys.into_iter().map(|key| self.plain(key)).collect::<Vec<_>>()),
            None => Vec::new(),
        };
        self.elements(name, &names, &objects, length)
    }

    /// A key as it is; [`Redactor::key`] is still to see it.
    fn plain(&mut self, object: u64) -> Value {
        let redactor = self.redactor.take();
        let key = self.value(object);
        self.redactor = redactor;
        key
    }

    /// The values of keys or attributes.
    fn members(&mut self, names: &[Option<String>], objects: &[u64]) -> Vec<Value> {
        let members = Members::of(names.iter().map(Option::as_deref));
        let mut values = Vec::with_capacity(objects.len());
        for (at, object) in objects.iter().enumerate() {
            values.push(match members.name_of(at, names.get(at).and_then(Option::as_deref)) {
                Some(name) => self.named(name, *object),
                None => self.value(*object),
            });
        }
        if let Some(redactor) = self.redactor {
            redactor.beside(&members, &mut values.iter_mut().collect::<Vec<_>>(), &mut self.hidden);
        }
        values
    }

    /// The variables of a module's or class's body, which are in this dict: those that have names, within the limits of
    /// a container.
    ///
    /// # Errors
    /// If it is no dict, or cannot be read.
    pub fn names_in(&mut self, dict: u64) -> Result<Vec<(String, Value)>, ReadError> {
        let (pairs, _) = self.dict_pairs(dict, self.limits.items)?;
        let named = pairs.into_iter().filter_map(|(key, value)| Some((self.reader.name(key).ok()?, value)));
        let named = named.collect();
        Ok(self.named_values(named))
    }

    /// An instance: its attributes and its slots.
    fn instance(&mut self, object: u64, found: &Rc<Type>) -> Result<Value, ReadError> {
        let (fields, length) = self.attributes(object, found, self.limits.fields)?;
        let shown = fields.len() as u64;
        let fields = self.named_values(fields);
        Ok(Value {
            truncated: (length > shown).then_some(length),
            ..Value::new(found.name(), Content::Fields(fields))
        })
    }
}

/// What the keys of a mapping say of its values.
fn names_of(keys: &[Value]) -> Vec<Option<String>> {
    keys.iter().map(|key| name_of(key).map(Into::into)).collect()
}
