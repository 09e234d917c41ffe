//! Message heads: start line, header fields, and the framing of the body that they announce
//! (RFC 9112, sections 3, 4, 5 and 6).

use super::body::Body;

/// Header fields in order, names and values as sent, lossily decoded.
pub type Fields = Vec<(String, String)>;

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    pub method: String,
    pub target: String,
    pub minor_version: u8,
    pub fields: Fields,
    pub body: Body,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub fields: Fields,
    /// Framing by the header fields alone; status and request method may overrule it, see [`ResponseHead::body`].
    framing: Framing,
}

impl ResponseHead {
    /// How the body is framed, given the method of the request (RFC 9112, 6.3).
    #[must_use]
    pub fn body(&self, method: &str) -> Body {
        let bodiless = method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304);
        match self.framing {
            _ if bodiless => Body::Empty,
            Framing::Chunked => Body::chunked(),
            Framing::Length(n) => Body::length(n),
            Framing::Absent | Framing::Invalid | Framing::OtherCoding => Body::UntilClose,
        }
    }
}

/// Why there is no head.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Absent,
    Length(u64),
    Chunked,
    /// A transfer coding whose last one isn't `chunked`.
    OtherCoding,
    Invalid,
}

/// Offset just after the empty line that ends the head, looking only at ends at or after `from`.
#[must_use]
pub fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    // The empty line is LF LF or LF CR LF (a lone LF ends a line too: RFC 9112, 2.2).
    let from = from.saturating_sub(3);
    let tail = bytes.get(from..)?;
    let mut search = 0;
    while let Some(at) = tail.get(search..)?.iter().position(|&b| b == b'\n') {
        let after = search + at + 1;
        match tail.get(after..)? {
            [b'\n', ..] => return Some(from + after + 1),
            [b'\r', b'\n', ..] => return Some(from + after + 2),
            _ => search = after,
        }
    }
    None
}

/// Could these first bytes belong to a request line `method SP target SP HTTP/1.x`?
/// `Some(true)`: the whole line is there and is one.
#[must_use]
pub fn request_line(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().position(|b| !is_token(*b)).unwrap_or(bytes.len());
    if method == 0 || method > 24 || !bytes.first().is_some_and(u8::is_ascii_uppercase) {
        return (bytes.is_empty()).then_some(false);
    }
    let Some(rest) = bytes.get(method..) else { return Some(false) };
    match rest.first() {
        None => return Some(false),
        Some(b' ') => {}
        Some(_) => return None,
    }
    let rest = &rest[1..];
    // The target has no white space; obs-text is tolerated as most servers do.
    let target = rest.iter().position(|b| *b <= b' ' || *b == 0x7f).unwrap_or(rest.len());
    let plausible = matches!(rest.first(), None | Some(b'/' | b'*'))
        || rest.first().is_some_and(u8::is_ascii_alphanumeric)
        || rest.first() == Some(&b'[');
    if !plausible {
        return None;
    }
    let Some(rest) = rest.get(target..) else { return Some(false) };
    if rest.is_empty() {
        return Some(false);
    }
    const VERSION: &[u8] = b" HTTP/1.";
    let seen = rest.len().min(VERSION.len());
    if target == 0 || rest.get(..seen) != VERSION.get(..seen) {
        return None;
    }
    match rest.get(VERSION.len()..) {
        None | Some([]) | Some([b'0' | b'1']) | Some([b'0' | b'1', b'\r']) => Some(false),
        Some([b'0' | b'1', b'\n', ..]) | Some([b'0' | b'1', b'\r', b'\n', ..]) => Some(true),
        Some(_) => None,
    }
}

/// Likewise for a status line `HTTP/1.x SP 3DIGIT`.
#[must_use]
pub fn status_line(bytes: &[u8]) -> Option<bool> {
    const PATTERN: &[u8] = b"HTTP/1.# ###";
    for (got, want) in bytes.iter().zip(PATTERN) {
        let fits = if *want == b'#' { got.is_ascii_digit() } else { got == want };
        if !fits {
            return None;
        }
    }
    match bytes.get(PATTERN.len()) {
        None => Some(false),
        Some(b' ' | b'\r' | b'\n') => Some(true),
        Some(_) => None,
    }
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Parses a request head that ends with its empty line.
pub fn request(bytes: &[u8], keep: usize) -> Result<RequestHead, Malformed> {
    let mut room = header_room(bytes);
    let mut head = httparse::Request::new(&mut room);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Malformed),
    }
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version) else {
        return Err(Malformed);
    };
    let body = match framing(head.headers) {
        Framing::Absent => Body::Empty,
        Framing::Length(n) => Body::length(n),
        Framing::Chunked => Body::chunked(),
        // The server can't tell where the body ends and must answer 400 (RFC 9112, 6.3).
        Framing::OtherCoding | Framing::Invalid => return Err(Malformed),
    };
    Ok(RequestHead {
        method: method.to_owned(),
        target: target.to_owned(),
        minor_version,
        fields: fields(head.headers, keep),
        body,
    })
}

/// Parses a response head that ends with its empty line.
pub fn response(bytes: &[u8], keep: usize) -> Result<ResponseHead, Malformed> {
    let mut room = header_room(bytes);
    let mut head = httparse::Response::new(&mut room);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    match config.parse_response(&mut head, bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Malformed),
    }
    let Some(status) = head.code else { return Err(Malformed) };
    Ok(ResponseHead { status, fields: fields(head.headers, keep), framing: framing(head.headers) })
}

/// The complete lines of a head whose rest is missing, closed by an empty line, so that it parses.
#[must_use]
pub fn close_cut_head(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().rposition(|b| *b == b'\n')? + 1;
    let mut head = bytes.get(..end)?.to_vec();
    head.extend_from_slice(b"\r\n");
    Some(head)
}

/// A head has at most as many header fields as lines.
fn header_room(bytes: &[u8]) -> Vec<httparse::Header<'_>> {
    vec![httparse::EMPTY_HEADER; bytes.iter().filter(|b| **b == b'\n').count()]
}

fn fields(headers: &[httparse::Header<'_>], keep: usize) -> Fields {
    headers
        .iter()
        .take(keep)
        .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
        .collect()
}

fn framing(headers: &[httparse::Header<'_>]) -> Framing {
    let mut length = None;
    let mut last_coding: Option<bool> = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            for coding in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|c| !c.is_empty())
            {
                last_coding = Some(coding.eq_ignore_ascii_case(b"chunked"));
            }
        } else if header.name.eq_ignore_ascii_case("content-length") {
            // A list of equal values is one value (RFC 9110, 8.6).
            for value in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                let Some(value) = decimal(value) else { return Framing::Invalid };
                if length.is_some_and(|other| other != value) {
                    return Framing::Invalid;
                }
                length = Some(value);
            }
        }
    }
    match (last_coding, length) {
        // Transfer-Encoding overrides Content-Length (RFC 9112, 6.3).
        (Some(true), _) => Framing::Chunked,
        (Some(false), _) => Framing::OtherCoding,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::Absent,
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The value of a field that must not be repeated; `None` too if it is (W3C Trace Context, 3.2).
#[must_use]
pub fn single_field(fields: &Fields, name: &str) -> Option<String> {
    let mut values = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    let (_, value) = values.next()?;
    values.next().is_none().then(|| value.clone())
}

/// The values of a field, repeated ones joined by a comma (RFC 9110, 5.3).
#[must_use]
pub fn joined_field(fields: &Fields, name: &str) -> Option<String> {
    let values: Vec<&str> = fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_of_a_head_however_lines_end() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest", 0), Some(24));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\nA: b\n\nrest", 0), Some(21));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r", 0), None);
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 23), Some(24));
    }

    #[test]
    fn request_lines() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(true)),
            (b"GET / HTTP/1.0\nHost", Some(true)),
            (b"PROPFIND http://h/x HTTP/1.1\r\n", Some(true)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(true)),
            (b"CONNECT [::1]:443 HTTP/1.1\r\n", Some(true)),
            (b"", Some(false)),
            (b"GE", Some(false)),
            (b"GET /long", Some(false)),
            (b"GET / HTTP/1.", Some(false)),
            (b"GET / HTTP/2.0\r\n", None),
            (b"GET /\r\n", None),
            (b"SELECT 1 FROM x", None),
            (b"*1\r\n$4\r\nPING\r\n", None),
            (b"\x16\x03\x01", None),
            (b"get / HTTP/1.1\r\n", None),
        ] {
            assert_eq!(request_line(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn framing_follows_the_rfc() {
        for (head, expected) in [
            ("Content-Length: 5\r\n", Ok(Body::length(5))),
            ("Content-Length: 5, 5\r\n", Ok(Body::length(5))),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Body::length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(Malformed)),
            ("Content-Length: +5\r\n", Err(Malformed)),
            ("Content-Length: 99999999999999999999999\r\n", Err(Malformed)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Ok(Body::chunked())),
            ("Transfer-Encoding: gzip, chunked\r\n", Ok(Body::chunked())),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(Malformed)),
            ("Transfer-Encoding: xchunked\r\n", Err(Malformed)),
            ("", Ok(Body::Empty)),
        ] {
            let bytes = format!("POST / HTTP/1.1\r\n{head}\r\n");
            assert_eq!(request(bytes.as_bytes(), 8).map(|h| h.body), expected, "{head}");
        }
    }

    #[test]
    fn all_fields_count_for_framing_though_few_are_kept() {
        let mut bytes = b"POST / HTTP/1.1\r\n".to_vec();
        for i in 0..300 {
            bytes.extend_from_slice(format!("X-{i}: y\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"Content-Length: 7\r\n\r\n");
        let head = request(&bytes, 128).unwrap();
        assert_eq!((head.fields.len(), head.body), (128, Body::length(7)));
    }
}
