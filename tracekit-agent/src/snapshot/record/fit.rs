//! Snapshots that are too large.

use super::{Snapshot, Truncated};
use crate::python::object::{NotCaptured, Value};

const LIMIT: &str = "payload_bytes";

/// See [`Snapshot::fit`].
pub(super) fn fit(snapshot: &mut Snapshot, limit: usize) {
    let mut size = json_size(snapshot);
    if size <= limit {
        return;
    }
    // The largest values go first: most of the snapshot can stay.
    let mut values: Vec<(usize, Place)> = Vec::new();
    for (f, frame) in snapshot.stack.iter().enumerate() {
        for (l, (_, value)) in frame.locals.iter().flatten().enumerate() {
            values.push((value_size(value), Place::Local(f, l)));
        }
    }
    for (w, watch) in snapshot.watches.iter().enumerate() {
        if let Ok(value) = &watch.result {
            values.push((value_size(value), Place::Watch(w)));
        }
    }
    values.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    for (value_size, place) in values {
        if size <= limit {
            break;
        }
        let Some((name, saved)) = take_away(snapshot, place, value_size) else { continue };
        size = size.saturating_sub(saved);
        size += note(snapshot, name);
    }
    // Names that come twice are one key, so that less was saved than it seemed.
    size = json_size(snapshot);
    if size <= limit {
        return;
    }
    // Then the text of a log line and the outer frames.
    if let Some(message) = &mut snapshot.message {
        let room = message.len().saturating_sub(size - limit + 64);
        let end = (0..=room).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        note(snapshot, "message".to_owned());
        size = json_size(snapshot);
    }
    if size > limit && snapshot.request.as_mut().is_some_and(|request| !request.headers.is_empty()) {
        if let Some(request) = &mut snapshot.request {
            request.headers.clear();
        }
        note(snapshot, "request.headers".to_owned());
        size = json_size(snapshot);
    }
    if size > limit && snapshot.stack.len() > 1 {
        note(snapshot, "stack".to_owned());
        size = json_size(snapshot);
        while size > limit && snapshot.stack.len() > 1 {
            let frame = snapshot.stack.pop().map(|frame| frame.to_json().to_string().len() + 1);
            size = size.saturating_sub(frame.unwrap_or(0));
        }
    }
    if size > limit {
        // Thousands of variables, each small.
        for frame in &mut snapshot.stack {
            frame.locals = None;
        }
        snapshot.truncated = vec![Truncated { what: "locals".to_owned(), by: LIMIT }];
        snapshot.redacted.clear();
        size = json_size(snapshot);
    }
    if size > limit {
        snapshot.watches.clear();
        snapshot.request = None;
        snapshot.truncated.push(Truncated { what: "…".to_owned(), by: LIMIT });
    }
}

#[derive(Clone, Copy)]
enum Place {
    Local(usize, usize),
    Watch(usize),
}

/// Gives where it was and how many bytes that saves; `None` if it would save nothing.
fn take_away(snapshot: &mut Snapshot, place: Place, size: usize) -> Option<(String, usize)> {
    let (name, value) = match place {
        Place::Local(f, l) => {
            let (name, value) = snapshot.stack.get_mut(f)?.locals.as_mut()?.get_mut(l)?;
            (format!("locals.{name}"), value)
        }
        Place::Watch(w) => {
            let watch = snapshot.watches.get_mut(w)?;
            (format!("watches.{}", watch.expression), watch.result.as_mut().ok()?)
        }
    };
    let nothing = Value::nothing(std::mem::take(&mut value.type_name), NotCaptured::Budget);
    let saved = size.checked_sub(value_size(&nothing)).filter(|&saved| saved > 0);
    if saved.is_none() {
        value.type_name = nothing.type_name;
        return None;
    }
    *value = nothing;
    Some((name, saved?))
}

/// Gives the bytes that the note takes.
fn note(snapshot: &mut Snapshot, what: String) -> usize {
    const MOST: usize = 8;
    let notes = snapshot.truncated.iter().filter(|truncated| truncated.by == LIMIT).count();
    let what = match notes.cmp(&MOST) {
        std::cmp::Ordering::Less => what,
        std::cmp::Ordering::Equal => "…".to_owned(),
        std::cmp::Ordering::Greater => return 0,
    };
    let size = serde_json::json!({ "what": what, "by": LIMIT }).to_string().len() + 1;
    snapshot.truncated.push(Truncated { what, by: LIMIT });
    size
}

fn value_size(value: &Value) -> usize {
    value.to_json().to_string().len()
}

fn json_size(snapshot: &Snapshot) -> usize {
    snapshot.to_json().to_string().len()
}
