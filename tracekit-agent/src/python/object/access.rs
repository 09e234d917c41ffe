//! Single attributes and entries, found without decoding what is around them: what expressions are evaluated
//! with.
//!
//! An attribute is looked up as CPython `Objects/object.c` `_PyObject_GenericGetAttrWithDict` does it: data
//! descriptors of the class, the instance, other attributes of the class. Where the interpreter would run code
//! (a property, `__getattr__`, a getter in C), the lookup says so and does nothing.

//!
//! With the reader of an image, values come from the image and nowhere else: what it lacks is
//! [`AccessError::NotCaptured`], and a part of a container is never taken for all of it. [`Classes`] has what is read from
//! the process.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::Limits;
use super::budget::{AccessError, Budget};
use super::classes::{Classes, Descriptor, is_python_class};
use super::containers::{AttributesAt, KeyTable, attributes_of, key_table};
use super::decode::Decoder;
use crate::python::memory::MemorySource;
use crate::python::reader::{ReadError, Reader, Type, flags};

/// Entries of a dict that are read at once.
const CHUNK: u64 = 128;

/// What an attribute is.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// The object at this address.
    Object(u64),
    /// The object at this address, which a class or a module has: of the process, not of the image.
    Lasting(u64),
    /// An integer that is kept in the object as such.
    Integer(i64),
    /// A float that is.
    Float(f64),
    /// A string that is.
    Text(String),
    /// A method of the class.
    Method,
    /// Reading it runs code; whose.
    Computed(String),
    /// There is none of this name.
    Missing,
}

/// Looks into objects.
pub struct Objects<'r, 'm> {
    /// Reads them.
    pub reader: &'r Reader<'m>,
    /// What it may cost.
    pub budget: &'r Budget,
    /// The address of `PyUnicode_Type`, once a string was seen: most keys are strings.
    str_type: Rc<Cell<u64>>,
}

/// Kinds of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `list`
    List,
    /// `tuple`
    Tuple,
    /// `set`, `frozenset`
    Set,
    /// `dict`
    Dict,
    /// `collections.deque`
    Deque,
}

impl<'r, 'm> Objects<'r, 'm> {
    /// Looks into what this reader reads, within the budget.
    #[must_use]
    pub fn new(reader: &'r Reader<'m>, budget: &'r Budget) -> Self {
        Self { reader, budget, str_type: Rc::default() }
    }

    /// Looks into what lives longer than an image.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self { reader: self.reader.process(), budget: self.budget, str_type: Rc::clone(&self.str_type) }
    }

    /// Looks into types.
    #[must_use]
    pub fn classes(&self) -> Classes<'r, 'm> {
        Classes { objects: self.lasting() }
    }
}

impl Objects<'_, '_> {
    pub(super) fn word(&self, object: u64, offset: u64) -> Result<u64, AccessError> {
        Ok(self.reader.memory.u64(object.wrapping_add(offset))?)
    }

    /// If the object is a `str`, not of a subclass: whether it has this text, of so many characters.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn has_text(&self, object: u64, wanted: &str, characters: u64) -> Result<Option<bool>, AccessError> {
        self.budget.take(1)?;
        let layout = &self.reader.layout;
        let mut head = [0; 64];
        let size = usize::try_from(layout.object.str_length + 8).unwrap_or(0);
        let head = head.get_mut(..size).ok_or(ReadError::Invalid("layout"))?;
        let word = |head: &[u8], offset: u64| {
            let at = usize::try_from(offset).unwrap_or(0);
            head.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
        };
        // Objects of other types may end before that.
        let (kind, length) = match self.reader.memory.read(object, head) {
            Ok(()) => (word(head, layout.object_type), word(head, layout.object.str_length)),
            Err(_) if !self.reader.type_of(object)?.has(flags::STR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if kind != self.str_type.get() {
            let found = self.reader.type_at(kind)?;
            if found.full_name != "str" || is_python_class(&found) {
                return Ok(None);
            }
            self.str_type.set(kind);
        }
        Ok(Some(length == characters && self.reader.text(object, wanted.len())?.text == wanted))
    }

    /// Calls `each` with keys and values of a dict in their order, until it breaks.
    ///
    /// # Errors
    /// [`AccessError`], also that of `each`. If not all of the dict was captured, and none of the rest broke.
    pub fn each_entry<T, E: From<AccessError>>(
        &self,
        dict: u64,
        mut each: impl FnMut(u64, u64) -> Result<ControlFlow<T>, E>,
    ) -> Result<Option<T>, E> {
        let (offsets, memory) = (&self.reader.layout.object, self.reader.memory);
        let keys = self.word(dict, offsets.dict_keys)?;
        let values = match self.word(dict, offsets.dict_values)? {
            0 => None,
            values if self.reader.layout.minor >= 13 => Some(values.wrapping_add(8)),
            values => Some(values),
        };
        let table = key_table(memory, &self.reader.layout, keys).map_err(AccessError::from)?;
        for first in (0..table.count).step_by(CHUNK as usize) {
            let count = (table.count - first).min(CHUNK) as usize;
            self.budget.take(count)?;
            let (entries, whole) = self.entries_at(memory, &table, values, first, count)?;
            memory.prefetch(&entries.iter().map(|(key, _)| *key).collect::<Vec<_>>());
            for (key, value) in entries {
                // Removed, or not set in this instance.
                if key == 0 || value == 0 {
                    continue;
                }
                if let ControlFlow::Break(found) = each(key, value)? {
                    return Ok(Some(found));
                }
            }
            if !whole {
                return Err(AccessError::NotCaptured.into());
            }
        }
        Ok(None)
    }

    /// Keys and values of `count` entries, and whether these are all: an image may have only the first of them.
    fn entries_at(
        &self,
        keys_in: &dyn MemorySource,
        table: &KeyTable,
        values: Option<u64>,
        first: u64,
        count: usize,
    ) -> Result<(Vec<(u64, u64)>, bool), AccessError> {
        let (words, key_at) = ((table.size / 8) as usize, (table.key_at / 8) as usize);
        let start = table.entries.wrapping_add(first.wrapping_mul(table.size));
        let (entries, whole) = self.words_at(keys_in, start, count * words)?;
        let keys = entries.iter().skip(key_at).step_by(words).copied();
        Ok(match values {
            Some(values) => {
                let start = values.wrapping_add(first.wrapping_mul(8));
                let (split, all) = self.words_at(self.reader.memory, start, count)?;
                (keys.zip(split).collect(), whole && all)
            }
            None => (keys.zip(entries.iter().skip(key_at + 1).step_by(words).copied()).collect(), whole),
        })
    }

    /// Words of the memory, and whether these are all: an image may have only the first of them.
    fn words_at(
        &self,
        memory: &dyn MemorySource,
        start: u64,
        count: usize,
    ) -> Result<(Vec<u64>, bool), AccessError> {
        match memory.words(start, count) {
            Ok(words) => Ok((words, true)),
            Err(_) if self.reader.is_image() => {
                let word = |at: usize| memory.u64(start.wrapping_add(8 * at as u64)).ok();
                Ok(((0..count).map_while(word).collect(), false))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn entry(&self, dict: u64, name: &str) -> Result<Option<u64>, AccessError> {
        let characters = name.chars().count() as u64;
        let mut unsure = None;
        let found = self.each_entry(dict, |key, value| {
            Ok(match self.is_named(key, name, characters) {
                Ok(true) => ControlFlow::Break(value),
                Ok(false) => ControlFlow::Continue(()),
                // It may be this one, or another.
                Err(AccessError::Read(_)) if self.reader.is_image() => {
                    unsure = Some(AccessError::NotCaptured);
                    ControlFlow::Continue(())
                }
                Err(error) => return Err(error),
            })
        })?;
        match (found, unsure) {
            (None, Some(unsure)) => Err(unsure),
            (found, _) => Ok(found),
        }
    }

    /// The value of a key that is a `str`; nothing if the object is no dict.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn dict_entry(&self, object: u64, name: &str) -> Result<Option<u64>, AccessError> {
        if self.reader.type_of(object)?.has(flags::DICT) { self.entry(object, name) } else { Ok(None) }
    }

    /// The key is a `str` with this text, of so many characters.
    fn is_named(&self, key: u64, name: &str, characters: u64) -> Result<bool, AccessError> {
        Ok(match self.has_text(key, name, characters)? {
            Some(found) => found,
            // Of a subclass of `str`.
            None => {
                self.reader.type_of(key)?.has(flags::STR)
                    && self.reader.text(key, name.len() + 1)?.text == name
            }
        })
    }

    /// The place of a name among the keys that instances of a type share.
    fn shared_key(&self, keys: u64, name: &str) -> Result<Option<u64>, AccessError> {
        let characters = name.chars().count() as u64;
        let memory = self.reader.memory;
        let table = key_table(memory, &self.reader.layout, keys)?;
        for at in 0..table.count {
            self.budget.take(1)?;
            let entry = table.entries.wrapping_add(at.wrapping_mul(table.size));
            let key = memory.u64(entry.wrapping_add(table.key_at))?;
            if key != 0 && self.is_named(key, name, characters)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// How many items a `list`, `tuple`, `set`, `frozenset`, `dict` or `deque` has.
    ///
    /// # Errors
    /// [`AccessError`], also if it has more than can be.
    pub fn length(&self, object: u64, container: Container) -> Result<u64, AccessError> {
        let offsets = &self.reader.layout.object;
        let offset = match container {
            Container::List | Container::Tuple | Container::Deque => offsets.ob_size,
            Container::Set => offsets.set_used,
            Container::Dict => offsets.dict_used,
        };
        let length = self.word(object, offset)?;
        if length > 1 << 40 { Err(ReadError::Invalid("container").into()) } else { Ok(length) }
    }

    /// One item of a list or tuple. The caller knows that it has one there.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn item_at(&self, object: u64, container: Container, index: u64) -> Result<u64, AccessError> {
        let offsets = &self.reader.layout.object;
        let start = match container {
            Container::List => self.word(object, offsets.list_items)?,
            _ => object.wrapping_add(offsets.tuple_items),
        };
        self.word(start, index.wrapping_mul(8))
    }

    /// The items of a container other than a dict, and whether these are all: an image may have only the first of them.
    ///
    /// # Errors
    /// [`AccessError`], the budget's if there are more than `limit`.
    pub fn items(
        &self,
        object: u64,
        container: Container,
        limit: usize,
    ) -> Result<(Vec<u64>, bool), AccessError> {
        let limits = Limits { items: limit, ..Limits::default() };
        let decoder = Decoder::new(self.reader, limits, false);
        let (items, length) = match container {
            Container::List => decoder.list(object)?,
            Container::Tuple => decoder.tuple(object)?,
            Container::Set => decoder.set(object)?,
            Container::Deque => decoder.deque(object)?,
            Container::Dict => return Err(ReadError::Invalid("sequence").into()),
        };
        self.budget.take(items.len())?;
        match (items.len() as u64) < length {
            true if self.reader.is_image() => Ok((items, false)),
            true => Err(AccessError::Budget),
            false => Ok((items, true)),
        }
    }

    /// A field of the instance, by `PyMemberDef`. Types: `Include/structmember.h`, `Include/descrobject.h`.
    fn member(&self, object: u64, definition: u64) -> Result<Attribute, AccessError> {
        let (memory, lasting) = (self.reader.memory, self.reader.lasting());
        let code = lasting.i32(definition.wrapping_add(8))?;
        let offset = lasting.u64(definition.wrapping_add(16))?;
        let flags = lasting.i32(definition.wrapping_add(24))?;
        // `Py_RELATIVE_OFFSET`; and no object is that large.
        if flags & 8 != 0 || offset > 1 << 20 {
            return Ok(Attribute::Computed("C code".into()));
        }
        let at = object.wrapping_add(offset);
        let byte = || memory.u8(at);
        Ok(match code {
            1 => Attribute::Integer(memory.i32(at)?.into()),
            2 | 17 | 19 => Attribute::Integer(memory.i64(at)?),
            4 => Attribute::Float(f64::from_bits(memory.u64(at)?)),
            6 | 16 => match (memory.u64(at)?, code) {
                (0, 16) => Attribute::Missing,
                // NULL reads as None.
                (0, _) => Attribute::Computed("C code".into()),
                (value, _) => Attribute::Object(value),
            },
            8 => Attribute::Integer(byte()?.cast_signed().into()),
            9 => Attribute::Integer(byte()?.into()),
            11 => Attribute::Integer(memory.u32(at)?.into()),
            _ => Attribute::Computed("C code".into()),
        })
    }

    /// An item of a named tuple.
    fn item(&self, object: u64, kind: &Type, index: u64) -> Result<Attribute, AccessError> {
        let offsets = &self.reader.layout.object;
        if !kind.has(flags::TUPLE) || index >= self.word(object, offsets.ob_size)? {
            return Ok(Attribute::Missing);
        }
        let at = offsets.tuple_items.wrapping_add(index.wrapping_mul(8));
        Ok(Attribute::Object(self.word(object, at)?))
    }

    fn own_attribute(&self, object: u64, kind: &Type, name: &str) -> Result<Option<u64>, AccessError> {
        match attributes_of(self.reader, object, kind)? {
            AttributesAt::Nowhere => Ok(None),
            AttributesAt::Dict(dict) => self.entry(dict, name),
            // The keys are the type's.
            AttributesAt::Inline { keys, values } => match self.lasting().shared_key(keys, name)? {
                Some(at) => Ok(Some(self.word(values, at.wrapping_mul(8))?).filter(|value| *value != 0)),
                None => Ok(None),
            },
        }
    }

    /// The attribute of an object that is no type and no module.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn attribute(&self, object: u64, name: &str) -> Result<Attribute, AccessError> {
        let kind = self.reader.type_of(object)?;
        let classes = self.classes();
        if let Some(method) = classes.python_method(&kind, "__getattribute__", None)? {
            return Ok(Attribute::Computed(method));
        }
        if name == "__class__" {
            return Ok(match classes.python_method(&kind, name, None)? {
                Some(method) => Attribute::Computed(method),
                None if !classes.has_generic_lookup(&kind)? => {
                    Attribute::Computed(format!("C code of {}", kind.full_name))
                }
                None => Attribute::Lasting(kind.address),
            });
        }
        let fallback = classes.python_method(&kind, "__getattr__", None)?;
        if fallback.is_none() && !classes.has_generic_lookup(&kind)? {
            return Ok(Attribute::Computed(format!("C code of {}", kind.full_name)));
        }
        let found = match classes.found_in_class(kind.address, name)? {
            Some((Descriptor::Member(row), _)) => self.member(object, row)?,
            Some((Descriptor::Item(index), _)) => self.item(object, &kind, index)?,
            Some((Descriptor::Computed { by, data: true }, _)) => Attribute::Computed(by),
            other => match (self.own_attribute(object, &kind, name)?, other) {
                (Some(value), _) => Attribute::Object(value),
                (None, Some((Descriptor::Plain, value))) => Attribute::Lasting(value),
                (None, Some((Descriptor::Computed { by, .. }, _))) => Attribute::Computed(by),
                (None, Some(_)) => Attribute::Method,
                // Of types without a dict, special methods are in no table.
                (None, None) if name.starts_with("__") && name.ends_with("__") => {
                    Attribute::Computed("C code".into())
                }
                (None, None) => Attribute::Missing,
            },
        };
        Ok(match (found, fallback) {
            (Attribute::Missing, Some(method)) => Attribute::Computed(method),
            (found, _) => found,
        })
    }
}
