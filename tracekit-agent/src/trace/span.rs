//! The span: what leaves the correlation and enters exporters.

use std::sync::Arc;

/// W3C trace id: 16 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// W3C parent id: 8 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// OpenTelemetry span kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// The traced process answers a request.
    Server,
    /// The traced process sends a request.
    Client,
}

/// OpenTelemetry span status. `Ok` is for the application to set, so an agent never does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing to say.
    Unset,
    /// Failed; with a description only where the attributes don't say it.
    Error(Option<String>),
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// Integer.
    Int(i64),
    /// Floating point.
    Double(f64),
    /// Boolean.
    Bool(bool),
    /// List of texts.
    Strings(Vec<String>),
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Attributes in the order in which they were set; keys are unique.
pub type Attributes = Vec<(&'static str, Value)>;

/// What a service says of itself; one for each traced process (or group of forked workers).
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Resource attributes, `service.name` among them; keys are unique.
    pub attributes: Vec<(String, Value)>,
}

impl Resource {
    /// The value of `service.name`.
    #[must_use]
    pub fn service_name(&self) -> &str {
        self.attributes
            .iter()
            .find_map(|(key, value)| match value {
                Value::String(text) if key == "service.name" => Some(text.as_str()),
                _ => None,
            })
            .unwrap_or("unknown_service:python")
    }
}

/// Names a span, or the trace that something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanRef {
    /// Its trace.
    pub trace_id: TraceId,
    /// The span, if it is known which.
    pub span_id: Option<SpanId>,
    /// It is exported.
    pub sampled: bool,
}

/// One finished span. Everything in it has passed redaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace_id: TraceId,
    /// This span.
    pub span_id: SpanId,
    /// The parent, local or remote; `None` for a root or where the parent is not known.
    pub parent_span_id: Option<SpanId>,
    /// The parent is in another process: it came with a `traceparent`.
    pub parent_is_remote: bool,
    /// W3C `tracestate`, empty if there is none.
    pub trace_state: String,
    /// Head sampling decided to export this span. Metrics count all spans.
    pub sampled: bool,
    /// Name by the semantic conventions.
    pub name: String,
    /// Server or client.
    pub kind: SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_nano: u64,
    /// Nanoseconds since the Unix epoch, not before the start.
    pub end_unix_nano: u64,
    /// Status by the semantic conventions.
    pub status: Status,
    /// Attributes by the semantic conventions.
    pub attributes: Attributes,
    /// The service that the span belongs to.
    pub resource: Arc<Resource>,
}

impl Span {
    /// The attribute of that key.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&Value> {
        self.attributes.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Duration in nanoseconds.
    #[must_use]
    pub fn duration_nanos(&self) -> u64 {
        self.end_unix_nano.saturating_sub(self.start_unix_nano)
    }
}
