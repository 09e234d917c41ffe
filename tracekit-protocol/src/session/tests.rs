use super::*;
use crate::wire::{Whole, Wire, http, redis};
use Direction::{Inbound, Outbound};

fn session() -> Wire<Whole> {
    Wire::new(Whole(Session::new(Limits::default())))
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK2: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PING: &str = "*1\r\n$4\r\nPING\r\n";

#[test]
fn finds_protocol_and_role() {
    for (direction, bytes, protocol, role) in [
        (Outbound, GET, Protocol::Http1, Role::Client),
        (Inbound, GET, Protocol::Http1, Role::Server),
        (Outbound, PING, Protocol::Redis, Role::Client),
    ] {
        let mut wire = session();
        wire.call(direction, &[Segment::Data(bytes.as_bytes())]);
        assert_eq!(wire.parser.0.protocol(), Some(protocol));
        assert!(matches!(&wire.events[..], [Event::Begin(begin)] if begin.role == role));
    }
}

#[test]
fn first_bytes_in_pieces_keep_their_time() {
    let mut wire = session();
    for piece in ["G", "ET /a HT", "TP/1.1\r"] {
        wire.inn(piece);
    }
    assert_eq!(wire.parser.0.protocol(), None);
    wire.inn("\nHost: h\r\n\r\n").out(OK2);
    assert_eq!((wire.only().start, wire.only().end), (15, 55));
}

#[test]
fn joined_in_the_middle() {
    // A response under way, then the next request.
    let mut wire = session();
    wire.inn("rest of a response").inn("\u{1}\u{2}").out(GET).inn(OK2);
    assert_eq!(http(wire.only()).target, "/a");
    // A request under way: its body is no request, though its answer proves the protocol.
    let mut body = session();
    body.inn("field=value").out(OK2).inn(GET).out(OK2);
    assert_eq!(body.only().start, 35);
    // A Redis answer under way.
    let mut answer = session();
    answer.inn("$5\r\nhello\r\n").out(PING).inn("+PONG\r\n");
    assert_eq!(redis(answer.only()).command, "PING");
}

#[test]
fn a_message_is_only_looked_for_at_the_start_of_a_call() {
    let mut wire = session();
    wire.call(Outbound, &[Segment::Data(b"\x00"), Segment::Gap(5000), Segment::Data(GET.as_bytes())])
        .inn(OK2);
    assert!(wire.events.is_empty());
}

#[test]
fn a_redis_list_that_looks_like_a_command_is_no_client() {
    let list = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let mut wire = session();
    wire.inn(list);
    assert_eq!(wire.parser.0.protocol(), None);
    wire.out(PING).inn("+PONG\r\n");
    assert_eq!((wire.only().role, redis(wire.only()).command.as_str()), (Role::Client, "PING"));
    let mut served = session();
    served.inn(list).out("$1\r\nv\r\n").inn(list).out("$1\r\nv\r\n");
    assert_eq!(served.ends().len(), 2);
    assert_eq!((served.ends()[0].role, served.ends()[0].start), (Role::Server, 15));
}

#[test]
fn encrypted_and_unknown_are_opaque() {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(517, 7);
    let mut tls = session();
    tls.out(&hello);
    assert!(tls.parser.0.is_opaque());
    let mut h2 = session();
    h2.out("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(h2.parser.0.is_opaque());
    let mut later = session();
    later.out([0x17, 3, 3, 0, 50, 1, 2]).inn([0x17, 3, 3, 1, 0, 9]);
    assert!(later.parser.0.is_opaque());
    let mut unknown = session();
    unknown.out([0xff; 70_000]);
    assert!(!unknown.parser.0.is_opaque());
    unknown.inn([0xff; 70_000]);
    assert!(unknown.parser.0.is_opaque());
    assert!(unknown.events.is_empty());
    let mut chatty = session();
    for _ in 0..=MAX_CALLS {
        chatty.out("\u{1}").inn("\u{2}");
    }
    assert!(chatty.parser.0.is_opaque());
    let mut upgraded = session();
    upgraded.out(GET).inn("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    assert!(upgraded.parser.0.is_opaque());
    assert_eq!(upgraded.parser.0.protocol(), Some(Protocol::Http1));
}

#[test]
fn undecided_bytes_are_bounded() {
    let limits = Limits { buffer: 2000, ..Limits::default() };
    let mut wire = Wire::new(Whole(Session::new(limits)));
    wire.out("GET /");
    for _ in 0..1000 {
        wire.out("a".repeat(100));
        assert!(wire.parser.0.buffered() <= 2200);
    }
    wire.out(GET).inn(OK2);
    assert_eq!(wire.only().outcome, crate::Outcome::Complete);
}

#[test]
fn closing_ends_everything_once() {
    let mut wire = session();
    wire.inn(GET).close(Close::Remote).close(Close::Local).close(Close::Local).inn(GET);
    assert_eq!((wire.begins(), wire.ends().len()), (1, 1));
    assert!(!wire.parser.0.is_opaque());
}
