//! What shows other objects' contents: views of dicts and buffers, weak references; and `array.array`.

use super::decode::Decoder;
use super::numpy::{float, signed, unsigned};
use super::strided::Strided;
use super::{Content, NotCaptured, Value};
use crate::python::reader::{ReadError, Type, flags};

impl Decoder<'_, '_> {
    /// The value, if the type is one of these.
    pub(super) fn view(&mut self, object: u64, found: &Type) -> Result<Option<Value>, ReadError> {
        let name = found.name();
        for native in &found.native_names {
            return match native.as_str() {
                "dict_keys" | "dict_values" | "dict_items" | "mappingproxy" => self.of_dict(object, name),
                "weakref" | "weakref.ReferenceType" => {
                    // `PyWeakReference.wr_object`: None once the object is gone.
                    let referent = self.reader.memory.u64(self.behind_header(object, 16))?;
                    let fields = vec![("referent".to_owned(), self.value(referent))];
                    Ok(Value::new(name, Content::Fields(fields)))
                }
                "memoryview" => self.memoryview(object, name),
                "array.array" => self.array_of_numbers(object, name),
                _ => continue,
            }
            .map(Some);
        }
        Ok(None)
    }

    /// `_PyDictViewObject.dv_dict`, `mappingproxyobject.mapping`
    fn of_dict(&mut self, object: u64, name: &str) -> Result<Value, ReadError> {
        let mapping = self.reader.memory.u64(self.behind_header(object, 16))?;
        if !self.reader.type_of(mapping)?.has(flags::DICT) {
            let fields = vec![("mapping".to_owned(), self.value(mapping))];
            return Ok(Value::new(name, Content::Fields(fields)));
        }
        let (pairs, length) = self.dict_pairs(mapping, self.limits.items)?;
        match name {
            "dict_keys" => {
                let keys: Vec<u64> = pairs.into_iter().map(|(key, _)| key).collect();
                Ok(self.elements(name, &[], &keys, length))
            }
            "dict_values" => Ok(self.mapped(name, (pairs, length))),
            _ => self.entries(name, (pairs, length)),
        }
    }

    /// CPython `Include/cpython/memoryobject.h`, `PyMemoryViewObject.view`, a `Py_buffer`: `{void *buf; PyObject *obj;
    /// Py_ssize_t len, itemsize; int readonly, ndim; char *format; Py_ssize_t *shape, *strides, *suboffsets; …}`. The
    /// value is `tobytes()`.
    fn memoryview(&self, object: u64, name: &str) -> Result<Value, ReadError> {
        let memory = self.reader.memory;
        let view = self.behind_header(object, 56);
        let word = |offset: u64| memory.u64(view.wrapping_add(offset));
        // `_Py_MEMORYVIEW_RELEASED`: its memory is no longer its own.
        if memory.u32(self.behind_header(object, 40))? & 1 != 0 {
            return Ok(Value::new(name, Content::Text("<released memoryview>".into())));
        }
        if word(64)? != 0 {
            return Ok(Value::nothing(name, NotCaptured::Unsupported));
        }
        let size = word(24)?;
        if size == 0 || size > 1 << 20 {
            return Err(ReadError::Invalid("memoryview"));
        }
        let dimensions = u64::from(memory.u32(view.wrapping_add(36))?);
        let strided = Strided::read(memory, word(0)?, dimensions, (word(48)?, word(56)?), size)?;
        let length = strided.length.checked_mul(size).ok_or(ReadError::Invalid("memoryview"))?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let limit = self.text_limit();
        let mut bytes = Vec::new();
        for at in strided.addresses(limit.div_ceil(size)) {
            bytes.extend(memory.bytes(at, size.min(limit - bytes.len().min(limit)))?);
        }
        let truncated = (length > self.limits.text as u64).then_some(length);
        Ok(Value { truncated, ..Value::new(name, Content::Bytes(bytes)) })
    }

    /// CPython `Modules/arraymodule.c`, `arrayobject`: `{PyObject_VAR_HEAD; char *ob_item; Py_ssize_t allocated; const
    /// struct arraydescr *ob_descr; …}`, and that begins with `{char typecode; int itemsize;`.
    fn array_of_numbers(&self, object: u64, name: &str) -> Result<Value, ReadError> {
        let memory = self.reader.memory;
        let length = memory.u64(object.wrapping_add(self.reader.layout.object.ob_size))?;
        let start = memory.u64(self.behind_header(object, 24))?;
        let description = memory.u64(self.behind_header(object, 40))?;
        // A constant of the module.
        let lasting = self.reader.lasting();
        let code = lasting.u8(description)?;
        let size = usize::try_from(lasting.u32(description.wrapping_add(4))?).unwrap_or(usize::MAX);
        if !matches!(size, 1 | 2 | 4 | 8) || length > 1 << 40 {
            return Err(ReadError::Invalid("array"));
        }
        if !b"bBhHiIlLqQfduw".contains(&code) {
            return Ok(Value::nothing(name, NotCaptured::Unsupported));
        }
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.limits.items);
        let bytes = if count == 0 { Vec::new() } else { memory.bytes(start, count.saturating_mul(size))? };
        let item = |bytes: &[u8]| match code {
            b'f' | b'd' => Value::new("float", Content::Float(float(bytes))),
            b'u' | b'w' => {
                let character = u32::try_from(unsigned(bytes)).ok().and_then(char::from_u32);
                let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
                Value::new("str", Content::Str(character.into()))
            }
            code if code.is_ascii_lowercase() => Value::new("int", Content::Int(signed(bytes).to_string())),
            _ => Value::new("int", Content::Int(unsigned(bytes).to_string())),
        };
        let truncated = (length > count as u64).then_some(length);
        let elements = bytes.chunks_exact(size).map(item).collect();
        Ok(Value { truncated, ..Value::new(name, Content::Elements(elements)) })
    }
}
