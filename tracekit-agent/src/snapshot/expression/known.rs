//! Classes of the standard library whose meaning is known, though only their code computes it.

use num_traits::ToPrimitive as _;

use super::evaluate::Evaluation;
use super::operand::{Category, Operand, Remote, Undefined};
use crate::python::object::access::Attribute;
use crate::python::reader::{ReadError, flags};

impl Evaluation<'_> {
    /// The object is a member of an enum that has this method or property from `Enum`.
    fn is_of_enum(&self, remote: &Remote, name: &str) -> Result<bool, Undefined> {
        if !remote.kind.class_names.iter().any(|class| class == "Enum") {
            return Ok(false);
        }
        let meta = self.classes.reader().type_of(remote.kind.address)?;
        let made = meta.class_names.iter().any(|class| class == "EnumMeta" || class == "EnumType");
        let found = self.classes.python_method(&remote.kind, name, None)?;
        Ok(made && found == Some(format!("Enum.{name}")))
    }

    /// `str()` of classes of the standard library that are written in Python.
    pub fn known_text(&self, remote: &Remote) -> Result<Option<String>, Undefined> {
        // One with a value of a built-in type may have the text of that.
        if Category::of(&remote.kind) == Category::Other && self.is_of_enum(remote, "__str__")? {
            let Attribute::Object(name) = self.at(remote).attribute(remote.address, "_name_")? else {
                return Ok(None);
            };
            let Operand::Str(name) = self.load(&self.part(remote, name)?)? else { return Ok(None) };
            return Ok(Some(format!("{}.{name}", remote.kind.name())));
        }
        Ok(self.uuid(remote)?.map(|id| id.to_string()))
    }

    /// The value of a `uuid.UUID`, not of a class that inherits from it.
    pub fn uuid(&self, remote: &Remote) -> Result<Option<uuid::Uuid>, Undefined> {
        if remote.kind.full_name != "UUID" {
            return Ok(None);
        }
        let Attribute::Lasting(module) = self.classes.static_attribute(remote.kind.address, "__module__")?
        else {
            return Ok(None);
        };
        let Attribute::Object(number) = self.at(remote).attribute(remote.address, "int")? else {
            return Ok(None);
        };
        let module = self.classes.reader().name(module)?;
        match self.load(&self.part(remote, number)?)? {
            Operand::Int(number) if module == "uuid" => Ok(number.to_u128().map(uuid::Uuid::from_u128)),
            _ => Ok(None),
        }
    }

    /// Attributes that CPython computes, but whose meaning is known.
    pub fn known_attribute(
        &self,
        remote: &Remote,
        category: Category,
        name: &str,
    ) -> Result<Option<Operand>, Undefined> {
        let kind = &remote.kind;
        if matches!(name, "name" | "value") && self.is_of_enum(remote, name)? {
            let Attribute::Object(found) = self.at(remote).attribute(remote.address, &format!("_{name}_"))?
            else {
                return Ok(None);
            };
            return self.part(remote, found).map(Some);
        }
        if name == "args" && kind.has(flags::EXCEPTION) {
            let at = remote.address.wrapping_add(self.objects.reader.layout.object.exception_args);
            let arguments = self.at(remote).reader.memory.u64(at).map_err(ReadError::from)?;
            return self.part(remote, arguments).map(Some);
        }
        if name == "tzinfo" && matches!(category, Category::DateTime | Category::Time) {
            return match self.zone(remote)? {
                0 => Ok(Some(Operand::None)),
                zone => self.part(remote, zone).map(Some),
            };
        }
        let fields: &[&str] = match category {
            Category::DateTime => &["year", "month", "day", "hour", "minute", "second", "microsecond"],
            Category::Date => &["year", "month", "day"],
            Category::Time => &["hour", "minute", "second", "microsecond"],
            _ => return Ok(None),
        };
        let Some(at) = fields.iter().position(|field| *field == name) else { return Ok(None) };
        if self.classes.python_method(kind, name, category.native(kind))?.is_some() {
            return Ok(None);
        }
        Ok(self.date_parts(remote)?.get(at).map(|part| Operand::int(*part)))
    }

    /// Fields of the types of `datetime`, the most significant first; of a delta days, seconds, microseconds.
    pub fn date_parts(&self, remote: &Remote) -> Result<Vec<i64>, Undefined> {
        let (memory, offsets) = (self.at(remote).reader.memory, &self.objects.reader.layout.object);
        let category = Category::of(&remote.kind);
        if category == Category::Delta {
            let start = remote.address.wrapping_add(offsets.timedelta_days);
            let part = |at: u64| memory.i32(start.wrapping_add(4 * at)).map(i64::from);
            let parts: Result<Vec<i64>, _> = (0..3).map(part).collect();
            return Ok(parts.map_err(ReadError::from)?);
        }
        // CPython `Include/datetime.h`: `char hastzinfo; unsigned char data[]`, numbers big-endian.
        let data = remote.address.wrapping_add(offsets.datetime_has_zone).wrapping_add(1);
        let widths: &[usize] = match category {
            Category::DateTime => &[2, 1, 1, 1, 1, 1, 3],
            Category::Date => &[2, 1, 1],
            _ => &[1, 1, 1, 3],
        };
        let bytes = memory.bytes(data, widths.iter().sum()).map_err(ReadError::from)?;
        let mut rest = bytes.as_slice();
        Ok(widths
            .iter()
            .map(|width| {
                let (part, after) = rest.split_at(*width.min(&rest.len()));
                rest = after;
                part.iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
            })
            .collect())
    }
}
