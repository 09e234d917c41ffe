//! Values of the target: decoded within bounds, with a JSON form and a Python-like text form.

pub mod access;
pub mod budget;
pub mod classes;
mod containers;
mod decode;
mod named_tuple;
mod native;
mod numpy;
mod scalars;
mod strided;
pub(crate) mod text;
mod views;

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

pub use decode::Decoder;

use crate::redact::Kind;

/// What bounds the decoding of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Levels of containers and instances.
    pub depth: usize,
    /// Items of one container.
    pub items: usize,
    /// Attributes of one instance.
    pub fields: usize,
    /// Characters of a string, bytes of a `bytes`.
    pub text: usize,
    /// Values in all.
    pub values: usize,
    /// Time in all.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 3, items: 100, fields: 20, text: 256, values: 20_000, time: Duration::from_secs(2) }
    }
}

/// Why a value is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCaptured {
    /// It is deeper than the limit.
    Depth,
    /// The limit of values or of time was reached.
    Budget,
    /// It contains itself; this is the inner occurrence.
    Cycle,
    /// Its name or text says that it is a secret, of this kind.
    Redacted(Kind),
    /// It is larger than what is decoded.
    TooLarge,
    /// A kind of data that is not decoded.
    Unsupported,
    /// Its memory could not be read, or does not hold what it should: it changed meanwhile.
    Unreadable,
    /// It is not, or not all, in the image that was captured.
    Missing,
}

impl NotCaptured {
    /// The word for it in the JSON form.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Budget => "budget",
            Self::Cycle => "cycle",
            Self::Redacted(_) => "redacted",
            Self::TooLarge => "too large",
            Self::Unsupported => "unsupported",
            Self::Unreadable => "unreadable",
            Self::Missing => "not captured",
        }
    }
}

/// What a value consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// An integer of any size, decimal.
    Int(String),
    /// A float.
    Float(f64),
    /// A string.
    Str(String),
    /// `bytes`, `bytearray`
    Bytes(Vec<u8>),
    /// What has no literal, as Python prints it.
    Text(String),
    /// Items of a sequence or set.
    Elements(Vec<Value>),
    /// Items of a mapping.
    Entries(Vec<(Value, Value)>),
    /// Attributes of an instance.
    Fields(Vec<(String, Value)>),
    /// Nothing: it was not captured.
    Nothing(NotCaptured),
}

/// A value of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// `type(value).__name__`; empty if not even that is known.
    pub type_name: String,
    /// What it consists of.
    pub content: Content,
    /// Its length, if that is more than what is in `content`.
    pub truncated: Option<u64>,
}

impl Value {
    /// A whole value.
    #[must_use]
    pub fn new(type_name: impl Into<String>, content: Content) -> Self {
        Self { type_name: type_name.into(), content, truncated: None }
    }

    /// A value that is not there.
    #[must_use]
    pub fn nothing(type_name: impl Into<String>, reason: NotCaptured) -> Self {
        Self::new(type_name, Content::Nothing(reason))
    }

    /// `{"type": …, "value" | "elements" | "entries" | "fields": …, "truncated": true, "length": …}`, or
    /// `not_captured_reason` in place of the value; with the marker as the value if it is a secret. Numbers that
    /// JSON readers would round are strings.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut map = Map::new();
        map.insert("type".into(), json!(self.type_name));
        let (key, value) = match &self.content {
            Content::None => ("value", Json::Null),
            Content::Bool(value) => ("value", json!(value)),
            Content::Int(digits) => {
                let exact = digits.parse::<i64>().ok().filter(|value| value.unsigned_abs() < 1 << 53);
                ("value", exact.map_or_else(|| json!(digits), |value| json!(value)))
            }
            Content::Float(value) if value.is_finite() => ("value", json!(value)),
            Content::Float(value) => ("value", json!(text::float(*value))),
            Content::Str(value) | Content::Text(value) => ("value", json!(value)),
            Content::Bytes(value) => ("value", json!(text::bytes(value))),
            Content::Elements(items) => ("elements", items.iter().map(Self::to_json).collect()),
            Content::Entries(items) => {
                let pairs = items.iter().map(|(key, value)| json!([key.to_json(), value.to_json()]));
                ("entries", pairs.collect())
            }
            Content::Fields(fields) => {
                let map: Map<String, Json> =
                    fields.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
                ("fields", Json::Object(map))
            }
            Content::Nothing(reason) => {
                if let NotCaptured::Redacted(kind) = reason {
                    map.insert("value".into(), json!(kind.marker()));
                }
                ("not_captured_reason", json!(reason.word()))
            }
        };
        map.insert(key.into(), value);
        if let Some(length) = self.truncated {
            map.insert("truncated".into(), json!(true));
            map.insert("length".into(), json!(length));
        }
        Json::Object(map)
    }
}
