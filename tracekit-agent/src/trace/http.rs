//! HTTP spans.
//!
//! Source: semantic conventions 1.44, "Semantic conventions for HTTP spans".

use tracekit_protocol::{Outcome, Role, exchange::Http};

use super::{
    attributes::{peer, put},
    correlator::Described,
    peer::ServiceMap,
    span::{Attributes, Status},
};
use crate::{net::Connection, probes::record::Endpoint, redact, redact::Redactor};

/// Methods that are reported as they are; others are `_OTHER`.
const KNOWN_METHODS: &[&str] =
    &["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// Ports that are not part of a URL.
fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// Name, status and attributes of a server or client span.
#[must_use]
pub fn describe(
    http: &Http,
    role: Role,
    outcome: Outcome,
    connection: &Connection,
    services: &ServiceMap,
) -> Described {
    let mut attributes = Attributes::with_capacity(16);
    let known = KNOWN_METHODS.contains(&http.method.as_str());
    attributes.push(("http.request.method", if known { http.method.as_str() } else { "_OTHER" }.into()));
    if !known {
        attributes.push(("http.request.method_original", http.method.as_str().into()));
    }
    match role {
        Role::Server => server(http, connection, &mut attributes),
        Role::Client => client(http, connection, services, &mut attributes),
    }
    let version = if http.minor_version == 0 { "1.0" } else { "1.1" };
    attributes.push(("network.protocol.version", version.into()));
    put(&mut attributes, "user_agent.original", http.request_header("user-agent"));
    put(&mut attributes, "http.response.status_code", http.status.map(i64::from));

    let error = error_type(http.status, role, outcome);
    put(&mut attributes, "error.type", error.clone());
    let status = if error.is_some() { Status::Error(None) } else { Status::Unset };
    let name = if known { http.method.clone() } else { "HTTP".to_owned() };
    Described { name, status, attributes }
}

/// A server's 4xx is the caller's fault, a client's is an error; so is an answer that never came.
fn error_type(status: Option<u16>, role: Role, outcome: Outcome) -> Option<String> {
    let by_status = status.filter(|code| *code >= if role == Role::Server { 500 } else { 400 });
    by_status.map(|code| code.to_string()).or_else(|| match outcome {
        Outcome::Complete | Outcome::Unknown => None,
        // An answer of unknown length ends with the connection, whoever closes it.
        _ if status.is_some() => None,
        outcome => Some(closed_by(role, outcome).to_owned()),
    })
}

/// Which side of the exchange closed the connection before the answer.
pub fn closed_by(role: Role, outcome: Outcome) -> &'static str {
    match (role, outcome) {
        (Role::Client, Outcome::ClosedLocally) | (Role::Server, Outcome::ClosedByPeer) => "client_closed",
        _ => "server_closed",
    }
}

/// Splits `host[:port]`, `[v6]:port`.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let authority = authority.trim();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => (authority, None),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.and_then(|port| port.parse().ok());
    (!host.is_empty() && host.len() <= 255).then_some((host, port))
}

fn server(http: &Http, connection: &Connection, attributes: &mut Attributes) {
    let forwarded = http.request_header("forwarded").map(Forwarded::parse).unwrap_or_default();
    let first = |name: &str| http.request_header(name).and_then(|list| list.split(',').next()).map(str::trim);

    let (target, absolute) = origin_form(&http.target);
    let scheme = forwarded
        .proto
        .or_else(|| first("x-forwarded-proto"))
        .or(absolute.map(|(scheme, _)| scheme))
        .map(str::to_ascii_lowercase)
        .filter(|scheme| matches!(scheme.as_str(), "http" | "https"))
        .unwrap_or_else(|| "http".to_owned());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    attributes.push(("url.path", Redactor::in_use().part_of_url(path).into_owned().into()));
    let query = query.filter(|query| !query.is_empty()).map(redact::url::query);
    put(attributes, "url.query", query.map(|query| Redactor::in_use().part_of_url(&query).into_owned()));
    attributes.push(("url.scheme", scheme.as_str().into()));

    let host = forwarded
        .host
        .or_else(|| first("x-forwarded-host"))
        .or(absolute.map(|(_, authority)| authority))
        .or_else(|| http.request_header("host"))
        .and_then(host_and_port);
    let (local, remote) = connection.ends.as_ref().map_or((None, None), |(l, r)| (Some(l), Some(r)));
    match host {
        Some((host, port)) => {
            attributes.push(("server.address", host.into()));
            attributes.push(("server.port", i64::from(port.unwrap_or_else(|| default_port(&scheme))).into()));
        }
        None => super::attributes::server(attributes, local),
    }

    let client = forwarded
        .client
        .or_else(|| first("x-forwarded-for"))
        .or_else(|| first("x-real-ip"))
        .map(|node| host_and_port(node).map_or(node, |(host, _)| host).to_owned())
        .filter(|node| !node.is_empty() && node.len() <= 255)
        .or_else(|| match remote {
            Some(Endpoint::Ip(address)) => Some(address.ip().to_string()),
            _ => None,
        });
    put(attributes, "client.address", client);
    peer(attributes, remote);
}

fn client(http: &Http, connection: &Connection, services: &ServiceMap, attributes: &mut Attributes) {
    let remote = connection.ends.as_ref().map(|(_, remote)| remote);
    let (target, absolute) = origin_form(&http.target);
    let scheme = absolute.map_or("http", |(scheme, _)| scheme);
    let from_header = absolute.map(|(_, authority)| authority).or_else(|| http.request_header("host"));
    let authority = from_header.map_or_else(
        || match remote {
            Some(Endpoint::Ip(address)) => address.to_string(),
            _ => String::new(),
        },
        str::to_owned,
    );
    // Credentials may stand in an absolute target; they are no part of the host.
    let plain = authority.rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    match host_and_port(plain) {
        Some((host, port)) => {
            let port = port.unwrap_or_else(|| default_port(scheme));
            attributes.push(("server.address", host.into()));
            attributes.push(("server.port", i64::from(port).into()));
            let name = services.name(host, Some(port));
            put(attributes, "service.peer.name", name.clone());
            put(attributes, "peer.service", name);
        }
        None => super::attributes::server(attributes, remote),
    }
    let url = if http.method == "CONNECT" {
        http.target.clone()
    } else {
        format!("{scheme}://{authority}{target}")
    };
    attributes.push(("url.full", Redactor::in_use().url(&url).into_owned().into()));
    peer(attributes, remote);
}

/// The path and query of a request target, and scheme and authority if it is in absolute form.
fn origin_form(target: &str) -> (&str, Option<(&str, &str)>) {
    let Some((scheme, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return (target, None);
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    (if path.is_empty() { "/" } else { path }, Some((scheme, authority)))
}

/// The first element of a `Forwarded` header (RFC 7239).
#[derive(Debug, Default, PartialEq, Eq)]
struct Forwarded<'a> {
    client: Option<&'a str>,
    host: Option<&'a str>,
    proto: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    fn parse(header: &'a str) -> Self {
        let mut forwarded = Self::default();
        for pair in header.split(',').next().unwrap_or_default().split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = Some(value.trim().trim_matches('"')).filter(|value| !value.is_empty());
            match name.trim().to_ascii_lowercase().as_str() {
                // Obfuscated and unknown nodes are no addresses.
                "for" => forwarded.client = value.filter(|v| !v.starts_with('_') && *v != "unknown"),
                "host" => forwarded.host = value,
                "proto" => forwarded.proto = value,
                _ => {}
            }
        }
        forwarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{probes::record::ConnectionId, trace::span::Value};

    fn connection() -> Connection {
        let end = |text: &str| Endpoint::Ip(text.parse().unwrap());
        Connection {
            id: ConnectionId { tgid: 1, inode: 2 },
            ends: Some((end("10.0.0.1:8000"), end("10.0.0.9:41000"))),
            nonblocking: false,
            origin: None,
            by: tracekit_common::actor::Identity::default(),
            opened: 0,
            chosen: None,
        }
    }

    fn request(method: &str, target: &str, headers: &[(&str, &str)], status: Option<u16>) -> Http {
        Http {
            minor_version: 1,
            method: method.to_owned(),
            target: target.to_owned(),
            request_headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            status,
            ..Http::default()
        }
    }

    fn get(described: &Described, key: &str) -> Option<String> {
        described.attributes.iter().find(|(k, _)| *k == key).map(|(_, value)| match value {
            Value::String(text) => text.clone(),
            other => format!("{other:?}"),
        })
    }

    fn server_span(http: &Http, outcome: Outcome) -> Described {
        describe(http, Role::Server, outcome, &connection(), &ServiceMap::default())
    }

    #[test]
    fn a_server_span_has_what_the_conventions_require() {
        let span = server_span(
            &request("GET", "/a/b?x=1&token=t", &[("Host", "shop:8000")], Some(200)),
            Outcome::Complete,
        );
        assert_eq!(span.name, "GET");
        assert_eq!(span.status, Status::Unset);
        assert_eq!(get(&span, "url.path").as_deref(), Some("/a/b"));
        assert_eq!(get(&span, "url.query").as_deref(), Some("x=1&token=REDACTED"));
        assert_eq!(get(&span, "url.scheme").as_deref(), Some("http"));
        assert_eq!(get(&span, "server.address").as_deref(), Some("shop"));
        assert_eq!(get(&span, "server.port").as_deref(), Some("Int(8000)"));
        assert_eq!(get(&span, "client.address").as_deref(), Some("10.0.0.9"));
        assert_eq!(get(&span, "http.response.status_code").as_deref(), Some("Int(200)"));
    }

    #[test]
    fn forwarding_headers_name_the_client() {
        for (name, value, client) in [
            ("X-Forwarded-For", "203.0.113.7, 10.0.0.2", "203.0.113.7"),
            ("X-Forwarded-For", "203.0.113.7:4711", "203.0.113.7"),
            ("Forwarded", "for=\"[2001:db8::1]:4711\";proto=https, for=10.0.0.2", "2001:db8::1"),
            ("Forwarded", "for=_hidden", "10.0.0.9"),
            ("X-Real-IP", "203.0.113.8", "203.0.113.8"),
        ] {
            let span = server_span(
                &request("GET", "/", &[("host", "h"), (name, value)], Some(200)),
                Outcome::Complete,
            );
            assert_eq!(get(&span, "client.address").as_deref(), Some(client), "{name}: {value}");
        }
        let https = request("GET", "/", &[("host", "h"), ("X-Forwarded-Proto", "https")], Some(200));
        let span = server_span(&https, Outcome::Complete);
        assert_eq!(get(&span, "url.scheme").as_deref(), Some("https"));
        assert_eq!(get(&span, "server.port").as_deref(), Some("Int(443)"));
    }

    #[test]
    fn status_and_error_follow_the_side() {
        let not_found = request("GET", "/", &[], Some(404));
        assert_eq!(server_span(&not_found, Outcome::Complete).status, Status::Unset);
        let client =
            describe(&not_found, Role::Client, Outcome::Complete, &connection(), &ServiceMap::default());
        assert_eq!(client.status, Status::Error(None));
        assert_eq!(get(&client, "error.type").as_deref(), Some("404"));
        let unanswered = request("GET", "/", &[], None);
        let client = describe(
            &unanswered,
            Role::Client,
            Outcome::ClosedLocally,
            &connection(),
            &ServiceMap::default(),
        );
        assert_eq!(get(&client, "error.type").as_deref(), Some("client_closed"));
        let odd = server_span(&request("BREW", "/", &[], Some(418)), Outcome::Complete);
        assert_eq!(odd.name, "HTTP");
        assert_eq!(get(&odd, "http.request.method_original").as_deref(), Some("BREW"));
    }

    #[test]
    fn a_client_span_has_the_full_url_without_credentials() {
        let describe = |http: &Http| {
            describe(http, Role::Client, Outcome::Complete, &connection(), &ServiceMap::default())
        };
        let span =
            describe(&request("GET", "/charge?sig=x", &[("Host", "payment.internal:3000")], Some(200)));
        assert_eq!(
            get(&span, "url.full").as_deref(),
            Some("http://payment.internal:3000/charge?sig=REDACTED")
        );
        assert_eq!(get(&span, "service.peer.name").as_deref(), Some("payment"));
        let span = describe(&request("GET", "http://u:p@h/x", &[], Some(200)));
        assert_eq!(get(&span, "url.full").as_deref(), Some("http://REDACTED:REDACTED@h/x"));
        assert_eq!(get(&span, "server.address").as_deref(), Some("h"));
        let span = describe(&request("GET", "/x", &[], Some(200)));
        assert_eq!(get(&span, "url.full").as_deref(), Some("http://10.0.0.9:41000/x"));
    }
}
