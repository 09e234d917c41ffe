//! A finished span as the tests see it, whoever recorded it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// One span: a line of `tracekit --print jsonl`, or of the collector's file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits; none for a root.
    #[serde(default)]
    pub parent_span_id: Option<String>,
    /// Name.
    pub name: String,
    /// `server`, `client`, `internal` …
    pub kind: String,
    /// Nanoseconds since the Unix epoch.
    #[serde(deserialize_with = "integer")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds since the Unix epoch.
    #[serde(deserialize_with = "integer")]
    pub end_time_unix_nano: u64,
    /// Status.
    #[serde(default)]
    pub status: Value,
    /// Attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, Value>,
    /// Attributes of the resource.
    #[serde(default)]
    pub resource: BTreeMap<String, Value>,
    /// How it came to the collector: `transport`, `encoding`, `headers`.
    #[serde(default)]
    pub request: Value,
}

fn integer<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .ok_or_else(|| serde::de::Error::custom(format!("no time: {value}")))
}

impl Span {
    /// The spans of a file; other lines and a last line that is still being written are left out.
    ///
    /// # Errors
    /// The file cannot be read or a line is not a span.
    pub fn read_lines(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .filter(|line| line.contains("\"span_id\""))
            .map(|line| Self::from_json(serde_json::from_str(line)?))
            .collect()
    }

    /// From a record of the agent or of the collector.
    ///
    /// # Errors
    /// It is not a span.
    pub fn from_json(record: Value) -> Result<Self> {
        let mut span = Self::deserialize(&record).with_context(|| format!("not a span: {record}"))?;
        span.kind = span.kind.trim_start_matches("SPAN_KIND_").to_ascii_lowercase();
        span.parent_span_id = span.parent_span_id.filter(|id| !id.is_empty());
        Ok(span)
    }

    /// Text of an attribute; numbers are turned into text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.attributes.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), String::from))
    }

    /// Whether the status is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        let code = self.status.get("code").unwrap_or(&self.status);
        code.as_u64() == Some(2)
            || code.as_str().is_some_and(|text| text.to_ascii_lowercase().ends_with("error"))
    }

    /// Whether it is the span of a request that was served.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.kind == "server"
    }

    /// `service.name` of its resource.
    #[must_use]
    pub fn service(&self) -> &str {
        self.resource.get("service.name").and_then(Value::as_str).unwrap_or("")
    }

    /// The `id` in the query of the URL that was served or called.
    #[must_use]
    pub fn request_id(&self) -> Option<String> {
        let query = self.text("url.query").or_else(|| {
            let url = self.text("url.full")?;
            Some(url.split_once('?')?.1.to_owned())
        })?;
        query.trim_start_matches('?').split('&').find_map(|pair| pair.strip_prefix("id=").map(str::to_owned))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes: Vec<String> =
            self.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let error = if self.is_error() { " ERROR" } else { "" };
        let parent = self.parent_span_id.as_deref().unwrap_or("-");
        let millis = self.end_time_unix_nano.saturating_sub(self.start_time_unix_nano) as f64 / 1e6;
        write!(
            f,
            "{} {:?}{error} {millis:.1} ms span={} parent={parent} {}",
            self.kind,
            self.name,
            self.span_id,
            attributes.join(" ")
        )
    }
}
