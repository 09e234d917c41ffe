//! An OTLP/HTTP receiver that only counts, so that a benchmark measures the sender and not the collector.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

/// A receiver on a port of the loopback; it lives as long as the process.
#[derive(Debug)]
pub struct Sink {
    /// Port on 127.0.0.1.
    pub port: u16,
    server_spans: Arc<AtomicU64>,
}

impl Sink {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// No port can be bound.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the benchmark's OTLP receiver")?;
        let port = listener.local_addr()?.port();
        let server_spans = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&server_spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &counter) {
                        eprintln!("benchmark's OTLP receiver: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, server_spans })
    }

    /// Server spans that have arrived.
    #[must_use]
    pub fn server_spans(&self) -> u64 {
        self.server_spans.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, counter: &AtomicU64) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut first) = (0, true);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((_, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse().context("content length")?;
            }
            if std::mem::take(&mut first) && !line.starts_with("POST /v1/traces ") {
                anyhow::bail!("unexpected request: {line}");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).context("decode OTLP")?;
        let spans = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let server = spans.flat_map(|scope| &scope.spans).filter(|span| span.kind == SpanKind::Server as i32);
        counter.fetch_add(server.count() as u64, Ordering::Relaxed);
        reader.get_mut().write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        )?;
    }
}
