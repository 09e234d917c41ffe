//! Spans, resources, metrics and logs as OTLP messages.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics, metric};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, Status as OtlpStatus, span, status,
};
use prost::Message;

use crate::export::{SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION};
use crate::trace::span::{Resource, Span, SpanKind, Status, Value};

/// Bits of `Span.flags` above the W3C trace flags; `trace.proto`, enum `SpanFlags`.
const FLAG_SAMPLED: u32 = 0x01;
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
const FLAG_IS_REMOTE: u32 = 0x200;

/// One export request, the spans grouped by resource.
#[must_use]
pub fn trace_request(spans: Vec<Arc<Span>>) -> Vec<u8> {
    let spans = spans.into_iter().map(|span| {
        let resource = Arc::clone(&span.resource);
        (resource, otlp_span(Arc::unwrap_or_clone(span)))
    });
    let groups = by_resource(spans.collect());
    let resource_spans = groups.into_iter().map(|(resource, spans)| ResourceSpans {
        resource: Some(otlp_resource(&resource)),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA_URL.to_owned() }],
        schema_url: SCHEMA_URL.to_owned(),
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec()
}

/// One export request, the log records grouped by resource.
#[must_use]
pub fn logs_request(items: Vec<(Arc<Resource>, LogRecord)>) -> Vec<u8> {
    let groups = by_resource(items);
    let resource_logs = groups.into_iter().map(|(resource, log_records)| ResourceLogs {
        resource: Some(otlp_resource(&resource)),
        scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, schema_url: SCHEMA_URL.to_owned() }],
        schema_url: SCHEMA_URL.to_owned(),
    });
    ExportLogsServiceRequest { resource_logs: resource_logs.collect() }.encode_to_vec()
}

/// Few processes are traced, so a batch has few resources.
fn by_resource<T>(items: Vec<(Arc<Resource>, T)>) -> Vec<(Arc<Resource>, Vec<T>)> {
    let mut groups: Vec<(Arc<Resource>, Vec<T>)> = Vec::new();
    for (resource, item) in items {
        let group = groups
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, &resource))
            .or_else(|| groups.iter().position(|(known, _)| *known == resource));
        match group.and_then(|n| groups.get_mut(n)) {
            Some((_, items)) => items.push(item),
            None => groups.push((resource, vec![item])),
        }
    }
    groups
}

/// One export request.
#[must_use]
pub fn metrics_request(resource_metrics: Vec<ResourceMetrics>) -> Vec<u8> {
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// The metrics of one resource.
#[must_use]
pub fn resource_metrics(resource: &Resource, metrics: Vec<Metric>) -> ResourceMetrics {
    ResourceMetrics {
        resource: Some(otlp_resource(resource)),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(scope()),
            metrics,
            schema_url: SCHEMA_URL.to_owned(),
        }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

/// How many data points there are of the kinds that the agent makes.
#[must_use]
pub fn count_points(metrics: &ResourceMetrics) -> u64 {
    let metrics = metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    let points = metrics.map(|metric| match &metric.data {
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        _ => 0,
    });
    points.sum::<usize>() as u64
}

/// One metric with its data points.
#[must_use]
pub fn metric(name: &str, description: &str, unit: &str, data: metric::Data) -> Metric {
    Metric {
        name: name.to_owned(),
        description: description.to_owned(),
        unit: unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

/// One attribute.
#[must_use]
pub fn key_value(key: &str, value: &Value) -> KeyValue {
    attribute(key, value.clone())
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any_value(value)), ..KeyValue::default() }
}

fn any_value(value: Value) -> AnyValue {
    let value = match value {
        Value::String(text) => any_value::Value::StringValue(text),
        Value::Int(int) => any_value::Value::IntValue(int),
        Value::Double(double) => any_value::Value::DoubleValue(double),
        Value::Bool(bool) => any_value::Value::BoolValue(bool),
        Value::Strings(texts) => any_value::Value::ArrayValue(ArrayValue {
            values: texts.into_iter().map(|text| any_value(Value::String(text))).collect(),
        }),
    };
    AnyValue { value: Some(value) }
}

fn otlp_resource(resource: &Resource) -> OtlpResource {
    OtlpResource {
        attributes: resource.attributes.iter().map(|(key, value)| key_value(key, value)).collect(),
        ..OtlpResource::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE_NAME.to_owned(),
        version: SCOPE_VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

fn otlp_span(span: Span) -> OtlpSpan {
    let mut flags = FLAG_HAS_IS_REMOTE;
    if span.sampled {
        flags |= FLAG_SAMPLED;
    }
    if span.parent_is_remote {
        flags |= FLAG_IS_REMOTE;
    }
    let kind = match span.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    let status = match span.status {
        Status::Unset => OtlpStatus::default(),
        Status::Error(message) => {
            OtlpStatus { message: message.unwrap_or_default(), code: status::StatusCode::Error.into() }
        }
    };
    OtlpSpan {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        trace_state: span.trace_state,
        parent_span_id: span.parent_span_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        flags,
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: span.start_unix_nano,
        end_time_unix_nano: span.end_unix_nano,
        attributes: span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        status: Some(status),
        ..OtlpSpan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{resource, server_span, sql_span};

    #[test]
    fn spans_are_grouped_by_resource() {
        let (shop, cart) = (resource("shop"), resource("cart"));
        let spans = [
            server_span(1, "/", &shop),
            server_span(2, "/", &cart),
            sql_span(3, Some(1), &shop),
            sql_span(4, Some(2), &resource("cart")),
        ];
        let request = trace_request(spans.into_iter().map(Arc::new).collect());
        let request = ExportTraceServiceRequest::decode(&*request).unwrap();
        let ids: Vec<Vec<u8>> = request
            .resource_spans
            .iter()
            .map(|group| group.scope_spans[0].spans.iter().map(|span| span.span_id[7]).collect())
            .collect();
        assert_eq!(ids, [[1, 3], [2, 4]]);
        for group in &request.resource_spans {
            assert_eq!(group.schema_url, SCHEMA_URL);
            assert_eq!(group.scope_spans[0].scope.as_ref().unwrap().name, "tracekit");
        }
    }

    #[test]
    fn parents_and_flags() {
        let shop = resource("shop");
        let mut span = sql_span(3, Some(1), &shop);
        assert_eq!(otlp_span(span.clone()).flags, 0x101);
        assert_eq!(otlp_span(span.clone()).parent_span_id, [0, 0, 0, 0, 0, 0, 0, 1]);
        span.parent_is_remote = true;
        span.status = Status::Error(None);
        assert_eq!(otlp_span(span.clone()).flags, 0x301);
        assert_eq!(otlp_span(span.clone()).status.unwrap().code, 2);
        span.parent_span_id = None;
        assert!(otlp_span(span).parent_span_id.is_empty(), "a root has no parent, not one of zeros");
    }
}
