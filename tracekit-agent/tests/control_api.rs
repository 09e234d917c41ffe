//! The control API under abuse: what a client without token, with malformed requests, too much or too slowly, or
//! a web page of somebody else, gets from it. Raw sockets, because a proper client would not send such things.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tracekit_agent::control::audit::{AuditLog, AuditTarget};
use tracekit_agent::control::guard::Token;
use tracekit_agent::control::{Control, ControlConfig};
use tracekit_agent::snapshot::language::Expressions;
use tracekit_agent::snapshot::registry::Registry;
use tracekit_agent::snapshot::store::Store;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Server {
    control: Control,
    registry: Arc<Registry>,
    audit: Arc<AuditLog>,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(token: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::open(&AuditTarget::File(folder.path().join("audit.jsonl"))).unwrap();
        let audit = Arc::new(audit);
        let registry = Arc::new(Registry::new(Box::new(Expressions), Box::new(Arc::clone(&audit))));
        let config = ControlConfig {
            socket: Some(folder.path().join("run/agent.sock")),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            token: token.then(|| Token::new(TOKEN).unwrap()),
        };
        let control =
            Control::start(&config, Arc::clone(&registry), Arc::new(Store::default()), None).unwrap();
        Self { control, registry, audit, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/agent.sock")
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.control.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes over TCP and gives status and body.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        exchange(self.tcp(), request)
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, Json) {
        let host = "Host: 127.0.0.1";
        let lines: Vec<&str> = [host].into_iter().chain(headers.iter().copied()).collect();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\n{}\r\nContent-Length: {length}\r\n\r\n", lines.join("\r\n"));
        let (status, text) = self.raw(format!("{head}{body}").as_bytes());
        (status, serde_json::from_str(&text).unwrap_or(Json::Null))
    }

    fn audit(&self) -> Vec<Json> {
        self.audit.flush();
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The server may answer, and close, before it has read everything.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> (u16, String) {
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

const JSON: &str = "Content-Type: application/json";
const SPEC: &str = r#"{"file": "app/orders.py", "line": 42}"#;

#[test]
fn a_token_is_demanded_and_refusals_are_in_the_audit_log() {
    let server = Server::start(true);
    let right = format!("Authorization: Bearer {TOKEN}");
    for (headers, expected) in [
        (vec![], 401),
        (vec!["Authorization: Bearer wrong"], 401),
        (vec!["Authorization: Basic dXNlcjpwYXNz"], 401),
        (vec![right.as_str(), JSON], 201),
    ] {
        let (status, answer) = server.ask("POST", "/v1/breakpoints", &headers, SPEC);
        assert_eq!(status, expected, "{headers:?}: {answer}");
    }
    assert_eq!(server.ask("GET", "/v1/breakpoints", &[], "").0, 401);
    // Orchestrators may ask whether it lives, and learn nothing else.
    assert_eq!(server.ask("GET", "/healthz", &[], ""), (200, json!({"status": "ok"})));
    // Who may open the socket needs no token.
    let request = b"GET /v1/breakpoints HTTP/1.1\r\nHost: x\r\n\r\n";
    let (status, body) = exchange(UnixStream::connect(server.socket()).unwrap(), request);
    assert_eq!((status, body.contains("app/orders.py")), (200, true), "{body}");

    let audit = server.audit();
    let refused: Vec<&Json> = audit.iter().filter(|entry| entry["refused"].is_string()).collect();
    assert_eq!(refused.len(), 4, "{audit:?}");
    assert!(
        refused
            .iter()
            .all(|entry| entry["via"] == "tcp" && entry["who"].as_str().unwrap().contains("127.0.0.1"))
    );
    assert!(!format!("{audit:?}").contains(TOKEN));
    let added = audit.iter().find(|entry| entry["refused"].is_null()).unwrap();
    assert_eq!((&added["action"], &added["after"]["line"]), (&json!("add"), &json!(42)));
}

#[test]
fn who_guesses_tokens_keeps_nobody_out() {
    let server = Server::start(true);
    let guess =
        || server.ask("GET", "/v1/limits", &["Authorization: Bearer 0123456789abcdef0123456789abcdeX"], "").0;
    let statuses: Vec<u16> = (0..60).map(|_| guess()).collect();
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    assert!((10..30).contains(&looked_at), "{looked_at} of 60 guesses");
    assert!(statuses.contains(&429));
    assert!(server.audit().len() < 60);
    let right = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(server.ask("GET", "/v1/limits", &[&right], "").0, 200);
}

#[test]
fn an_address_off_the_host_needs_a_token() {
    let registry = || Arc::new(Registry::new(Box::new(Expressions), Box::new(())));
    let listen = vec!["0.0.0.0:0".parse().unwrap()];
    let config = ControlConfig { socket: None, listen, token: None };
    let error = Control::start(&config, registry(), Arc::new(Store::default()), None).unwrap_err();
    assert!(error.to_string().contains("TRACEKIT_CONTROL_TOKEN"), "{error}");
    let config = ControlConfig { token: Some(Token::new(TOKEN).unwrap()), ..config };
    Control::start(&config, registry(), Arc::new(Store::default()), None).unwrap();
}

#[test]
fn web_pages_of_others_are_refused() {
    let server = Server::start(false);
    let post = |headers: &str| {
        let length = SPEC.len();
        server
            .raw(
                format!(
                    "POST /v1/breakpoints HTTP/1.1\r\n{headers}\r\nContent-Length: {length}\r\n\r\n{SPEC}"
                )
                .as_bytes(),
            )
            .0
    };
    for (headers, expected) in [
        // A name of the attacker's that points to 127.0.0.1.
        ("Host: evil.example\r\nContent-Type: application/json", 403),
        ("Host: 127.0.0.1.nip.example\r\nContent-Type: application/json", 403),
        ("Host: 127.0.0.1\r\nHost: evil.example\r\nContent-Type: application/json", 400),
        ("Content-Type: application/json", 400),
        // A page that sends to 127.0.0.1.
        ("Host: 127.0.0.1\r\nOrigin: https://evil.example\r\nContent-Type: application/json", 403),
        ("Host: 127.0.0.1\r\nOrigin: null\r\nContent-Type: application/json", 403),
        ("Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nContent-Type: application/json", 403),
        // What a form can send without asking.
        ("Host: 127.0.0.1\r\nContent-Type: text/plain", 415),
        ("Host: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded", 415),
        ("Host: 127.0.0.1", 415),
        ("Host: localhost\r\nContent-Type: application/json; charset=utf-8", 201),
    ] {
        assert_eq!(post(headers), expected, "{headers}");
    }
    // Reading is refused, too: that is what rebinding is for.
    assert_eq!(server.raw(b"GET /v1/breakpoints HTTP/1.1\r\nHost: evil.example\r\n\r\n").0, 403);
    assert_eq!(server.raw(b"GET /v1/events HTTP/1.1\r\nHost: evil.example\r\n\r\n").0, 403);
    let (status, answer) = server.ask("OPTIONS", "/v1/breakpoints", &["Origin: http://evil.example"], "");
    assert_eq!(status, 403, "{answer}");
    assert_eq!(server.registry.list(jiff::Timestamp::now()).len(), 1);
}

#[test]
fn malformed_requests_have_clear_answers() {
    let server = Server::start(false);
    let (_, added) = server.ask("POST", "/v1/breakpoints", &[JSON], SPEC);
    let id = added["id"].as_str().unwrap();
    let one = format!("/v1/breakpoints/{id}");
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let path = |text: &str| format!("/v1/breakpoints/{text}");
    let with = |condition: &str| json!({"file": "a.py", "line": 1, "condition": condition}).to_string();
    let brackets = with(&"(".repeat(900));
    let sum = with(&format!("1{}", "+1".repeat(400)));
    let calls = with(&format!("{}x{}", "len(".repeat(200), ")".repeat(200)));
    let secret = with("user.password == 'x'");
    let endless = with("x = 1");
    let long = with(&"x".repeat(2000));
    let long_path = path(&"x".repeat(5000));
    for (method, path, body, expected, says) in [
        ("POST", "/v1/breakpoints", "", 400, "EOF"),
        ("POST", "/v1/breakpoints", "{", 400, "EOF"),
        ("POST", "/v1/breakpoints", "\u{0}\u{1}", 400, "expected value"),
        ("POST", "/v1/breakpoints", &deep, 400, "the body is not right"),
        ("POST", "/v1/breakpoints", "[]", 422, "file"),
        ("POST", "/v1/breakpoints", r#"{"file": "a.py", "line": -1}"#, 400, "line 1"),
        ("POST", "/v1/breakpoints", r#"{"file": "a.py", "line": 1e99}"#, 400, "floating point"),
        ("POST", "/v1/breakpoints", r#"{"file": "a.py", "line": 0}"#, 422, "line: must be between"),
        ("POST", "/v1/breakpoints", r#"{"file": "a\u0000.py", "line": 1}"#, 422, "control characters"),
        ("POST", "/v1/breakpoints", r#"{"file": "a.py", "line": 1, "conditoin": ""}"#, 400, "conditoin"),
        (
            "POST",
            "/v1/breakpoints",
            r#"{"file": "a.py", "line": 1, "limits": {"rate": 1e300}}"#,
            422,
            "limits.rate",
        ),
        (
            "POST",
            "/v1/breakpoints",
            r#"{"file": "a.py", "line": 1, "pid": 1}"#,
            422,
            "process 1 is not traced",
        ),
        ("POST", "/v1/breakpoints", &brackets, 422, "condition"),
        ("POST", "/v1/breakpoints", &sum, 422, "condition"),
        ("POST", "/v1/breakpoints", &calls, 422, "condition"),
        ("POST", "/v1/breakpoints", &secret, 422, "password"),
        ("POST", "/v1/breakpoints", &endless, 422, "condition"),
        ("POST", "/v1/breakpoints", &long, 422, "2000 bytes"),
        ("PATCH", &one, r#"{"expressions": ["__import__('os').system('true')"]}"#, 422, "expressions"),
        ("PATCH", &one, r#"{"line": 5}"#, 400, "unknown field"),
        ("PATCH", &one, r#"{"limits": {"hits": 0}}"#, 422, "limits.hits"),
        ("PATCH", "/v1/breakpoints/none", r#"{"enabled": true}"#, 404, "there is no breakpoint none"),
        ("PUT", "/v1/kill-switch", r#"{"enabled": "yes"}"#, 400, "boolean"),
        ("PUT", "/v1/kill-switch", r#"{"enabled": true, "service": ""}"#, 400, "service"),
        ("DELETE", "/v1/breakpoints/..%2f..%2fetc", "", 404, "no breakpoint"),
        ("GET", &long_path, "", 404, "no breakpoint"),
        ("GET", "/v1/breakpoints?kind=x", "", 400, "kind"),
        ("GET", "/v1/snapshots?limit=-1", "", 400, "limit"),
        ("GET", "/v1/snapshots?since=yesterday", "", 400, "since"),
        ("GET", "/v1/snapshots?limit=1&limit=2", "", 400, "twice"),
        ("GET", "/v1/events?only=x", "", 400, "only"),
        ("GET", "/v1/nothing", "", 404, "openapi"),
        ("PUT", "/v1/breakpoints", "", 405, "openapi"),
        ("TRACE", "/healthz", "", 405, "openapi"),
    ] {
        let (status, answer) = server.ask(method, path, &[JSON], body);
        let message = answer.pointer("/error/message").and_then(Json::as_str).unwrap_or_default();
        let shown: String = path.chars().take(80).collect();
        assert_eq!(
            status,
            expected,
            "{method} {shown} {}: {answer}",
            body.chars().take(80).collect::<String>()
        );
        assert!(message.contains(says), "{method} {shown}: {message}");
    }
    // Not HTTP at all.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let (status, _) = server.raw(&[bytes, b"\r\n\r\n"].concat());
        assert!(matches!(status, 0 | 400 | 404 | 505), "{status} for {bytes:?}");
    }
    assert_eq!(server.ask("GET", "/healthz", &[], "").0, 200);
    assert_eq!(server.registry.list(jiff::Timestamp::now()).len(), 1);
}

#[test]
fn large_requests_are_cut_off() {
    let server = Server::start(false);
    let large = format!(r#"{{"file": "{}", "line": 1}}"#, "x".repeat(100 << 10));
    let (status, answer) = server.ask("POST", "/v1/breakpoints", &[JSON], &large);
    assert_eq!(status, 413, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("64 KiB"));
    // A length that is a lie, and one that is not told.
    let head = "POST /v1/breakpoints HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let (status, _) = server.raw(format!("{head}Content-Length: 99999999999999\r\n\r\n{{}}").as_bytes());
    assert_eq!(status, 413);
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(10));
    assert_eq!(server.raw(chunked.as_bytes()).0, 413);
    let (status, _) =
        server.raw(format!("{head}Content-Length: 5\r\nContent-Length: 7\r\n\r\n{{}}").as_bytes());
    assert_eq!(status, 400);
    // A head without end.
    let endless = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(1 << 20));
    let (status, _) = server.raw(endless.as_bytes());
    assert!(matches!(status, 0 | 431), "{status}");
    let many: String = (0..2000).map(|n| format!("X-{n}: y\r\n")).collect();
    let (status, _) =
        server.raw(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    assert!(matches!(status, 0 | 431), "{status}");
    assert_eq!(server.ask("GET", "/healthz", &[], "").0, 200);
}

#[test]
fn ten_thousand_breakpoints() {
    let server = Server::start(false);
    let mut statuses = std::collections::BTreeMap::new();
    let mut last = Json::Null;
    for line in 1..=10_000 {
        let body = format!(r#"{{"file": "app/orders.py", "line": {line}}}"#);
        let (status, answer) = server.ask("POST", "/v1/breakpoints", &[JSON], &body);
        *statuses.entry(status).or_insert(0) += 1;
        last = answer;
    }
    assert_eq!(statuses, [(201, 1000), (409, 9000)].into());
    assert_eq!(last["error"]["code"], "full");
    assert!(last["error"]["message"].as_str().unwrap().contains("remove some first"));
    let (status, list) = server.ask("GET", "/v1/breakpoints", &[], "");
    assert_eq!((status, list["breakpoints"].as_array().unwrap().len()), (200, 1000));
    // Each is in the audit log; of the refusals as many as are of use.
    let audit = server.audit();
    assert_eq!(
        audit.iter().filter(|entry| entry["action"] == "add" && entry["refused"].is_null()).count(),
        1000
    );
    let refused = audit.iter().filter(|entry| entry["refused"].is_string()).count();
    assert!((1..5000).contains(&refused), "{refused}");
}

/// Two hundred clients that send a byte now and then: each is thrown out in time, and others are served
/// meanwhile: on the socket at once, on TCP as places get free.
#[test]
fn slow_clients_keep_nobody_out() {
    let server = Server::start(false);
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| server.tcp()).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        let start: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nHost: local",
            _ => {
                b"POST /v1/breakpoints HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                   Content-Length: 50\r\n\r\n{"
            }
        };
        stream.write_all(start).unwrap();
    }
    let at_once = Instant::now();
    let (status, _) =
        exchange(UnixStream::connect(server.socket()).unwrap(), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status, 200);
    assert!(at_once.elapsed() < Duration::from_secs(1), "{:?}", at_once.elapsed());
    assert_eq!(server.ask("GET", "/healthz", &[], "").0, 200);
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    for mut stream in slow {
        let mut answer = String::new();
        // Closed, with or without an answer; a reset says the same.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn events_are_bounded_in_number_and_end_with_the_agent() {
    let server = Server::start(false);
    let request = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..16 {
        let mut stream = server.tcp();
        stream.write_all(request).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(server.raw(request).0, 429);
    let (_, added) = server.ask("POST", "/v1/breakpoints", &[JSON], SPEC);
    let id = added["id"].as_str().unwrap().to_owned();
    server.ask("PUT", "/v1/kill-switch", &[JSON], r#"{"enabled": true}"#);
    server.ask("DELETE", &format!("/v1/breakpoints/{id}"), &[], "");
    // A stream that is closed gives its place back.
    drop(streams.pop());
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = server.tcp();
        stream.write_all(request).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        if &start == b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < until, "no stream after one was closed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let socket = server.socket();
    drop(server.control);
    assert!(!socket.exists());
    for mut stream in streams {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names, ["init", "added", "kill-switch", "state", "removed"], "{text}");
    }
}
