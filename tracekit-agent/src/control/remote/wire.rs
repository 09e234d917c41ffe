//! What is said between the agent and a control server.
//!
//! Source: tracekit-apm 1.4.1, `snapshot_client.py`: `fetch_active_breakpoints`, `_handle_sse_event`,
//! `update_breakpoint_cache`, `capture_snapshot`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt::temporal::DateTimeParser};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::python::object::{Content, NotCaptured, Value};
use crate::snapshot::breakpoint::{Id, Kind, Spec, SpecError};
use crate::snapshot::limits::LimitsSpec;
use crate::snapshot::record::Snapshot;
use crate::snapshot::registry::RemoteSpec;

/// Bytes of `stack_trace`, as the SDK bounds it.
const MAX_STACK: usize = 32 * 1024;

/// The answer to a poll, and the data of the event `init`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Active {
    /// Each for itself: one that can't be read does not take the others with it.
    #[serde(deserialize_with = "null_is_default")]
    pub breakpoints: Vec<Json>,
    #[serde(deserialize_with = "null_is_default")]
    pub kill_switch: bool,
    pub sse_endpoint: Option<String>,
}

/// Go servers write `null` for an empty list.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A breakpoint of the server. Keys that are not known are for others.
#[derive(Debug, Deserialize)]
struct Breakpoint {
    id: Json,
    file_path: String,
    line_number: u32,
    #[serde(default)]
    function_name: Option<String>,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    condition: Option<String>,
    #[serde(default)]
    condition_eval: Option<String>,
    #[serde(default)]
    capture_expressions: Option<Vec<String>>,
    #[serde(default)]
    max_captures: Option<i64>,
    #[serde(default)]
    capture_count: Option<i64>,
    #[serde(default)]
    expire_at: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    stack_depth: Option<i64>,
    #[serde(default)]
    max_depth: Option<i64>,
    #[serde(default)]
    max_payload_bytes: Option<i64>,
}

/// Why a breakpoint of the server can't be one here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A key is missing or of another type.
    #[error("{0}")]
    Form(String),
    /// A value can't be used.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// A breakpoint of the server, for a service.
pub fn breakpoint(json: &Json, service: &str) -> Result<RemoteSpec, WireError> {
    // Some servers wrap it.
    let json = json.get("breakpoint").filter(|inner| inner.is_object()).unwrap_or(json);
    let sent = Breakpoint::deserialize(json).map_err(|error| WireError::Form(error.to_string()))?;
    let kind = if sent.mode.as_deref() == Some("logpoint") { Kind::Log } else { Kind::Snapshot };
    let bounds = kind.bounds();
    // What the server may ask for and this agent does not give is cut to what it does give.
    let within = |asked: Option<i64>, min: u32, max: u32| {
        asked.filter(|&asked| asked > 0).map(|asked| u32::try_from(asked).unwrap_or(u32::MAX).clamp(min, max))
    };
    let expressions: Vec<String> = sent
        .capture_expressions
        .unwrap_or_default()
        .into_iter()
        .filter(|text| !text.trim().is_empty())
        .collect();
    let template = (kind == Kind::Log).then(|| {
        let name = sent.label.as_deref().or(sent.function_name.as_deref()).filter(|name| !name.is_empty());
        template(name.unwrap_or(&sent.file_path), &expressions)
    });
    let hits = match sent.max_captures {
        // The SDK's default; 0 is without end there.
        None => Some(100),
        Some(count) if count <= 0 => Some(bounds.hits.max),
        Some(count) => Some(u64::try_from(count).unwrap_or(u64::MAX).min(bounds.hits.max)),
    };
    let spec = Spec {
        kind,
        file: sent.file_path,
        line: sent.line_number,
        // Others than these are evaluated by the server, on what it gets.
        condition: sent.condition.filter(|_| sent.condition_eval.as_deref() == Some("sdk-evaluable")),
        expressions,
        template,
        label: sent.label,
        function: sent.function_name,
        service: Some(service.to_owned()),
        limits: LimitsSpec {
            hits,
            expires_seconds: Some(bounds.expires_seconds.max),
            depth: within(sent.max_depth, 1, bounds.depth.max),
            stack: within(sent.stack_depth, 1, bounds.stack.max),
            payload_bytes: within(sent.max_payload_bytes, 512, bounds.payload_bytes.max),
            ..LimitsSpec::default()
        },
        disabled: sent.enabled == Some(false),
        ..Spec::default()
    };
    let expires_at = sent.expire_at.filter(|text| !text.is_empty()).map(|text| time(&text)).transpose()?;
    let captured = sent.capture_count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    Ok(RemoteSpec { id: id(&sent.id)?, spec, expires_at, captured })
}

/// The id in the data of `breakpoint_deleted`.
pub fn deleted(json: &Json) -> Result<Id, WireError> {
    id(json.get("id").unwrap_or(&Json::Null))
}

fn id(json: &Json) -> Result<Id, WireError> {
    let text = match json {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        _ => return Err(WireError::Form("id: is missing or neither text nor number".to_owned())),
    };
    Ok(text.parse()?)
}

/// `checkout: total={total} user.id={user.id}`. Expressions that braces would cut short have their value beside
/// the text only.
fn template(name: &str, expressions: &[String]) -> String {
    let plain = |text: &str| text.replace('{', "{{").replace('}', "}}");
    let parts: Vec<String> = expressions
        .iter()
        .filter(|expression| !expression.contains(['{', '}', ':', '!', '"', '\'', '=']))
        .map(|expression| format!("{expression}={{{expression}}}"))
        .collect();
    if parts.is_empty() { plain(name) } else { format!("{}: {}", plain(name), parts.join(" ")) }
}

/// RFC 3339, or as Python's `isoformat()` writes it: without an offset, which then is UTC.
fn time(text: &str) -> Result<Timestamp, SpecError> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    if let Ok(time) = PARSER.parse_timestamp(text) {
        return Ok(time);
    }
    let civil: Result<DateTime, _> = PARSER.parse_datetime(text);
    let zoned = civil.and_then(|civil| civil.to_zoned(TimeZone::UTC));
    let wrong = |_| SpecError::invalid("expire_at", "is no time such as 2026-01-31T12:00:00Z");
    Ok(zoned.map_err(wrong)?.timestamp())
}

/// A snapshot as `POST /sdk/snapshots/capture` takes it.
pub fn snapshot(snapshot: &Snapshot) -> Json {
    let breakpoint = &snapshot.breakpoint;
    let frame = snapshot.stack.first();
    let log = snapshot.is_log();
    let mut variables = Map::new();
    for (name, value) in frame.and_then(|frame| frame.locals.as_ref()).into_iter().flatten().filter(|_| !log)
    {
        variables.insert(name.clone(), plain(value, 0));
    }
    let results: Map<String, Json> = snapshot
        .watches
        .iter()
        .map(|watch| {
            (watch.expression.clone(), watch.result.as_ref().map_or(Json::Null, |value| plain(value, 0)))
        })
        .collect();
    let flags: Vec<Json> = snapshot
        .redacted
        .iter()
        .map(|redacted| json!({ "type": redacted.kind, "severity": "high", "variable": redacted.path }))
        .collect();
    let request = snapshot.request.as_ref().map(|request| {
        let headers: Map<String, Json> =
            request.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "method": request.method,
            "url": request.url,
            "route": request.route,
            "headers": headers,
            "client_ip": request.client,
        })
    });
    let function = frame.map(|frame| frame.function.as_str()).or(breakpoint.function.as_deref());
    let mut body = json!({
        "breakpoint_id": breakpoint.id,
        "service_name": snapshot.process.resource.service_name(),
        "file_path": frame.map_or(&breakpoint.file, |frame| &frame.file),
        // The server matches by the name that it has given.
        "function_name": breakpoint.function.as_deref().or(function).unwrap_or_default(),
        "label": breakpoint.label,
        "line_number": breakpoint.line,
        "variables": variables,
        "security_flags": if flags.is_empty() { Json::Null } else { Json::Array(flags) },
        "stack_trace": snapshot.stack_text(MAX_STACK),
        "trace_id": snapshot.span.map(|span| span.trace_id.to_string()),
        "span_id": snapshot.span.and_then(|span| span.span_id).map(|id| id.to_string()),
        "request_context": request,
        "captured_at": snapshot.time,
        "expression_results": if results.is_empty() { Json::Null } else { Json::Object(results) },
    });
    let (size, limit) = (body.to_string().len(), breakpoint.limits.payload_bytes as usize);
    if size > limit {
        body["variables"] = json!({
            "_truncated": true,
            "_payload_size": size,
            "_max_payload": limit,
            "_truncated_by": "payload_limit",
        });
    }
    body
}

/// A value without its types, as the SDK sends it.
fn plain(value: &Value, depth: usize) -> Json {
    match &value.content {
        Content::None => Json::Null,
        Content::Bool(value) => json!(value),
        Content::Int(digits) => digits.parse::<i64>().map_or_else(|_| json!(digits), |value| json!(value)),
        Content::Float(number) if number.is_finite() => json!(number),
        Content::Str(text) if value.truncated.is_some() => json!(format!("{text}...")),
        Content::Str(text) | Content::Text(text) => json!(text),
        Content::Float(_) | Content::Bytes(_) => json!(value.to_string()),
        Content::Elements(items) => items.iter().map(|item| plain(item, depth + 1)).collect(),
        Content::Entries(entries) => {
            let name = |key: &Value| match &key.content {
                Content::Str(text) => text.clone(),
                _ => key.to_string(),
            };
            let map: Map<String, Json> =
                entries.iter().map(|(key, value)| (name(key), plain(value, depth + 1))).collect();
            Json::Object(map)
        }
        Content::Fields(fields) => {
            let map: Map<String, Json> =
                fields.iter().map(|(name, value)| (name.clone(), plain(value, depth + 1))).collect();
            Json::Object(map)
        }
        Content::Nothing(NotCaptured::Depth) => json!({ "_truncated": true, "_depth": depth }),
        Content::Nothing(NotCaptured::Redacted(kind)) => json!(kind.marker()),
        Content::Nothing(reason) => json!(format!("[{}]", reason.word())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::record::testing;

    fn spec(extra: Json) -> Result<RemoteSpec, WireError> {
        let mut json =
            json!({"id": "b1", "service_name": "other", "file_path": "app/orders.py", "line_number": 42});
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        breakpoint(&json, "shop")
    }

    #[test]
    fn breakpoints_of_the_sdk() {
        let whole = spec(json!({
            "function_name": "checkout", "label": "checkout-validation", "condition": "total > 100",
            "condition_eval": "sdk-evaluable", "max_captures": 7, "capture_count": 3,
            "expire_at": "2026-11-21T12:00:00+02:00", "enabled": false, "mode": null, "stack_depth": 5, "max_depth": 2,
            "max_payload_bytes": 1024, "capture_expressions": ["user.id"], "idle_timeout_hours": 4, "new": {},
        }))
        .unwrap();
        let spec_of = &whole.spec;
        assert_eq!((whole.id.as_str(), whole.captured), ("b1", 3));
        assert_eq!(whole.expires_at, Some("2026-11-21T10:00:00Z".parse().unwrap()));
        assert_eq!((spec_of.kind, spec_of.service.as_deref()), (Kind::Snapshot, Some("shop")));
        assert_eq!((spec_of.condition.as_deref(), spec_of.disabled), (Some("total > 100"), true));
        let limits = &spec_of.limits;
        assert_eq!(
            (limits.hits, limits.stack, limits.depth, limits.payload_bytes),
            (Some(7), Some(5), Some(2), Some(1024))
        );
        assert_eq!(spec_of.expressions, ["user.id"]);
        let least = spec(json!({"id": 17})).unwrap();
        assert_eq!((least.id.as_str(), least.spec.limits.hits), ("17", Some(100)));
        assert!(!least.spec.disabled);
    }

    #[test]
    fn what_is_asked_for_too_much_is_cut() {
        let limits = spec(json!({
            "max_captures": 99_999_999, "stack_depth": 100_000_000_000_i64, "max_depth": 50, "max_payload_bytes": 1,
        }))
        .unwrap()
        .spec
        .limits;
        assert_eq!(
            (limits.hits, limits.stack, limits.depth, limits.payload_bytes),
            (Some(10_000), Some(128), Some(6), Some(512))
        );
        let zero = spec(json!({"max_captures": 0, "max_depth": 0, "stack_depth": -1})).unwrap().spec.limits;
        assert_eq!((zero.hits, zero.depth, zero.stack), (Some(10_000), None, None));
    }

    #[test]
    fn conditions_of_the_server_are_its_own() {
        for eval in [json!(null), json!("server")] {
            let of_server = spec(json!({"condition": "re.match(x, y)", "condition_eval": eval})).unwrap();
            assert_eq!(of_server.spec.condition, None);
        }
    }

    #[test]
    fn logpoints_have_a_text() {
        let log = |label: Json, expressions: Json| {
            spec(json!({"mode": "logpoint", "label": label, "capture_expressions": expressions}))
                .unwrap()
                .spec
                .template
        };
        assert_eq!(log(json!("total"), json!(["a.b", "c"])).unwrap(), "total: a.b={a.b} c={c}");
        assert_eq!(log(json!(null), json!(null)).unwrap(), "app/orders.py");
        assert_eq!(log(json!("{x}"), json!(["d[\"k\"]", "{}"])).unwrap(), "{{x}}");
    }

    #[test]
    fn times() {
        let expected: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
        for text in [
            "2026-11-21T10:00:00.5Z",
            "2026-11-21T12:00:00.500000+02:00",
            "2026-11-21T10:00:00.5",
            "2026-11-21 10:00:00.500000",
        ] {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        for text in ["tomorrow", "2026-13-01T00:00:00Z", "1795255200"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_breakpoint_is_said() {
        for (json, says) in [
            (json!(7), "invalid type"),
            (json!({"id": "b1"}), "missing field `file_path`"),
            (json!({"id": null, "file_path": "a.py", "line_number": 1}), "id: is missing"),
            (json!({"id": "../x", "file_path": "a.py", "line_number": 1}), "id: use 1 to 128"),
            (json!({"id": "b1", "file_path": "a.py", "line_number": -1}), "line_number"),
            (json!({"id": "b1", "file_path": "a.py", "line_number": 1, "expire_at": "x"}), "expire_at"),
        ] {
            let error = breakpoint(&json, "shop").unwrap_err().to_string();
            assert!(
                error.contains(says) || says == "line_number" && error.contains("u32"),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn a_snapshot_as_the_sdk_sends_it() {
        assert_eq!(
            snapshot(&testing::snapshot(Kind::Snapshot)),
            json!({
                "breakpoint_id": "bp-1", "service_name": "shop", "file_path": "/srv/app/orders.py",
                "function_name": "checkout", "label": "checkout", "line_number": 42,
                "variables": {"order": {"id": 7, "items": [1]}, "password": "[REDACTED:sensitive_name]"},
                "security_flags": [{"type": "sensitive_name", "severity": "high", "variable": "locals.password"}],
                "stack_trace": "checkout at /srv/app/orders.py:42\ndispatch at /srv/app/orders.py:7",
                "trace_id": "01010101010101010101010101010101", "span_id": "0202020202020202",
                "request_context": {
                    "method": "POST", "url": "/checkout?id=7", "route": "/checkout",
                    "headers": {"accept": "*/*"}, "client_ip": "10.0.0.1",
                },
                "captured_at": "2026-11-21T10:00:00.5Z",
                "expression_results": {"order.total": 120, "user.plan": null},
            })
        );
        let log = snapshot(&testing::snapshot(Kind::Log));
        assert_eq!((&log["variables"], &log["expression_results"]["order.total"]), (&json!({}), &json!(120)));
        let mut large = testing::snapshot(Kind::Snapshot);
        let text = Value::new("str", Content::Str("x".repeat(20_000)));
        large.stack[0].locals.as_mut().unwrap().push(("body".to_owned(), text));
        let cut = snapshot(&large);
        assert_eq!(
            (&cut["variables"]["_truncated_by"], &cut["variables"]["_max_payload"]),
            (&json!("payload_limit"), &json!(16384))
        );
    }

    proptest! {
        #[test]
        fn any_json_is_harmless(text in "\\PC{0,100}", number in any::<f64>(), flag in any::<bool>()) {
            for value in [json!(text), json!(number), json!(flag), json!([text]), json!({"id": text}), json!(null)] {
                for key in ["id", "file_path", "line_number", "max_captures", "expire_at", "mode", "capture_expressions", "breakpoint"] {
                    let _ = spec(json!({key: value}));
                }
                let _ = breakpoint(&value, &text);
                let _ = deleted(&value);
            }
        }
    }
}
