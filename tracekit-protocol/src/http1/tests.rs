use super::*;
use crate::wire::{Wire, http};
use Direction::{Inbound, Outbound};

fn client() -> Wire<Connection> {
    Wire::new(Connection::new(Role::Client, Limits::default()))
}

fn server() -> Wire<Connection> {
    Wire::new(Connection::new(Role::Server, Limits::default()))
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK2: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn detection() {
    for (bytes, expected) in [
        (GET, Detection::Match(Role::Client)),
        (OK2, Detection::Match(Role::Server)),
        ("GET /a HT", Detection::Undecided),
        ("HTTP/1.1 2", Detection::Undecided),
        ("*1\r\n$4\r\nPING\r\n", Detection::No),
        ("+OK\r\n", Detection::No),
        ("GET\r\n", Detection::No),
    ] {
        assert_eq!(detect(Outbound, bytes.as_bytes()), expected, "{bytes:?}");
    }
    assert_eq!(detect(Inbound, GET.as_bytes()), Detection::Match(Role::Server));
}

#[test]
fn client_times_are_those_of_the_caller() {
    let mut wire = client();
    wire.out("GET /a HTT")
        .out("P/1.1\r\n\r\n")
        .inn("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")
        .inn("\r\no")
        .inn("k");
    let end = wire.only();
    assert_eq!((end.start, end.first_response_byte, end.end), (10, Some(35), 55));
    assert_eq!(end.outcome, Outcome::Complete);
    assert_eq!(http(end).response_body_size, Some(2));
    assert_eq!(http(end).request_body_size, Some(0));
}

#[test]
fn server_times_are_those_of_the_server() {
    let mut wire = server();
    wire.inn(GET).out("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").out("ok");
    let end = wire.only();
    assert_eq!((end.start, end.first_response_byte, end.end), (15, Some(20), 35));
}

#[test]
fn trace_context_is_handed_over() {
    let mut wire = server();
    wire.inn("GET / HTTP/1.1\r\nTraceparent: 00-a-b-01\r\ntracestate: x=1\r\nTraceState: y=2\r\n\r\n");
    let Event::Begin(begin) = &wire.events[0] else { panic!() };
    assert_eq!(begin.traceparent.as_deref(), Some("00-a-b-01"));
    assert_eq!(begin.tracestate.as_deref(), Some("x=1,y=2"));
    assert_eq!((begin.role, begin.tid, begin.start), (Role::Server, 7, 15));
    let mut twice = server();
    twice.inn("GET / HTTP/1.1\r\ntraceparent: 00-a-b-01\r\ntraceparent: 00-c-d-01\r\n\r\n");
    let Event::Begin(begin) = &twice.events[0] else { panic!() };
    assert_eq!(begin.traceparent, None);
}

#[test]
fn bodiless_answers() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let mut wire = client();
        wire.out(format!("{method} / HTTP/1.1\r\n\r\n"))
            .inn(format!("HTTP/1.1 {status} X\r\nContent-Length: 1000\r\n\r\n"))
            .out(GET)
            .inn(OK2);
        let ends = wire.ends();
        assert_eq!(ends.len(), 2, "{method} {status}");
        assert_eq!(http(ends[0]).status, Some(status));
        assert_eq!(http(ends[0]).response_body_size, Some(0));
    }
}

#[test]
fn interim_responses_are_skipped() {
    let mut wire = client();
    wire.out("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        .inn("HTTP/1.1 100 Continue\r\n\r\n")
        .out("abc")
        .inn("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let end = wire.only();
    assert_eq!(http(end).status, Some(201));
    assert_eq!(http(end).request_body_size, Some(3));
    assert_eq!(end.first_response_byte, Some(45));
}

#[test]
fn upgrades_make_the_rest_opaque() {
    for (request, response) in [
        ("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("CONNECT h:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"),
    ] {
        let mut wire = client();
        wire.out(request).inn(response).out(GET).inn(OK2);
        assert!(http(wire.only()).upgraded);
        assert_eq!(wire.only().outcome, Outcome::Complete);
        assert!(wire.parser.is_opaque());
    }
    let mut refused = client();
    refused.out("CONNECT h:443 HTTP/1.1\r\n\r\n").inn("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    assert!(!http(refused.only()).upgraded && !refused.parser.is_opaque());
}

#[test]
fn until_close() {
    let response = "HTTP/1.0 200 OK\r\n\r\nsome";
    let mut wire = client();
    wire.out(GET).inn(response).inn("more").close(Close::Remote);
    assert_eq!((wire.only().outcome, wire.only().end), (Outcome::Complete, 45));
    assert_eq!(http(wire.only()).response_body_size, Some(8));
    let mut early = client();
    early.out(GET).inn(response).close(Close::Local);
    assert_eq!(early.only().outcome, Outcome::ClosedLocally);
    let mut served = server();
    served.inn(GET).out(response).close(Close::LocalWrite).close(Close::Local);
    assert_eq!((served.only().outcome, served.only().end), (Outcome::Complete, 25));
}

#[test]
fn closed_before_the_answer() {
    for (close, outcome) in [(Close::Local, Outcome::ClosedLocally), (Close::Remote, Outcome::ClosedByPeer)] {
        let mut wire = client();
        wire.out(GET).close(close).close(Close::Local);
        assert_eq!((wire.only().outcome, wire.only().end), (outcome, 25));
        assert_eq!(http(wire.only()).status, None);
    }
    let mut half = client();
    half.out(GET).close(Close::LocalWrite).inn(OK2);
    assert_eq!(half.only().outcome, Outcome::Complete);
}

#[test]
fn a_server_may_answer_a_client_that_is_gone() {
    let mut wire = server();
    wire.inn(GET).close(Close::Remote).out(OK2).close(Close::Local);
    assert_eq!(wire.only().outcome, Outcome::Complete);
    let mut gone = server();
    gone.inn(GET).close(Close::Remote).close(Close::Local);
    assert_eq!(gone.only().outcome, Outcome::ClosedByPeer);
    let mut crashed = server();
    crashed.inn(GET).out("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").close(Close::Local);
    assert_eq!(crashed.only().outcome, Outcome::ClosedLocally);
}

#[test]
fn pipelined_requests_keep_their_order() {
    let mut wire = server();
    wire.inn("GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nxyGET /3 HTTP/1.1\r\n\r\n")
        .out("HTTP/1.1 201 A\r\nContent-Length: 0\r\n\r\nHTTP/1.1 202 B\r\nContent-Length: 0\r\n\r\n")
        .out("HTTP/1.1 203 C\r\nContent-Length: 0\r\n\r\n");
    let seen: Vec<_> = wire.ends().iter().map(|e| (http(e).target.clone(), http(e).status)).collect();
    assert_eq!(seen, [("/1".into(), Some(201)), ("/2".into(), Some(202)), ("/3".into(), Some(203))]);
}

#[test]
fn too_many_in_flight_gives_up() {
    let limits = Limits { in_flight: 3, ..Limits::default() };
    let mut wire = Wire::new(Connection::new(Role::Server, limits));
    wire.inn(GET.repeat(10));
    assert!(wire.parser.is_opaque());
    assert_eq!((wire.begins(), wire.ends().len()), (3, 3));
}

#[test]
fn an_answer_may_come_before_the_request_is_sent() {
    let mut wire = client();
    wire.out("POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        .inn("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        .out("x".repeat(97))
        .out(GET)
        .inn(OK2);
    let ends = wire.ends();
    assert_eq!(http(ends[0]).status, Some(413));
    assert_eq!(http(ends[0]).request_body_size, Some(3));
    assert_eq!(http(ends[1]).target, "/a");
}

#[test]
fn gaps_in_counted_bodies_lose_nothing() {
    let mut wire = client();
    wire.cut(Outbound, "POST /up HTTP/1.1\r\nContent-Length: 10000\r\n\r\nab", 9990, "01234567")
        .cut(Inbound, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 4990, "0123456789")
        .out(GET)
        .inn(OK2);
    let ends = wire.ends();
    assert_eq!(http(ends[0]).request_body_size, Some(10_000));
    assert_eq!(http(ends[0]).response_body_size, Some(5000));
    assert_eq!((ends[0].end, ends.len()), (25, 2));
}

#[test]
fn a_gap_in_a_chunked_answer_ends_with_its_last_chunk() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n";
    let mut tail = client();
    tail.out(GET).cut(Inbound, head, 5000, "xyz\r\n0\r\n\r\n").out(GET).inn(OK2);
    assert_eq!((tail.ends()[0].end, tail.ends().len()), (25, 2));
    assert_eq!(tail.ends()[0].outcome, Outcome::Complete);
    assert_eq!(http(tail.ends()[0]).response_body_size, None);
    // The last chunk in a call of its own, as gunicorn sends it.
    let mut apart = server();
    apart.inn(GET).out(head).cut(Outbound, "1388\r\nab", 5200, "xyz\r\n").out("0\r\n\r\n");
    assert_eq!(apart.only().end, 45);
}

#[test]
fn a_chunked_answer_whose_end_is_missing_ends_with_the_next_request() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n";
    let mut wire = client();
    wire.out(GET).cut(Inbound, head, 5000, "").inn("whatever").out("GET /b HTTP/1.1\r\n\r\n").inn(OK2);
    let ends = wire.ends();
    assert_eq!((ends[0].outcome, ends[0].end), (Outcome::Complete, 35));
    assert_eq!((http(ends[1]).target.as_str(), http(ends[1]).status), ("/b", Some(200)));
    // … or when the caller knows that nothing more comes, or with the connection.
    let mut quiet = client();
    quiet.out(GET).cut(Inbound, head, 5000, "");
    let mut events = Vec::new();
    quiet.parser.settle(&mut events);
    assert!(matches!(&events[..], [Event::End(end)] if end.end == 25 && end.outcome == Outcome::Complete));
    let mut closed = client();
    closed.out(GET).cut(Inbound, head, 5000, "").close(Close::Local);
    assert_eq!(closed.only().outcome, Outcome::Complete);
}

#[test]
fn a_head_larger_than_the_capture_counts_with_what_is_known() {
    let mut wire = server();
    wire.cut(Inbound, "GET /big HTTP/1.1\r\nHost: h\r\nCookie: aaa", 6000, "aaa\r\n\r\n")
        .out(OK2)
        .inn(GET)
        .cut(Outbound, "HTTP/1.1 500 Oops\r\nA: b\r\nSet-Cookie: x", 9000, "zz")
        .inn(GET)
        .out(OK2);
    let ends = wire.ends();
    assert_eq!(ends.len(), 3);
    assert_eq!((http(ends[0]).target.as_str(), http(ends[0]).status), ("/big", Some(200)));
    assert_eq!(http(ends[0]).request_headers, [("Host".to_owned(), "h".to_owned())]);
    assert_eq!(http(ends[0]).request_body_size, None);
    assert_eq!((http(ends[1]).status, ends[1].end), (Some(500), 45));
    assert_eq!(http(ends[1]).response_headers, [("A".to_owned(), "b".to_owned())]);
}

#[test]
fn a_body_that_looks_like_a_request_is_none() {
    let mut wire = client();
    wire.cut(Outbound, "POST /a HTTP/1.1\r\nX: y\r\nZ", 9000, "").out(GET).inn(OK2).out(GET).inn(OK2);
    assert_eq!(wire.begins(), 2);
    assert_eq!(wire.ends().len(), 2);
}

#[test]
fn joined_in_the_middle_it_waits_for_a_request() {
    let mut wire = client();
    wire.inn("rest of a body").inn(OK2).out("more of a body").out(GET).inn(OK2);
    assert_eq!(wire.only().start, 40);
    // The start of a message must be the start of a call.
    let mut inside = client();
    inside.call(Outbound, &[Segment::Data(b"xx"), Segment::Data(GET.as_bytes())]).inn(OK2);
    assert!(inside.events.is_empty());
}

#[test]
fn lost_bytes_end_what_they_hide() {
    let mut wire = client();
    wire.out(GET).call(Inbound, &[Segment::Lost]).out("GET /b HTTP/1.1\r\n\r\n").inn(OK2);
    let ends = wire.ends();
    assert_eq!((ends[0].outcome, http(ends[0]).status), (Outcome::Unknown, None));
    assert_eq!((http(ends[1]).target.as_str(), ends[1].outcome), ("/b", Outcome::Complete));
    // The answer was not in the lost bytes.
    let mut later = client();
    later.call(Inbound, &[Segment::Lost]).out(GET).call(Inbound, &[Segment::Lost]).inn(OK2);
    assert_eq!(later.only().outcome, Outcome::Complete);
    // Two answers due: which is which can't be known.
    let mut two = client();
    two.out(GET).out(GET).call(Inbound, &[Segment::Lost]).inn(OK2);
    assert!(two.ends().iter().all(|e| e.outcome == Outcome::Unknown) && two.parser.is_opaque());
}

#[test]
fn a_request_hidden_by_lost_bytes_has_no_exchange() {
    let mut wire = server();
    wire.inn(GET).out(OK2).call(Inbound, &[Segment::Lost]).out(OK2).inn("GET /c HTTP/1.1\r\n\r\n").out(OK2);
    let targets: Vec<_> = wire.ends().iter().map(|e| http(e).target.clone()).collect();
    assert_eq!(targets, ["/a", "/c"]);
}

#[test]
fn malformed_requests_have_no_exchange() {
    for garbage in [
        "GARBAGE\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let mut wire = server();
        wire.inn(GET)
            .out(OK2)
            .inn(garbage)
            .out("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno")
            .close(Close::Local);
        assert_eq!(http(wire.only()).status, Some(200), "{garbage:?}");
    }
}

#[test]
fn transfer_encoding_overrules_content_length() {
    let mut wire = server();
    wire.inn(
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    )
    .out(OK2)
    .inn(GET)
    .out(OK2);
    assert_eq!(http(wire.ends()[0]).request_body_size, Some(2));
    assert_eq!(wire.ends().len(), 2);
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let mut wire = server();
    wire.inn("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx\r\n").out(OK2).inn(GET).out(OK2);
    assert_eq!(wire.ends().len(), 2);
}

#[test]
fn buffers_are_bounded() {
    let limits = Limits { buffer: 1000, ..Limits::default() };
    let mut wire = Wire::new(Connection::new(Role::Server, limits));
    wire.inn("GET / HTTP/1.1\r\nHost: h\r\nA: ");
    for _ in 0..100 {
        wire.inn("x".repeat(100));
        assert!(wire.parser.buffered() <= 5000);
    }
    wire.out("HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((http(wire.only()).status, http(wire.only()).target.as_str()), (Some(431), "/"));
}

#[test]
fn absolute_form_and_old_versions() {
    let mut wire = client();
    wire.out("GET http://h/p?q HTTP/1.0\nHost: h\n\n").inn("HTTP/1.0 200 OK\nContent-Length: 0\n\n");
    assert_eq!((http(wire.only()).target.as_str(), http(wire.only()).minor_version), ("http://h/p?q", 0));
}
