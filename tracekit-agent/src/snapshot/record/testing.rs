//! Snapshots for tests.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Frame, Process, Redacted, Request, Snapshot, Thread, Watch};
use crate::python::object::{Content, NotCaptured, Value};
use crate::redact;
use crate::snapshot::breakpoint::{Breakpoint, Kind, Source, Spec};
use crate::snapshot::state::Skipped;
use crate::trace::span::{Resource, SpanId, SpanRef, TraceId, Value as Attribute};

pub(crate) fn int(value: i64) -> Value {
    Value::new("int", Content::Int(value.to_string()))
}

pub(crate) fn breakpoint(kind: Kind) -> Breakpoint {
    let spec = Spec {
        kind,
        file: "app/orders.py".to_owned(),
        line: 42,
        label: Some("checkout".to_owned()),
        expressions: vec!["order.total".to_owned(), "user.plan".to_owned()],
        template: (kind == Kind::Log).then(|| "total={order.total}".to_owned()),
        ..Spec::default()
    };
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    Breakpoint::new("bp-1".parse().unwrap(), spec, "me", Source::Local, now).unwrap()
}

pub(crate) fn snapshot(kind: Kind) -> Snapshot {
    let order = Value::new(
        "Order",
        Content::Fields(vec![
            ("id".to_owned(), int(7)),
            (
                "items".to_owned(),
                Value { truncated: Some(500), ..Value::new("list", Content::Elements(vec![int(1)])) },
            ),
        ]),
    );
    let frame = |function: &str, line| Frame {
        function: function.to_owned(),
        file: "/srv/app/orders.py".to_owned(),
        line: Some(line),
        locals: None,
    };
    let attributes = vec![("service.name".to_owned(), Attribute::String("shop".to_owned()))];
    Snapshot {
        id: "sn-00000000000000ff".to_owned(),
        breakpoint: Arc::new(breakpoint(kind)),
        time: "2026-11-21T10:00:00.5Z".parse().unwrap(),
        hit: 3,
        skipped: Skipped { rate: 2, ..Skipped::default() },
        process: Process { pid: 10, resource: Arc::new(Resource { attributes }) },
        thread: Thread { tid: 11, name: Some("worker".to_owned()) },
        stack: vec![
            Frame {
                locals: Some(vec![
                    ("order".to_owned(), order),
                    (
                        "password".to_owned(),
                        Value::nothing("str", NotCaptured::Redacted(redact::Kind::SENSITIVE_NAME)),
                    ),
                ]),
                ..frame("checkout", 42)
            },
            frame("dispatch", 7),
        ],
        watches: vec![
            Watch { expression: "order.total".to_owned(), result: Ok(int(120)), late: false },
            Watch {
                expression: "user.plan".to_owned(),
                result: Err("user is not defined".to_owned()),
                late: false,
            },
        ],
        message: (kind == Kind::Log).then(|| "total=120".to_owned()),
        request: Some(Request {
            method: "POST".to_owned(),
            url: "/checkout?id=7".to_owned(),
            route: Some("/checkout".to_owned()),
            headers: vec![("accept".to_owned(), "*/*".to_owned())],
            client: Some("10.0.0.1".to_owned()),
        }),
        span: Some(SpanRef { trace_id: TraceId([1; 16]), span_id: Some(SpanId([2; 8])), sampled: true }),
        truncated: Vec::new(),
        redacted: vec![Redacted { path: "locals.password".to_owned(), kind: "sensitive_name".to_owned() }],
    }
}
