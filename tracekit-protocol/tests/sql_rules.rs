//! Rules that no recording shows: forms of the protocols that the recorded servers do not use, and
//! bytes that are missing at a chosen place.

mod capture;

use capture::{describe, moment};
use tracekit_protocol::{
    Close, Direction, End, Event, Limits, Outcome, Parser, Request, Role, Segment, mysql, postgres,
};

/// A parser and what it said.
struct Wire<P> {
    parser: P,
    events: Vec<Event>,
    calls: usize,
}

impl<P: Parser> Wire<P> {
    fn new(parser: P) -> Self {
        Self { parser, events: Vec::new(), calls: 0 }
    }

    fn segment(&mut self, direction: Direction, segment: Segment<'_>, first: bool) -> &mut Self {
        self.calls += usize::from(first);
        self.parser.segment(direction, segment, &moment(self.calls, first), &mut self.events);
        self
    }

    fn out(&mut self, messages: &[Vec<u8>]) -> &mut Self {
        self.segment(Direction::Outbound, Segment::Data(&messages.concat()), true)
    }

    fn inbound(&mut self, messages: &[Vec<u8>]) -> &mut Self {
        self.segment(Direction::Inbound, Segment::Data(&messages.concat()), true)
    }

    fn ends(&self) -> Vec<&End> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::End(end) => Some(&**end),
                Event::Begin(_) => None,
            })
            .collect()
    }

    /// Closes the connection and describes everything.
    fn found(&mut self) -> Vec<String> {
        self.parser.close(Close::Local, &moment(self.calls + 1, true), &mut self.events);
        describe(&self.events)
    }
}

fn pg() -> Wire<postgres::Connection> {
    Wire::new(postgres::Connection::new(Role::Client, Limits::default()))
}

fn my() -> Wire<mysql::Connection> {
    Wire::new(mysql::Connection::new(Role::Client, Limits::default()))
}

/// A typed message of PostgreSQL.
fn m(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn startup(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn query(text: &str) -> Vec<u8> {
    m(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn done(tag: &str) -> Vec<u8> {
    m(b'C', &[tag.as_bytes(), b"\0"].concat())
}

fn ready() -> Vec<u8> {
    m(b'Z', b"I")
}

fn error(code: &str) -> Vec<u8> {
    m(b'E', &[b"SERROR\0C", code.as_bytes(), b"\0Mwhy\0\0"].concat())
}

fn parse(text: &str) -> Vec<u8> {
    m(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

fn bind(statement: &str) -> Vec<u8> {
    m(b'B', &[b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

fn execute() -> Vec<u8> {
    m(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    m(b'S', b"")
}

/// A packet of MySQL.
fn p(sequence: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..3], &[sequence], body].concat()
}

const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";

#[test]
fn postgres_start_up_after_refused_encryption() {
    let mut wire = pg();
    wire.out(&[startup(b"\x04\xd2\x16\x30")]).inbound(&[b"N".to_vec()]);
    wire.out(&[startup(b"\x04\xd2\x16\x2f")]).inbound(&[b"N".to_vec()]);
    wire.out(&[startup(b"\0\x03\0\0user\0bob\0database\0shop\0\0")]);
    wire.inbound(&[m(b'R', b"\0\0\0\x05salt")]).out(&[m(b'p', b"md5secret\0")]);
    wire.inbound(&[m(b'R', b"\0\0\0\0"), m(b'S', b"a\0b\0"), ready()]);
    wire.out(&[query("SELECT 1")]).inbound(&[m(b'D', b"\0\0"), done("SELECT 1"), ready()]);
    let end = wire.ends()[0];
    let Request::Sql(sql) = &end.request else { panic!() };
    assert_eq!((sql.user.as_deref(), sql.database.as_deref()), (Some("bob"), Some("shop")));
    assert!(!format!("{:?}", wire.parser).contains("secret"));
}

#[test]
fn postgres_encryption_and_cancel_requests_are_opaque() {
    let mut wire = pg();
    wire.out(&[startup(b"\x04\xd2\x16\x2f")]).inbound(&[b"S".to_vec()]);
    assert!(wire.parser.is_opaque());
    let mut wire = pg();
    wire.out(&[startup(b"\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02")]);
    assert!(wire.parser.is_opaque() && wire.found().is_empty());
}

#[test]
fn postgres_joined_late_without_the_text_of_a_prepared_statement() {
    let mut wire = pg();
    wire.inbound(&[b"the rest of a row".to_vec()]);
    wire.out(&[bind("s1"), execute(), sync()]);
    wire.inbound(&[m(b'2', b""), m(b'D', b"\0\0"), done("SELECT 1"), ready()]);
    assert_eq!(wire.found(), ["- | p | 1 rows"]);
}

#[test]
fn postgres_commit_at_sync_may_fail() {
    let mut wire = pg();
    wire.out(&[parse("INSERT INTO t VALUES ($1)"), bind(""), execute(), sync()]);
    wire.inbound(&[m(b'1', b""), m(b'2', b""), done("INSERT 0 1")]).inbound(&[error("23503"), ready()]);
    assert_eq!(wire.found(), ["INSERT INTO t VALUES ($1) | p | 1 affected | error 23503"]);
}

#[test]
fn postgres_pipelined_executions_end_one_by_one_and_the_last_with_the_transaction() {
    let mut wire = pg();
    wire.out(&[parse("SELECT 1"), bind(""), execute(), parse("SELECT 2"), bind(""), execute(), sync()]);
    wire.inbound(&[m(b'1', b""), m(b'2', b""), done("SELECT 1")]);
    wire.inbound(&[m(b'1', b""), m(b'2', b""), done("SELECT 2")]).inbound(&[ready()]);
    let ends: Vec<u64> = wire.ends().iter().map(|end| end.end).collect();
    assert_eq!(ends, [2_500, 4_500]);
    assert_eq!(wire.ends()[1].first_response_byte, Some(3_500));
}

#[test]
fn postgres_text_larger_than_what_is_captured() {
    let mut wire = pg();
    let text = format!("SELECT '{}'", "x".repeat(10_000));
    let bytes = query(&text);
    wire.segment(Direction::Outbound, Segment::Data(&bytes[..4096]), true);
    wire.segment(Direction::Outbound, Segment::Gap(bytes.len() as u64 - 4096 - 256), false);
    wire.segment(Direction::Outbound, Segment::Data(&bytes[bytes.len() - 256..]), false);
    wire.inbound(&[done("SELECT 0"), ready()]);
    let Request::Sql(sql) = &wire.ends()[0].request else { panic!() };
    assert!(sql.text_truncated && sql.text.as_deref() == text.get(..4091));
}

#[test]
fn postgres_goes_on_after_missing_bytes() {
    let mut wire = pg();
    wire.out(&[query("SELECT 1")]).segment(Direction::Inbound, Segment::Lost, true);
    wire.out(&[query("SELECT 2")]).inbound(&[done("SELECT 2"), ready()]);
    wire.segment(Direction::Outbound, Segment::Lost, true);
    wire.inbound(&[done("SELECT 9"), ready()]);
    wire.out(&[query("SELECT 3")]).inbound(&[done("SELECT 3"), ready()]);
    assert_eq!(wire.found(), ["SELECT 1 | Unknown", "SELECT 2 | 2 rows", "SELECT 3 | 3 rows"]);
}

#[test]
fn postgres_settles_an_answer_whose_end_is_missing() {
    let mut wire = pg();
    wire.out(&[query("SELECT 1")]).segment(Direction::Inbound, Segment::Lost, true);
    wire.parser.settle(&mut wire.events);
    assert_eq!(wire.ends()[0].outcome, Outcome::Unknown);
    assert_eq!(wire.ends()[0].end, 2_500);
}

#[test]
fn postgres_serves() {
    let mut wire = Wire::new(postgres::Connection::new(Role::Server, Limits::default()));
    wire.inbound(&[query("SELECT 1")]).out(&[done("SELECT 1"), ready()]);
    let end = wire.ends()[0];
    assert_eq!(
        (end.role, end.start, end.first_response_byte, end.end),
        (Role::Server, 1_500, Some(2_000), 2_500)
    );
}

#[test]
fn mysql_results_without_eof_packets() {
    let mut wire = my();
    wire.out(&[p(0, b"\x03\0\x01SELECT a FROM t")]);
    wire.inbound(&[
        p(1, b"\x01"),
        p(2, DEFINITION),
        p(3, b"\x011"),
        p(4, b"\x012"),
        p(5, b"\xfe\0\0\x02\0\0\0"),
    ]);
    wire.out(&[p(0, b"\x03SELECT a FROM empty")]);
    wire.inbound(&[p(1, b"\x01"), p(2, DEFINITION), p(3, b"\xfe\0\0\x02\0\0\0")]);
    assert_eq!(wire.found(), ["SELECT a FROM t | 2 rows", "SELECT a FROM empty | 0 rows"]);
}

#[test]
fn mysql_cursors_are_fetched_from() {
    let mut wire = my();
    wire.out(&[p(0, b"\x16SELECT a FROM t")]);
    wire.inbound(&[p(1, b"\0\x07\0\0\0\x01\0\0\0\0\0\0"), p(2, DEFINITION), p(3, b"\xfe\0\0\x02\0")]);
    wire.out(&[p(0, b"\x17\x07\0\0\0\x01\x01\0\0\0")]);
    wire.inbound(&[p(1, b"\x01"), p(2, DEFINITION), p(3, b"\xfe\0\0\x42\0")]);
    wire.out(&[p(0, b"\x1c\x07\0\0\0\x05\0\0\0")]);
    wire.inbound(&[p(1, b"\0\0\x01"), p(2, b"\xfe\0\0\x82\0")]);
    wire.out(&[p(0, b"\x03COMMIT")]).inbound(&[p(1, b"\0\0\0\x02\0\0\0")]);
    assert_eq!(wire.found(), ["SELECT a FROM t | p", "COMMIT | 0 affected"]);
}

#[test]
fn mariadb_leaves_out_known_definitions_and_prepares_while_executing() {
    let mut wire = my();
    wire.out(&[p(0, b"\x16SELECT a FROM t"), p(0, b"\x17\xff\xff\xff\xff\0\x01\0\0\0")]);
    wire.inbound(&[p(1, b"\0\x01\0\0\0\x01\0\0\0\0\0\0"), p(2, DEFINITION), p(3, b"\xfe\0\0\x02\0")]);
    wire.inbound(&[p(1, b"\x01\0"), p(2, b"\xfe\0\0\x02\0"), p(3, b"\0\0\x01"), p(4, b"\xfe\0\0\x02\0")]);
    assert_eq!(wire.found(), ["SELECT a FROM t | p | 1 rows"]);
}

#[test]
fn mariadb_reports_progress() {
    let mut wire = my();
    wire.out(&[p(0, b"\x03ALTER TABLE t ADD b int")]);
    wire.inbound(&[p(1, b"\xff\xff\xff\x01\x01\x02\0\0\0\x04copy")]).inbound(&[p(2, b"\0\x05\0\x02\0\0\0")]);
    assert_eq!(wire.found(), ["ALTER TABLE t ADD b int | 5 affected"]);
}

#[test]
fn mysql_rows_longer_than_a_packet_are_one_row() {
    let mut wire = my();
    wire.out(&[p(0, b"\x03SELECT a FROM t")]);
    wire.inbound(&[p(1, b"\x01"), p(2, DEFINITION), p(3, b"\xfe\0\0\x02\0")]);
    wire.inbound(&[b"\xff\xff\xff\x04\xfe\0\0\0\x01\0\0\0\0".to_vec()]);
    wire.segment(Direction::Inbound, Segment::Gap(0xff_ffff - 9), false);
    wire.inbound(&[p(5, b"\xfetail"), p(6, b"\xfe\0\0\x02\0")]);
    assert_eq!(wire.found(), ["SELECT a FROM t | 1 rows"]);
}

#[test]
fn mysql_commands_without_a_statement_are_no_exchanges() {
    let mut wire = my();
    let ok = || p(1, b"\0\0\0\x02\0\0\0");
    wire.out(&[p(0, b"\x0e")]).inbound(&[ok()]);
    wire.out(&[p(0, b"\x02shop")]).inbound(&[ok()]);
    wire.out(&[p(0, b"\x1f")]).inbound(&[ok()]);
    wire.out(&[p(0, b"\x03SELECT 1")]).inbound(&[p(1, b"\xff\x7a\x04#42S02no")]);
    wire.out(&[p(0, b"\x01")]);
    let Request::Sql(sql) = &wire.ends()[0].request else { panic!() };
    assert_eq!(sql.database.as_deref(), Some("shop"));
    assert_eq!(wire.found(), ["SELECT 1 | error 1146 42S02"]);
}

#[test]
fn mysql_goes_on_after_missing_bytes() {
    let mut wire = my();
    wire.out(&[p(0, b"\x03SELECT 1")]).segment(Direction::Inbound, Segment::Lost, true);
    wire.out(&[p(0, b"\x03SELECT 2")]).inbound(&[p(1, b"\0\0\0\x02\0\0\0")]);
    wire.segment(Direction::Outbound, Segment::Lost, true);
    wire.out(&[p(0, b"\x03SELECT 3")]).inbound(&[p(1, b"\0\x03\0\x02\0\0\0")]);
    assert_eq!(wire.found(), ["SELECT 1 | Unknown", "SELECT 2 | 0 affected", "SELECT 3 | 3 affected"]);
}

#[test]
fn mysql_encryption_is_opaque() {
    let mut wire = my();
    let mut greeting = b"\x0a8.4.0\0".to_vec();
    greeting.extend([1; 13]);
    greeting.extend(b"\xff\xff\xff\x02\0\xff\xdf\x15");
    greeting.extend([0; 30]);
    wire.inbound(&[p(0, &greeting)]);
    let mut request = 0x0000_8a00_u32.to_le_bytes().to_vec();
    request.extend([0; 28]);
    wire.out(&[p(1, &request)]);
    assert!(wire.parser.is_opaque());
}
