use super::*;
use crate::wire::{Wire, redis};
use Direction::{Inbound, Outbound};

fn client() -> Wire<Connection> {
    Wire::new(Connection::new(Role::Client, Limits::default()))
}

/// A command as clients send it.
fn cmd(words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let body: String = words.iter().map(|w| format!("${}\r\n{w}\r\n", w.len())).collect();
    format!("*{}\r\n{body}", words.len())
}

#[test]
fn detection() {
    for (bytes, expected) in [
        (cmd("GET k").as_str(), Detection::Match(Role::Client)),
        ("*2\r\n$3\r\nget\r\n", Detection::Match(Role::Client)),
        ("*2\r\n$7\r\nFT.INFO\r\n", Detection::Match(Role::Client)),
        ("*2\r\n$3\r\nGE", Detection::Undecided),
        ("*", Detection::Undecided),
        ("*2\r", Detection::Undecided),
        ("*2\r\n$3\r\nfoo\r\n", Detection::No),
        ("*3\r\n$7\r\nmessage\r\n", Detection::No),
        ("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n", Detection::No),
        ("*2\r\n$3\r\nGET\r\n$9999\r\nabc", Detection::Match(Role::Client)),
        ("*0\r\n", Detection::No),
        ("*2\r\n:1\r\n", Detection::No),
        ("+OK\r\n", Detection::No),
        ("GET / HTTP/1.1\r\n", Detection::No),
    ] {
        assert_eq!(detect(Outbound, bytes.as_bytes()), expected, "{bytes:?}");
    }
    assert_eq!(detect(Inbound, cmd("GET k").as_bytes()), Detection::Match(Role::Server));
    assert!(is_answer(b"$5\r\nhello\r\n") && is_answer(b"*1\r\n$3\r\nfoo\r\n"));
    assert!(!is_answer(cmd("GET k").as_bytes()) && !is_answer(b"*1\r\n$3\r\nGE") && !is_answer(b"HTTP/1.1"));
}

#[test]
fn one_command_and_its_answer() {
    let mut wire = client();
    wire.out(&cmd("set k v")[..10]).out(&cmd("set k v")[10..]).inn("+O").inn("K\r\n");
    let end = wire.only();
    assert_eq!((end.start, end.first_response_byte, end.end), (10, Some(35), 45));
    assert_eq!((redis(end).command.as_str(), redis(end).argument_count), ("SET", 2));
    assert_eq!(redis(end).arguments, ["k", "v"]);
    assert!(redis(end).error.is_none() && redis(end).batch.is_empty() && !redis(end).handshake);
    assert_eq!(redis(end).database, None);
}

#[test]
fn served_by_the_traced_process() {
    let mut wire = Wire::new(Connection::new(Role::Server, Limits::default()));
    wire.inn(cmd("GET k")).out("$1\r\nx\r\n").inn(cmd("BLPOP q 0")).close(Close::Remote).close(Close::Local);
    let ends = wire.ends();
    assert_eq!((ends[0].start, ends[0].first_response_byte, ends[0].end), (15, Some(20), 25));
    assert_eq!(ends[1].outcome, Outcome::ClosedByPeer);
}

#[test]
fn errors() {
    let mut wire = client();
    wire.out(cmd("INCR k"))
        .inn("-WRONGTYPE Operation against a key\r\n")
        .out(cmd("GET k"))
        .inn("!7\r\nERR bad\r\n");
    let error = redis(wire.ends()[0]).error.as_ref().unwrap();
    assert_eq!(
        (error.prefix.as_str(), error.message.as_str()),
        ("WRONGTYPE", "WRONGTYPE Operation against a key")
    );
    assert_eq!(redis(wire.ends()[1]).error.as_ref().unwrap().prefix, "ERR");
}

#[test]
fn a_pipeline_is_one_exchange() {
    let mut wire = client();
    wire.out(cmd("SET a 1") + &cmd("INCR a") + &cmd("GET a")).inn("+OK\r\n-ERR one\r\n").inn("-ERR two\r\n");
    let end = wire.only();
    assert_eq!((redis(end).command.as_str(), redis(end).batch_size), ("PIPELINE", 3));
    assert_eq!(redis(end).batch[1].command, "INCR");
    assert_eq!(redis(end).error.as_ref().unwrap().message, "ERR one");
    assert_eq!(sanitize_batch(&redis(end).batch), "SET ? ?\nINCR ?\nGET ?");
    assert_eq!(end.end, 35);
}

#[test]
fn a_transaction_in_one_go_is_one_exchange() {
    let mut wire = client();
    wire.out(cmd("MULTI") + &cmd("SET a 1") + &cmd("LPOP a") + &cmd("EXEC"))
        .inn("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n-WRONGTYPE no\r\n");
    let end = wire.only();
    assert_eq!((redis(end).command.as_str(), redis(end).batch_size), ("MULTI", 2));
    assert_eq!(sanitize_batch(&redis(end).batch), "SET ? ?\nLPOP ?");
    assert_eq!(redis(end).error.as_ref().unwrap().prefix, "WRONGTYPE");
    let mut apart = client();
    apart
        .out(cmd("MULTI"))
        .inn("+OK\r\n")
        .out(cmd("SET a 1"))
        .inn("+QUEUED\r\n")
        .out(cmd("EXEC"))
        .inn("*1\r\n+OK\r\n");
    let names: Vec<_> = apart.ends().iter().map(|e| redis(e).command.clone()).collect();
    assert_eq!(names, ["MULTI", "SET", "EXEC"]);
}

#[test]
fn commands_in_calls_of_their_own_are_exchanges_of_their_own() {
    let mut wire = client();
    wire.out(cmd("GET a")).out(cmd("GET b")).inn("$1\r\na\r\n$1\r\nb\r\n");
    assert_eq!(wire.ends().len(), 2);
}

#[test]
fn a_long_pipeline_is_cut_by_the_client() {
    let mut wire = client();
    wire.out(cmd("GET key").repeat(300)).out(cmd("GET key").repeat(10)).inn("_\r\n".repeat(310));
    assert_eq!(redis(wire.only()).batch_size, 310);
    assert_eq!(redis(wire.only()).batch.len(), 256);
    // A command in several calls (large values are written apart) is one command.
    let mut large = client();
    large.out("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6000\r\n");
    large.cut(Outbound, &"v".repeat(4000), 1744, &"v".repeat(256)).out("\r\n").inn("+OK\r\n");
    assert_eq!(redis(large.only()).argument_count, 2);
    assert_eq!(large.only().start, 10);
}

#[test]
fn commands_hidden_by_the_capture() {
    let mut wire = client();
    wire.cut(Outbound, "*1001\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\nb", 9000, "\r\n$1\r\nz\r\n").inn("+OK\r\n");
    assert!(wire.ends().is_empty());
    wire.out(cmd("GET k")).inn("$-1\r\n");
    let ends = wire.ends();
    assert_eq!((redis(ends[0]).command.as_str(), redis(ends[0]).argument_count), ("MSET", 1000));
    assert_eq!((ends[0].outcome, ends[0].end), (Outcome::Complete, 25));
    assert_eq!(redis(ends[1]).command, "GET");
    let mut quiet = client();
    let mut events = Vec::new();
    quiet.cut(Outbound, &cmd("SET a 1").repeat(50), 9000, "").inn("+OK\r\n".repeat(400));
    quiet.parser.settle(&mut events);
    let [Event::End(end)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((redis(end).command.as_str(), redis(end).batch_size), ("PIPELINE", 50));
}

#[test]
fn answers_with_gaps() {
    let mut string = client();
    string.out(cmd("GET k")).cut(Inbound, "$5000\r\nab", 4990, "zzzzzzzz\r\n");
    assert_eq!(string.only().end, 25);
    // In a list the boundaries are lost: it ends with the next command.
    let mut list = client();
    list.out(cmd("LRANGE l 0 -1"))
        .cut(Inbound, "*900\r\n$1\r\na\r\n", 4990, "$1\r\nz\r\n")
        .inn("$1\r\nb\r\n")
        .out(cmd("GET k"))
        .inn("$1\r\nb\r\n");
    let ends = list.ends();
    assert_eq!(
        (ends[0].outcome, ends[0].first_response_byte, ends[0].end),
        (Outcome::Complete, Some(25), 35)
    );
    assert_eq!((redis(ends[1]).command.as_str(), ends[1].end), ("GET", 55));
    let mut quiet = client();
    quiet.out(cmd("LRANGE l 0 -1")).cut(Inbound, "*900\r\n$1\r\na\r\n", 4990, "$1\r\nz\r\n");
    let mut events = Vec::new();
    quiet.parser.settle(&mut events);
    assert!(matches!(&events[..], [Event::End(end)] if end.end == 25));
}

#[test]
fn lost_answers_and_commands() {
    let mut answer = client();
    answer.out(cmd("GET a")).call(Inbound, &[Segment::Lost]).out(cmd("GET b")).inn("$1\r\nb\r\n");
    assert_eq!(answer.ends()[0].outcome, Outcome::Unknown);
    assert_eq!(answer.ends()[1].outcome, Outcome::Complete);
    let mut command = client();
    command.out(cmd("GET a")).inn("$1\r\na\r\n").call(Outbound, &[Segment::Lost]).inn("$1\r\nx\r\n");
    command.out(cmd("GET b")).inn("$1\r\nb\r\n");
    let keys: Vec<_> = command.ends().iter().map(|e| redis(e).arguments.clone()).collect();
    assert_eq!(keys, [["a"], ["b"]]);
    let mut two = client();
    two.out(cmd("GET a")).out(cmd("GET b")).call(Inbound, &[Segment::Lost]);
    assert!(two.parser.is_opaque() && two.ends().len() == 2);
}

#[test]
fn joined_in_the_middle_it_waits_for_a_command() {
    let mut wire = client();
    wire.inn("$5\r\nhello\r\n")
        .out("tail of a value\r\n")
        .inn("+OK\r\n")
        .out(cmd("GET a"))
        .inn("$1\r\na\r\n");
    assert_eq!(wire.only().start, 40);
}

#[test]
fn subscriptions_resp2() {
    let mut wire = client();
    wire.out(cmd("SUBSCRIBE news sport"))
        .inn("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        .inn("*3\r\n$9\r\nsubscribe\r\n$5\r\nsport\r\n:2\r\n")
        .inn("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")
        .out(cmd("PING"))
        .inn("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        .out(cmd("UNSUBSCRIBE"))
        .inn("*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$5\r\nsport\r\n:0\r\n");
    wire.out(cmd("LRANGE l 0 -1")).inn("*1\r\n$7\r\nmessage\r\n");
    let seen: Vec<_> = wire.ends().iter().map(|e| (redis(e).command.clone(), e.end)).collect();
    let seen: Vec<_> = seen.iter().map(|(c, e)| (c.as_str(), *e)).collect();
    assert_eq!(seen, [("SUBSCRIBE", 35), ("PING", 65), ("UNSUBSCRIBE", 85), ("LRANGE", 105)]);
}

#[test]
fn pushes_resp3_are_no_answers() {
    let mut wire = client();
    wire.out(cmd("SUBSCRIBE news"))
        .inn(">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        .out(cmd("GET k"))
        .inn(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")
        .inn("|1\r\n+ttl\r\n:1\r\n$1\r\nv\r\n");
    let ends = wire.ends();
    assert_eq!((ends.len(), ends[1].first_response_byte, ends[1].end), (2, Some(55), 55));
}

#[test]
fn connection_set_up() {
    let mut wire = client();
    wire.out(cmd("HELLO 3 AUTH shop sesame")).inn("%1\r\n+server\r\n+redis\r\n");
    wire.out(cmd("CLIENT SETINFO LIB-NAME redis-py"))
        .out(cmd("CLIENT SETINFO LIB-VER 8"))
        .inn("+OK\r\n+OK\r\n");
    wire.out(cmd("SELECT 4"))
        .inn("+OK\r\n")
        .out(cmd("GET k"))
        .inn("_\r\n")
        .out(cmd("SELECT 99"))
        .inn("-ERR no\r\n");
    let seen: Vec<_> =
        wire.ends().iter().map(|e| redis(e)).map(|r| (r.command.as_str(), r.handshake, r.database)).collect();
    assert_eq!(
        seen,
        [
            ("HELLO", true, Some(0)),
            ("CLIENT SETINFO", true, Some(0)),
            ("CLIENT SETINFO", true, Some(0)),
            ("SELECT", true, Some(4)),
            ("GET", false, Some(4)),
            ("SELECT", false, Some(4)),
        ]
    );
    assert!(!format!("{:?}", wire.events).contains("sesame"));
}

#[test]
fn streams_are_opaque() {
    for words in ["MONITOR", "PSYNC x 1", "CLIENT REPLY OFF"] {
        let mut wire = client();
        wire.out(cmd("GET k")).inn("_\r\n").out(cmd(words)).inn("+OK\r\n");
        assert_eq!(redis(wire.only()).command, "GET");
        assert!(wire.parser.is_opaque());
    }
}

#[test]
fn closed_before_the_answer() {
    for (close, outcome) in [(Close::Local, Outcome::ClosedLocally), (Close::Remote, Outcome::ClosedByPeer)] {
        let mut wire = client();
        wire.out(cmd("BLPOP q 0")).close(close).close(Close::Local);
        assert_eq!((wire.only().outcome, wire.only().end), (outcome, 25));
    }
}

#[test]
fn garbage_is_silent_until_the_next_command() {
    let mut wire = client();
    wire.out(cmd("GET a"))
        .inn("_\r\n")
        .out("*2\r\n$x")
        .inn("-ERR Protocol error\r\n")
        .out(cmd("GET b"))
        .inn("_\r\n");
    assert_eq!(wire.ends().len(), 2);
    let mut nameless = client();
    nameless.out("*1\r\n$2\r\n\x01\x02\r\n").inn("+OK\r\n");
    assert!(nameless.events.is_empty());
}

#[test]
fn memory_is_bounded() {
    let limits = Limits { buffer: 4096, text: 1024, in_flight: 16, ..Limits::default() };
    let mut wire = Wire::new(Connection::new(Role::Client, limits));
    let many = cmd(&format!("MSET {}", "key value ".repeat(2000).trim_end()));
    for _ in 0..20 {
        wire.out(many.repeat(5));
        assert!(wire.parser.buffered() < 64 * 1024, "{}", wire.parser.buffered());
    }
    assert!(wire.begins() <= 16);
}
