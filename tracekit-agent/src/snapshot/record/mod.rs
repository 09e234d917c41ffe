//! A snapshot: what was seen when a breakpoint's line ran.
//!
//! Values are captured without secrets; [`Snapshot::redact`] sees everything again before it leaves the agent.

mod fit;
mod otlp;
mod redact;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

pub use otlp::log_record;

use super::breakpoint::{Breakpoint, Id, Kind, Level};
use super::state::Skipped;
use crate::python::object::{Content, Value};
use crate::redact::Redactor;
use crate::trace::span::{Resource, SpanRef};

/// What was seen of one hit.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its name: `sn-` and 16 hexadecimal digits.
    pub id: String,
    /// The breakpoint as it was then.
    pub breakpoint: Arc<Breakpoint>,
    /// When the line ran.
    pub time: Timestamp,
    /// The how manieth hit of the breakpoint in this process it was, from 1.
    pub hit: u64,
    /// Hits since the last capture in this process of which nothing was captured.
    pub skipped: Skipped,
    /// The process.
    pub process: Process,
    /// The thread.
    pub thread: Thread,
    /// Innermost first; the first is the function with the line.
    pub stack: Vec<Frame>,
    /// Values of the breakpoint's watch expressions, in their order.
    pub watches: Vec<Watch>,
    /// The text of a log breakpoint.
    pub message: Option<String>,
    /// The request that the thread was handling.
    pub request: Option<Request>,
    /// The span that the hit belongs to.
    pub span: Option<SpanRef>,
    /// What is not in it although it was there.
    pub truncated: Vec<Truncated>,
    /// What was hidden.
    pub redacted: Vec<Redacted>,
}

/// Where a snapshot comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The process, in the agent's namespace.
    pub pid: u32,
    /// Its resource attributes, `service.name` among them.
    pub resource: Arc<Resource>,
}

/// The thread that ran the line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thread {
    /// The kernel's id.
    pub tid: u32,
    /// The kernel's name for it, which Python 3.14 sets.
    pub name: Option<String>,
}

/// A frame of the stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Qualified name.
    pub function: String,
    /// Source file.
    pub file: String,
    /// The line in it, if the instruction belongs to one.
    pub line: Option<u32>,
    /// Variables in the order of the code object; `None` if they were not captured.
    pub locals: Option<Vec<(String, Value)>>,
}

/// A watch expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Its source.
    pub expression: String,
    /// Its value, or why there is none.
    pub result: Result<Value, String>,
    /// It was made of globals or of attributes of classes, which were read a little after the line ran.
    pub late: bool,
}

/// The request that a thread was handling.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path and query, or the whole URL where that is known.
    pub url: String,
    /// The route's pattern.
    pub route: Option<String>,
    /// Headers with lower-case names, in their order.
    pub headers: Vec<(String, String)>,
    /// Address of the client.
    pub client: Option<String>,
}

/// Something that a limit has cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// What: `stack`, `locals.items`, `request.headers`.
    pub what: String,
    /// By which limit: `depth`, `items`, `payload_bytes`, `time`, …
    pub by: &'static str,
}

/// Something that was hidden because it is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// Where: `locals.user.password`, `request.headers.authorization`.
    pub path: String,
    /// Why: `sensitive_name`, `jwt`, …
    pub kind: String,
}

impl Snapshot {
    /// A name that no other snapshot has.
    #[must_use]
    pub fn random_id() -> String {
        format!("sn-{:016x}", rand::random::<u64>())
    }

    /// The severity of a log breakpoint's line.
    #[must_use]
    pub fn level(&self) -> Level {
        self.breakpoint.level.unwrap_or_default()
    }

    /// Hides what is secret in everything that came from the process, and says in `redacted` where. What was hidden
    /// before stays so.
    pub fn redact(&mut self, redactor: &Redactor) {
        redact::redact(self, redactor);
    }

    /// Makes the JSON form fit the breakpoint's `payload_bytes`, by taking away the largest values first; says
    /// in `truncated` what was taken.
    pub fn fit(&mut self) {
        let limit = self.breakpoint.limits.payload_bytes as usize;
        fit::fit(self, limit);
    }

    /// The JSON form: stable; keys without a value are `null`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let breakpoint = &self.breakpoint;
        json!({
            "id": self.id,
            "kind": breakpoint.kind,
            "time": self.time,
            "breakpoint": {
                "id": breakpoint.id,
                "file": breakpoint.file,
                "line": breakpoint.line,
                "label": breakpoint.label,
                "condition": breakpoint.condition,
            },
            "hit": self.hit,
            "skipped": self.skipped,
            "process": { "pid": self.process.pid, "service": self.process.resource.service_name() },
            "thread": { "id": self.thread.tid, "name": self.thread.name },
            "trace_id": self.span.map(|span| span.trace_id.to_string()),
            "span_id": self.span.and_then(|span| span.span_id).map(|id| id.to_string()),
            "request": self.request.as_ref().map(Request::to_json),
            "stack": self.stack.iter().map(Frame::to_json).collect::<Vec<_>>(),
            "watches": self.watches.iter().map(Watch::to_json).collect::<Vec<_>>(),
            "message": self.message,
            "level": breakpoint.level,
            "truncated": self
                .truncated
                .iter()
                .map(|truncated| json!({ "what": truncated.what, "by": truncated.by }))
                .collect::<Vec<_>>(),
            "redacted": self
                .redacted
                .iter()
                .map(|redacted| json!({ "path": redacted.path, "type": redacted.kind }))
                .collect::<Vec<_>>(),
        })
    }

    /// The stack as Python people read it: one line a frame, `function at file:line`, innermost first.
    #[must_use]
    pub fn stack_text(&self, limit: usize) -> String {
        let mut text = String::new();
        for frame in &self.stack {
            let line = frame.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
            let entry = format!("{} at {}:{line}\n", frame.function, frame.file);
            if text.len() + entry.len() > limit {
                break;
            }
            text.push_str(&entry);
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// Whether anything was cut off, here or within a value.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        let locals = self.stack.iter().filter_map(|frame| frame.locals.as_ref()).flatten();
        let watched = self.watches.iter().filter_map(|watch| watch.result.as_ref().ok());
        !self.truncated.is_empty() || locals.map(|(_, value)| value).chain(watched).any(is_truncated)
    }

    /// Whether it is a text rather than variables.
    #[must_use]
    pub fn is_log(&self) -> bool {
        self.breakpoint.kind == Kind::Log
    }

    /// The breakpoint's name.
    #[must_use]
    pub fn breakpoint_id(&self) -> &Id {
        &self.breakpoint.id
    }
}

/// Values are at most as deep as the limit of depth, so this ends.
fn is_truncated(value: &Value) -> bool {
    use crate::python::object::NotCaptured;
    if value.truncated.is_some() {
        return true;
    }
    match &value.content {
        Content::Elements(items) => items.iter().any(is_truncated),
        Content::Entries(entries) => {
            entries.iter().any(|(key, value)| is_truncated(key) || is_truncated(value))
        }
        Content::Fields(fields) => fields.iter().any(|(_, value)| is_truncated(value)),
        Content::Nothing(reason) => !matches!(reason, NotCaptured::Redacted(_) | NotCaptured::Cycle),
        _ => false,
    }
}

impl Frame {
    fn to_json(&self) -> Json {
        let mut map = Map::new();
        map.insert("function".into(), json!(self.function));
        map.insert("file".into(), json!(self.file));
        map.insert("line".into(), json!(self.line));
        if let Some(locals) = &self.locals {
            map.insert("locals".into(), locals_json(locals));
        }
        Json::Object(map)
    }
}

fn locals_json(locals: &[(String, Value)]) -> Json {
    let map: Map<String, Json> = locals.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
    Json::Object(map)
}

impl Watch {
    fn to_json(&self) -> Json {
        match &self.result {
            Ok(value) if self.late => {
                json!({ "expression": self.expression, "value": value.to_json(), "late": true })
            }
            Ok(value) => json!({ "expression": self.expression, "value": value.to_json() }),
            Err(reason) => json!({ "expression": self.expression, "undefined": reason }),
        }
    }
}

impl Request {
    fn to_json(&self) -> Json {
        json!({
            "method": self.method,
            "url": self.url,
            "route": self.route,
            "headers": self.headers.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
            "client": self.client,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
