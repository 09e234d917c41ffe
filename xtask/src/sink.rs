//! An OTLP/HTTP receiver that only keeps what it gets, so that a benchmark measures the sender and not the
//! collector: what is in the messages is looked at after the load.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

/// Messages as they came.
type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// A receiver on a port of the loopback; it lives as long as the process.
#[derive(Debug)]
pub struct Sink {
    /// Port on 127.0.0.1.
    pub port: u16,
    bodies: Bodies,
}

impl Sink {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// No port can be bound.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the benchmark's OTLP receiver")?;
        let port = listener.local_addr()?.port();
        let bodies = Bodies::default();
        let received = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &received) {
                        eprintln!("benchmark's OTLP receiver: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, bodies })
    }

    /// Server spans that have arrived since the last call.
    ///
    /// # Errors
    /// A message is not OTLP.
    pub fn take_server_spans(&self) -> Result<usize> {
        let bodies = std::mem::take(&mut *self.bodies.lock().unwrap_or_else(PoisonError::into_inner));
        let mut count = 0;
        for body in bodies {
            let request = ExportTraceServiceRequest::decode(body.as_slice()).context("decode OTLP")?;
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            let spans = scopes.flat_map(|scope| &scope.spans);
            count += spans.filter(|span| span.kind == SpanKind::Server as i32).count();
        }
        Ok(count)
    }
}

fn serve(stream: TcpStream, received: &Mutex<Vec<Vec<u8>>>) -> Result<()> {
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
        received.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        reader.get_mut().write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        )?;
    }
}
