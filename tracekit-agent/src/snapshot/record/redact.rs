//! Snapshots without secrets, and what says so.

use super::{Redacted, Snapshot};
use crate::python::object::{Content, NotCaptured, Value};
use crate::redact::{Counts, Redactor, markers};

/// Places that are named.
const MAX_PLACES: usize = 64;
/// Bytes of a place's path.
const MAX_PATH: usize = 256;

/// See [`Snapshot::redact`].
pub(super) fn redact(snapshot: &mut Snapshot, redactor: &Redactor) {
    // Counted are the places that are left, which includes what was hidden before.
    let mut counts = Counts::new();
    let mut places = Places(Vec::new());
    for (at, frame) in snapshot.stack.iter_mut().enumerate() {
        let Some(locals) = &mut frame.locals else { continue };
        redactor.members(locals, &mut counts);
        let root = if at == 0 { "locals".to_owned() } else { format!("stack[{at}].locals") };
        for (name, value) in locals {
            places.value(&format!("{root}.{name}"), value);
        }
    }
    for watch in &mut snapshot.watches {
        let path = format!("watches.{}", watch.expression);
        match &mut watch.result {
            Ok(value) => {
                redactor.value(value, &mut counts);
                places.value(&path, value);
            }
            Err(reason) => {
                *reason = redactor.text(reason).text.into_owned();
                places.text(&path, reason);
            }
        }
    }
    if let Some(message) = &mut snapshot.message {
        *message = redactor.text(message).text.into_owned();
        places.text("message", message);
    }
    if let Some(request) = &mut snapshot.request {
        request.url = redactor.url(&request.url).into_owned();
        places.text("request.url", &request.url);
        for (name, value) in &mut request.headers {
            *value = redactor.header(name, value).text.into_owned();
            places.text(&format!("request.headers.{name}"), value);
        }
    }
    snapshot.redacted = places.0;
}

/// Where markers stand.
struct Places(Vec<Redacted>);

impl Places {
    fn add(&mut self, path: &str, kind: &str) {
        if self.0.len() < MAX_PLACES {
            let end = (0..=path.len().min(MAX_PATH)).rev().find(|end| path.is_char_boundary(*end));
            let path = path.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
            self.0.push(Redacted { path, kind: kind.to_owned() });
        }
    }

    fn text(&mut self, path: &str, text: &str) {
        let mut kinds: Vec<&str> = markers(text).into_iter().map(|(_, kind)| kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            self.add(path, kind);
        }
    }

    /// Values are at most as deep as the limit of depth, so this ends.
    fn value(&mut self, path: &str, value: &Value) {
        if self.0.len() >= MAX_PLACES || path.len() > MAX_PATH {
            return;
        }
        match &value.content {
            Content::Nothing(NotCaptured::Redacted(kind)) => self.add(path, kind.name()),
            Content::Str(text) | Content::Text(text) => self.text(path, text),
            Content::Bytes(bytes) => self.text(path, &String::from_utf8_lossy(bytes)),
            Content::Elements(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.value(&format!("{path}[{at}]"), item);
                }
            }
            Content::Entries(entries) => {
                for (key, value) in entries {
                    self.value(path, key);
                    match &key.content {
                        Content::Str(name) => self.value(&format!("{path}.{name}"), value),
                        _ => self.value(&format!("{path}[{key}]"), value),
                    }
                }
            }
            Content::Fields(fields) => {
                for (name, value) in fields {
                    self.value(&format!("{path}.{name}"), value);
                }
            }
            _ => {}
        }
    }
}
