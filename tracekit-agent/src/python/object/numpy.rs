//! Heads of numpy's arrays, and its scalars.
//!
//! Sources: `numpy/_core/include/numpy/ndarraytypes.h` (numpy 1.x: `numpy/core/…`), `PyArrayObject_fields` and
//! `PyArray_Descr`; `arrayscalars.h`. Offsets below are counted for an object header of 16 bytes.

use super::decode::Decoder;
use super::strided::Strided;
use super::{Content, NotCaptured, Value};
use crate::python::reader::{ReadError, Type};

/// Bytes of a string in an array at most; longer ones are nonsense.
const MAX_ITEM: u64 = 1 << 30;

/// What the items of an array are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
    Complex,
    /// `PyObject *`
    Object,
    /// Padded with zeros.
    Bytes,
    /// UCS-4, padded with zeros.
    Str,
    /// What is not decoded: `longdouble`, structures, dates, strings of variable width.
    Other,
}

/// A `PyArray_Descr`, as far as it says how to read an item.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Items {
    /// `str(dtype)`
    name: String,
    kind: Kind,
    /// Bytes of an item.
    size: u64,
    /// It has the other byte order than the machine.
    swapped: bool,
}

/// Kind and size of the numbers in `enum NPY_TYPES`, from `NPY_BOOL` on.
const NUMBERS: [(Kind, u64); 17] = [
    (Kind::Bool, 1),
    (Kind::Signed, 1),
    (Kind::Unsigned, 1),
    (Kind::Signed, 2),
    (Kind::Unsigned, 2),
    (Kind::Signed, 4),
    (Kind::Unsigned, 4),
    // `long` and `long long`
    (Kind::Signed, 8),
    (Kind::Unsigned, 8),
    (Kind::Signed, 8),
    (Kind::Unsigned, 8),
    (Kind::Float, 4),
    (Kind::Float, 8),
    (Kind::Other, 16),
    (Kind::Complex, 8),
    (Kind::Complex, 16),
    (Kind::Other, 32),
];
const OBJECT: u32 = 17;
const STRING: u32 = 18;
const UNICODE: u32 = 19;
const HALF: u32 = 23;

impl Decoder<'_, '_> {
    /// An offset counted for an object header of 16 bytes.
    pub(super) fn behind_header(&self, object: u64, offset: u64) -> u64 {
        object.wrapping_add(offset).wrapping_add(self.reader.layout.object_size).wrapping_sub(16)
    }

    /// An array or a `dtype`, if the type is one.
    pub(super) fn numpy(&mut self, object: u64, found: &Type) -> Result<Option<Value>, ReadError> {
        let is = |wanted: &str| found.native_names.iter().any(|native| native == wanted);
        if is("numpy.ndarray") {
            return self.array(object, found.name()).map(Some);
        }
        if is("numpy.dtype") {
            let items = self.items_of(object)?;
            return Ok(Some(Value::new(found.name(), Content::Text(items.name))));
        }
        Ok(None)
    }

    /// `PyArrayObject_fields`: `{char *data; int nd; npy_intp *dimensions, *strides; PyObject *base;
    /// PyArray_Descr *descr; …}`, the same in numpy 1 and 2.
    fn array(&mut self, object: u64, name: &str) -> Result<Value, ReadError> {
        let memory = self.reader.memory;
        let word = |offset: u64| memory.u64(self.behind_header(object, offset));
        let descr = word(56)?;
        let items = self.items_of(descr)?;
        let count = u64::from(memory.u32(self.behind_header(object, 24))?);
        let strided = Strided::read(memory, word(16)?, count, (word(32)?, word(40)?), items.size)?;

        let dtype = Value::new(self.reader.type_of(descr)?.name(), Content::Text(items.name.clone()));
        let shape = strided.shape.iter().map(|size| Value::new("int", Content::Int(size.to_string())));
        let shape = Value::new("tuple", Content::Elements(shape.collect()));
        let list = if items.kind == Kind::Other {
            Value::nothing("list", NotCaptured::Unsupported)
        } else {
            let addresses = strided.addresses(self.limits.items);
            memory.prefetch(&addresses);
            let shown = addresses.len() as u64;
            let elements: Result<_, _> = addresses.into_iter().map(|at| self.item(at, &items)).collect();
            Value {
                truncated: (strided.length > shown).then_some(strided.length),
                ..Value::new("list", Content::Elements(elements?))
            }
        };
        let fields = [("dtype", dtype), ("shape", shape), ("items", list)];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Value::new(name, Content::Fields(fields)))
    }

    /// `PyArray_Descr`: `{PyTypeObject *typeobj; char kind, type, byteorder, flags; int type_num; …}`, then in numpy 1
    /// `int elsize, alignment;`, in numpy 2 `npy_uint64 flags; npy_intp elsize, alignment;`.
    fn items_of(&self, descr: u64) -> Result<Items, ReadError> {
        let memory = self.reader.memory;
        let swapped = memory.u8(self.behind_header(descr, 26))? == b'>';
        let number = memory.u32(self.behind_header(descr, 28))?;
        // The upper half of numpy 2's flags is empty; an alignment is not.
        let size = if memory.u32(self.behind_header(descr, 36))? == 0 {
            memory.u64(self.behind_header(descr, 40))?
        } else {
            u64::from(memory.u32(self.behind_header(descr, 32))?)
        };
        if size > MAX_ITEM {
            return Err(ReadError::Invalid("dtype"));
        }
        let known = usize::try_from(number).ok().and_then(|number| NUMBERS.get(number)).copied();
        let (kind, size) = match (known, number) {
            (Some(known), _) => known,
            (None, HALF) => (Kind::Float, 2),
            (None, OBJECT) => (Kind::Object, 8),
            (None, STRING) => (Kind::Bytes, size),
            (None, UNICODE) => (Kind::Str, size),
            _ => (Kind::Other, size),
        };
        let (letter, word) = match kind {
            Kind::Bool => ('b', "bool".to_owned()),
            Kind::Signed => ('i', format!("int{}", size * 8)),
            Kind::Unsigned => ('u', format!("uint{}", size * 8)),
            Kind::Float => ('f', format!("float{}", size * 8)),
            Kind::Complex => ('c', format!("complex{}", size * 8)),
            Kind::Object => ('O', "object".to_owned()),
            Kind::Bytes => ('S', format!("|S{size}")),
            Kind::Str => ('U', format!("{}U{}", if swapped { '>' } else { '<' }, size / 4)),
            Kind::Other => {
                let name = match number {
                    13 => "float128",
                    16 => "complex256",
                    20 => "void",
                    21 => "datetime64",
                    22 => "timedelta64",
                    _ => "other",
                };
                ('V', name.to_owned())
            }
        };
        let marked = swapped && matches!(kind, Kind::Signed | Kind::Unsigned | Kind::Float | Kind::Complex);
        let name = if marked { format!(">{letter}{size}") } else { word };
        Ok(Items { name, kind, size, swapped })
    }

    /// One item, as `ndarray.item()` gives it.
    fn item(&mut self, at: u64, items: &Items) -> Result<Value, ReadError> {
        let memory = self.reader.memory;
        match items.kind {
            Kind::Object => {
                let object = memory.u64(at)?;
                // An array of objects that has not been filled: numpy takes it for None.
                return Ok(if object == 0 {
                    Value::new("NoneType", Content::None)
                } else {
                    self.value(object)
                });
            }
            Kind::Bytes | Kind::Str => return self.padded(at, items),
            _ => {}
        }
        let size = usize::try_from(items.size).unwrap_or(0);
        let mut bytes = memory.bytes(at, size)?;
        if items.swapped {
            let part = if items.kind == Kind::Complex { size / 2 } else { size };
            bytes.chunks_mut(part.max(1)).for_each(<[u8]>::reverse);
        }
        Ok(match items.kind {
            Kind::Bool => Value::new("bool", Content::Bool(bytes.iter().any(|byte| *byte != 0))),
            Kind::Signed => Value::new("int", Content::Int(signed(&bytes).to_string())),
            Kind::Unsigned => Value::new("int", Content::Int(unsigned(&bytes).to_string())),
            Kind::Float => Value::new("float", Content::Float(float(&bytes))),
            Kind::Complex => {
                let (real, imaginary) = bytes.split_at(size / 2);
                let text = super::scalars::complex(float(real), float(imaginary));
                Value::new("complex", Content::Text(text))
            }
            Kind::Object | Kind::Bytes | Kind::Str | Kind::Other => {
                Value::nothing("", NotCaptured::Unsupported)
            }
        })
    }

    /// A string of fixed width, without the zeros at its end.
    fn padded(&self, at: u64, items: &Items) -> Result<Value, ReadError> {
        let width = if items.kind == Kind::Str { 4 } else { 1 };
        let length = items.size / width;
        let shown = usize::try_from(length).unwrap_or(usize::MAX).min(self.limits.text);
        let bytes = self.reader.memory.bytes(at, shown.saturating_mul(width as usize))?;
        let truncated = (length > shown as u64).then_some(length);
        let whole = |used: usize| if truncated.is_some() { shown } else { used };
        if items.kind == Kind::Bytes {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let bytes = bytes.get(..whole(used)).unwrap_or_default().to_vec();
            return Ok(Value { truncated, ..Value::new("bytes", Content::Bytes(bytes)) });
        }
        let codes = bytes.chunks_exact(4).map(|unit| {
            let unit: [u8; 4] = unit.try_into().unwrap_or_default();
            if items.swapped { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) }
        });
        let codes: Vec<u32> = codes.collect();
        let used = codes.iter().rposition(|code| *code != 0).map_or(0, |last| last + 1);
        let codes = codes.get(..whole(used)).unwrap_or_default().iter();
        let text = codes.map(|code| char::from_u32(*code).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Ok(self.without_secrets(Value { truncated, ..Value::new("str", Content::Str(text)) }))
    }

    /// A numpy scalar: the number follows the header (`arrayscalars.h`, `obval`).
    pub(super) fn numpy_scalar(&self, native: &str, object: u64) -> Result<Option<Content>, ReadError> {
        let Some(name) = native.strip_prefix("numpy.") else { return Ok(None) };
        let at = object.wrapping_add(self.reader.layout.object_size);
        let read = |size: usize| self.reader.memory.bytes(at, size);
        Ok(Some(match name {
            "bool" | "bool_" => Content::Bool(read(1)? != [0]),
            "int8" => Content::Int(signed(&read(1)?).to_string()),
            "int16" => Content::Int(signed(&read(2)?).to_string()),
            "int32" | "intc" => Content::Int(signed(&read(4)?).to_string()),
            "int64" | "longlong" => Content::Int(signed(&read(8)?).to_string()),
            "uint8" => Content::Int(unsigned(&read(1)?).to_string()),
            "uint16" => Content::Int(unsigned(&read(2)?).to_string()),
            "uint32" | "uintc" => Content::Int(unsigned(&read(4)?).to_string()),
            "uint64" | "ulonglong" => Content::Int(unsigned(&read(8)?).to_string()),
            "float16" => Content::Float(float(&read(2)?)),
            "float32" => Content::Float(float(&read(4)?)),
            "float64" => Content::Float(float(&read(8)?)),
            "complex64" | "complex128" => {
                let bytes = read(if name == "complex64" { 8 } else { 16 })?;
                let (real, imaginary) = bytes.split_at(bytes.len() / 2);
                Content::Text(super::scalars::complex(float(real), float(imaginary)))
            }
            "longdouble" | "clongdouble" | "float128" | "complex256" | "datetime64" | "timedelta64"
            | "void" => Content::Nothing(NotCaptured::Unsupported),
            _ => return Ok(None),
        }))
    }
}

/// A little-endian integer of up to eight bytes.
pub(super) fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// As [`unsigned`], two's complement.
pub(super) fn signed(bytes: &[u8]) -> i64 {
    let unused = 64_u32.saturating_sub(u32::try_from(bytes.len()).unwrap_or(8) * 8).min(63);
    unsigned(bytes).wrapping_shl(unused).cast_signed() >> unused
}

/// A little-endian IEEE 754 number of two, four or eight bytes.
pub(super) fn float(bytes: &[u8]) -> f64 {
    match *bytes {
        [a, b] => half(u16::from_le_bytes([a, b])),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
        _ => f64::from_bits(unsigned(bytes)),
    }
}

/// binary16: one bit of sign, five of exponent, ten of fraction.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match bits >> 10 & 0x1f {
        0 => fraction * 2_f64.powi(-24),
        31 if bits & 0x3ff == 0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2_f64.powi(i32::from(exponent) - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(signed(&[0xff]), -1);
        assert_eq!(signed(&[0x00, 0x80]), -32768);
        assert_eq!(signed(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), -2);
        assert_eq!(unsigned(&[0xff; 8]), u64::MAX);
        assert_eq!(signed(&[]), 0);
        assert_eq!(float(&1.5_f32.to_le_bytes()), 1.5);
    }

    #[test]
    fn halves() {
        let cases = [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960464477539063e-8)];
        for (bits, expected) in cases {
            assert_eq!(half(bits), expected);
        }
        assert!(half(0x7e00).is_nan() && half(0xfc00) == f64::NEG_INFINITY);
        assert!(half(0x8000).is_sign_negative());
    }
}
