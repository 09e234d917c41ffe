//! Single attributes and entries, found without decoding what is around them: what expressions are evaluated
//! with.
//!
//! An attribute is looked up as CPython `Objects/object.c` `_PyObject_GenericGetAttrWithDict` does it: data
//! descriptors of the class, the instance, other attributes of the class. Where the interpreter would run code
//! (a property, `__getattr__`, a getter in C), the lookup says so and does nothing.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::Limits;
use super::budget::{AccessError, Budget};
use super::containers::{AttributesAt, attributes_of, key_table};
use super::decode::Decoder;
use crate::python::memory::MemorySource;
use crate::python::reader::{ReadError, Reader, Type, flags};

/// Entries of a dict that are read at once.
const CHUNK: u64 = 128;
/// Types in a method resolution order at most.
const MAX_BASES: u64 = 256;
/// Rows of a table of members, getters or methods at most.
const MAX_ROWS: u64 = 512;
/// Characters of a name in such a table at most.
const MAX_NAME: usize = 256;

/// What an attribute is.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// The object at this address.
    Object(u64),
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
    str_type: Cell<u64>,
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

/// What a class's attribute does when it is read from an instance.
enum Descriptor {
    /// It is the value.
    Plain,
    Method,
    /// Reads a field of the instance: `PyMemberDef` at this address.
    Member(u64),
    /// Reads an item of a tuple.
    Item(u64),
    Computed {
        by: String,
        /// It comes before the instance's own attributes.
        data: bool,
    },
}

impl<'r, 'm> Objects<'r, 'm> {
    /// Looks into what this reader reads, within the budget.
    #[must_use]
    pub fn new(reader: &'r Reader<'m>, budget: &'r Budget) -> Self {
        Self { reader, budget, str_type: Cell::new(0) }
    }
}

impl Objects<'_, '_> {
    fn word(&self, object: u64, offset: u64) -> Result<u64, AccessError> {
        Ok(self.reader.memory.u64(object.wrapping_add(offset))?)
    }

    /// The addresses of the types in `__mro__`.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn bases(&self, kind: u64) -> Result<Vec<u64>, AccessError> {
        let order = self.word(kind, self.reader.layout.object.tp_mro)?;
        let bases = if order == 0 { vec![kind] } else { self.reader.tuple(order, MAX_BASES)? };
        self.budget.take(bases.len())?;
        Ok(bases)
    }

    /// A class written in Python, or a type that a C module made from a specification.
    fn is_heap(&self, kind: u64) -> Result<bool, AccessError> {
        Ok(self.word(kind, self.reader.layout.object.tp_flags)? & flags::HEAP_TYPE != 0)
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
    /// [`AccessError`], also that of `each`.
    pub fn each_entry<T, E: From<AccessError>>(
        &self,
        dict: u64,
        each: impl FnMut(u64, u64) -> Result<ControlFlow<T>, E>,
    ) -> Result<Option<T>, E> {
        let offsets = &self.reader.layout.object;
        let keys = self.word(dict, offsets.dict_keys)?;
        let values = match self.word(dict, offsets.dict_values)? {
            0 => None,
            values if self.reader.layout.minor >= 13 => Some(values.wrapping_add(8)),
            values => Some(values),
        };
        self.each_key(self.reader.memory, keys, values, each)
    }

    fn each_key<T, E: From<AccessError>>(
        &self,
        keys_in: &dyn MemorySource,
        keys: u64,
        values: Option<u64>,
        mut each: impl FnMut(u64, u64) -> Result<ControlFlow<T>, E>,
    ) -> Result<Option<T>, E> {
        let memory = self.reader.memory;
        let words_at = |start: u64, count: usize| memory.words(start, count).map_err(AccessError::from);
        let table = key_table(keys_in, &self.reader.layout, keys).map_err(AccessError::from)?;
        let (words, key_at) = ((table.size / 8) as usize, (table.key_at / 8) as usize);
        for first in (0..table.count).step_by(CHUNK as usize) {
            let count = (table.count - first).min(CHUNK) as usize;
            self.budget.take(count)?;
            let entries = words_at(table.entries.wrapping_add(first * table.size), count * words)?;
            let split = match values {
                Some(values) => Some(words_at(values.wrapping_add(first * 8), count)?),
                None => None,
            };
            let keys: Vec<u64> = entries.iter().skip(key_at).step_by(words).copied().collect();
            memory.prefetch(&keys);
            let own = entries.iter().skip(key_at + 1).step_by(words);
            let values: Vec<u64> = split.unwrap_or_else(|| own.copied().collect());
            for (key, value) in keys.into_iter().zip(values) {
                // Removed, or not set in this instance.
                if key == 0 || value == 0 {
                    continue;
                }
                if let ControlFlow::Break(found) = each(key, value)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn entry(&self, dict: u64, name: &str) -> Result<Option<u64>, AccessError> {
        self.each_entry(dict, self.matching(name))
    }

    /// The value of a key that is a `str`; nothing if the object is no dict.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn dict_entry(&self, object: u64, name: &str) -> Result<Option<u64>, AccessError> {
        if self.reader.type_of(object)?.has(flags::DICT) { self.entry(object, name) } else { Ok(None) }
    }

    fn matching<'s>(
        &'s self,
        name: &'s str,
    ) -> impl FnMut(u64, u64) -> Result<ControlFlow<u64>, AccessError> + 's {
        let characters = name.chars().count() as u64;
        move |key, value| {
            let found = match self.has_text(key, name, characters)? {
                Some(found) => found,
                // Of a subclass of `str`.
                None => {
                    self.reader.type_of(key)?.has(flags::STR)
                        && self.reader.text(key, name.len() + 1)?.text == name
                }
            };
            Ok(if found { ControlFlow::Break(value) } else { ControlFlow::Continue(()) })
        }
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

    /// The items of a container other than a dict, at most `limit`.
    ///
    /// # Errors
    /// [`AccessError`], the budget's if there are more.
    pub fn items(&self, object: u64, container: Container, limit: usize) -> Result<Vec<u64>, AccessError> {
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
        if (items.len() as u64) < length { Err(AccessError::Budget) } else { Ok(items) }
    }

    /// The dict of a class; none for static types of the interpreter since 3.12.
    fn type_dict(&self, kind: u64) -> Result<Option<u64>, AccessError> {
        let dict = self.word(kind, self.reader.layout.object.tp_dict)?;
        Ok(if dict == 0 || !self.reader.type_of(dict)?.has(flags::DICT) { None } else { Some(dict) })
    }

    /// The first class of the `__mro__` that is written in Python and defines this method in Python: using the
    /// method would run its code. Those behind the type `native` are not asked, whose own comes first.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn python_method(
        &self,
        kind: &Type,
        method: &str,
        native: Option<&str>,
    ) -> Result<Option<String>, AccessError> {
        if kind.class_names.is_empty() {
            return Ok(None);
        }
        for base in self.bases(kind.address)? {
            if !self.is_heap(base)? {
                if native.is_some() && self.reader.type_at(base)?.full_name == native.unwrap_or_default() {
                    return Ok(None);
                }
                continue;
            }
            let Some(dict) = self.type_dict(base)? else { continue };
            let Some(found) = self.entry(dict, method)? else { continue };
            let class = self.reader.type_at(base)?;
            if self.is_own_wrapper(found, &class, method, kind)? {
                return Ok(None);
            }
            return Ok(Some(format!("{}.{method}", class.name())));
        }
        Ok(None)
    }

    /// The method is what a C type has in its slot of this name: of the class itself, or of a C type that it
    /// inherits from. `str()` of an `int` is its `repr()`.
    fn is_own_wrapper(
        &self,
        found: u64,
        class: &Type,
        method: &str,
        kind: &Type,
    ) -> Result<bool, AccessError> {
        let descriptor = self.reader.type_of(found)?;
        let wraps = matches!(descriptor.full_name.as_str(), "wrapper_descriptor" | "method_descriptor");
        if !wraps || is_python_class(&descriptor) {
            return Ok(false);
        }
        if !is_python_class(class) {
            return Ok(true);
        }
        // `PyDescrObject`: the type and the name, 16 and 8 bytes before what `PyMemberDescrObject` adds.
        let added = self.reader.layout.object.member_descriptor;
        let (owner, name) = (self.word(found, added - 24)?, self.word(found, added - 16)?);
        let (owner, name) = (self.reader.type_at(owner)?, self.reader.name(name)?);
        // What `object` has is another method than that of the type.
        let inherited = owner.full_name != "object" && kind.native_names.contains(&owner.full_name);
        Ok(inherited && (name == method || (method == "__str__" && name == "__repr__")))
    }

    /// The value that the `__mro__` has for this name.
    fn class_attribute(&self, kind: u64, name: &str) -> Result<Option<ClassAttribute>, AccessError> {
        for base in self.bases(kind)? {
            if let Some(dict) = self.type_dict(base)? {
                if let Some(object) = self.entry(dict, name)? {
                    return Ok(Some(ClassAttribute::Object(object)));
                }
            } else if let Some(found) = self.in_tables(base, name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A static type without a dict has tables: `PyMemberDef` (40 bytes: name, type, offset, flags, doc),
    /// `PyGetSetDef` (40: name, get, set, doc, closure), `PyMethodDef` (32: name, function, flags, doc).
    fn in_tables(&self, kind: u64, name: &str) -> Result<Option<ClassAttribute>, AccessError> {
        let offsets = &self.reader.layout.object;
        if let Some(row) = self.row(self.word(kind, offsets.tp_members)?, 40, name)? {
            return Ok(Some(ClassAttribute::Member(row)));
        }
        if self.row(self.word(kind, offsets.tp_getset)?, 40, name)?.is_some() {
            return Ok(Some(ClassAttribute::Getter));
        }
        let method = self.row(self.word(kind, offsets.tp_methods)?, 32, name)?;
        Ok(method.map(|_| ClassAttribute::Method))
    }

    fn row(&self, table: u64, size: u64, wanted: &str) -> Result<Option<u64>, AccessError> {
        for at in 0..if table == 0 { 0 } else { MAX_ROWS } {
            self.budget.take(1)?;
            let row = table.wrapping_add(at * size);
            let name = self.word(row, 0)?;
            if name == 0 {
                break;
            }
            if self.reader.memory.c_string(name, MAX_NAME)? == wanted.as_bytes() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn descriptor(&self, value: u64) -> Result<Descriptor, AccessError> {
        let offsets = &self.reader.layout.object;
        let kind = self.reader.type_of(value)?;
        let native = |wanted: &str| kind.native_names.iter().any(|name| name == wanted);
        // Classes written in Python may be called so too.
        let name = if is_python_class(&kind) { "" } else { kind.full_name.as_str() };
        match name {
            "function"
            | "method_descriptor"
            | "wrapper_descriptor"
            | "classmethod_descriptor"
            | "classmethod"
            | "staticmethod"
            | "instancemethod"
            | "cython_function_or_method" => {
                return Ok(Descriptor::Method);
            }
            "member_descriptor" => {
                return Ok(Descriptor::Member(self.word(value, offsets.member_descriptor)?));
            }
            "getset_descriptor" => return Ok(Descriptor::Computed { by: "C code".into(), data: true }),
            "collections._tuplegetter" | "_collections._tuplegetter" => {
                return Ok(Descriptor::Item(self.word(value, offsets.tuple_getter)?));
            }
            _ => {}
        }
        if native("property") {
            return Ok(Descriptor::Computed { by: "a property".into(), data: true });
        }
        let data = self.word(kind.address, offsets.tp_descr_set)? != 0;
        if data || self.word(kind.address, offsets.tp_descr_get)? != 0 {
            return Ok(Descriptor::Computed { by: format!("a {}", kind.name()), data });
        }
        Ok(Descriptor::Plain)
    }

    /// A field of the instance, by `PyMemberDef`. Types: `Include/structmember.h`, `Include/descrobject.h`.
    fn member(&self, object: u64, definition: u64) -> Result<Attribute, AccessError> {
        let memory = self.reader.memory;
        let code = memory.i32(definition.wrapping_add(8))?;
        let offset = self.word(definition, 16)?;
        let flags = memory.i32(definition.wrapping_add(24))?;
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
            AttributesAt::Inline { keys, values } => {
                self.each_key(self.reader.lasting(), keys, Some(values), self.matching(name))
            }
        }
    }

    /// The attribute of an object that is no type and no module.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn attribute(&self, object: u64, name: &str) -> Result<Attribute, AccessError> {
        let kind = self.reader.type_of(object)?;
        if let Some(method) = self.python_method(&kind, "__getattribute__", None)? {
            return Ok(Attribute::Computed(method));
        }
        if name == "__class__" {
            return Ok(match self.python_method(&kind, name, None)? {
                Some(method) => Attribute::Computed(method),
                None if !self.has_generic_lookup(&kind)? => {
                    Attribute::Computed(format!("C code of {}", kind.full_name))
                }
                None => Attribute::Object(kind.address),
            });
        }
        let fallback = self.python_method(&kind, "__getattr__", None)?;
        if fallback.is_none() && !self.has_generic_lookup(&kind)? {
            return Ok(Attribute::Computed(format!("C code of {}", kind.full_name)));
        }
        let class = match self.class_attribute(kind.address, name)? {
            Some(ClassAttribute::Object(value)) => Some((self.descriptor(value)?, value)),
            Some(ClassAttribute::Member(row)) => Some((Descriptor::Member(row), 0)),
            Some(ClassAttribute::Getter) => {
                Some((Descriptor::Computed { by: "C code".into(), data: true }, 0))
            }
            Some(ClassAttribute::Method) => Some((Descriptor::Method, 0)),
            None => None,
        };
        let found = match class {
            Some((Descriptor::Member(row), _)) => self.member(object, row)?,
            Some((Descriptor::Item(index), _)) => self.item(object, &kind, index)?,
            Some((Descriptor::Computed { by, data: true }, _)) => Attribute::Computed(by),
            other => match (self.own_attribute(object, &kind, name)?, other) {
                (Some(value), _) => Attribute::Object(value),
                (None, Some((Descriptor::Plain, value))) => Attribute::Object(value),
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

    /// Attributes are looked up as `object` does it.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn has_generic_lookup(&self, kind: &Rc<Type>) -> Result<bool, AccessError> {
        self.shares_slot(kind.address, self.reader.layout.object.tp_getattro)
    }

    /// The type's slot is that of `object`, or empty.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn shares_slot(&self, kind: u64, slot: u64) -> Result<bool, AccessError> {
        let own = self.word(kind, slot)?;
        let last = self.bases(kind)?.last().copied().unwrap_or(kind);
        Ok(own == 0 || own == self.word(last, slot)?)
    }

    /// No type written in C that this one is made of has a truth value or a length of its own.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn is_always_true(&self, kind: &Type) -> Result<bool, AccessError> {
        let offsets = &self.reader.layout.object;
        // `PyNumberMethods.nb_bool`, `PySequenceMethods.sq_length`, `PyMappingMethods.mp_length`
        let slots = [(offsets.tp_as_number, 72), (offsets.tp_as_sequence, 0), (offsets.tp_as_mapping, 0)];
        for base in self.bases(kind.address)? {
            // A class written in Python has slots of its own; its methods were asked for by name.
            let found = self.reader.type_at(base)?;
            if is_python_class(&found) {
                continue;
            }
            for (slot, method) in slots {
                let table = self.word(base, slot)?;
                if table != 0 && self.word(table, method)? != 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Objects of this type are equal to themselves only.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn compares_by_identity(&self, kind: &Type) -> Result<bool, AccessError> {
        let slot = self.reader.layout.object.tp_richcompare;
        let bases = self.bases(kind.address)?;
        for base in bases {
            let found = self.reader.type_at(base)?;
            if is_python_class(&found) {
                continue;
            }
            if !self.shares_slot(base, slot)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The attribute of a class, or of a module.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn static_attribute(&self, object: u64, name: &str) -> Result<Attribute, AccessError> {
        let kind = self.reader.type_of(object)?;
        if kind.has(flags::TYPE) {
            self.of_class(object, &kind, name)
        } else {
            self.of_module(object, &kind, name)
        }
    }

    fn of_class(&self, class: u64, meta: &Type, name: &str) -> Result<Attribute, AccessError> {
        match name {
            "__name__" => return Ok(Attribute::Text(self.reader.type_at(class)?.name().to_owned())),
            "__class__" => return Ok(Attribute::Object(meta.address)),
            "__mro__" => {
                let order = self.word(class, self.reader.layout.object.tp_mro)?;
                return Ok(if order == 0 { Attribute::Missing } else { Attribute::Object(order) });
            }
            _ => {}
        }
        // Members of an enum are in no class attribute to 3.10, and behind descriptors since.
        if meta.class_names.iter().any(|name| name == "EnumMeta" || name == "EnumType")
            && let Some(dict) = self.type_dict(class)?
            && let Some(members) = self.entry(dict, "_member_map_")?
            && self.reader.type_of(members)?.has(flags::DICT)
            && let Some(member) = self.entry(members, name)?
        {
            return Ok(Attribute::Object(member));
        }
        if let Some(method) = self.python_method(meta, "__getattribute__", None)? {
            return Ok(Attribute::Computed(method));
        }
        // A metaclass of the process may have properties, which come first.
        if !meta.class_names.is_empty()
            && let Some(ClassAttribute::Object(value)) = self.class_attribute(meta.address, name)?
            && let Descriptor::Computed { by, data: true } = self.descriptor(value)?
        {
            return Ok(Attribute::Computed(by));
        }
        match self.class_attribute(class, name)? {
            Some(ClassAttribute::Object(value)) => Ok(match self.descriptor(value)? {
                Descriptor::Plain => Attribute::Object(value),
                Descriptor::Method => Attribute::Method,
                // A property, asked of its class, is itself; so are fields of instances.
                _ if self.reader.type_of(value)?.full_name == "property" => Attribute::Object(value),
                Descriptor::Member(_) | Descriptor::Item(_) => Attribute::Object(value),
                Descriptor::Computed { by, .. } => Attribute::Computed(by),
            }),
            Some(ClassAttribute::Method) => Ok(Attribute::Method),
            Some(_) => Ok(Attribute::Computed("C code".into())),
            None if name.starts_with("__") => Ok(Attribute::Computed("its metaclass".into())),
            // What the metaclass has besides is not looked for.
            None if meta.full_name != "type" => Ok(Attribute::Computed(format!("its class {}", meta.name()))),
            None if name == "mro" => Ok(Attribute::Method),
            None => Ok(Attribute::Missing),
        }
    }

    fn of_module(&self, module: u64, kind: &Type, name: &str) -> Result<Attribute, AccessError> {
        // Modules can be of classes of their own, with properties.
        if name == "__class__" || !kind.class_names.is_empty() {
            return self.attribute(module, name);
        }
        let dict = self.word(module, self.reader.layout.object.module_dict)?;
        if dict == 0 || !self.reader.type_of(dict)?.has(flags::DICT) {
            return Ok(Attribute::Missing);
        }
        if let Some(value) = self.entry(dict, name)? {
            return Ok(Attribute::Object(value));
        }
        Ok(match self.entry(dict, "__getattr__")? {
            Some(_) => Attribute::Computed("the module's __getattr__".into()),
            None => Attribute::Missing,
        })
    }
}

/// The reader tells them so as well: types made by C modules have the module in their name.
fn is_python_class(kind: &Type) -> bool {
    kind.has(flags::HEAP_TYPE) && !kind.full_name.contains('.')
}

/// What a class has for a name.
enum ClassAttribute {
    /// An object in its dict.
    Object(u64),
    /// A row of `tp_members`.
    Member(u64),
    /// A row of `tp_getset`.
    Getter,
    /// A row of `tp_methods`.
    Method,
}
