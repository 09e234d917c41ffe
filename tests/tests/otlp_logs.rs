//! Snapshots as OTLP log records, decoded by the `opentelemetry-proto` package, over both transports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tracekit_agent::export::{Counter, Counters, ExportConfig, Pipeline, PrintMode};
use tracekit_agent::python::object::{Content, Value};
use tracekit_agent::redact::Redactor;
use tracekit_agent::snapshot::breakpoint::{Breakpoint, Kind, Level, Source, Spec};
use tracekit_agent::snapshot::outlet::Outlet;
use tracekit_agent::snapshot::record::{Frame, Process, Request, Snapshot, Thread};
use tracekit_agent::snapshot::state::Skipped;
use tracekit_agent::snapshot::store::Filter;
use tracekit_agent::trace::span::{Resource, SpanId, SpanRef, TraceId, Value as Attribute};
use tracekit_tests::collector::Collector;
use tracekit_tests::process::wait_for;
use tracekit_tests::stage::Stage;

fn snapshot(kind: Kind, service: &str) -> Result<Snapshot> {
    let spec = Spec {
        kind,
        file: "app/orders.py".to_owned(),
        line: 42,
        label: Some("checkout".to_owned()),
        template: (kind == Kind::Log).then(|| "total={total}".to_owned()),
        level: (kind == Kind::Log).then_some(Level::Warn),
        ..Spec::default()
    };
    let breakpoint = Breakpoint::new("bp-1".parse()?, spec, "test", Source::Local, jiff::Timestamp::now())?;
    let int = |value: &str| Value::new("int", Content::Int(value.to_owned()));
    let name = Value::new("str", Content::Str("Zoë 🐍".to_owned()));
    let locals = vec![
        ("total".to_owned(), int("120")),
        ("huge".to_owned(), int("123456789012345678901234567890")),
        ("name".to_owned(), name),
        (
            "items".to_owned(),
            Value { truncated: Some(9), ..Value::new("list", Content::Elements(vec![int("1")])) },
        ),
    ];
    let frame = Frame {
        function: "Cart.checkout".to_owned(),
        file: "/srv/app/orders.py".to_owned(),
        line: Some(42),
        locals: Some(locals),
    };
    let attributes = vec![("service.name".to_owned(), Attribute::from(service))];
    Ok(Snapshot {
        id: Snapshot::random_id(),
        breakpoint: Arc::new(breakpoint),
        time: "2026-11-21T10:00:00.000000001Z".parse()?,
        hit: 7,
        skipped: Skipped { rate: 3, ..Skipped::default() },
        process: Process { pid: 10, resource: Arc::new(Resource { attributes }) },
        thread: Thread { tid: 11, name: None },
        stack: vec![frame],
        watches: Vec::new(),
        message: (kind == Kind::Log).then(|| "total=120".to_owned()),
        request: Some(Request {
            method: "POST".to_owned(),
            url: "/checkout?id=7".to_owned(),
            headers: vec![("accept".to_owned(), "a".to_owned()), ("accept".to_owned(), "b".to_owned())],
            ..Request::default()
        }),
        span: Some(SpanRef { trace_id: TraceId([1; 16]), span_id: Some(SpanId([2; 8])), sampled: true }),
        truncated: Vec::new(),
        redacted: Vec::new(),
    })
}

fn arrives(name: &str, protocol: &str) -> Result<()> {
    Stage::run(&format!("otlp-logs-{name}"), |stage| {
        // The first request fails: records are sent again, and arrive once.
        let collector = Collector::start(
            &stage,
            "collector",
            &["--fail", "1", "503", "--require-header", "x-token=logs"],
        )?;
        let port = if protocol == "grpc" { collector.grpc } else { collector.http };
        let variables: HashMap<String, String> = [
            // The signal's own variables win over the general ones.
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()),
            (
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
                format!("http://127.0.0.1:{port}{}", if protocol == "grpc" { "" } else { "/v1/logs" }),
            ),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol.to_owned()),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-token=logs".to_owned()),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip".to_owned()),
            ("OTEL_TRACES_EXPORTER", "none".to_owned()),
            ("OTEL_METRICS_EXPORTER", "none".to_owned()),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let counters = Arc::new(Counters::new());
        let config = ExportConfig::from_env(&variables)?;
        let pipeline = Pipeline::start(config, PrintMode::None, Arc::clone(&counters))?;
        let outlet = Outlet {
            store: Arc::default(),
            export: pipeline.handle(),
            remote: None,
            redactor: Redactor::standard(),
        };
        for (kind, service) in [(Kind::Snapshot, "shop"), (Kind::Log, "cart"), (Kind::Snapshot, "shop")] {
            outlet.publish(snapshot(kind, service)?);
        }
        let stored: Vec<String> =
            outlet.store.list(&Filter::default()).iter().map(|stored| stored.service.clone()).collect();
        ensure!(stored == ["shop", "cart", "shop"], "{stored:?}");
        let logs = wait_for("log records", Duration::from_secs(15), || {
            let logs = collector.logs()?;
            Ok((logs.len() >= 3).then_some(logs))
        })?;
        pipeline.shutdown(Duration::from_secs(5));
        ensure!(counters.get(Counter::LogsExported) == 3, "{:?}", counters.snapshot());
        ensure!(collector.logs()?.len() == 3, "records came twice");
        for log in &logs {
            ensure!(log["request"]["transport"] == if protocol == "grpc" { "grpc" } else { "http" }, "{log}");
            ensure!(log["trace_id"] == "01".repeat(16) && log["span_id"] == "02".repeat(8), "{log}");
            ensure!(log["flags"] == 1 && log["scope"]["name"] == "tracekit", "{log}");
            ensure!(log["time_unix_nano"] == 1_795_255_200_000_000_001_u64, "{log}");
            let attributes = &log["attributes"];
            for (key, expected) in [
                ("code.file.path", json!("/srv/app/orders.py")),
                ("code.line.number", json!(42)),
                ("code.function.name", json!("Cart.checkout")),
                ("tracekit.probe.id", json!("bp-1")),
                ("tracekit.probe.label", json!("checkout")),
                ("tracekit.snapshot.hit", json!(7)),
                ("tracekit.snapshot.skipped", json!(3)),
                ("tracekit.snapshot.truncated", json!(true)),
                ("thread.id", json!(11)),
                ("http.request.method", json!("POST")),
                ("http.request.header.accept", json!(["a", "b"])),
                ("url.path", json!("/checkout")),
                ("url.query", json!("id=7")),
            ] {
                ensure!(attributes[key] == expected, "{key} is {} instead of {expected}", attributes[key]);
            }
        }
        let of = |service: &str| -> Result<&Json> {
            logs.iter()
                .find(|log| log["resource"]["service.name"] == service)
                .context("no record of the service")
        };
        let line = of("cart")?;
        ensure!(line["event_name"] == "tracekit.logpoint" && line["body"] == "total=120", "{line}");
        ensure!(line["severity"] == "SEVERITY_NUMBER_WARN", "{line}");
        let shop = of("shop")?;
        ensure!(shop["event_name"] == "tracekit.snapshot" && shop["severity_text"] == "INFO", "{shop}");
        let locals = &shop["body"]["captures"]["lines"]["42"]["locals"];
        ensure!(locals["total"] == json!({"type": "int", "value": 120}), "{locals}");
        ensure!(locals["huge"]["value"] == "123456789012345678901234567890", "{locals}");
        ensure!(locals["name"]["value"] == "Zoë 🐍", "{locals}");
        ensure!(locals["items"]["length"] == 9, "{locals}");
        let frame =
            json!({"file_path": "/srv/app/orders.py", "function": "Cart.checkout", "line_number": 42});
        ensure!(shop["body"]["stack"] == json!([frame]), "{shop}");
        Ok(())
    })
}

#[test]
fn over_grpc() -> Result<()> {
    arrives("grpc", "grpc")
}

#[test]
fn over_http() -> Result<()> {
    arrives("http", "http/protobuf")
}
