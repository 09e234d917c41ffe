//! Which endpoint a request is for.

use hyper::Method;

/// An endpoint of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Health,
    OpenApi,
    Limits,
    ListBreakpoints,
    AddBreakpoint,
    GetBreakpoint,
    UpdateBreakpoint,
    RemoveBreakpoint,
    EnableBreakpoint,
    DisableBreakpoint,
    ListSnapshots,
    GetSnapshot,
    Events,
    GetKillSwitch,
    SetKillSwitch,
}

/// Method, path and endpoint; `{id}` stands for one segment. `openapi.json` describes each.
pub const ROUTES: &[(Method, &str, Endpoint)] = &[
    (Method::GET, "/healthz", Endpoint::Health),
    (Method::GET, "/openapi.json", Endpoint::OpenApi),
    (Method::GET, "/v1/limits", Endpoint::Limits),
    (Method::GET, "/v1/breakpoints", Endpoint::ListBreakpoints),
    (Method::POST, "/v1/breakpoints", Endpoint::AddBreakpoint),
    (Method::GET, "/v1/breakpoints/{id}", Endpoint::GetBreakpoint),
    (Method::PATCH, "/v1/breakpoints/{id}", Endpoint::UpdateBreakpoint),
    (Method::DELETE, "/v1/breakpoints/{id}", Endpoint::RemoveBreakpoint),
    (Method::POST, "/v1/breakpoints/{id}/enable", Endpoint::EnableBreakpoint),
    (Method::POST, "/v1/breakpoints/{id}/disable", Endpoint::DisableBreakpoint),
    (Method::GET, "/v1/snapshots", Endpoint::ListSnapshots),
    (Method::GET, "/v1/snapshots/{id}", Endpoint::GetSnapshot),
    (Method::GET, "/v1/events", Endpoint::Events),
    (Method::GET, "/v1/kill-switch", Endpoint::GetKillSwitch),
    (Method::PUT, "/v1/kill-switch", Endpoint::SetKillSwitch),
];

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed<'a> {
    /// To this endpoint, with the path's `{id}` or an empty text.
    To(Endpoint, &'a str),
    /// The path has other methods.
    WrongMethod,
    /// Nowhere.
    Nowhere,
}

/// Finds the endpoint.
#[must_use]
pub fn route<'a>(method: &Method, path: &'a str) -> Routed<'a> {
    let mut known = false;
    for (of, pattern, endpoint) in ROUTES {
        if let Some(id) = matches(pattern, path) {
            known = true;
            if of == method {
                return Routed::To(*endpoint, id);
            }
        }
    }
    if known { Routed::WrongMethod } else { Routed::Nowhere }
}

fn matches<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once("{id}") else { return (pattern == path).then_some("") };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn paths() {
        for (method, path, expected) in [
            (Method::GET, "/v1/breakpoints", Routed::To(Endpoint::ListBreakpoints, "")),
            (Method::PATCH, "/v1/breakpoints/bp-1", Routed::To(Endpoint::UpdateBreakpoint, "bp-1")),
            (Method::POST, "/v1/breakpoints/bp-1/enable", Routed::To(Endpoint::EnableBreakpoint, "bp-1")),
            (Method::PUT, "/v1/breakpoints", Routed::WrongMethod),
            (Method::GET, "/v1/breakpoints/", Routed::Nowhere),
            (Method::GET, "/v1/breakpoints/a/b", Routed::Nowhere),
            (Method::POST, "/v1/breakpoints//enable", Routed::Nowhere),
            (Method::GET, "/v1/../healthz", Routed::Nowhere),
            (Method::GET, "", Routed::Nowhere),
        ] {
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn the_document_describes_exactly_these() {
        let document: Json = serde_json::from_str(crate::control::OPENAPI).unwrap();
        let mut described: Vec<String> = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                described.push(format!("{} {path}", method.to_uppercase()));
                assert!(
                    operation["summary"].is_string() && operation["responses"].is_object(),
                    "{method} {path}"
                );
            }
        }
        let mut there: Vec<String> =
            ROUTES.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        described.sort();
        there.sort();
        assert_eq!(described, there);
        // Every reference leads somewhere.
        let mut stack = vec![&document];
        while let Some(value) = stack.pop() {
            match value {
                Json::Object(map) => {
                    if let Some(Json::String(target)) = map.get("$ref") {
                        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
                    }
                    stack.extend(map.values());
                }
                Json::Array(items) => stack.extend(items),
                _ => {}
            }
        }
    }

    /// What the document says of a breakpoint is what is sent.
    #[test]
    fn the_document_has_all_fields() {
        use crate::snapshot::breakpoint::{Breakpoint, Source, Spec};
        use crate::snapshot::registry::View;
        let document: Json = serde_json::from_str(crate::control::OPENAPI).unwrap();
        let spec = Spec { file: "a.py".into(), line: 1, ..Spec::default() };
        let now = jiff::Timestamp::UNIX_EPOCH;
        let breakpoint = Breakpoint::new("b".parse().unwrap(), spec, "me", Source::Local, now).unwrap();
        let view = View {
            breakpoint,
            state: Default::default(),
            captures_left: 1,
            counters: Default::default(),
            process_count: 0,
            processes: Vec::new(),
        };
        let sent = serde_json::to_value(view).unwrap();
        for (schema, value) in
            [("Breakpoint", &sent), ("Limits", &sent["limits"]), ("Counters", &sent["counters"])]
        {
            let described = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
            for key in value.as_object().unwrap().keys() {
                assert!(described.contains_key(key), "{schema} has no {key}");
            }
        }
    }
}
