//! The messages of the protocol, one at a time (PostgreSQL documentation, "Message Formats").

use crate::Limits;
use crate::exchange::SqlError;
use crate::framing::Shape;
use crate::statement::looks_like_sql;

/// `SSLRequest`.
pub(super) const SSL_REQUEST: u32 = 80_877_103;
/// `GSSENCRequest`.
pub(super) const GSS_REQUEST: u32 = 80_877_104;
/// `CancelRequest`.
pub(super) const CANCEL_REQUEST: u32 = 80_877_102;
/// The server refuses longer start-up packets (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_STARTUP: u32 = 10_000;
/// The server refuses longer messages (`PQ_LARGE_MESSAGE_LIMIT`).
const MAX_MESSAGE: u32 = 0x3fff_ffff;
/// SQLSTATE of `query_canceled`: a `CancelRequest` or `statement_timeout`.
pub(super) const QUERY_CANCELED: &str = "57014";
/// `ReadyForQuery` but for its last byte.
const READY: &[u8] = b"Z\0\0\0\x05";

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// A NUL-terminated string and what follows it.
pub(super) fn c_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..nul)?, bytes.get(nul + 1..)?))
}

/// A typed header: how long the body is. `known` lists the message types of the direction.
fn shape(header: &[u8], known: &[u8], keep: impl Fn(u8) -> usize) -> Option<Shape> {
    let kind = *header.first()?;
    let length = u32_at(header, 1)?;
    if !known.contains(&kind) || !(4..=MAX_MESSAGE).contains(&length) {
        return None;
    }
    Some(Shape { body: u64::from(length - 4), keep: keep(kind) })
}

/// Header of a message of the client. Passwords and data are not kept.
pub(super) fn request_shape(header: &[u8], limits: &Limits) -> Option<Shape> {
    shape(header, b"QPBDECSHFXpdcf", |kind| match kind {
        // The text, after the name of the statement.
        b'Q' | b'P' => limits.text.saturating_add(64),
        b'B' | b'D' | b'E' | b'C' => 256,
        _ => 0,
    })
}

/// Header of a message of the server. Rows are not kept.
pub(super) fn answer_shape(header: &[u8]) -> Option<Shape> {
    shape(header, b"R123ACDEGHIKNSTVWZcdnstv", |kind| match kind {
        b'C' => 64,
        b'E' => 2048,
        b'Z' => 1,
        _ => 0,
    })
}

/// Header of a start-up packet, which has no type byte.
pub(super) fn startup_shape(header: &[u8]) -> Option<Shape> {
    let length = u32_at(header, 0)?;
    (8..=MAX_STARTUP)
        .contains(&length)
        .then(|| Shape { body: u64::from(length - 4), keep: MAX_STARTUP as usize })
}

/// What the first packet of a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Startup {
    /// `SSLRequest` or `GSSENCRequest`.
    Encryption,
    /// `CancelRequest`.
    Cancel,
    /// `StartupMessage`.
    Session { user: Option<String>, database: Option<String> },
}

/// The body of a start-up packet.
pub(super) fn startup(body: &[u8]) -> Option<Startup> {
    match u32_at(body, 0)? {
        SSL_REQUEST | GSS_REQUEST => Some(Startup::Encryption),
        CANCEL_REQUEST => Some(Startup::Cancel),
        version if version >> 16 == 3 => {
            let (mut user, mut database) = (None, None);
            let mut rest = body.get(4..)?;
            while let Some((name, after)) = c_string(rest) {
                let Some((value, after)) = c_string(after) else { break };
                let value = || Some(String::from_utf8_lossy(value).into_owned());
                match name {
                    b"user" => user = value(),
                    b"database" => database = value(),
                    _ => {}
                }
                rest = after;
            }
            // "database: defaults to the user name".
            let database = database.or_else(|| user.clone());
            Some(Startup::Session { user, database })
        }
        _ => None,
    }
}

/// Whether a connection that starts with these bytes starts with a start-up packet; `None`: too few.
pub(super) fn is_startup(bytes: &[u8]) -> Option<bool> {
    let Some(length) = u32_at(bytes, 0) else {
        return if bytes.iter().take(2).all(|byte| *byte == 0) { None } else { Some(false) };
    };
    if !(8..=MAX_STARTUP).contains(&length) {
        return Some(false);
    }
    let code = u32_at(bytes, 4)?;
    Some(match code {
        SSL_REQUEST | GSS_REQUEST => length == 8,
        CANCEL_REQUEST => (16..=280).contains(&length),
        _ => {
            let name = bytes.get(8..).unwrap_or_default();
            code >> 16 == 3
                && code & 0xffff < 0x1_000
                && name.iter().take(4).all(|byte| byte.is_ascii_graphic() || *byte == 0)
        }
    })
}

/// What the head of a call tells about the client's messages in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Messages, beginning with a statement, from the first byte to the last.
    Requests,
    /// Not provable.
    Nothing,
    /// Too few bytes.
    Short,
}

/// Whether `bytes`, the head of a call, are messages of a client that begin with a statement and whose
/// lengths lead exactly to the end, or beyond it for the last one.
pub(super) fn prove_requests(bytes: &[u8]) -> Proof {
    let mut rest = bytes;
    let mut first = true;
    while !rest.is_empty() {
        let Some(length) = u32_at(rest, 1) else {
            if first && b"QPB".contains(rest.first().unwrap_or(&0)) {
                return Proof::Short;
            }
            // A torn header: what came before it must do.
            return if first { Proof::Nothing } else { Proof::Requests };
        };
        let kind = rest.first().copied().unwrap_or(0);
        let known: &[u8] = if first { b"QPB" } else { b"QPBDECSHFXdcf" };
        if !known.contains(&kind) || !(4..=MAX_MESSAGE).contains(&length) {
            return Proof::Nothing;
        }
        let total = length as usize + 1;
        let body = rest.get(5..rest.len().min(total)).unwrap_or_default();
        let whole = rest.len() >= total;
        if !plausible_request(kind, body, whole) {
            return Proof::Nothing;
        }
        if !whole && first && kind == b'B' {
            // A lone Bind without its end proves too little.
            return Proof::Nothing;
        }
        rest = rest.get(total..).unwrap_or_default();
        first = false;
    }
    if first { Proof::Short } else { Proof::Requests }
}

fn plausible_request(kind: u8, body: &[u8], whole: bool) -> bool {
    let name = |bytes: &[u8]| bytes.len() < 128 && bytes.iter().all(|byte| *byte >= b' ');
    match kind {
        b'Q' => {
            let text = if whole { body.strip_suffix(b"\0") } else { Some(body) };
            text.is_some_and(|text| !text.contains(&0) && looks_like_sql(text))
        }
        b'P' => c_string(body).is_some_and(|(statement, rest)| {
            let text = c_string(rest).map_or(rest, |(text, _)| text);
            name(statement) && (looks_like_sql(text) || (whole && text.is_empty()))
        }),
        b'B' => c_string(body).is_some_and(|(portal, rest)| {
            // Portal, statement, then the number of format codes: 0, 1 or one for each parameter.
            name(portal) && c_string(rest).is_some_and(|(statement, _)| name(statement))
        }),
        b'D' | b'C' if whole => {
            matches!(body, [b'S' | b'P', rest @ .., 0] if name(rest))
        }
        b'E' if whole => c_string(body).is_some_and(|(portal, rest)| name(portal) && rest.len() == 4),
        b'S' | b'H' | b'X' | b'c' => body.is_empty(),
        _ => true,
    }
}

/// Whether the bytes are whole messages of a server and `ReadyForQuery` is the last.
pub(super) fn prove_answers(bytes: &[u8]) -> bool {
    ends_ready(bytes) && chain(bytes).is_some()
}

/// Where, in the last captured bytes of an answer, messages begin that lead exactly to a
/// `ReadyForQuery` at the end; at least one that concludes a statement comes before it.
pub(super) fn end_of_answer(bytes: &[u8]) -> Option<usize> {
    if !ends_ready(bytes) {
        return None;
    }
    (0..bytes.len().saturating_sub(6)).find(|at| {
        let rest = bytes.get(*at..).unwrap_or_default();
        let plausible = match rest.first() {
            Some(b'C') => rest.get(5).is_some_and(u8::is_ascii_uppercase),
            Some(b'E') => rest.get(5) == Some(&b'S'),
            Some(b'I' | b's') => u32_at(rest, 1) == Some(4),
            _ => false,
        };
        plausible && chain(rest).is_some()
    })
}

fn ends_ready(bytes: &[u8]) -> bool {
    matches!(bytes, [head @ .., b'I' | b'T' | b'E'] if head.ends_with(READY))
}

/// How many whole messages of a server the bytes are.
fn chain(mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !bytes.is_empty() {
        let shape = answer_shape(bytes.get(..5)?)?;
        bytes = bytes.get(5 + usize::try_from(shape.body).ok()?..)?;
        count += 1;
    }
    Some(count)
}

/// What a `CommandComplete` tag counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Returned(u64),
    Affected(u64),
    /// `COPY`, in either direction.
    Copied(u64),
    Uncounted,
}

/// `INSERT 0 5`, `SELECT 3`, `CREATE TABLE` …
pub(super) fn command_tag(body: &[u8]) -> Rows {
    let tag = c_string(body).map_or(body, |(tag, _)| tag);
    let Ok(tag) = std::str::from_utf8(tag) else { return Rows::Uncounted };
    let mut words = tag.split(' ');
    let verb = words.next().unwrap_or_default();
    let Some(count) = words.next_back().and_then(|word| word.parse().ok()) else { return Rows::Uncounted };
    match verb {
        "SELECT" | "FETCH" => Rows::Returned(count),
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => Rows::Affected(count),
        "COPY" => Rows::Copied(count),
        _ => Rows::Uncounted,
    }
}

/// `ErrorResponse`: SQLSTATE (field `C`) and message (field `M`).
pub(super) fn error(body: &[u8]) -> SqlError {
    let (mut code, mut message) = (String::new(), String::new());
    let mut rest = body;
    while let [field, after @ ..] = rest {
        if *field == 0 {
            break;
        }
        let (value, after) = c_string(after).unwrap_or((after, &[]));
        match field {
            b'C' => code = String::from_utf8_lossy(value).into_owned(),
            b'M' => message = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        rest = after;
    }
    SqlError { sqlstate: None, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn tags() {
        assert_eq!(command_tag(b"SELECT 12\0"), Rows::Returned(12));
        assert_eq!(command_tag(b"INSERT 0 3\0"), Rows::Affected(3));
        assert_eq!(command_tag(b"COPY 7\0"), Rows::Copied(7));
        assert_eq!(command_tag(b"CREATE TABLE\0"), Rows::Uncounted);
        assert_eq!(command_tag(b"\xff\0"), Rows::Uncounted);
    }

    #[test]
    fn errors() {
        let error = error(b"SERROR\0VERROR\0C42P01\0Mrelation \"x\" does not exist\0P15\0\0");
        assert_eq!(error.code, "42P01");
        assert_eq!(error.message, "relation \"x\" does not exist");
    }

    #[test]
    fn start_up_packets() {
        let session = startup(b"\0\x03\0\0user\0bob\0application_name\0x\0\0");
        let expected = Startup::Session { user: Some("bob".into()), database: Some("bob".into()) };
        assert_eq!(session, Some(expected));
        assert_eq!(is_startup(b"\0\0\0\x08\x04\xd2\x16\x2f"), Some(true));
        assert_eq!(is_startup(b"\0\0"), None);
        assert_eq!(is_startup(b"GET / HTTP/1.1"), Some(false));
        assert_eq!(is_startup(b"\0\0\0\x20\0\x03\0\0user\0bob\0"), Some(true));
    }

    #[test]
    fn statements_of_a_client_prove_themselves() {
        let query = message(b'Q', b"SELECT 1\0");
        assert_eq!(prove_requests(&query), Proof::Requests);
        assert_eq!(prove_requests(&query[..4]), Proof::Short);
        let long = [&query[..1], &1_000_000_u32.to_be_bytes(), b"INSERT INTO t VALUES ('aaaaa"].concat();
        assert_eq!(prove_requests(&long), Proof::Requests);
        let flight = [
            message(b'P', b"\0SELECT $1\0\0\0"),
            message(b'B', b"\0\0\0\0\0\0\0\0"),
            message(b'D', b"P\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ]
        .concat();
        assert_eq!(prove_requests(&flight), Proof::Requests);
        assert_eq!(prove_requests(&[&flight[..], b"junk!!"].concat()), Proof::Nothing);
        assert_eq!(prove_requests(b"POST / HTTP/1.1\r\n"), Proof::Nothing);
        assert_eq!(prove_requests(b"*1\r\n$4\r\nPING\r\n"), Proof::Nothing);
    }

    #[test]
    fn the_end_of_an_answer_is_found_in_its_tail() {
        let tail =
            [b"row bytes C\0\0\0\x09E E".to_vec(), message(b'C', b"SELECT 400\0"), message(b'Z', b"I")]
                .concat();
        assert_eq!(end_of_answer(&tail), Some(18));
        assert_eq!(end_of_answer(&tail[..tail.len() - 1]), None);
        assert_eq!(end_of_answer(b"Z\0\0\0\x05I"), None);
    }
}
