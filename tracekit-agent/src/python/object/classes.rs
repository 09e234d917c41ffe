//! What types say of their instances: attributes and methods of classes, and slots. All of it lives longer than an image
//! and is read from the process.

use std::rc::Rc;

use super::access::{Attribute, Objects};
use super::budget::AccessError;
use crate::python::reader::{Reader, Type, flags};

/// Types in a method resolution order at most.
const MAX_BASES: u64 = 256;
/// Rows of a table of members, getters or methods at most.
const MAX_ROWS: u64 = 512;
/// Characters of a name in such a table at most.
const MAX_NAME: usize = 256;

/// Looks into types.
pub struct Classes<'r, 'm> {
    /// Objects of the process.
    pub objects: Objects<'r, 'm>,
}

/// What a class's attribute does when it is read from an instance.
pub(super) enum Descriptor {
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

impl<'m> Classes<'_, 'm> {
    /// Reads types.
    pub fn reader(&self) -> &Reader<'m> {
        self.objects.reader
    }

    fn word(&self, object: u64, offset: u64) -> Result<u64, AccessError> {
        self.objects.word(object, offset)
    }

    fn entry(&self, dict: u64, name: &str) -> Result<Option<u64>, AccessError> {
        self.objects.entry(dict, name)
    }

    /// The addresses of the types in `__mro__`.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn bases(&self, kind: u64) -> Result<Vec<u64>, AccessError> {
        let order = self.word(kind, self.reader().layout.object.tp_mro)?;
        let bases = if order == 0 { vec![kind] } else { self.reader().tuple(order, MAX_BASES)? };
        self.objects.budget.take(bases.len())?;
        Ok(bases)
    }

    /// A class written in Python, or a type that a C module made from a specification.
    fn is_heap(&self, kind: u64) -> Result<bool, AccessError> {
        Ok(self.word(kind, self.reader().layout.object.tp_flags)? & flags::HEAP_TYPE != 0)
    }

    /// The dict of a class; none for static types of the interpreter since 3.12.
    fn type_dict(&self, kind: u64) -> Result<Option<u64>, AccessError> {
        let dict = self.word(kind, self.reader().layout.object.tp_dict)?;
        Ok(if dict == 0 || !self.reader().type_of(dict)?.has(flags::DICT) { None } else { Some(dict) })
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
                if native.is_some() && self.reader().type_at(base)?.full_name == native.unwrap_or_default() {
                    return Ok(None);
                }
                continue;
            }
            let Some(dict) = self.type_dict(base)? else { continue };
            let Some(found) = self.entry(dict, method)? else { continue };
            let class = self.reader().type_at(base)?;
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
        let descriptor = self.reader().type_of(found)?;
        let wraps = matches!(descriptor.full_name.as_str(), "wrapper_descriptor" | "method_descriptor");
        if !wraps || is_python_class(&descriptor) {
            return Ok(false);
        }
        if !is_python_class(class) {
            return Ok(true);
        }
        // `PyDescrObject`: the type and the name, 16 and 8 bytes before what `PyMemberDescrObject` adds.
        let added = self.reader().layout.object.member_descriptor;
        let (owner, name) = (self.word(found, added - 24)?, self.word(found, added - 16)?);
        let (owner, name) = (self.reader().type_at(owner)?, self.reader().name(name)?);
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
        let offsets = &self.reader().layout.object;
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
            self.objects.budget.take(1)?;
            let row = table.wrapping_add(at * size);
            let name = self.word(row, 0)?;
            if name == 0 {
                break;
            }
            if self.reader().memory.c_string(name, MAX_NAME)? == wanted.as_bytes() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    pub(super) fn descriptor(&self, value: u64) -> Result<Descriptor, AccessError> {
        let offsets = &self.reader().layout.object;
        let kind = self.reader().type_of(value)?;
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

    /// Attributes are looked up as `object` does it.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn has_generic_lookup(&self, kind: &Rc<Type>) -> Result<bool, AccessError> {
        self.shares_slot(kind.address, self.reader().layout.object.tp_getattro)
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
        let offsets = &self.reader().layout.object;
        // `PyNumberMethods.nb_bool`, `PySequenceMethods.sq_length`, `PyMappingMethods.mp_length`
        let slots = [(offsets.tp_as_number, 72), (offsets.tp_as_sequence, 0), (offsets.tp_as_mapping, 0)];
        for base in self.bases(kind.address)? {
            // A class written in Python has slots of its own; its methods were asked for by name.
            let found = self.reader().type_at(base)?;
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
        let slot = self.reader().layout.object.tp_richcompare;
        let bases = self.bases(kind.address)?;
        for base in bases {
            let found = self.reader().type_at(base)?;
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
        let kind = self.reader().type_of(object)?;
        if kind.has(flags::TYPE) {
            self.of_class(object, &kind, name)
        } else {
            self.of_module(object, &kind, name)
        }
    }

    fn of_class(&self, class: u64, meta: &Type, name: &str) -> Result<Attribute, AccessError> {
        match name {
            "__name__" => return Ok(Attribute::Text(self.reader().type_at(class)?.name().to_owned())),
            "__class__" => return Ok(Attribute::Lasting(meta.address)),
            "__mro__" => {
                let order = self.word(class, self.reader().layout.object.tp_mro)?;
                return Ok(if order == 0 { Attribute::Missing } else { Attribute::Lasting(order) });
            }
            _ => {}
        }
        // Members of an enum are in no class attribute to 3.10, and behind descriptors since.
        if meta.class_names.iter().any(|name| name == "EnumMeta" || name == "EnumType")
            && let Some(dict) = self.type_dict(class)?
            && let Some(members) = self.entry(dict, "_member_map_")?
            && self.reader().type_of(members)?.has(flags::DICT)
            && let Some(member) = self.entry(members, name)?
        {
            return Ok(Attribute::Lasting(member));
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
                Descriptor::Plain => Attribute::Lasting(value),
                Descriptor::Method => Attribute::Method,
                // A property, asked of its class, is itself; so are fields of instances.
                _ if self.reader().type_of(value)?.full_name == "property" => Attribute::Lasting(value),
                Descriptor::Member(_) | Descriptor::Item(_) => Attribute::Lasting(value),
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
            return self.objects.attribute(module, name);
        }
        let dict = self.word(module, self.reader().layout.object.module_dict)?;
        if dict == 0 || !self.reader().type_of(dict)?.has(flags::DICT) {
            return Ok(Attribute::Missing);
        }
        if let Some(value) = self.entry(dict, name)? {
            return Ok(Attribute::Lasting(value));
        }
        Ok(match self.entry(dict, "__getattr__")? {
            Some(_) => Attribute::Computed("the module's __getattr__".into()),
            None => Attribute::Missing,
        })
    }

    /// What the class has for this name, and what that does for an instance; with the object, if it is one.
    pub(super) fn found_in_class(
        &self,
        kind: u64,
        name: &str,
    ) -> Result<Option<(Descriptor, u64)>, AccessError> {
        Ok(match self.class_attribute(kind, name)? {
            Some(ClassAttribute::Object(value)) => Some((self.descriptor(value)?, value)),
            Some(ClassAttribute::Member(row)) => Some((Descriptor::Member(row), 0)),
            Some(ClassAttribute::Getter) => {
                Some((Descriptor::Computed { by: "C code".into(), data: true }, 0))
            }
            Some(ClassAttribute::Method) => Some((Descriptor::Method, 0)),
            None => None,
        })
    }
}

/// The reader tells them so as well: types made by C modules have the module in their name.
pub(super) fn is_python_class(kind: &Type) -> bool {
    kind.has(flags::HEAP_TYPE) && !kind.full_name.contains('.')
}
