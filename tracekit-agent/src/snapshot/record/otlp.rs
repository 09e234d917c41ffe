//! Snapshots as OTLP log records.
//!
//! There is no semantic convention for them; the body has the shape that the AWS distribution of
//! OpenTelemetry gives to its dynamic instrumentation: `{stack: […], captures: {lines: {n: {locals}}}}`.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use serde_json::Value as Json;

use super::{Snapshot, locals_json};
use crate::snapshot::breakpoint::Level;

/// `event_name` of a snapshot.
const SNAPSHOT: &str = "tracekit.snapshot";
/// `event_name` of a log breakpoint's line.
const LOGPOINT: &str = "tracekit.logpoint";

/// One log record; its resource is that of the process.
#[must_use]
pub fn log_record(snapshot: &Snapshot, observed_unix_nano: u64) -> LogRecord {
    let (severity, text) = match snapshot.level() {
        _ if !snapshot.is_log() => (SeverityNumber::Info, "INFO"),
        Level::Debug => (SeverityNumber::Debug, "DEBUG"),
        Level::Info => (SeverityNumber::Info, "INFO"),
        Level::Warn => (SeverityNumber::Warn, "WARN"),
        Level::Error => (SeverityNumber::Error, "ERROR"),
    };
    let body = match &snapshot.message {
        Some(message) if snapshot.is_log() => string(message),
        _ => body(snapshot),
    };
    let span = snapshot.span;
    LogRecord {
        time_unix_nano: u64::try_from(snapshot.time.as_nanosecond()).unwrap_or(0),
        observed_time_unix_nano: observed_unix_nano,
        severity_number: severity.into(),
        severity_text: text.to_owned(),
        body: Some(body),
        attributes: attributes(snapshot),
        flags: span.map_or(0, |span| u32::from(span.sampled)),
        trace_id: span.map(|span| span.trace_id.0.to_vec()).unwrap_or_default(),
        span_id: span.and_then(|span| span.span_id).map(|id| id.0.to_vec()).unwrap_or_default(),
        event_name: if snapshot.is_log() { LOGPOINT } else { SNAPSHOT }.to_owned(),
        ..LogRecord::default()
    }
}

fn body(snapshot: &Snapshot) -> AnyValue {
    let frames = snapshot.stack.iter().map(|frame| {
        map([
            ("file_path", Some(string(&frame.file))),
            ("function", Some(string(&frame.function))),
            ("line_number", frame.line.map(|line| int(line.into()))),
        ])
    });
    // The first frame's variables are the line's; those of outer frames have their own lines.
    let captures = snapshot.stack.iter().enumerate().filter_map(|(n, frame)| {
        let locals = frame.locals.as_ref()?;
        let line = if n == 0 { line(snapshot) } else { frame.line? };
        let key = if n == 0 { line.to_string() } else { format!("{}:{line}", frame.file) };
        Some(pair(&key, map([("locals", Some(from_json(&locals_json(locals))))])))
    });
    let watches = snapshot.watches.iter().map(|watch| pair(&watch.expression, from_json(&watch.to_json())));
    let lines = AnyValue { value: Some(list_of(captures.collect())) };
    let watches = AnyValue { value: Some(list_of(watches.collect())) };
    map([
        ("stack", Some(array(frames.collect()))),
        ("captures", Some(map([("lines", Some(lines))]))),
        ("watches", (!snapshot.watches.is_empty()).then_some(watches)),
    ])
}

/// The line as it is in the process: after a deploy it may be another than that of the breakpoint.
fn line(snapshot: &Snapshot) -> u32 {
    snapshot.stack.first().and_then(|frame| frame.line).unwrap_or(snapshot.breakpoint.line)
}

fn attributes(snapshot: &Snapshot) -> Vec<KeyValue> {
    let breakpoint = &snapshot.breakpoint;
    let frame = snapshot.stack.first();
    let request = snapshot.request.as_ref();
    let hits = i64::try_from(snapshot.hit).unwrap_or(i64::MAX);
    let skipped = i64::try_from(snapshot.skipped.total()).unwrap_or(i64::MAX);
    let redacted = i64::try_from(snapshot.redacted.len()).unwrap_or(i64::MAX);
    let optional = |text: Option<&String>| text.map(|text| string(text));
    let (path, query) = match request.map(|request| request.url.split_once('?')) {
        Some(Some((path, query))) => (Some(string(path)), Some(string(query))),
        Some(None) => (optional(request.map(|request| &request.url)), None),
        None => (None, None),
    };
    let is_url = request.is_some_and(|request| request.url.contains("://"));
    let fields = [
        ("code.file.path", Some(string(frame.map_or(&breakpoint.file, |frame| &frame.file)))),
        ("code.line.number", Some(int(line(snapshot).into()))),
        ("code.function.name", optional(frame.map(|frame| &frame.function))),
        ("tracekit.snapshot.id", Some(string(&snapshot.id))),
        ("tracekit.snapshot.hit", Some(int(hits))),
        ("tracekit.snapshot.skipped", Some(int(skipped))),
        ("tracekit.snapshot.truncated", Some(boolean(snapshot.is_truncated()))),
        ("tracekit.snapshot.redacted_count", Some(int(redacted))),
        ("tracekit.probe.id", Some(string(breakpoint.id.as_str()))),
        ("tracekit.probe.kind", Some(string(&breakpoint.kind.to_string()))),
        ("tracekit.probe.label", optional(breakpoint.label.as_ref())),
        ("thread.id", Some(int(snapshot.thread.tid.into()))),
        ("thread.name", optional(snapshot.thread.name.as_ref())),
        ("http.request.method", optional(request.map(|request| &request.method))),
        ("http.route", optional(request.and_then(|request| request.route.as_ref()))),
        ("url.full", if is_url { optional(request.map(|request| &request.url)) } else { None }),
        ("url.path", path.filter(|_| !is_url)),
        ("url.query", query.filter(|_| !is_url)),
        ("client.address", optional(request.and_then(|request| request.client.as_ref()))),
    ];
    let mut attributes: Vec<KeyValue> =
        fields.into_iter().filter_map(|(key, value)| Some(pair(key, value?))).collect();
    for (name, value) in request.into_iter().flat_map(|request| &request.headers) {
        let key = format!("http.request.header.{name}");
        // A header may come several times: its values are a list.
        let known = attributes.iter_mut().find(|attribute| attribute.key == key);
        match known.and_then(|known| known.value.as_mut()) {
            Some(AnyValue { value: Some(any_value::Value::ArrayValue(list)) }) => {
                list.values.push(string(value));
            }
            _ => attributes.push(pair(&key, array(vec![string(value)]))),
        }
    }
    attributes
}

fn any(value: any_value::Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn string(text: &str) -> AnyValue {
    any(any_value::Value::StringValue(text.to_owned()))
}

fn int(value: i64) -> AnyValue {
    any(any_value::Value::IntValue(value))
}

fn boolean(value: bool) -> AnyValue {
    any(any_value::Value::BoolValue(value))
}

fn array(values: Vec<AnyValue>) -> AnyValue {
    any(any_value::Value::ArrayValue(ArrayValue { values }))
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Keys must be unique: of equal ones the first counts.
fn list_of(mut values: Vec<KeyValue>) -> any_value::Value {
    let mut seen = std::collections::HashSet::new();
    values.retain(|pair| seen.insert(pair.key.clone()));
    any_value::Value::KvlistValue(KeyValueList { values })
}

fn map<const N: usize>(fields: [(&str, Option<AnyValue>); N]) -> AnyValue {
    let values = fields.into_iter().filter_map(|(key, value)| Some(pair(key, value?)));
    any(any_value::Value::KvlistValue(KeyValueList { values: values.collect() }))
}

/// As deep as the JSON form of a value, which its limit of depth bounds.
fn from_json(json: &Json) -> AnyValue {
    match json {
        Json::Null => AnyValue { value: None },
        Json::Bool(value) => boolean(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => int(value),
            None => any(any_value::Value::DoubleValue(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::String(text) => string(text),
        Json::Array(items) => array(items.iter().map(from_json).collect()),
        Json::Object(fields) => {
            any(list_of(fields.iter().map(|(key, value)| pair(key, from_json(value))).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::breakpoint::Kind;
    use crate::snapshot::record::testing::snapshot;

    fn get<'a>(value: &'a AnyValue, path: &[&str]) -> &'a AnyValue {
        path.iter().fold(value, |value, key| match &value.value {
            Some(any_value::Value::KvlistValue(list)) => {
                list.values.iter().find(|pair| pair.key == *key).unwrap().value.as_ref().unwrap()
            }
            other => panic!("{key} in {other:?}"),
        })
    }

    #[test]
    fn a_snapshot() {
        let record = log_record(&snapshot(Kind::Snapshot), 5);
        assert_eq!((record.event_name.as_str(), record.severity_number), ("tracekit.snapshot", 9));
        assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (1_795_255_200_500_000_000, 5));
        assert_eq!((record.trace_id, record.span_id, record.flags), (vec![1; 16], vec![2; 8], 1));
        let body = record.body.unwrap();
        assert_eq!(
            get(&body, &["captures", "lines", "42", "locals", "order", "fields", "id", "value"]),
            &int(7)
        );
        assert_eq!(get(&body, &["watches", "order.total", "value", "value"]), &int(120));
        let keys: Vec<&str> = record.attributes.iter().map(|pair| pair.key.as_str()).collect();
        for key in [
            "code.file.path",
            "code.line.number",
            "code.function.name",
            "tracekit.probe.id",
            "tracekit.probe.label",
            "tracekit.snapshot.id",
            "thread.id",
            "url.path",
            "url.query",
            "http.request.header.accept",
        ] {
            assert_eq!(keys.iter().filter(|k| **k == key).count(), 1, "{key} in {keys:?}");
        }
        assert!(!keys.contains(&"url.full"));
    }

    #[test]
    fn a_log_line() {
        let mut line = snapshot(Kind::Log);
        line.span = None;
        let record = log_record(&line, 5);
        assert_eq!(
            (record.event_name.as_str(), record.body),
            ("tracekit.logpoint", Some(string("total=120")))
        );
        assert!(record.trace_id.is_empty() && record.span_id.is_empty());
    }
}
