//! One JSON object for each span.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::trace::span::{Span, SpanKind, Status, Value};

/// Appends the span and a line feed.
pub fn write(span: &Span, text: &mut String) {
    // Neither can happen: the keys are strings, and the numbers that JSON lacks are written as null.
    if let Ok(line) = serde_json::to_string(&Line(span)) {
        text.push_str(&line);
        text.push('\n');
    }
}

struct Line<'a>(&'a Span);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let span = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("trace_id", &span.trace_id.to_string())?;
        map.serialize_entry("span_id", &span.span_id.to_string())?;
        map.serialize_entry("parent_span_id", &span.parent_span_id.map(|id| id.to_string()))?;
        map.serialize_entry("name", &span.name)?;
        map.serialize_entry(
            "kind",
            match span.kind {
                SpanKind::Server => "server",
                SpanKind::Client => "client",
            },
        )?;
        map.serialize_entry("start_time_unix_nano", &span.start_unix_nano)?;
        map.serialize_entry("end_time_unix_nano", &span.end_unix_nano)?;
        map.serialize_entry("status", &StatusObject(&span.status))?;
        map.serialize_entry("attributes", &Attributes(span.attributes.iter().map(|(k, v)| (*k, v))))?;
        let resource = span.resource.attributes.iter().map(|(k, v)| (k.as_str(), v));
        map.serialize_entry("resource", &Attributes(resource))?;
        map.end()
    }
}

struct StatusObject<'a>(&'a Status);

impl Serialize for StatusObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0 {
            Status::Unset => map.serialize_entry("code", "UNSET")?,
            Status::Error(message) => {
                map.serialize_entry("code", "ERROR")?;
                if let Some(message) = message {
                    map.serialize_entry("message", message)?;
                }
            }
        }
        map.end()
    }
}

struct Attributes<I>(I);

impl<'a, I: Iterator<Item = (&'a str, &'a Value)> + Clone> Serialize for Attributes<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.0.clone() {
            match value {
                Value::String(text) => map.serialize_entry(key, text)?,
                Value::Int(int) => map.serialize_entry(key, int)?,
                Value::Double(double) => map.serialize_entry(key, double)?,
                Value::Bool(bool) => map.serialize_entry(key, bool)?,
                Value::Strings(texts) => map.serialize_entry(key, texts)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{resource, server_span, sql_span};

    fn line(span: &Span) -> serde_json::Value {
        let mut text = String::new();
        write(span, &mut text);
        assert_eq!(text.matches('\n').count(), 1);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_root() {
        let mut span = server_span(1, "/a\nb", &resource("shop"));
        span.attributes.push(("nan", Value::Double(f64::NAN)));
        span.attributes.push(("list", Value::Strings(vec!["x".to_owned()])));
        let line = line(&span);
        assert_eq!(line["trace_id"], "01".repeat(16));
        assert_eq!(line["span_id"], "0000000000000001");
        assert!(line["parent_span_id"].is_null());
        assert_eq!(line["kind"], "server");
        assert_eq!(line["start_time_unix_nano"], 1_700_000_000_001_000_000_u64);
        assert_eq!(line["status"], serde_json::json!({"code": "UNSET"}));
        assert_eq!(line["attributes"]["url.path"], "/a\nb");
        assert_eq!(line["attributes"]["http.response.status_code"], 200);
        assert!(line["attributes"]["nan"].is_null());
        assert_eq!(line["attributes"]["list"], serde_json::json!(["x"]));
        assert_eq!(line["resource"], serde_json::json!({"service.name": "shop"}));
    }

    #[test]
    fn a_child_that_failed() {
        let mut span = sql_span(2, Some(1), &resource("shop"));
        span.status = Status::Error(Some("no such table".to_owned()));
        let line = line(&span);
        assert_eq!(line["parent_span_id"], "0000000000000001");
        assert_eq!(line["status"], serde_json::json!({"code": "ERROR", "message": "no such table"}));
    }
}
