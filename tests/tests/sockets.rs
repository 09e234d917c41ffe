//! Every way to read and write a socket, and every shape of a request: one span for each, and none besides.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::App;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[derive(Debug, Clone)]
enum Address {
    Tcp(String),
    Unix(std::path::PathBuf),
}

impl Address {
    fn connect(&self) -> Result<Box<dyn Stream>> {
        let timeout = Some(Duration::from_secs(10));
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(timeout)?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(timeout)?;
                Box::new(stream)
            }
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Tcp(address) => address.clone(),
            Self::Unix(path) => path.display().to_string(),
        }
    }
}

/// A request with its id, and what its span has to say.
struct Expected {
    id: String,
    method: &'static str,
    status: u16,
}

/// Sends the scenarios and notes what must be seen of them.
struct Scenario<'a> {
    address: &'a Address,
    expected: Vec<Expected>,
}

impl Scenario<'_> {
    /// `path` with the id of the next request.
    fn target(&mut self, method: &'static str, path: &str, status: u16) -> String {
        let id = format!("s{:03}", self.expected.len());
        self.expected.push(Expected { id: id.clone(), method, status });
        format!("{path}?id={id}")
    }

    /// Writes `parts` with pauses between them, and reads until the server closes.
    fn exchange(&self, parts: &[&[u8]]) -> Result<String> {
        let mut stream = self.address.connect()?;
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(Duration::from_millis(30));
            }
            stream.write_all(part)?;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("read the answers")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn keep_alive(&mut self, stream: &mut dyn Stream) -> Result<()> {
        for path in ["/first", "/second", "/status/404", "/status/500"] {
            let status = path.strip_prefix("/status/").and_then(|code| code.parse().ok()).unwrap_or(200);
            let target = self.target("GET", path, status);
            stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?;
            read_answer(stream)?;
        }
        Ok(())
    }

    fn shapes(&mut self) -> Result<()> {
        let pipelined: String = (0..3)
            .map(|index| {
                let target = self.target("GET", "/pipelined", 200);
                let close = if index == 2 { "Connection: close\r\n" } else { "" };
                format!("GET {target} HTTP/1.1\r\nHost: a\r\n{close}\r\n")
            })
            .collect();
        ensure!(self.exchange(&[pipelined.as_bytes()])?.matches("received").count() == 3, "pipelining");

        let old = self.target("GET", "/old", 200);
        self.exchange(&[format!("GET {old} HTTP/1.0\r\n\r\n").as_bytes()])?;

        let head = self.target("HEAD", "/head", 200);
        let after = self.target("GET", "/after-head", 200);
        let both = format!(
            "HEAD {head} HTTP/1.1\r\nHost: a\r\n\r\nGET {after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        self.exchange(&[both.as_bytes()])?;

        let chunked = self.target("POST", "/chunked/50", 200);
        let after = self.target("GET", "/after-chunked", 200);
        let body = "4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n";
        let both = format!(
            "POST {chunked} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}\
             GET {after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        self.exchange(&[both.as_bytes()])?;

        let expect = self.target("PUT", "/expect", 200);
        let head = format!(
            "PUT {expect} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        );
        let answer = self.exchange(&[head.as_bytes(), b"hello"])?;
        ensure!(answer.starts_with("HTTP/1.1 100 "), "no 100 Continue: {answer}");

        // Far more than is captured, in both directions, then another request on the same connection.
        let big = self.target("POST", "/big/400000", 200);
        let after = self.target("GET", "/after-big", 200);
        let mut bytes =
            format!("POST {big} HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n").into_bytes();
        // A body that looks like requests must not become spans.
        bytes.extend(b"GET /wrong?id=wrong HTTP/1.1\r\n\r\n".iter().cycle().take(300_000));
        bytes.extend(format!("GET {after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").into_bytes());
        self.exchange(&[&bytes])?;

        let pieces = self.target("GET", "/pieces", 200);
        let (request, middle) = (format!("GET {pieces} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), 9);
        let (first, rest) = request.as_bytes().split_at(middle);
        let (second, third) = rest.split_at(20);
        self.exchange(&[first, second, third])?;

        // Not HTTP: no span.
        self.exchange(&[b"\x16\x03\x01\x02\x00 no request at all\r\n\r\n"])?;
        Ok(())
    }
}

fn read_answer(stream: &mut dyn Stream) -> Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.ends_with(b"\n") || !String::from_utf8_lossy(&bytes).contains("received") {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            bail!("the server closed: {}", String::from_utf8_lossy(&bytes));
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}

fn check(spans: &[Span], expected: &[Expected]) -> Result<()> {
    let mut wrong = Vec::new();
    for Expected { id, method, status } in expected {
        let found: Vec<&Span> =
            spans.iter().filter(|span| span.is_server() && span.request_id().as_ref() == Some(id)).collect();
        match found.as_slice() {
            [span] => {
                let seen = (span.text("http.request.method"), span.text("http.response.status_code"));
                if seen != (Some((*method).to_owned()), Some(status.to_string())) {
                    wrong.push(format!("{id}: expected {method} {status}, got {span}"));
                }
            }
            found => wrong.push(format!("{id} ({method} {status}): {} spans", found.len())),
        }
    }
    let servers = spans.iter().filter(|span| span.is_server()).count();
    if servers != expected.len() {
        wrong.push(format!("{servers} server spans for {} requests", expected.len()));
    }
    if !wrong.is_empty() {
        bail!("{}\nthe agent saw:\n{}", wrong.join("\n"), listing(spans));
    }
    Ok(())
}

fn sockets(name: &str, mode: &str, address: impl FnOnce(u16, &Stage) -> Address) -> Result<()> {
    Stage::run(&format!("sockets-{name}"), |stage| {
        let address = address(free_port()?, &stage);
        let mut command = Command::new("/usr/bin/python3");
        command.arg(paths::apps().join("sockets.py")).arg(mode).arg(address.text());
        let server = Process::start("server", stage.logs(), command)?;
        let mut opened_before =
            wait_for("the server's socket", Duration::from_secs(10), || address.connect().map(Some))?;
        opened_before.write_all(b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n")?;
        read_answer(&mut opened_before)?;
        let agent = Agent::attach(&stage, &[server.pid()])?;
        let mut scenario = Scenario { address: &address, expected: Vec::new() };
        scenario.keep_alive(&mut opened_before)?;
        drop(opened_before);
        scenario.shapes()?;
        let count = scenario.expected.len();
        // What is missing is for `check` to say.
        let _ = agent.spans_when(Duration::from_secs(5), |spans| spans.len() >= count);
        check(&agent.finish()?, &scenario.expected)
    })
}

fn ipv4(port: u16, _stage: &Stage) -> Address {
    Address::Tcp(format!("127.0.0.1:{port}"))
}

#[test]
fn blocking_ipv4() -> Result<()> {
    sockets("ipv4", "blocking", ipv4)
}

#[test]
fn blocking_ipv6() -> Result<()> {
    sockets("ipv6", "blocking", |port, _| Address::Tcp(format!("[::1]:{port}")))
}

#[test]
fn unix_socket() -> Result<()> {
    sockets("unix", "blocking", |_, stage| Address::Unix(stage.logs().join("socket")))
}

#[test]
fn read_and_write() -> Result<()> {
    sockets("file", "file", ipv4)
}

#[test]
fn readv_and_writev() -> Result<()> {
    sockets("vectored", "vectored", ipv4)
}

#[test]
fn recvmsg_and_sendmsg() -> Result<()> {
    sockets("message", "message", ipv4)
}

#[test]
fn partial_reads_and_writes() -> Result<()> {
    sockets("partial", "partial", ipv4)
}

#[test]
fn sendfile() -> Result<()> {
    sockets("sendfile", "sendfile", ipv4)
}

#[test]
fn non_blocking_select() -> Result<()> {
    sockets("select", "select", ipv4)
}

#[test]
fn non_blocking_epoll() -> Result<()> {
    sockets("epoll", "epoll", ipv4)
}

/// An asynchronous server: server spans, and client spans that belong each to the request for which they were made.
fn asynchronous(event_loop: &str) -> Result<()> {
    Stage::run(&format!("sockets-{event_loop}"), |stage| {
        let stage = stage.with_redis()?;
        let port = free_port()?;
        let mut command = Command::new(paths::venv("web", "uvicorn")?);
        command.args([
            "asgi:app",
            "--port",
            &port.to_string(),
            "--loop",
            event_loop,
            "--log-level",
            "warning",
        ]);
        command.current_dir(paths::apps()).envs(stage.environment());
        let app = App::start("uvicorn", stage.logs(), command, port, 0)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        const COUNT: usize = 30;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    scope.spawn(move || -> Result<()> {
                        for index in 0..COUNT / 3 {
                            let target = format!("/visit?id=a{client}x{index}");
                            let answer = send_once(port, &Request::get(&target))?;
                            ensure!(answer.status == 200, "{target}: {}", answer.status);
                        }
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client panicked"))
        })?;
        let is_visit = |span: &Span| span.text("db.query.text").is_some_and(|text| text.contains("INCR"));
        let spans = agent.spans_when(Duration::from_secs(5), |spans| {
            spans.iter().filter(|span| span.is_server()).count() >= COUNT
                && spans.iter().filter(|span| is_visit(span)).count() >= COUNT
        })?;
        for span in spans.iter().filter(|span| span.is_server()) {
            ensure!(span.text("http.response.status_code").as_deref() == Some("200"), "wrong status: {span}");
        }
        // Each visit makes one call, which is under its own request.
        let requests: HashSet<&str> =
            spans.iter().filter(|span| span.is_server()).map(|span| span.span_id.as_str()).collect();
        let parents: Vec<Option<&str>> =
            spans.iter().filter(|span| is_visit(span)).map(|span| span.parent_span_id.as_deref()).collect();
        let distinct: HashSet<&str> = parents.iter().flatten().copied().collect();
        ensure!(
            distinct.len() == parents.len() && distinct.is_subset(&requests),
            "calls are not each under a request of their own:\n{}",
            listing(&spans)
        );
        agent.finish().map(drop)
    })
}

#[test]
fn asyncio() -> Result<()> {
    asynchronous("asyncio")
}

#[test]
fn uvloop() -> Result<()> {
    asynchronous("uvloop")
}

#[test]
fn incoming_traceparent_is_honoured() -> Result<()> {
    Stage::run("sockets-traceparent", |stage| {
        let port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg(paths::apps().join("sockets.py")).args(["blocking", &format!("127.0.0.1:{port}")]);
        let server = App::start("server", stage.logs(), command, port, 0)?;
        let agent = Agent::attach(&stage, &server.pids())?;
        let send = |id: &str, traceparent: &str| -> Result<()> {
            let headers = vec![
                ("traceparent".into(), traceparent.into()),
                ("tracestate".into(), "vendor=opaque".into()),
            ];
            send_once(port, &Request { headers, close: true, ..Request::get(&format!("/?id={id}")) })
                .map(drop)
        };
        send("good", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
        // W3C Trace Context, 3.2.2: all zeroes are invalid, and so is the version ff.
        send("zero", "00-00000000000000000000000000000000-b7ad6b7169203331-01")?;
        send("version", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
        let spans = agent.spans_when(Duration::from_secs(5), |spans| spans.len() >= 3)?;
        for span in &spans {
            let joined = span.trace_id == "0af7651916cd43dd8448eb211c80319c"
                && span.parent_span_id.as_deref() == Some("b7ad6b7169203331");
            let good = span.request_id().as_deref() == Some("good");
            ensure!(joined == good, "{span} in trace {}", span.trace_id);
            ensure!(good || span.parent_span_id.is_none(), "an invalid traceparent gave a parent: {span}");
        }
        agent.finish().map(drop)
    })
}
