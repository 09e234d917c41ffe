//! Attributes that several kinds of spans share.

use super::span::{Attributes, Value};
use crate::{
    net::{Caller, Origin},
    probes::record::Endpoint,
};

/// Sets an attribute if there is a value.
pub fn put<V: Into<Value>>(attributes: &mut Attributes, key: &'static str, value: Option<V>) {
    if let Some(value) = value {
        attributes.push((key, value.into()));
    }
}

/// `server.address` and `server.port` of the end that serves.
pub fn server(attributes: &mut Attributes, end: Option<&Endpoint>) {
    match end {
        Some(Endpoint::Ip(address)) => {
            attributes.push(("server.address", address.ip().to_string().into()));
            attributes.push(("server.port", i64::from(address.port()).into()));
        }
        Some(Endpoint::Unix(Some(path))) => {
            attributes.push(("server.address", path.to_string_lossy().into_owned().into()));
        }
        Some(Endpoint::Unix(None)) | None => {}
    }
}

/// `network.peer.address`, `network.peer.port`, `network.transport` of the other end.
pub fn peer(attributes: &mut Attributes, end: Option<&Endpoint>) {
    match end {
        Some(Endpoint::Ip(address)) => {
            attributes.push(("network.peer.address", address.ip().to_string().into()));
            attributes.push(("network.peer.port", i64::from(address.port()).into()));
        }
        Some(Endpoint::Unix(path)) => {
            let path = path.as_ref().map(|path| path.to_string_lossy().into_owned());
            put(attributes, "network.peer.address", path);
            attributes.push(("network.transport", "unix".into()));
        }
        None => {}
    }
}

/// Bytes of a stack at most.
const MAX_STACK: usize = 4096;

/// `code.stacktrace`: the application's places from the innermost on, as Python writes them in tracebacks.
pub fn stacktrace(attributes: &mut Attributes, origin: &Origin) {
    let mut text = String::new();
    for place in std::iter::once(&origin.caller).chain(&origin.below) {
        let line = place.line.map_or_else(String::new, |line| format!(", line {line}"));
        let next = format!("  File \"{}\"{line}, in {}\n", place.file, place.function);
        if text.len() + next.len() > MAX_STACK {
            break;
        }
        text.push_str(&next);
    }
    if text.pop().is_some() {
        attributes.push(("code.stacktrace", text.into()));
    }
}

/// `code.function.name`, `code.file.path`, `code.line.number` of the place that made a call.
pub fn code(attributes: &mut Attributes, caller: &Caller) {
    attributes.push(("code.function.name", caller.function.as_str().into()));
    attributes.push(("code.file.path", caller.file.as_str().into()));
    put(attributes, "code.line.number", caller.line.map(i64::from));
}
