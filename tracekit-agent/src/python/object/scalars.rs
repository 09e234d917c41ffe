//! Values that contain no others.

use std::fmt::Write as _;

use super::decode::Decoder;
use super::{Content, NotCaptured, Value};
use crate::python::reader::{ReadError, Type, flags};

/// Bytes of a name at most.
const MAX_NAME: usize = 256;
/// Digits of 30 bits of an integer that is printed: some 4600 decimal digits.
const MAX_DIGITS: u64 = 512;

/// Where the last word of a text begins.
fn end_of_whole(text: &str) -> usize {
    let parts = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'');
    text.rfind(parts)
        .map_or(0, |at| at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8))
}

impl Decoder<'_, '_> {
    /// The value, if the type is one without parts.
    pub(super) fn scalar(&self, object: u64, found: &Type) -> Result<Option<Value>, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let at = |offset: u64| object.wrapping_add(offset);
        let name = found.name();
        let enumeration = found.class_names.iter().any(|class| class == "Enum");
        if enumeration {
            return Ok(None);
        }
        if found.has(flags::LONG) {
            let is_bool = found.full_name == "bool";
            let digits = self.integer(object)?;
            return Ok(Some(match digits {
                None => Value::nothing(name, NotCaptured::TooLarge),
                Some(digits) if is_bool => Value::new(name, Content::Bool(digits != "0")),
                Some(digits) => Value::new(name, Content::Int(digits)),
            }));
        }
        if found.has(flags::STR) {
            let mut text = self.reader.text_there(object, self.text_limit())?;
            let shown = text.text.chars().count();
            if self.is_cut(shown, text.length) {
                text.text.truncate(end_of_whole(&text.text));
            }
            let truncated = (text.length > self.limits.text.min(shown) as u64).then_some(text.length);
            return Ok(Some(Value { truncated, ..Value::new(name, Content::Str(text.text)) }));
        }
        if found.has(flags::BYTES) {
            let length = memory.u64(at(offsets.ob_size))?;
            return self.bytes(name, at(offsets.bytes_data), length).map(Some);
        }
        if found.has(flags::TYPE) {
            return Ok(Some(Value::new(
                name,
                Content::Text(format!("<class '{}'>", self.reader.type_at(object)?.name())),
            )));
        }
        let double = |offset: u64| Ok::<f64, ReadError>(f64::from_bits(memory.u64(at(offset))?));
        for native in &found.native_names {
            let content = match native.as_str() {
                "NoneType" => Content::None,
                "ellipsis" => Content::Text("Ellipsis".into()),
                "NotImplementedType" => Content::Text("NotImplemented".into()),
                "float" => Content::Float(double(offsets.float_value)?),
                "complex" => {
                    Content::Text(complex(double(offsets.float_value)?, double(offsets.float_value + 8)?))
                }
                "bytearray" => {
                    let length = memory.u64(at(offsets.ob_size))?;
                    let start = if length == 0 { 0 } else { memory.u64(at(offsets.bytearray_start))? };
                    return self.bytes(name, start, length).map(Some);
                }
                "module" => {
                    let module = self.reader.name(memory.u64(at(offsets.module_name))?)?;
                    Content::Text(format!("<module '{module}'>"))
                }
                "function" => Content::Text(format!("<function {}>", self.qualname(object)?)),
                "method" => {
                    let function = memory.u64(at(offsets.method_function))?;
                    let name = self.qualname(function).unwrap_or_else(|_| "?".into());
                    Content::Text(format!("<bound method {name}>"))
                }
                "builtin_function_or_method" => {
                    Content::Text(format!("<built-in function {}>", self.builtin_name(object)?))
                }
                "method_descriptor"
                | "classmethod_descriptor"
                | "wrapper_descriptor"
                | "getset_descriptor"
                | "member_descriptor" => Content::Text(self.descriptor(native, object)?),
                kind @ ("generator" | "coroutine" | "async_generator") => {
                    let name = self.reader.name(memory.u64(at(offsets.generator_qualname))?)?;
                    Content::Text(format!("<{kind} object {name}>"))
                }
                "code" => {
                    let code = self.reader.code(object)?;
                    Content::Text(format!(
                        "<code object {}, file \"{}\", line {}>",
                        code.name, code.filename, code.first_line
                    ))
                }
                _ => match self.date_or_decimal(native, object)? {
                    Some(text) => Content::Text(text),
                    None => match self.numpy_scalar(native, object)? {
                        Some(content) => content,
                        None => continue,
                    },
                },
            };
            return Ok(Some(Value::new(name, content)));
        }
        Ok(None)
    }

    fn qualname(&self, function: u64) -> Result<String, ReadError> {
        if self.reader.type_of(function)?.full_name != "function" {
            return Err(ReadError::Invalid("function"));
        }
        let offset = self.reader.layout.object.function_qualname;
        self.reader.name(self.reader.memory.u64(function.wrapping_add(offset))?)
    }

    /// `PyCFunctionObject.m_ml`, a `PyMethodDef`, which begins with the name.
    fn builtin_name(&self, object: u64) -> Result<String, ReadError> {
        let memory = self.reader.memory;
        let definition = memory.u64(object.wrapping_add(self.reader.layout.object_size))?;
        // A constant of the library that has it.
        let lasting = self.reader.lasting();
        let name = lasting.c_string(lasting.u64(definition)?, MAX_NAME)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// `PyDescrObject`: `{PyTypeObject *d_type; PyObject *d_name; …}`
    fn descriptor(&self, kind: &str, object: u64) -> Result<String, ReadError> {
        let start = object.wrapping_add(self.reader.layout.object_size);
        let owner = self.reader.type_at(self.reader.memory.u64(start)?)?;
        let name = self.reader.name(self.reader.memory.u64(start.wrapping_add(8))?)?;
        let word = match kind {
            "wrapper_descriptor" => "slot wrapper",
            "getset_descriptor" => "attribute",
            "member_descriptor" => "member",
            _ => "method",
        };
        Ok(format!("<{word} '{name}' of '{}' objects>", owner.name()))
    }

    /// An image has less of a text than is to be searched for secrets: the last word may be the beginning of one.
    fn is_cut(&self, shown: usize, length: u64) -> bool {
        self.searches() && shown < self.text_limit() && (shown as u64) < length
    }

    fn bytes(&self, name: &str, start: u64, length: u64) -> Result<Value, ReadError> {
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.text_limit());
        let mut bytes = self.reader.bytes_there(start, count)?;
        let shown = bytes.len();
        if self.is_cut(shown, length) {
            bytes.truncate(end_of_whole(
                &bytes.iter().map(|byte| char::from(byte & 0x7f)).collect::<String>(),
            ));
        }
        let truncated = (length > self.limits.text.min(shown) as u64).then_some(length);
        Ok(Value { truncated, ..Value::new(name, Content::Bytes(bytes)) })
    }

    /// The decimal digits of an `int`; `None` if it is too large to print.
    pub(crate) fn integer(&self, object: u64) -> Result<Option<String>, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let tag = memory.i64(object.wrapping_add(offsets.long_tag))?;
        // To 3.11 `ob_size` is negative for negative numbers; since 3.12 `lv_tag` has the sign in its low bits.
        let (negative, count) = if self.reader.layout.minor < 12 {
            (tag < 0, tag.unsigned_abs())
        } else {
            (tag & 3 == 2, tag.cast_unsigned() >> 3)
        };
        let zero = self.reader.layout.minor >= 12 && tag & 3 == 1;
        if count > MAX_DIGITS {
            return Ok(None);
        }
        let count = if zero { 0 } else { usize::try_from(count).unwrap_or(0) };
        let bytes = memory.bytes(object.wrapping_add(offsets.long_digits), count * 4)?;
        let digits = bytes.chunks_exact(4).map(|d| u32::from_le_bytes(d.try_into().unwrap_or_default()));
        let digits: Vec<u32> = digits.collect();
        if digits.iter().any(|digit| *digit >= 1 << 30) {
            return Err(ReadError::Invalid("int"));
        }
        Ok(Some(decimal(digits, negative)))
    }

    /// Values of `datetime`, and `Decimal`, as Python prints them.
    fn date_or_decimal(&self, native: &str, object: u64) -> Result<Option<String>, ReadError> {
        let (memory, offsets) = (self.reader.memory, &self.reader.layout.object);
        let head = object.wrapping_add(offsets.datetime_has_zone);
        // CPython `Include/datetime.h`: `char hastzinfo; unsigned char data[]; unsigned char fold;`
        let data = |length: usize| memory.bytes(head.wrapping_add(1), length);
        Ok(Some(match native {
            "datetime.datetime" => {
                let data = data(10)?;
                let &[y1, y0, month, day, hour, minute, second, u2, u1, u0] = data.as_slice() else {
                    return Ok(None);
                };
                let mut text =
                    format!("datetime.datetime({}, {month}, {day}, {hour}, {minute}", year(y1, y0));
                clock_tail(&mut text, second, micros(u2, u1, u0));
                self.fold_and_zone(object, (11, 40), &mut text)?;
                text + ")"
            }
            "datetime.date" => {
                let data = data(4)?;
                let &[y1, y0, month, day] = data.as_slice() else { return Ok(None) };
                format!("datetime.date({}, {month}, {day})", year(y1, y0))
            }
            "datetime.time" => {
                let data = data(6)?;
                let &[hour, minute, second, u2, u1, u0] = data.as_slice() else { return Ok(None) };
                let mut text = format!("datetime.time({hour}, {minute}");
                clock_tail(&mut text, second, micros(u2, u1, u0));
                self.fold_and_zone(object, (7, 32), &mut text)?;
                text + ")"
            }
            "datetime.timedelta" => {
                let start = object.wrapping_add(offsets.timedelta_days);
                let parts = ["days", "seconds", "microseconds"];
                let mut words = Vec::new();
                for (at, part) in parts.iter().enumerate() {
                    let value = memory.i32(start.wrapping_add(4 * at as u64))?;
                    if value != 0 {
                        words.push(format!("{part}={value}"));
                    }
                }
                let inner = if words.is_empty() { "0".to_owned() } else { words.join(", ") };
                format!("datetime.timedelta({inner})")
            }
            "datetime.timezone" => self.time_zone(object)?,
            "decimal.Decimal" => format!("Decimal('{}')", self.decimal_number(object)?),
            _ => return Ok(None),
        }))
    }

    /// `fold`, behind `hastzinfo`; and `tzinfo`, if there is one, at an offset counted for a header of 16 bytes.
    fn fold_and_zone(
        &self,
        object: u64,
        (fold, offset): (u64, u64),
        text: &mut String,
    ) -> Result<(), ReadError> {
        let layout = &self.reader.layout;
        let memory = self.reader.memory;
        let head = object.wrapping_add(layout.object.datetime_has_zone);
        if memory.u8(head.wrapping_add(fold))? != 0 {
            text.push_str(", fold=1");
        }
        if memory.u8(head)? == 0 {
            return Ok(());
        }
        let zone = memory.u64(object.wrapping_add(offset + layout.object_size - 16))?;
        let found = self.reader.type_of(zone)?;
        if found.full_name != "datetime.timezone" {
            let members = self.reader.members(&found)?;
            let key = members.iter().find(|(name, _)| name == "key" && found.name() == "ZoneInfo");
            let key = key.and_then(|(_, offset)| memory.u64(zone.wrapping_add(*offset)).ok());
            let _ = match key.and_then(|key| self.reader.name(key).ok()) {
                Some(key) => write!(text, ", tzinfo=zoneinfo.ZoneInfo(key='{key}')"),
                None => write!(text, ", tzinfo=<{}>", found.name()),
            };
            return Ok(());
        }
        let _ = write!(text, ", tzinfo={}", self.time_zone(zone)?);
        Ok(())
    }

    /// `PyDateTime_TimeZone`: `{PyObject *offset, *name;}`
    fn time_zone(&self, zone: u64) -> Result<String, ReadError> {
        let memory = self.reader.memory;
        let start = zone.wrapping_add(self.reader.layout.object_size);
        let delta = self.date_or_decimal("datetime.timedelta", memory.u64(start)?)?.unwrap_or_default();
        let name = match memory.u64(start.wrapping_add(8))? {
            0 if delta == "datetime.timedelta(0)" => return Ok("datetime.timezone.utc".into()),
            0 => String::new(),
            name => format!(", {}", Value::new("str", Content::Str(self.reader.name(name)?))),
        };
        Ok(format!("datetime.timezone({delta}{name})"))
    }

    /// libmpdec's `mpd_t`: `{uint8_t flags; mpd_ssize_t exp, digits, len, alloc; mpd_uint_t *data;}`, words
    /// of base 10^19.
    fn decimal_number(&self, object: u64) -> Result<String, ReadError> {
        let memory = self.reader.memory;
        let start = object.wrapping_add(self.reader.layout.object.decimal);
        let flags = memory.u8(start)?;
        let sign = if flags & 1 == 1 { "-" } else { "" };
        let special = match flags {
            flags if flags & 2 != 0 => Some("Infinity"),
            flags if flags & 4 != 0 => Some("NaN"),
            flags if flags & 8 != 0 => Some("sNaN"),
            _ => None,
        };
        if let Some(word) = special {
            return Ok(format!("{sign}{word}"));
        }
        let exponent = memory.i64(start.wrapping_add(8))?;
        let length = memory.u64(start.wrapping_add(24))?;
        if length > 256 || exponent.unsigned_abs() > 1 << 62 {
            return Err(ReadError::Invalid("Decimal"));
        }
        let data = memory.u64(start.wrapping_add(40))?;
        let words = memory.words(data, usize::try_from(length).unwrap_or(0))?;
        let mut coefficient = String::new();
        for word in words.iter().rev() {
            let _ = write!(coefficient, "{word:019}");
        }
        let coefficient = match coefficient.trim_start_matches('0') {
            "" => "0",
            digits => digits,
        };
        Ok(format!("{sign}{}", scaled(coefficient, exponent)))
    }
}

/// `Decimal.__str__`: plain notation unless the exponent is positive or the number tiny.
fn scaled(digits: &str, exponent: i64) -> String {
    let point = digits.len() as i64 + exponent;
    if exponent <= 0 && point > -6 {
        if exponent == 0 {
            return digits.to_owned();
        }
        let Ok(point) = usize::try_from(point) else {
            return format!("0.{}{digits}", "0".repeat(usize::try_from(-point).unwrap_or(0)));
        };
        let (whole, fraction) = digits.split_at(point.min(digits.len()));
        return format!("{}.{fraction}", if whole.is_empty() { "0" } else { whole });
    }
    let (first, rest) = digits.split_at(1.min(digits.len()));
    let dot = if rest.is_empty() { "" } else { "." };
    format!("{first}{dot}{rest}E{:+}", point - 1)
}

fn year(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

fn micros(high: u8, middle: u8, low: u8) -> u32 {
    u32::from_be_bytes([0, high, middle, low])
}

/// `datetime.__repr__` leaves out seconds and microseconds that are 0.
fn clock_tail(text: &mut String, second: u8, micros: u32) {
    if second != 0 || micros != 0 {
        let _ = write!(text, ", {second}");
    }
    if micros != 0 {
        let _ = write!(text, ", {micros}");
    }
}

pub(super) fn complex(real: f64, imaginary: f64) -> String {
    let short = |value: f64| {
        let text = super::text::float(value);
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    };
    let tail = short(imaginary);
    if real == 0.0 && real.is_sign_positive() {
        return format!("{tail}j");
    }
    let sign = if tail.starts_with('-') { "" } else { "+" };
    format!("({}{sign}{tail}j)", short(real))
}

/// Decimal digits of a number in base 2^30, least significant first.
fn decimal(mut digits: Vec<u32>, negative: bool) -> String {
    const CHUNK: u64 = 1_000_000_000;
    let mut chunks = Vec::new();
    while digits.iter().any(|digit| *digit != 0) {
        let mut remainder = 0_u64;
        for digit in digits.iter_mut().rev() {
            let value = (remainder << 30) | u64::from(*digit);
            *digit = u32::try_from(value / CHUNK).unwrap_or(0);
            remainder = value % CHUNK;
        }
        chunks.push(remainder);
    }
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    let mut chunks = chunks.into_iter().rev();
    let _ = write!(text, "{}", chunks.next().unwrap_or(0));
    for chunk in chunks {
        let _ = write!(text, "{chunk:09}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        assert_eq!(decimal(vec![], false), "0");
        assert_eq!(decimal(vec![5], true), "-5");
        assert_eq!(decimal(vec![0, 0, 16], false), (1_u128 << 64).to_string());
        let big = vec![(1 << 30) - 1; 4];
        assert_eq!(decimal(big, true), format!("-{}", (1_u128 << 120) - 1));
    }

    #[test]
    fn decimals() {
        let cases = [
            ("150", -2, "1.50"),
            ("1", -3, "0.001"),
            ("1", -7, "1E-7"),
            ("12", 3, "1.2E+4"),
            ("0", -2, "0.00"),
            ("7", 0, "7"),
        ];
        for (digits, exponent, expected) in cases {
            assert_eq!(scaled(digits, exponent), expected);
        }
    }
}
