//! Names of the items of named tuples, which say whether one is a secret.

use std::rc::Rc;

use super::Limits;
use super::decode::Decoder;
use crate::python::reader::{ReadError, Type, flags};

/// Classes in a method resolution order that may say the names.
const MAX_CLASSES: usize = 8;
/// Attributes of a class that are looked at.
const MAX_ATTRIBUTES: usize = 256;
/// Items with a name at most.
const MAX_FIELDS: usize = 256;

impl Decoder<'_, '_> {
    /// `_fields` of a class written in Python that is a tuple; empty for any other tuple.
    pub(super) fn field_names(&mut self, found: &Type) -> Rc<[Option<String>]> {
        if found.class_names.is_empty() || !found.has(flags::TUPLE) {
            return Rc::from([]);
        }
        if let Some(known) = self.fields.get(&found.address) {
            return Rc::clone(known);
        }
        let fields: Rc<[Option<String>]> = self.read_fields(found).unwrap_or_default().into();
        self.fields.insert(found.address, Rc::clone(&fields));
        fields
    }

    /// The class lives longer than an image, so that it is read from the process.
    fn read_fields(&self, found: &Type) -> Result<Vec<Option<String>>, ReadError> {
        let (reader, offsets) = (self.reader.process(), &self.reader.layout.object);
        let limits = Limits { items: MAX_FIELDS, ..self.limits };
        let process = Decoder::with_redactor(reader, limits, None);
        let order = reader.memory.u64(found.address.wrapping_add(offsets.tp_mro))?;
        let (classes, _) = process.tuple(order)?;
        for class in classes.into_iter().take(MAX_CLASSES) {
            // CPython `Include/cpython/object.h`: `tp_dict`, `tp_descr_get`, `tp_descr_set`, `tp_dictoffset`. Static
            // types have no `tp_dict` of their own since 3.12, and no `_fields`.
            let dict = reader.memory.u64(class.wrapping_add(offsets.tp_dictoffset).wrapping_sub(24))?;
            if dict == 0 || !reader.type_of(dict)?.has(flags::DICT) {
                continue;
            }
            let (attributes, _) = process.dict_pairs(dict, MAX_ATTRIBUTES)?;
            let fields =
                attributes.into_iter().find(|(key, _)| reader.name(*key).is_ok_and(|name| name == "_fields"));
            if let Some((_, fields)) = fields
                .filter(|(_, fields)| reader.type_of(*fields).is_ok_and(|found| found.has(flags::TUPLE)))
            {
                let (names, _) = process.tuple(fields)?;
                return Ok(names.into_iter().map(|name| reader.name(name).ok()).collect());
            }
        }
        Ok(Vec::new())
    }
}
