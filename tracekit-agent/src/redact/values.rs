//! Values of the target without their secrets.
//!
//! The decoder asks for each part while it reads; [`Redactor::value`] does the same to a value that was decoded
//! elsewhere.

use std::borrow::Cow;

use super::assignments::{is_named, is_naming};
use super::kind::{Counts, Kind};
use super::redactor::Redactor;
use super::scan;
use super::settings::Mode;
use super::span::Finding;
use crate::python::object::{Content, NotCaptured, Value};

/// Characters of a string behind the limit that are read to see a secret whole which the limit cuts.
pub const LOOK_AHEAD: usize = 512;

/// Types whose text form is code or a number, which strict mode shows.
const NO_DATA: &[&str] = &[
    "Decimal",
    "NotImplementedType",
    "async_generator",
    "code",
    "complex",
    "coroutine",
    "ellipsis",
    "function",
    "generator",
    "method",
    "module",
    "type",
];

/// What strict mode shows of a name that is data: a key that could be an identifier.
fn is_identifier(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Code, not data: `token_factory = <function …>` is shown.
fn is_code(text: &str) -> bool {
    [
        "<class '",
        "<function ",
        "<bound method ",
        "<module '",
        "<code object ",
        "<generator object ",
        "<coroutine ob",
    ]
    .iter()
    .any(|code| text.starts_with(code))
}

/// Members of an object, of which one can be the name of others: `{"name": "password", "value": "x"}`.
pub(crate) struct Members {
    /// Which member is the name.
    naming: Option<usize>,
    /// Its own name.
    name: String,
    /// Which members it names.
    named: Vec<usize>,
}

impl Members {
    /// Members with these names.
    pub(crate) fn of<'n>(names: impl Iterator<Item = Option<&'n str>>) -> Self {
        let (mut naming, mut named) = (None, Vec::new());
        for (at, name) in names.enumerate() {
            match name {
                Some(name) if naming.is_none() && is_naming(name) => naming = Some((at, name)),
                Some(name) if is_named(name) => named.push(at),
                _ => {}
            }
        }
        match naming.filter(|_| !named.is_empty()) {
            Some((at, name)) => Self { naming: Some(at), name: name.to_owned(), named },
            None => Self { naming: None, name: String::new(), named },
        }
    }

    /// The name that says whether a member is a secret; none of the member that is the name of others.
    pub(crate) fn name_of<'n>(&self, at: usize, name: Option<&'n str>) -> Option<&'n str> {
        name.filter(|_| self.naming != Some(at))
    }
}

/// The text that names another value: a string, bytes, a member of an enum.
pub(crate) fn name_of(value: &Value) -> Option<Cow<'_, str>> {
    match &value.content {
        Content::Str(text) | Content::Text(text) => Some(Cow::Borrowed(text)),
        Content::Bytes(bytes) => Some(Cow::Owned(latin_1(bytes))),
        Content::Elements(items) if value.type_name == "tuple" && !items.is_empty() && items.len() <= 4 => {
            let parts: Option<Vec<Cow<'_, str>>> = items.iter().map(name_of).collect();
            parts.map(|parts| Cow::Owned(parts.join(".")))
        }
        _ => None,
    }
}

/// Each byte as the character of its number, so that nothing is lost on the way back.
fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

fn hide(value: &mut Value, kind: Kind, counts: &mut Counts) {
    *counts.entry(kind).or_default() += 1;
    *value = Value::nothing(std::mem::take(&mut value.type_name), NotCaptured::Redacted(kind));
}

impl Redactor {
    /// Bytes that may be text: what replaces them, and what was hidden. Bytes that are not UTF-8 stay as they are.
    #[must_use]
    pub fn bytes(&self, bytes: &[u8]) -> (Vec<u8>, Vec<Finding>) {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let hidden = self.text(text);
                (hidden.text.into_owned().into_bytes(), hidden.findings)
            }
            Err(_) => {
                let text = latin_1(bytes);
                let hidden = self.text(&text);
                let place = |at: usize| text.get(..at).map_or(bytes.len(), |front| front.chars().count());
                let findings = hidden.findings.iter().map(|finding| Finding {
                    kind: finding.kind,
                    range: place(finding.range.start)..place(finding.range.end),
                });
                (bytes_of(&hidden.text), findings.collect())
            }
        }
    }

    /// Hides what is secret in a value, at any depth, and counts it.
    pub fn value(&self, value: &mut Value, counts: &mut Counts) {
        if self.hides_type(value, counts) {
            return;
        }
        match &mut value.content {
            Content::Elements(items) => {
                for item in items.iter_mut() {
                    self.value(item, counts);
                }
                self.elements(&value.type_name, items, counts);
            }
            Content::Entries(entries) => {
                let names: Vec<Option<String>> =
                    entries.iter().map(|(key, _)| name_of(key).map(Cow::into_owned)).collect();
                let members = Members::of(names.iter().map(Option::as_deref));
                for (at, ((key, value), name)) in entries.iter_mut().zip(&names).enumerate() {
                    self.member(members.name_of(at, name.as_deref()), value, counts);
                    self.key(key, counts);
                }
                let mut values: Vec<&mut Value> = entries.iter_mut().map(|(_, value)| value).collect();
                self.beside(&members, &mut values, counts);
            }
            Content::Fields(fields) => self.members(fields, counts),
            _ => self.leaf(value, usize::MAX, counts),
        }
    }

    /// Hides what is secret in variables or attributes. One can be the name of another.
    pub fn members(&self, variables: &mut [(String, Value)], counts: &mut Counts) {
        let members = Members::of(variables.iter().map(|(name, _)| Some(name.as_str())));
        for (at, (name, value)) in variables.iter_mut().enumerate() {
            self.member(members.name_of(at, Some(name)), value, counts);
        }
        let mut values: Vec<&mut Value> = variables.iter_mut().map(|(_, value)| value).collect();
        self.beside(&members, &mut values, counts);
    }

    fn member(&self, name: Option<&str>, value: &mut Value, counts: &mut Counts) {
        match name {
            Some(name) => self.named(name, value, counts),
            None => self.value(value, counts),
        }
    }

    /// Hides the value of a variable, attribute or key if its name says so, and what is secret in it otherwise.
    pub fn named(&self, name: &str, value: &mut Value, counts: &mut Counts) {
        match self.sensitive(name) {
            Some(kind) if !Self::is_shown(value) => hide(value, kind, counts),
            _ => self.value(value, counts),
        }
    }

    /// Whatever its name is, this is no secret: absent, a flag, code, hidden already.
    fn is_shown(value: &Value) -> bool {
        match &value.content {
            Content::None | Content::Bool(_) | Content::Nothing(_) => true,
            Content::Str(text) => scan::is_nothing(text),
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Text(text) => is_code(text),
            Content::Elements(items) => items.is_empty() && value.truncated.is_none(),
            Content::Entries(items) => items.is_empty() && value.truncated.is_none(),
            Content::Int(_) | Content::Float(_) | Content::Fields(_) => false,
        }
    }

    /// Hides an instance of a type that settings hide.
    pub(crate) fn hides_type(&self, value: &mut Value, counts: &mut Counts) -> bool {
        match self.sensitive_type(&value.type_name) {
            Some(kind) if !matches!(value.content, Content::Nothing(_)) => {
                hide(value, kind, counts);
                true
            }
            _ => false,
        }
    }

    /// A value without parts, of which `limit` characters or bytes are to be shown.
    pub(crate) fn leaf(&self, value: &mut Value, limit: usize, counts: &mut Counts) {
        let strict = self.mode == Mode::Strict;
        match &mut value.content {
            Content::Str(text) if strict && !scan::is_nothing(text) => hide(value, Kind::STRICT, counts),
            Content::Bytes(bytes) if strict && !bytes.is_empty() => hide(value, Kind::STRICT, counts),
            Content::Text(text)
                if strict && !NO_DATA.contains(&value.type_name.as_str()) && !is_code(text) =>
            {
                hide(value, Kind::STRICT, counts);
            }
            Content::Str(text) | Content::Text(text) => {
                if let Some(hidden) = self.prefix(text, limit, counts) {
                    *text = hidden;
                }
            }
            Content::Bytes(bytes) => {
                if let Some(hidden) = self.prefix(&latin_1(bytes), limit, counts) {
                    *bytes = bytes_of(&hidden);
                }
            }
            Content::Int(digits) => {
                if let Some(kind) = Self::integer(digits) {
                    hide(value, kind, counts);
                }
            }
            _ => {}
        }
    }

    /// The first characters of a text without its secrets; `None` if that is the text.
    fn prefix(&self, text: &str, limit: usize, counts: &mut Counts) -> Option<String> {
        let cut = text.char_indices().nth(limit).map(|(at, _)| at);
        let hidden = self.text_to(text, cut.unwrap_or(text.len()));
        hidden.count(counts);
        (cut.is_some() || !hidden.findings.is_empty()).then(|| hidden.text.into_owned())
    }

    /// The key of a mapping.
    pub(crate) fn key(&self, key: &mut Value, counts: &mut Counts) {
        match &key.content {
            Content::Str(text) if self.mode == Mode::Strict && is_identifier(text) => {
                if let Some(hidden) = self.prefix(&text.clone(), usize::MAX, counts) {
                    key.content = Content::Str(hidden);
                }
            }
            _ => self.value(key, counts),
        }
    }

    /// Elements that say what others are: `("password", "x")`, `["--password", "x"]`.
    pub(crate) fn elements(&self, type_name: &str, items: &mut [Value], counts: &mut Counts) {
        let pairs =
            items.iter().all(|item| matches!(&item.content, Content::Elements(parts) if parts.len() == 2));
        for item in items.iter_mut().filter(|_| pairs) {
            if let Content::Elements(parts) = &mut item.content {
                self.pair(parts, counts);
            }
        }
        if matches!(type_name, "set" | "frozenset") {
            return;
        }
        if type_name != "list" {
            self.pair(items, counts);
        }
        for at in 1..items.len() {
            let (front, behind) = items.split_at_mut(at);
            let (Some(option), Some(value)) = (front.last().and_then(name_of), behind.first_mut()) else {
                continue;
            };
            let Some(name) = option.strip_prefix('-') else { continue };
            let name = name.trim_start_matches('-');
            let argument = name_of(value).map(Cow::into_owned);
            if argument.as_ref().is_some_and(|text| text.starts_with('-')) || Self::is_shown(value) {
                continue;
            }
            let words = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let user = matches!(name, "u" | "user" | "proxy-user")
                && argument.is_some_and(|text| text.contains(':'));
            if let Some(kind) = self.sensitive(name).filter(|_| words) {
                hide(value, kind, counts);
            } else if user {
                hide(value, Kind::CREDENTIALS, counts);
            }
        }
    }

    fn pair(&self, items: &mut [Value], counts: &mut Counts) {
        if let [name, value] = items
            && let Some(kind) = name_of(name).and_then(|name| self.sensitive(&name))
            && !Self::is_shown(value)
        {
            hide(value, kind, counts);
        }
    }

    /// Hides what is named by the value beside it, and a name that is a secret itself: alone, a `key` is one.
    pub(crate) fn beside(&self, members: &Members, values: &mut [&mut Value], counts: &mut Counts) {
        let Some(at) = members.naming else { return };
        let Some(naming) = values.get(at).and_then(|value| name_of(value)).map(Cow::into_owned) else {
            return;
        };
        if let Some(kind) = self.sensitive(&naming) {
            for at in &members.named {
                if let Some(value) = values.get_mut(*at).filter(|value| !Self::is_shown(value)) {
                    hide(value, kind, counts);
                }
            }
        }
        let plain = is_identifier(&naming) && !scan::looks_random(&naming, true);
        if let Some(kind) = self.sensitive(&members.name).filter(|_| !plain)
            && let Some(value) = values.get_mut(at).filter(|value| !Self::is_shown(value))
        {
            hide(value, kind, counts);
        }
    }
}
