//! Packets of the protocol, one at a time (MySQL and MariaDB documentation, "Client/Server Protocol").

use crate::Limits;
use crate::exchange::{SqlError, SqlSystem};
use crate::framing::Shape;
use crate::statement::looks_like_sql;

/// Length of a packet that is continued in the next one.
pub(super) const FULL_PACKET: u64 = 0xff_ffff;

/// First byte of OK, of a local infile request, of EOF (or the OK that replaces it) and of ERR.
pub(super) const OK: u8 = 0x00;
pub(super) const LOCAL_INFILE: u8 = 0xfb;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERR: u8 = 0xff;

/// `SERVER_MORE_RESULTS_EXISTS`
pub(super) const MORE_RESULTS: u16 = 0x0008;
/// `SERVER_STATUS_CURSOR_EXISTS`
pub(super) const CURSOR_EXISTS: u16 = 0x0040;

const CLIENT_CONNECT_WITH_DB: u32 = 1 << 3;
const CLIENT_COMPRESS: u32 = 1 << 5;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const CLIENT_ZSTD: u32 = 1 << 26;

/// Commands (`enum_server_command`).
pub(super) mod command {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const FIELD_LIST: u8 = 0x04;
    pub const PROCESS_INFO: u8 = 0x0a;
    pub const PING: u8 = 0x0e;
    pub const CHANGE_USER: u8 = 0x11;
    pub const BINLOG_DUMP: u8 = 0x12;
    pub const TABLE_DUMP: u8 = 0x13;
    pub const STMT_PREPARE: u8 = 0x16;
    pub const STMT_EXECUTE: u8 = 0x17;
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub const STMT_CLOSE: u8 = 0x19;
    pub const STMT_RESET: u8 = 0x1a;
    pub const STMT_FETCH: u8 = 0x1c;
    pub const BINLOG_DUMP_GTID: u8 = 0x1e;
    pub const RESET_CONNECTION: u8 = 0x1f;
    /// MariaDB: `COM_STMT_BULK_EXECUTE`.
    pub const STMT_BULK_EXECUTE: u8 = 0xfa;
}

/// ER_QUERY_INTERRUPTED (`KILL QUERY`), MariaDB's ER_STATEMENT_TIMEOUT and MySQL's ER_QUERY_TIMEOUT.
pub(super) const CANCELLED: [u16; 3] = [1317, 1969, 3024];
/// MariaDB sends progress reports as errors of this number.
pub(super) const PROGRESS_REPORT: u16 = 0xffff;

fn length(header: &[u8]) -> Option<u64> {
    match header {
        [a, b, c, ..] => Some(u64::from(*a) | u64::from(*b) << 8 | u64::from(*c) << 16),
        _ => None,
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Length-encoded integer and what follows it.
pub(super) fn lenenc(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let width = match first {
        0..=0xfa => return Some((u64::from(*first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(width)?;
    Some((number.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), rest))
}

fn c_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..nul)?, bytes.get(nul + 1..)?))
}

fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Header of a packet of the client.
pub(super) fn request_shape(header: &[u8], limits: &Limits) -> Option<Shape> {
    Some(Shape { body: length(header)?, keep: limits.text.saturating_add(16) })
}

/// Header of a packet of the server. Of rows, what tells them from an end or an error is enough.
pub(super) fn answer_shape(header: &[u8]) -> Option<Shape> {
    Some(Shape { body: length(header)?, keep: 560 })
}

/// The server's first packet (`HandshakeV10`): which kind of server it is.
pub(super) fn greeting(body: &[u8]) -> Option<SqlSystem> {
    let (version, rest) = c_string(body.strip_prefix(&[10])?)?;
    // Thread id, 8 bytes of salt, filler, capabilities.
    let capabilities = u16_at(rest, 13)?;
    // MariaDB leaves out CLIENT_LONG_PASSWORD, and names itself.
    let mariadb =
        version.windows(7).any(|word| word.eq_ignore_ascii_case(b"mariadb")) || capabilities & 1 == 0;
    Some(if mariadb { SqlSystem::MariaDb } else { SqlSystem::MySql })
}

/// Whether the head of a call is the head of a greeting; `None`: too few bytes.
pub(super) fn is_greeting(bytes: &[u8]) -> Option<bool> {
    let length = length(bytes)?;
    if !(32..=1024).contains(&length) || bytes.get(3).is_some_and(|sequence| *sequence != 0) {
        return Some(false);
    }
    let rest = bytes.get(4..)?;
    let (version, name) = rest.split_first()?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(
        *version == 10
            && name.iter().all(u8::is_ascii_graphic)
            && name.first().is_none_or(u8::is_ascii_digit),
    )
}

/// What the client answers to the greeting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    pub encrypted: bool,
    pub compressed: bool,
    pub user: Option<String>,
    pub database: Option<String>,
}

/// `SSLRequest` or `HandshakeResponse41`. The authentication data are skipped.
pub(super) fn handshake(body: &[u8]) -> Option<Handshake> {
    let capabilities = u32_at(body, 0)?;
    if capabilities & CLIENT_PROTOCOL_41 == 0 {
        return None;
    }
    let encrypted = capabilities & CLIENT_SSL != 0;
    let compressed = capabilities & (CLIENT_COMPRESS | CLIENT_ZSTD) != 0;
    let mut handshake = Handshake { encrypted, compressed, user: None, database: None };
    // Capabilities, packet size, character set and 23 reserved bytes.
    let Some(rest) = body.get(32..) else { return encrypted.then_some(handshake) };
    let Some((user, rest)) = c_string(rest) else { return Some(handshake) };
    handshake.user = text(user);
    let rest = if capabilities & CLIENT_PLUGIN_AUTH_LENENC != 0 {
        lenenc(rest).and_then(|(n, rest)| rest.get(usize::try_from(n).ok()?..))
    } else if capabilities & CLIENT_SECURE_CONNECTION != 0 {
        rest.split_first().and_then(|(n, rest)| rest.get(usize::from(*n)..))
    } else {
        c_string(rest).map(|(_, rest)| rest)
    };
    if capabilities & CLIENT_CONNECT_WITH_DB != 0 {
        handshake.database = rest.and_then(c_string).and_then(|(database, _)| text(database));
    }
    Some(handshake)
}

/// `COM_CHANGE_USER`: user and database.
pub(super) fn change_user(body: &[u8]) -> Option<(Option<String>, Option<String>)> {
    let (user, rest) = c_string(body)?;
    let (n, rest) = rest.split_first()?;
    let (database, _) = c_string(rest.get(usize::from(*n)..)?)?;
    Some((text(user), text(database)))
}

/// What concludes a command or a result set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conclusion {
    pub affected: u64,
    pub status: u16,
}

/// An OK packet, or the one that stands for EOF if both sides have CLIENT_DEPRECATE_EOF.
pub(super) fn ok(body: &[u8]) -> Option<Conclusion> {
    let (affected, rest) = lenenc(body.get(1..)?)?;
    let (_insert_id, rest) = lenenc(rest)?;
    Some(Conclusion { affected, status: u16_at(rest, 0)? })
}

/// The end of rows: EOF of five bytes, or OK with the first byte of EOF.
pub(super) fn end_of_rows(body: &[u8], length: u64) -> Option<Conclusion> {
    if body.first() != Some(&EOF) || length >= FULL_PACKET {
        return None;
    }
    if length == 5 { Some(Conclusion { affected: 0, status: u16_at(body, 3)? }) } else { ok(body) }
}

/// ERR: number, SQLSTATE, message.
pub(super) fn error(body: &[u8]) -> Option<(u16, SqlError)> {
    let number = u16_at(body, 1)?;
    let rest = body.get(3..)?;
    let (sqlstate, message) = match rest.split_at_checked(6) {
        Some(([b'#', state @ ..], message)) => (text(state), message),
        _ => (None, rest),
    };
    let message = String::from_utf8_lossy(message).into_owned();
    Some((number, SqlError { code: number.to_string(), sqlstate, message }))
}

/// The text of `COM_QUERY`. Servers of MySQL 8 and their clients put query attributes before it
/// (CLIENT_QUERY_ATTRIBUTES): none mostly, that is `00 01`; no SQL starts with these bytes.
pub(super) fn query_text(body: &[u8]) -> Option<&[u8]> {
    match body {
        [0, 1, text @ ..] => Some(text),
        // With attributes: their values come before the text.
        [1..=8, 1, bitmap, 1, ..] if *bitmap < 0x20 => None,
        text => Some(text),
    }
}

/// What the head of a call tells about the client's packets in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Commands, from the first byte to the last.
    Commands,
    /// Not provable.
    Nothing,
    /// Too few bytes.
    Short,
}

/// Whether `bytes`, the head of a call, are commands whose lengths lead exactly to its end, or beyond
/// it for the last one.
pub(super) fn prove_commands(bytes: &[u8]) -> Proof {
    let mut rest = bytes;
    while !rest.is_empty() {
        let first = rest.len() == bytes.len();
        let (Some(length), Some(sequence)) = (length(rest), rest.get(3)) else {
            return if first { Proof::Short } else { Proof::Nothing };
        };
        if length == 0 || *sequence != 0 {
            return Proof::Nothing;
        }
        let total = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(4);
        let Some((command, body)) = rest.get(4..rest.len().min(total)).and_then(<[u8]>::split_first) else {
            return if first { Proof::Short } else { Proof::Nothing };
        };
        if !plausible_command(*command, body, length, rest.len() >= total) {
            return Proof::Nothing;
        }
        rest = rest.get(total..).unwrap_or_default();
    }
    if bytes.is_empty() { Proof::Short } else { Proof::Commands }
}

fn plausible_command(command: u8, body: &[u8], length: u64, whole: bool) -> bool {
    match command {
        command::QUERY => query_text(body).is_some_and(looks_like_sql),
        command::STMT_PREPARE => looks_like_sql(body),
        // Statement, flags, then an iteration count that is always 1.
        command::STMT_EXECUTE => body.get(4).is_some_and(|flags| *flags < 0x10) && u32_at(body, 5) == Some(1),
        command::PING | command::RESET_CONNECTION => whole && length == 1,
        command::STMT_CLOSE | command::STMT_RESET => whole && length == 5,
        _ => false,
    }
}

/// Where, in the last captured bytes of an answer, packets with ascending sequence numbers begin that
/// lead exactly to the end of a result set, or an error, in the last one.
pub(super) fn end_of_answer(bytes: &[u8]) -> Option<usize> {
    let last = (4..=bytes.len().min(400)).rev().filter_map(|n| bytes.len().checked_sub(n)).find(|at| {
        let packet = bytes.get(*at..).unwrap_or_default();
        let body = packet.get(4..).unwrap_or_default();
        length(packet) == Some(body.len() as u64) && concludes(body)
    })?;
    // A row before it makes it certain; a lone EOF of one of the two exact forms must do where the
    // last row is longer than what was captured.
    (0..last)
        .find(|at| chain(bytes.get(*at..).unwrap_or_default()))
        .or_else(|| lone_end_of_rows(bytes.get(last + 4..).unwrap_or_default()).then_some(last))
}

fn concludes(body: &[u8]) -> bool {
    match body.first() {
        Some(&EOF) => lone_end_of_rows(body) || body.len() > 7 && ok(body).is_some(),
        Some(&ERR) => body.get(3) == Some(&b'#'),
        _ => false,
    }
}

fn lone_end_of_rows(body: &[u8]) -> bool {
    match *body {
        // Warnings, status; a result set that was sent has a status.
        [EOF, _, _, status, _] => status != 0,
        [EOF, 0, 0, status, _, _, _] => status != 0,
        _ => false,
    }
}

/// At least two whole packets in sequence.
fn chain(mut bytes: &[u8]) -> bool {
    let mut expected = None;
    let mut count = 0;
    while !bytes.is_empty() {
        let (Some(length), Some(sequence)) = (length(bytes), bytes.get(3)) else { return false };
        if length == 0 || expected.is_some_and(|expected| expected != *sequence) {
            return false;
        }
        expected = Some(sequence.wrapping_add(1));
        count += 1;
        let total = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(4);
        let Some(rest) = bytes.get(total..) else { return false };
        bytes = rest;
    }
    count >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(sequence);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn length_encoded_integers() {
        assert_eq!(lenenc(b"\x05x"), Some((5, &b"x"[..])));
        assert_eq!(lenenc(b"\xfc\x01\x02"), Some((0x201, &b""[..])));
        assert_eq!(lenenc(b"\xfd\x01\x00\x01"), Some((0x1_0001, &b""[..])));
        assert_eq!(lenenc(b"\xff"), None);
        assert_eq!(lenenc(b"\xfe\x01"), None);
    }

    #[test]
    fn commands_prove_themselves() {
        let query = packet(0, b"\x03SELECT 1");
        assert_eq!(prove_commands(&query), Proof::Commands);
        assert_eq!(prove_commands(&query[..4]), Proof::Short);
        assert_eq!(prove_commands(&packet(1, b"\x03SELECT 1")), Proof::Nothing);
        assert_eq!(prove_commands(&packet(0, b"\x03\0\x01SELECT 1")), Proof::Commands);
        assert_eq!(prove_commands(&packet(0, b"\x17\x01\0\0\0\0\x01\0\0\0")), Proof::Commands);
        assert_eq!(prove_commands(b"\x01\0\0\0\x0e"), Proof::Commands);
        assert_eq!(prove_commands(b"GET / HTTP/1.1\r\n"), Proof::Nothing);
        assert_eq!(prove_commands(&[&query[..], b"x"].concat()), Proof::Nothing);
    }

    #[test]
    fn errors() {
        let (number, error) = error(b"\xff\x7a\x04#42S02Table 'a.b' doesn't exist").unwrap();
        assert_eq!((number, error.code.as_str()), (1146, "1146"));
        assert_eq!(error.sqlstate.as_deref(), Some("42S02"));
        assert_eq!(error.message, "Table 'a.b' doesn't exist");
    }

    #[test]
    fn the_end_of_rows_is_found_in_the_tail() {
        let rows = [b"rest of a row".to_vec(), packet(9, b"\x01a"), packet(10, b"\xfe\0\0\x22\0")].concat();
        assert_eq!(end_of_answer(&rows), Some(13));
        let lone = [b"rest of a row".to_vec(), packet(10, b"\xfe\0\0\x02\0\0\0")].concat();
        assert_eq!(end_of_answer(&lone), Some(13));
        assert_eq!(end_of_answer(b"nothing of the kind"), None);
        assert_eq!(end_of_answer(b""), None);
    }

    #[test]
    fn greetings() {
        let mut body = b"\x0a5.5.5-10.11.6-MariaDB-1\0".to_vec();
        body.extend([0; 13]);
        body.extend(0xf7fe_u16.to_le_bytes());
        body.extend([0; 30]);
        assert_eq!(greeting(&body), Some(SqlSystem::MariaDb));
        assert_eq!(is_greeting(&packet(0, &body)), Some(true));
        assert_eq!(is_greeting(&packet(0, &body)[..4]), None);
        assert_eq!(is_greeting(b"HTTP/1.1 200 OK"), Some(false));
    }
}
