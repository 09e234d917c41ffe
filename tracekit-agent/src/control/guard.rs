//! Who may ask: bearer token, and no web page of somebody else.
//!
//! A browser on the same host reaches loopback, so a page could send requests there for its author (cross-site
//! request forgery), or read answers after its name was made to point to 127.0.0.1 (DNS rebinding). `Host` and
//! `Origin` tell both apart from a user's own requests.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use subtle::ConstantTimeEq as _;

use super::error::ApiError;

/// Shorter tokens could be guessed.
const MIN_TOKEN: usize = 16;

/// The secret of the API.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A token as it stands in a file or variable; white space around it does not count.
    ///
    /// # Errors
    /// It is too short, or not fit for a header.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < MIN_TOKEN {
            return Err(format!(
                "the token has {} characters; use {MIN_TOKEN} or more, for example those of `openssl rand -hex 32`",
                text.len()
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the token has characters that a header may not have; use letters and digits".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The same text. Takes as long for any text of the same length.
    fn is(&self, text: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(text).into()
    }

    /// As a header's value.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// How a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket: file permissions say who may.
    Unix,
    /// A TCP listener on a loopback address.
    Loopback,
    /// A TCP listener that others can reach.
    Network,
}

/// Lets a request in.
///
/// # Errors
/// It has no or a wrong token, or comes from a web page of somebody else.
pub fn check(door: Door, token: Option<&Token>, headers: &HeaderMap) -> Result<(), ApiError> {
    if door == Door::Unix {
        return Ok(());
    }
    check_browser(door, headers)?;
    let Some(token) = token else {
        return match door {
            Door::Network => Err(forbidden("this address needs a token and the agent has none")),
            Door::Unix | Door::Loopback => Ok(()),
        };
    };
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let given = match (given.next(), given.next()) {
        (Some(value), None) => value.as_bytes(),
        _ => b"",
    };
    let scheme = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    if scheme && token.is(given.get(7..).unwrap_or_default()) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send the agent's token: Authorization: Bearer …, or TRACEKIT_CONTROL_TOKEN for tracekit",
    ))
}

fn check_browser(door: Door, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(ApiError::bad_request("the request must have one Host header"));
    };
    let host = host.to_str().map_err(|_| ApiError::bad_request("the Host header is not text"))?;
    if door == Door::Loopback && !is_loopback(host) {
        return Err(forbidden("this address is only served as localhost, 127.0.0.1 or [::1]"));
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let own = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        if !own.is_some_and(|origin| origin.eq_ignore_ascii_case(host)) {
            return Err(forbidden("requests of web pages of other origins are refused"));
        }
    }
    // Sent by browsers with every request, also where there is no Origin.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return Err(forbidden("requests of web pages of other sites are refused"));
    }
    Ok(())
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
}

/// Names a loopback address without asking DNS.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, _)) if host.get(name.len()..).is_some_and(is_port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn status(door: Door, token: Option<&str>, pairs: &[(&str, &str)]) -> u16 {
        let token = token.map(|token| Token::new(token).unwrap());
        check(door, token.as_ref(), &headers(pairs)).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn web_pages_of_others_are_refused() {
        for (pairs, expected) in [
            (&[("host", "127.0.0.1:9999")][..], 200),
            (&[("host", "localhost:9999")], 200),
            (&[("host", "[::1]:9999")], 200),
            (&[("host", "localhost")], 200),
            (&[], 400),
            (&[("host", "localhost"), ("host", "evil.example")], 400),
            (&[("host", "evil.example:9999")], 403),
            (&[("host", "127.0.0.1.evil.example")], 403),
            (&[("host", "localhost:evil")], 403),
            (&[("host", "localhost@evil.example")], 403),
            (&[("host", "10.0.0.1:9999")], 403),
            (&[("host", "[::1].evil.example")], 403),
            (&[("host", "")], 403),
            (&[("host", "127.0.0.1:9999"), ("origin", "http://127.0.0.1:9999")], 200),
            (&[("host", "127.0.0.1:9999"), ("origin", "http://127.0.0.1:8080")], 403),
            (&[("host", "127.0.0.1:9999"), ("origin", "https://evil.example")], 403),
            (&[("host", "127.0.0.1:9999"), ("origin", "null")], 403),
            (&[("host", "127.0.0.1:9999"), ("sec-fetch-site", "cross-site")], 403),
            (&[("host", "127.0.0.1:9999"), ("sec-fetch-site", "same-origin")], 200),
        ] {
            assert_eq!(status(Door::Loopback, None, pairs), expected, "{pairs:?}");
        }
        assert_eq!(status(Door::Unix, None, &[]), 200);
    }

    #[test]
    fn the_token_is_needed_where_there_is_one() {
        let bearer = format!("Bearer {SECRET}");
        let host = ("host", "agent.example:9999");
        for (pairs, expected) in [
            (&[host][..], 401),
            (&[host, ("authorization", &bearer)], 200),
            (&[host, ("authorization", &format!("bearer {SECRET}"))], 200),
            (&[host, ("authorization", SECRET)], 401),
            (&[host, ("authorization", "Bearer ")], 401),
            (&[host, ("authorization", "Bearer 0123456789abcdef0124")], 401),
            (&[host, ("authorization", &format!("{bearer}x"))], 401),
            (&[host, ("authorization", &bearer), ("authorization", "Bearer x")], 401),
            (&[host, ("authorization", &bearer), ("origin", "http://evil.example")], 403),
        ] {
            assert_eq!(status(Door::Network, Some(SECRET), pairs), expected, "{pairs:?}");
        }
        assert_eq!(status(Door::Network, None, &[host, ("authorization", &bearer)]), 403);
        assert_eq!(status(Door::Loopback, Some(SECRET), &[("host", "localhost")]), 401);
    }

    #[test]
    fn weak_tokens() {
        assert!(Token::new("secret").unwrap_err().contains("6 characters"));
        assert!(Token::new("0123456789abcde\u{7f}x").is_err());
        assert_eq!(format!("{:?}", Token::new(SECRET).unwrap()), "Token(…)");
    }
}
