//! Spans for the unit tests of the exporters.

use std::sync::Arc;

use crate::trace::span::{Resource, Span, SpanId, SpanKind, Status, TraceId, Value};

pub fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource { attributes: vec![("service.name".to_owned(), Value::from(service))] })
}

pub fn span(kind: SpanKind, id: u64, parent: Option<u64>, resource: &Arc<Resource>) -> Span {
    Span {
        trace_id: TraceId([1; 16]),
        span_id: SpanId(id.to_be_bytes()),
        parent_span_id: parent.map(|id| SpanId(id.to_be_bytes())),
        parent_is_remote: false,
        trace_state: String::new(),
        sampled: true,
        name: "GET".to_owned(),
        kind,
        start_unix_nano: 1_700_000_000_000_000_000 + id * 1_000_000,
        end_unix_nano: 1_700_000_000_012_300_000 + id * 1_000_000,
        status: Status::Unset,
        attributes: Vec::new(),
        resource: Arc::clone(resource),
    }
}

pub fn server_span(id: u64, path: &str, resource: &Arc<Resource>) -> Span {
    let mut span = span(SpanKind::Server, id, None, resource);
    span.attributes = vec![
        ("http.request.method", Value::from("GET")),
        ("url.path", Value::from(path)),
        ("url.scheme", Value::from("http")),
        ("http.response.status_code", Value::Int(200)),
        ("network.protocol.version", Value::from("1.1")),
        ("server.address", Value::from("shop.local")),
    ];
    span
}

pub fn sql_span(id: u64, parent: Option<u64>, resource: &Arc<Resource>) -> Span {
    let mut span = span(SpanKind::Client, id, parent, resource);
    span.name = "SELECT orders".to_owned();
    span.attributes = vec![
        ("db.system.name", Value::from("postgresql")),
        ("db.query.summary", Value::from("SELECT orders")),
        ("db.query.text", Value::from("SELECT * FROM orders WHERE id = ?")),
        ("server.address", Value::from("127.0.0.1")),
        ("server.port", Value::Int(5432)),
    ];
    span.start_unix_nano = 1_700_000_000_003_000_000;
    span.end_unix_nano = 1_700_000_000_005_100_000;
    span
}
