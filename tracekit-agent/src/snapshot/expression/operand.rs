//! What an expression computes with: objects of the target that are looked at when needed, and values of its
//! own.

use std::rc::Rc;

use num_bigint::BigInt;

use super::syntax::Constant;
use crate::python::object::access::Container;
use crate::python::object::budget::AccessError;
use crate::python::reader::{ReadError, Type, flags};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undefined {
    /// No variable of this name.
    #[error("there is no variable '{0}' here")]
    NoName(String),
    /// The variable has no value yet, or was deleted.
    #[error("variable '{0}' has no value here")]
    Unset(String),
    /// No attribute of this name.
    #[error("'{kind}' has no attribute '{name}'")]
    NoAttribute {
        /// The object's type.
        kind: String,
        /// The attribute.
        name: String,
    },
    /// No such key.
    #[error("there is no key {0}")]
    NoKey(String),
    /// No such index.
    #[error("there is no item {index}, the length is {length}")]
    NoItem {
        /// What was asked for.
        index: String,
        /// How many items there are.
        length: u64,
    },
    /// The types do not fit the operation, as in Python's `TypeError`.
    #[error("{0}")]
    Type(String),
    /// The values do not: `ValueError`, `ZeroDivisionError`, `OverflowError`.
    #[error("{0}")]
    Arithmetic(String),
    /// Only code of the target knows.
    #[error("{0} would run code of the process")]
    WouldRunCode(String),
    /// Expressions cannot do it.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It has the name of a secret.
    #[error("'{0}' is redacted")]
    Redacted(String),
    /// A bound was reached.
    #[error("more than the limit of {0}")]
    Limit(&'static str),
    /// It needs what the image of the hit does not have: it is deeper, or behind more items or characters, than was
    /// captured.
    #[error("it was not captured: it is deeper, or behind more items, than the breakpoint captures")]
    NotCaptured,
    /// The memory does not hold what it should.
    #[error("cannot be read: {0}")]
    Unreadable(ReadError),
}

impl Undefined {
    /// The word under which it is counted.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoName(_) | Self::Unset(_) => "name",
            Self::NoAttribute { .. } => "attribute",
            Self::NoKey(_) | Self::NoItem { .. } => "item",
            Self::Type(_) => "type",
            Self::Arithmetic(_) => "arithmetic",
            Self::WouldRunCode(_) => "would run code",
            Self::Unsupported(_) => "unsupported",
            Self::Redacted(_) => "redacted",
            Self::Limit(_) => "limit",
            Self::NotCaptured => "not captured",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl From<AccessError> for Undefined {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Read(error) => Self::Unreadable(error),
            AccessError::NotCaptured => Self::NotCaptured,
            AccessError::Budget => Self::Limit("steps, items or time"),
        }
    }
}

impl From<ReadError> for Undefined {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

/// An object of the target.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub address: u64,
    pub kind: Rc<Type>,
    /// Of an evaluation on an image: it is not in the image, but read from the process.
    pub late: bool,
}

/// A value in the middle of an evaluation.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    None,
    Bool(bool),
    Int(BigInt),
    Float(f64),
    Str(Rc<str>),
    /// `bytes`; or `bytearray`, if so.
    Bytes(Rc<[u8]>, bool),
    List(Rc<[Operand]>),
    Tuple(Rc<[Operand]>),
    Set(Rc<[Operand]>),
    Dict(Rc<[(Operand, Operand)]>),
    /// Keys, values or items of a dict, and the name of its type.
    View(Rc<[Operand]>, &'static str),
    Object(Remote),
    /// The value of a key that names a secret.
    Redacted(Rc<str>),
}

/// What an object is, as far as expressions know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    None,
    Bool,
    Int,
    Float,
    Str,
    Bytes,
    ByteArray,
    Container(Container),
    Decimal,
    DateTime,
    Date,
    Time,
    Delta,
    /// A class or a module.
    Static,
    Other,
}

impl Category {
    /// Of objects of this type.
    pub(super) fn of(kind: &Type) -> Self {
        let by_flag = [
            (flags::LONG, Self::Int),
            (flags::STR, Self::Str),
            (flags::BYTES, Self::Bytes),
            (flags::LIST, Self::Container(Container::List)),
            (flags::TUPLE, Self::Container(Container::Tuple)),
            (flags::DICT, Self::Container(Container::Dict)),
            (flags::TYPE, Self::Static),
        ];
        if kind.full_name == "bool" && kind.class_names.is_empty() {
            return Self::Bool;
        }
        if let Some((_, found)) = by_flag.iter().find(|(flag, _)| kind.has(*flag)) {
            return *found;
        }
        let native = |name: &String| {
            Some(match name.as_str() {
                "NoneType" => Self::None,
                "float" => Self::Float,
                "bytearray" => Self::ByteArray,
                "set" | "frozenset" => Self::Container(Container::Set),
                "collections.deque" => Self::Container(Container::Deque),
                "decimal.Decimal" => Self::Decimal,
                "datetime.datetime" => Self::DateTime,
                "datetime.date" => Self::Date,
                "datetime.time" => Self::Time,
                "datetime.timedelta" => Self::Delta,
                "module" => Self::Static,
                _ => return None,
            })
        };
        kind.native_names.iter().find_map(native).unwrap_or(Self::Other)
    }

    /// `tp_name` of the type that gives objects of this category their behaviour.
    pub(super) fn native(self, kind: &Type) -> Option<&'static str> {
        Some(match self {
            Self::None => "NoneType",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Str => "str",
            Self::Bytes => "bytes",
            Self::ByteArray => "bytearray",
            Self::Container(Container::List) => "list",
            Self::Container(Container::Tuple) => "tuple",
            Self::Container(Container::Dict) => "dict",
            Self::Container(Container::Deque) => "collections.deque",
            Self::Container(Container::Set) => {
                if kind.native_names.iter().any(|name| name == "frozenset") {
                    "frozenset"
                } else {
                    "set"
                }
            }
            Self::Decimal => "decimal.Decimal",
            Self::DateTime => "datetime.datetime",
            Self::Date => "datetime.date",
            Self::Time => "datetime.time",
            Self::Delta => "datetime.timedelta",
            Self::Static | Self::Other => return None,
        })
    }
}

impl Category {
    /// Of a number, as far as expressions compute with it.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Float | Self::Decimal)
    }
}

impl Operand {
    pub(super) fn text(text: &str) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn int(value: impl Into<BigInt>) -> Self {
        Self::Int(value.into())
    }

    /// `type(value).__name__`
    pub(super) fn type_name(&self) -> String {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_, false) => "bytes",
            Self::Bytes(_, true) => "bytearray",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::Dict(_) => "dict",
            Self::View(_, name) => name,
            Self::Object(remote) => return remote.kind.name().to_owned(),
            Self::Redacted(_) => "redacted value",
        }
        .to_owned()
    }
}

impl From<&Constant> for Operand {
    fn from(constant: &Constant) -> Self {
        match constant {
            Constant::None => Self::None,
            Constant::Bool(value) => Self::Bool(*value),
            Constant::Int(value) => Self::Int(value.clone()),
            Constant::Float(value) => Self::Float(*value),
            Constant::Str(text) => Self::text(text),
            Constant::Bytes(bytes) => Self::Bytes(bytes.as_slice().into(), false),
        }
    }
}
