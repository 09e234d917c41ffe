//! What leaves by OTLP, decoded by the `opentelemetry-proto` package: both transports and all of their settings.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tracekit_tests::agent::Agent;
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::certificates::certificates;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::collector::Collector;
use tracekit_tests::paths;
use tracekit_tests::process::{free_port, wait_for};
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

const ARRIVAL: Duration = Duration::from_secs(15);

/// `sockets.py` under this service name.
fn service(stage: &Stage, name: &str) -> Result<App> {
    let port = free_port()?;
    let mut command = Command::new("/usr/bin/python3");
    command.arg(paths::apps().join("sockets.py")).args(["blocking", &format!("127.0.0.1:{port}")]);
    command
        .env("OTEL_SERVICE_NAME", name)
        .env("OTEL_RESOURCE_ATTRIBUTES", format!("service.version={name}.1"));
    App::start(name, stage.logs(), command, port, 0)
}

fn request(app: &App, count: usize) -> Result<()> {
    for index in 0..count {
        send_once(app.port, &Request { close: true, ..Request::get(&format!("/?id=o{index}")) })?;
    }
    Ok(())
}

fn export(stage: &Stage, app: &App, environment: &[(&str, String)]) -> Result<Agent> {
    let mut all = vec![("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned())];
    all.extend(environment.iter().cloned());
    Agent::start(stage, "agent", &["attach"], &app.pids(), &all)
}

fn has_ids(spans: &[Span], count: usize) -> bool {
    (0..count).all(|index| spans.iter().any(|span| span.request_id() == Some(format!("o{index}"))))
}

/// Settings that export to the collector with this protocol.
fn to(collector: &Collector, scheme: &str, protocol: &str) -> Vec<(&'static str, String)> {
    let port = if protocol == "grpc" { collector.grpc } else { collector.http };
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{scheme}://127.0.0.1:{port}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.into()),
    ]
}

/// The spans that arrive are those that the agent printed.
fn transport(name: &str, protocol: &str, transport: &str) -> Result<()> {
    Stage::run(&format!("otlp-{name}"), |stage| {
        let collector = Collector::start(&stage, "collector", &["--require-header", "x-token=secret word"])?;
        let app = service(&stage, "first")?;
        let mut settings = to(&collector, "http", protocol);
        settings.push(("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".into()));
        // Values are percent-encoded, as the specification of the variable says.
        settings.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret%20word".into()));
        let agent = export(&stage, &app, &settings)?;
        request(&app, 20)?;
        let arrived = collector.spans_when(ARRIVAL, |spans| has_ids(spans, 20))?;
        let printed = agent.finish()?;
        for span in &arrived {
            ensure!(span.request["transport"] == transport, "transport: {}", span.request);
            // grpcio decompresses before anyone can look.
            let visible = transport == "http";
            ensure!(!visible || span.request["encoding"] == "gzip", "encoding: {}", span.request);
            ensure!(span.service() == "first", "service.name: {:?}", span.resource);
            ensure!(span.resource["service.version"] == "first.1", "service.version: {:?}", span.resource);
            let twin = printed.iter().find(|printed| printed.span_id == span.span_id);
            ensure!(
                twin.is_some_and(|twin| twin.attributes == span.attributes
                    && twin.name == span.name
                    && twin.trace_id == span.trace_id
                    && twin.resource == span.resource),
                "exported {span}, printed {twin:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn grpc_with_gzip_and_headers() -> Result<()> {
    transport("grpc", "grpc", "grpc")
}

#[test]
fn http_with_gzip_and_headers() -> Result<()> {
    transport("http", "http/protobuf", "http")
}

fn tls(name: &str, protocol: &str) -> Result<()> {
    Stage::run(&format!("otlp-tls-{name}"), |stage| {
        let [ca, certificate, key] = certificates(&stage)?;
        let collector = Collector::start(&stage, "collector", &["--tls", &certificate, &key])?;
        let app = service(&stage, "secure")?;
        let mut settings = to(&collector, "https", protocol);
        settings.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", ca));
        let agent = export(&stage, &app, &settings)?;
        request(&app, 5)?;
        collector.spans_when(ARRIVAL, |spans| has_ids(spans, 5))?;
        agent.finish().map(drop)
    })
}

#[test]
fn tls_over_grpc() -> Result<()> {
    tls("grpc", "grpc")
}

#[test]
fn tls_over_http() -> Result<()> {
    tls("http", "http/protobuf")
}

fn retries(name: &str, protocol: &str) -> Result<()> {
    Stage::run(&format!("otlp-retry-{name}"), |stage| {
        let collector = Collector::start(&stage, "collector", &["--fail", "2", "503"])?;
        let app = service(&stage, "patient")?;
        let mut settings = to(&collector, "http", protocol);
        settings.push(("OTEL_METRICS_EXPORTER", "none".into()));
        let agent = export(&stage, &app, &settings)?;
        request(&app, 10)?;
        let spans = collector.spans_when(Duration::from_secs(30), |spans| has_ids(spans, 10))?;
        let servers = spans.iter().filter(|span| span.is_server()).count();
        ensure!(servers == 10, "{servers} spans for 10 requests: retries must not repeat what arrived");
        agent.finish().map(drop)
    })
}

#[test]
fn retries_over_grpc() -> Result<()> {
    retries("grpc", "grpc")
}

#[test]
fn retries_over_http() -> Result<()> {
    retries("http", "http/protobuf")
}

/// Nobody listens: the application is served, the agent ends in time with status 0, and says what was dropped.
#[test]
fn exporter_down_is_a_counted_drop() -> Result<()> {
    Stage::run("otlp-down", |stage| {
        let app = service(&stage, "lonely")?;
        let nobody = free_port()?;
        let agent = export(
            &stage,
            &app,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{nobody}")),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000".into()),
            ],
        )?;
        request(&app, 10)?;
        agent.spans_when(ARRIVAL, |spans| has_ids(spans, 10))?;
        std::thread::sleep(Duration::from_secs(2));
        let mut process = agent.process;
        let status = process.stop(Duration::from_secs(20))?;
        let said = process.stderr();
        ensure!(status.success(), "the agent ended with {status}:\n{said}");
        ensure!(said.contains(&nobody.to_string()), "the message does not name the endpoint:\n{said}");
        ensure!(said.contains("dropped"), "the drops are not counted:\n{said}");
        request(&app, 1)
    })
}

#[test]
fn services_have_their_own_resources() -> Result<()> {
    Stage::run("otlp-services", |stage| {
        let collector = Collector::start(&stage, "collector", &[])?;
        let apps = [service(&stage, "left")?, service(&stage, "right")?];
        let pids: Vec<u32> = apps.iter().flat_map(App::pids).collect();
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.grpc)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
        ];
        let agent = Agent::start(&stage, "agent", &["attach"], &pids, &environment)?;
        for app in &apps {
            request(app, 3)?;
        }
        let spans = collector.spans_when(ARRIVAL, |spans| {
            ["left", "right"]
                .iter()
                .all(|name| spans.iter().filter(|span| span.service() == *name).count() >= 3)
        })?;
        for (app, name) in apps.iter().zip(["left", "right"]) {
            for span in spans.iter().filter(|span| span.service() == name) {
                let port = span.text("server.port");
                ensure!(port == Some(app.port.to_string()), "{name} has {port:?}: {span}");
                let pid = span.resource.get("process.pid").and_then(Value::as_u64);
                ensure!(pid == Some(u64::from(app.process.pid())), "process.pid {pid:?} for {name}");
            }
        }
        agent.finish().map(drop)
    })
}

/// Every request is in the histograms, whether its span is sampled or not.
#[test]
fn metrics_count_every_request() -> Result<()> {
    Stage::run("otlp-metrics", |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let collector = Collector::start(&stage, "collector", &[])?;
        let app = Setup::FlaskSync.start(stage.logs(), &stage.environment(), &Tracing::None)?;
        let agent = export(
            &stage,
            &app,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.http)),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()),
                ("OTEL_METRIC_EXPORT_INTERVAL", "1000".into()),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".into()),
                ("OTEL_TRACES_SAMPLER_ARG", "0.3".into()),
            ],
        )?;
        const COUNT: u64 = 60;
        for index in 0..COUNT {
            send_once(
                app.port,
                &Request { close: true, ..Request::get(&format!("/checkout/7?id=m{index}")) },
            )?;
        }
        let metrics = [
            ("http.server.request.duration", COUNT, 14),
            ("http.client.request.duration", COUNT, 14),
            ("db.client.operation.duration", COUNT * 4, 9),
        ];
        for (name, least, bounds) in metrics {
            wait_for(&format!("{name} of {least} calls"), ARRIVAL, || {
                let records = collector.records()?;
                let points: Vec<&Value> = records.iter().filter(|record| record["metric"] == name).collect();
                for point in &points {
                    ensure!(point["unit"] == "s", "unit {}", point["unit"]);
                    ensure!(point["bounds"].as_array().map(Vec::len) == Some(bounds), "{}", point["bounds"]);
                }
                // Cumulative: the latest point of every set of attributes and every process.
                let mut latest = std::collections::BTreeMap::new();
                for point in points {
                    let key = format!("{}{}", point["attributes"], point["resource"]);
                    latest.insert(key, point["count"].as_u64().unwrap_or(0));
                }
                let count: u64 = latest.values().sum();
                ensure!(count >= least, "counted {count}");
                Ok(Some(()))
            })?;
        }
        agent.finish()?;
        let traces = collector.spans()?.into_iter().filter(Span::is_server).count() as u64;
        ensure!((1..COUNT / 2 + 10).contains(&traces), "{traces} of {COUNT} sampled at 0.3");
        Ok(())
    })
}
