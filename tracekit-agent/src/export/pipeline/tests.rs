//! The whole pipeline against a small HTTP server.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use super::*;
use crate::export::testing::{resource, server_span, sql_span};

struct Received {
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// Answers the requests with these in turn, then with 200 and an empty body.
fn collector(answers: Vec<(u16, &'static str, Vec<u8>)>) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut headers = HashMap::new();
            loop {
                line.clear();
                reader.read_line(&mut line).unwrap();
                let Some((key, value)) = line.trim().split_once(": ") else { break };
                headers.insert(key.to_ascii_lowercase(), value.to_owned());
            }
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, header, answer) = answers.next().unwrap_or((200, "x: y", Vec::new()));
            let head = format!(
                "HTTP/1.1 {status} X\r\n{header}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all(&[head.as_bytes(), &answer].concat()).unwrap();
            if sender.send(Received { path, headers, body }).is_err() {
                return;
            }
        }
    });
    (endpoint, receiver)
}

fn start(variables: &[(&str, &str)]) -> (Pipeline, Arc<Counters>) {
    let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let counters = Arc::new(Counters::new());
    let config = ExportConfig::from_env(&variables).unwrap();
    (Pipeline::start(config, PrintMode::None, Arc::clone(&counters)).unwrap(), counters)
}

fn span_names(received: &Received) -> Vec<String> {
    assert_eq!(received.path, "/v1/traces");
    let request = ExportTraceServiceRequest::decode(&*received.body).unwrap();
    let spans = request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
    spans.map(|span| span.name).collect()
}

const SOON: Duration = Duration::from_secs(10);
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const NO_METRICS: (&str, &str) = ("OTEL_METRICS_EXPORTER", "none");

#[test]
fn sampled_spans_are_exported_and_all_are_counted() {
    let (endpoint, received) = collector(Vec::new());
    let (pipeline, _) = start(&[(ENDPOINT, &endpoint), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k")]);
    let shop = resource("shop");
    let handle = pipeline.handle();
    handle.submit(sql_span(2, Some(1), &shop));
    handle.submit(server_span(1, "/", &shop));
    handle.submit(Span { sampled: false, ..server_span(3, "/", &shop) });
    let summary = pipeline.shutdown(SOON);
    assert_eq!(summary, Summary { exported: 2, not_sampled: 1, ..Summary::default() });

    let spans = received.recv_timeout(SOON).unwrap();
    assert_eq!(span_names(&spans), ["SELECT orders", "GET"]);
    assert_eq!(spans.headers["content-type"], "application/x-protobuf");
    assert_eq!(spans.headers["api-key"], "k");
    assert!(spans.headers["user-agent"].starts_with("tracekit/"));

    let metrics = received.recv_timeout(SOON).unwrap();
    assert_eq!(metrics.path, "/v1/metrics");
    let metrics = ExportMetricsServiceRequest::decode(&*metrics.body).unwrap().resource_metrics;
    let text = format!("{metrics:?}");
    for name in ["http.server.request.duration", "db.client.operation.duration", "tracekit.spans.exported"] {
        assert!(text.contains(name), "{name}");
    }
    handle.submit(server_span(4, "/", &shop));
    assert_eq!(handle.shared.counters.get(Counter::SpansDroppedShutdown), 1);
}

#[test]
fn log_records_have_their_own_path_and_counters() {
    let (endpoint, received) = collector(Vec::new());
    let (pipeline, counters) =
        start(&[(ENDPOINT, &endpoint), NO_METRICS, ("OTEL_BLRP_SCHEDULE_DELAY", "60000")]);
    for (service, body) in [("shop", "one"), ("cart", "two"), ("shop", "three")] {
        let record = LogRecord { event_name: body.to_owned(), ..LogRecord::default() };
        pipeline.handle().submit_log(LogItem { resource: resource(service), record });
    }
    pipeline.shutdown(SOON);
    let request = received.recv_timeout(SOON).unwrap();
    assert_eq!(request.path, "/v1/logs");
    let request = ExportLogsServiceRequest::decode(&*request.body).unwrap();
    let names: Vec<Vec<&str>> = request
        .resource_logs
        .iter()
        .map(|of| of.scope_logs[0].log_records.iter().map(|record| record.event_name.as_str()).collect())
        .collect();
    assert_eq!(names, [vec!["one", "three"], vec!["two"]]);
    assert_eq!((counters.get(Counter::LogsExported), counters.get(Counter::SpansExported)), (3, 0));

    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (pipeline, counters) =
        start(&[(ENDPOINT, &format!("http://{unused}")), ("OTEL_BLRP_MAX_QUEUE_SIZE", "10")]);
    for _ in 0..100 {
        let record = LogRecord::default();
        pipeline.handle().submit_log(LogItem { resource: resource("shop"), record });
    }
    pipeline.shutdown(SOON);
    let lost =
        [Counter::LogsDroppedQueueFull, Counter::LogsDroppedShutdown, Counter::LogsDroppedExportFailed];
    assert_eq!(lost.iter().map(|&counter| counters.get(counter)).sum::<u64>(), 100);
}

#[test]
fn full_batches_do_not_wait() {
    let (endpoint, received) = collector(Vec::new());
    let (pipeline, _) = start(&[
        (ENDPOINT, &endpoint),
        NO_METRICS,
        ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3"),
    ]);
    let shop = resource("shop");
    for id in 0..7 {
        pipeline.handle().submit(server_span(id, "/", &shop));
    }
    let sizes: Vec<_> = (0..2).map(|_| span_names(&received.recv_timeout(SOON).unwrap()).len()).collect();
    assert_eq!(sizes, [3, 3]);
    assert_eq!(pipeline.shutdown(SOON).exported, 7);
}

#[test]
fn retryable_answers_are_retried_with_the_same_body() {
    let (endpoint, received) =
        collector(vec![(503, "x: y", Vec::new()), (429, "retry-after: 1", Vec::new())]);
    let (pipeline, counters) = start(&[
        (ENDPOINT, &endpoint),
        NO_METRICS,
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ]);
    pipeline.handle().submit(server_span(1, "/", &resource("shop")));
    let bodies: Vec<_> = (0..3).map(|_| received.recv_timeout(SOON).unwrap()).collect();
    assert!(bodies.iter().all(|received| received.body == bodies[0].body));
    assert_eq!(bodies[0].headers["content-encoding"], "gzip");
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&*bodies[0].body).read_to_end(&mut body).unwrap();
    assert_eq!(ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans.len(), 1);
    assert_eq!(pipeline.shutdown(SOON).exported, 1);
    assert_eq!(counters.get(Counter::ExportRetries), 2);
}

#[test]
fn refused_requests_and_spans_are_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (endpoint, received) = collector(vec![(400, "x: y", b"bad".to_vec()), (200, "x: y", partial)]);
    let (pipeline, _) = start(&[
        (ENDPOINT, &endpoint),
        NO_METRICS,
        ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ]);
    let shop = resource("shop");
    for id in 0..4 {
        pipeline.handle().submit(server_span(id, "/", &shop));
    }
    for _ in 0..2 {
        received.recv_timeout(SOON).unwrap();
    }
    let summary = pipeline.shutdown(SOON);
    let expected =
        Summary { exported: 1, dropped_export_failed: 2, dropped_rejected: 1, ..Summary::default() };
    assert_eq!(summary, expected);
    assert_eq!(summary.dropped(), 3);
    let text = "1 spans exported, 2 dropped: export failed, 1 dropped: rejected by the collector";
    assert_eq!(summary.to_string(), text);
}

#[test]
fn without_a_collector_memory_is_bounded_and_the_end_is_quick() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for protocol in ["http/protobuf", "grpc"] {
        let (pipeline, _) = start(&[
            (ENDPOINT, &format!("http://{unused}")),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
        ]);
        let handle = pipeline.handle();
        let shop = resource("shop");
        for id in 0..1000 {
            handle.submit(server_span(id, "/", &shop));
        }
        let started = std::time::Instant::now();
        let summary = pipeline.shutdown(SOON);
        assert!(started.elapsed() < SOON / 2, "{protocol}: {:?}", started.elapsed());
        assert_eq!((summary.exported, summary.dropped()), (0, 1000), "{protocol}: {summary:?}");
        assert!(summary.dropped_queue_full >= 880, "{protocol}: {summary:?}");
    }
}

#[test]
fn a_collector_that_does_not_answer_cannot_hold_up_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for protocol in ["http/protobuf", "grpc"] {
        let (pipeline, _) = start(&[
            (ENDPOINT, &format!("http://{}", silent.local_addr().unwrap())),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ]);
        pipeline.handle().submit(server_span(1, "/", &resource("shop")));
        let started = std::time::Instant::now();
        let summary = pipeline.shutdown(Duration::from_millis(300));
        assert!(started.elapsed() < Duration::from_secs(5), "{protocol}: {:?}", started.elapsed());
        assert_eq!(summary.dropped_shutdown, 1, "{protocol}");
    }
}

#[test]
fn nothing_runs_where_nothing_is_configured() {
    let (pipeline, _) = start(&[("OTEL_SDK_DISABLED", "true")]);
    assert!(pipeline.thread.is_none());
    pipeline.handle().submit(server_span(1, "/", &resource("shop")));
    assert_eq!(pipeline.shutdown(SOON), Summary::default());
}

#[test]
fn certificates_that_cannot_be_used_are_an_error_at_once() {
    let none = tempfile::NamedTempFile::new().unwrap();
    let none = none.path().to_str().unwrap();
    for (protocol, path) in [
        ("http/protobuf", "no-such-file.pem"),
        ("grpc", "no-such-file.pem"),
        ("http/protobuf", none),
        ("grpc", none),
    ] {
        let variables = [
            (ENDPOINT, "https://localhost"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", path),
        ];
        let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let config = ExportConfig::from_env(&variables).unwrap();
        let error = Pipeline::start(config, PrintMode::None, Arc::new(Counters::new())).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(path) && text.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"), "{text}");
    }
}
