//! The kernel side's reader of requests (`tracekit_common::http`) on streams of which is known where heads are.

use proptest::prelude::*;
use tracekit_common::http::{BLANK, HEAD, OPAQUE, START, Stream, TRACEPARENT};

/// Where blank lines begin that lines can be put before, and how the stream ends.
fn read(bytes: &[u8], chunk: usize) -> (Vec<usize>, Stream) {
    let mut stream = Stream::default();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() && stream.phase != OPAQUE {
        // As the kernel side, which has some of the bytes at a time.
        let end = (at / chunk + 1) * chunk;
        let skipped = stream.skip((end.min(bytes.len()) - at) as u64) as usize;
        if skipped > 0 {
            at += skipped;
            continue;
        }
        match stream.step(bytes[at], at as u32) {
            BLANK => found.push(at),
            _ => at += 1,
        }
    }
    (found, stream)
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunks(Vec<Vec<u8>>, bool),
}

const DECOY: &[u8] = b"GET /decoy HTTP/1.1\r\nHost: decoy\r\n\r\n";

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), (1usize..4).prop_map(|count| DECOY.repeat(count)),]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::None),
        content().prop_map(Body::Length),
        (prop::collection::vec(content(), 0..4), any::<bool>())
            .prop_map(|(parts, trailer)| Body::Chunks(parts, trailer)),
    ]
}

fn request(method: &str, headers: &[(String, String)], body: &Body) -> (Vec<u8>, usize) {
    let mut bytes = format!("{method} /a?b HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    match body {
        Body::None => {}
        Body::Length(content) => bytes.extend(format!("content-LENGTH:{}\r\n", content.len()).bytes()),
        Body::Chunks(..) => bytes.extend(b"Transfer-Encoding: chunked\r\n"),
    }
    let blank = bytes.len();
    bytes.extend(b"\r\n");
    match body {
        Body::None => {}
        Body::Length(content) => bytes.extend(content),
        Body::Chunks(parts, trailer) => {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                bytes.extend(format!("{:x};a=b\r\n", part.len()).bytes());
                bytes.extend(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            if *trailer {
                bytes.extend(b"Trailer: GET / HTTP/1.1\r\n");
            }
            bytes.extend(b"\r\n");
        }
    }
    (bytes, blank)
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[A-Za-z-]{1,12}x", "[ -~]{0,30}"), 0..5)
}

proptest! {
    #[test]
    fn heads_are_found_whatever_the_bodies_are(
        requests in prop::collection::vec(("GET|POST|M-SEARCH", headers(), body()), 1..6),
        chunk in 1usize..300,
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (method, headers, body) in &requests {
            let (request, blank) = request(method, headers, body);
            expected.push(bytes.len() + blank);
            bytes.extend(request);
        }
        let (found, stream) = read(&bytes, chunk);
        prop_assert_eq!(found, expected);
        prop_assert_eq!((stream.phase, stream.remaining), (START, 0));
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..500), chunk in 1usize..100) {
        read(&bytes, chunk);
    }

    #[test]
    fn damaged_streams_never_have_heads_in_bodies(at in 0usize..60, value: u8) {
        let (mut bytes, blank) = request("POST", &[], &Body::Length(DECOY.repeat(3)));
        let length = bytes.len();
        // Only the blank line's bytes and what comes before may be damaged.
        if at < blank {
            bytes[at] = value;
        }
        let (found, _) = read(&bytes, length);
        // A damaged length may make another request out of a body; nothing else may.
        let text = String::from_utf8_lossy(&bytes[..blank]).to_ascii_lowercase();
        if text.contains(&format!("content-length:{}\r\n", length - blank - 2)) {
            prop_assert!(found.len() <= 1, "{:?}", found);
        }
    }
}

#[test]
fn what_is_not_surely_a_request_is_never_touched() {
    for bytes in [
        &b"\x16\x03\x01GET / HTTP/1.1\r\n\r\n"[..],
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: line\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        let (found, stream) = read(bytes, 4096);
        assert_eq!((found, stream.phase), (Vec::new(), OPAQUE), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_comes_after_a_tunnel_or_an_upgrade_is_not_http() {
    for head in ["CONNECT a:1 HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"] {
        let bytes = [head.as_bytes(), DECOY].concat();
        let (found, stream) = read(&bytes, 4096);
        assert_eq!((found, stream.phase), (vec![head.len() - 2], OPAQUE));
    }
}

#[test]
fn headers_of_a_trace_are_noticed_and_found() {
    let head = b"GET / HTTP/1.1\r\nTraceParent: 00-x\r\ntracestate: a=b\r\n\r\n";
    let mut stream = Stream::default();
    for (at, byte) in head.iter().enumerate() {
        if stream.step(*byte, at as u32) == BLANK {
            assert_eq!(stream.step(*byte, at as u32), 0);
        }
    }
    assert_ne!(stream.flags & TRACEPARENT, 0);
    assert_eq!(&head[stream.parent_at as usize..][..5], b" 00-x");
    assert_eq!(&head[stream.state_at as usize..stream.state_end as usize], b" a=b");
    let mut stream = Stream::default();
    let last = b"GET / HTTP/1.0\r\n\r\n".iter().fold(0, |_, byte| match stream.step(*byte, 0) {
        BLANK => stream.step(*byte, 0),
        step => step,
    });
    assert_eq!(last, HEAD);
}
