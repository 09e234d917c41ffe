//! The servers that ddtrace and tracekit-apm talk to: they answer at once and count the snapshots.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use serde_json::json;

/// What they have got since the start.
#[derive(Debug, Default)]
pub struct Got {
    datadog: AtomicU64,
    sdk: AtomicU64,
}

/// The servers, on one port of the loopback; they live as long as the process.
#[derive(Debug)]
pub struct Sink {
    /// Port on 127.0.0.1.
    pub port: u16,
    got: Arc<Got>,
}

impl Sink {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// No port can be bound.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the receiver of snapshots")?;
        let port = listener.local_addr()?.port();
        let got = Arc::<Got>::default();
        let counted = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                // A client that goes away is no error.
                std::thread::spawn(move || serve(stream, &counted));
            }
        });
        Ok(Self { port, got })
    }

    /// Messages with snapshots that ddtrace has sent.
    #[must_use]
    pub fn datadog(&self) -> u64 {
        self.got.datadog.load(Ordering::Relaxed)
    }

    /// Snapshots that tracekit-apm has sent.
    #[must_use]
    pub fn sdk(&self) -> u64 {
        self.got.sdk.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, got: &Got) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader)? {
        if path.starts_with("/debugger/") && body.windows(10).any(|text| text == b"\"snapshot\"") {
            got.datadog.fetch_add(1, Ordering::Relaxed);
        }
        if path == "/sdk/snapshots/capture" {
            got.sdk.fetch_add(1, Ordering::Relaxed);
        }
        let answer = answer(&path).to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        let stream = reader.get_mut();
        stream.write_all(format!("{head} {}\r\n\r\n{answer}", answer.len()).as_bytes())?;
    }
    Ok(())
}

/// Path and body of the next request.
fn request(reader: &mut BufReader<TcpStream>) -> Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().context("content length")?,
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        return Ok(Some((path, body)));
    }
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim_end(), 16).context("length of a chunk")?;
        reader.by_ref().take(length).read_to_end(&mut body)?;
        line.clear();
        reader.read_line(&mut line)?;
        if length == 0 {
            return Ok(Some((path, body)));
        }
    }
}

fn answer(path: &str) -> serde_json::Value {
    // The names of the services are those that the loop is started with.
    match path.strip_prefix("/sdk/snapshots/active/") {
        Some("loop-condition") => active(&sdk_line("turns_of_sdk", "turn", true, Some("t < 0"))),
        Some("loop-off") => active(&sdk_line("turns_of_sdk", "turn", false, None)),
        Some("loop") => active(&sdk_line("turns_of_sdk", "turn", true, None)),
        // The shop: what it registers itself is gone when it asks for the list, after 30 s.
        Some(_) => active(&sdk_line("checkout_with_sdk", "checkout", true, None)),
        None if path == "/info" => {
            json!({"version": "7.70.0", "endpoints": ["/debugger/v2/input", "/debugger/v1/diagnostics", "/v0.4/traces"]})
        }
        None => json!({"id": "1"}),
    }
}

fn active(line: &serde_json::Value) -> serde_json::Value {
    json!({"kill_switch": false, "breakpoints": [line]})
}

/// A breakpoint with the depth of the agent's and no limit that it would reach.
fn sdk_line(function: &str, label: &str, enabled: bool, condition: Option<&str>) -> serde_json::Value {
    json!({
        "id": "1", "service_name": "bench", "file_path": "bench.py", "line_number": 1,
        "function_name": function, "label": label, "enabled": enabled, "condition": condition,
        "condition_eval": "sdk-evaluable", "max_captures": 0, "max_depth": 3,
    })
}
