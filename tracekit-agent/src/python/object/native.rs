//! Kinds that have a form of their own though they have parts: enums, paths, UUIDs, exceptions, ranges.

use super::decode::Decoder;
use super::{Content, Value};
use crate::python::reader::{ReadError, Type, flags};

impl Decoder<'_, '_> {
    /// The value, if the type is one of these.
    pub(super) fn native(&mut self, object: u64, found: &Type) -> Result<Option<Value>, ReadError> {
        let name = found.name();
        let class = |wanted: &str| found.class_names.iter().any(|class| class == wanted);
        if class("Enum") {
            return Ok(self.member_of_enum(object, found)?.map(|text| Value::new(name, Content::Text(text))));
        }
        if class("UUID") {
            return Ok(self.uuid(object, found)?.map(|text| Value::new(name, Content::Text(text))));
        }
        if class("PurePath") {
            return Ok(self.path(object, found)?.map(|text| Value::new(name, Content::Text(text))));
        }
        let offsets = self.reader.layout.object;
        let memory = self.reader.memory;
        if found.has(flags::EXCEPTION) {
            return self.exception(object, found).map(Some);
        }
        for native in &found.native_names {
            let names: &[&str] = match native.as_str() {
                "range" | "slice" => &["start", "stop", "step"],
                "functools.partial" => &["func", "args", "keywords"],
                "cell" => &["contents"],
                "classmethod" | "staticmethod" => &["__func__"],
                "property" => &["fget", "fset", "fdel"],
                _ => continue,
            };
            let start = match native.as_str() {
                "functools.partial" => offsets.partial_function,
                "cell" => offsets.cell_value,
                // CPython `Objects/funcobject.c`, `descrobject.c`: they begin with these.
                "classmethod" | "staticmethod" | "property" => self.reader.layout.object_size,
                _ => offsets.range_start,
            };
            let mut fields = Vec::new();
            for (at, field) in names.iter().enumerate() {
                let part = memory.u64(object.wrapping_add(start + 8 * at as u64))?;
                if part != 0 {
                    fields.push(((*field).to_owned(), self.value(part)));
                }
            }
            return Ok(Some(Value::new(name, Content::Fields(fields))));
        }
        Ok(None)
    }

    /// Arguments, attributes, and what it was raised from or while handling.
    fn exception(&mut self, object: u64, found: &Type) -> Result<Value, ReadError> {
        let (memory, offsets) = (self.reader.memory, self.reader.layout.object);
        let word = |offset: u64| memory.u64(object.wrapping_add(offset));
        let (items, length) = self.tuple(word(offsets.exception_args)?)?;
        let arguments = self.elements("tuple", &[], &items, length);
        let mut fields = vec![("args".to_owned(), self.without_secrets(arguments))];
        let (attributes, _) = self.attributes(object, found, self.limits.fields)?;
        fields.extend(self.named_values(attributes));
        let cause = word(offsets.exception_cause)?;
        let context = word(offsets.exception_cause - 8)?;
        let suppressed = memory.u8(object.wrapping_add(offsets.exception_cause + 8))? != 0;
        if cause != 0 {
            fields.push(("__cause__".to_owned(), self.value(cause)));
        } else if context != 0 && !suppressed {
            fields.push(("__context__".to_owned(), self.value(context)));
        }
        Ok(Value::new(found.name(), Content::Fields(fields)))
    }

    /// `<Colour.RED: 1>`, `<Permission.READ|WRITE: 3>`
    fn member_of_enum(&mut self, object: u64, found: &Type) -> Result<Option<String>, ReadError> {
        let (Some(name), Some(value)) =
            (self.attribute(object, found, "_name_")?, self.attribute(object, found, "_value_")?)
        else {
            return Ok(None);
        };
        // A combination of flags has no name before 3.11.
        let text = match self.reader.name(name) {
            Ok(name) => format!(".{name}: {}", self.named(&name, value)),
            Err(_) => format!(": {}", self.value(value)),
        };
        Ok(Some(format!("<{}{text}>", found.name())))
    }

    fn uuid(&self, object: u64, found: &Type) -> Result<Option<String>, ReadError> {
        let Some(number) = self.attribute(object, found, "int")? else { return Ok(None) };
        if !self.reader.type_of(number)?.has(flags::LONG) {
            return Ok(None);
        }
        let number = self.integer(number)?.and_then(|digits| digits.parse::<u128>().ok());
        Ok(number.map(|number| format!("UUID('{}')", uuid::Uuid::from_u128(number))))
    }

    /// `pathlib`: to 3.11 `_parts`, whose first is the root; since 3.12 `_raw_paths`, what it was made from.
    fn path(&mut self, object: u64, found: &Type) -> Result<Option<String>, ReadError> {
        let parts = match self.attribute(object, found, "_parts")? {
            Some(parts) => Some(parts),
            None => self.attribute(object, found, "_raw_paths")?,
        };
        let Some(parts) = parts else { return Ok(None) };
        if !self.reader.type_of(parts)?.has(flags::LIST) {
            return Ok(None);
        }
        let (items, _) = self.list(parts)?;
        let windows = found.class_names.iter().any(|class| class == "PureWindowsPath");
        let mut path = String::new();
        for item in items {
            let mut part = self.reader.text(item, self.limits.text)?.text;
            if windows {
                part = part.replace('\\', "/");
            }
            if part.starts_with('/') || (windows && part.get(1..2) == Some(":")) {
                path.clear();
            } else {
                // `C:a` is relative to what the drive's current directory is.
                let joins = path.is_empty() || path.ends_with('/') || (windows && path.ends_with(':'));
                path.push_str(if joins { "" } else { "/" });
            }
            path.push_str(&part);
        }
        let path = if path.is_empty() {
            Value::new("str", Content::Str(".".into()))
        } else {
            Value::new("str", Content::Str(path))
        };
        Ok(Some(format!("{}({path})", found.name())))
    }
}
