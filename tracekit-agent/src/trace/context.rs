//! W3C Trace Context: what came with a request.
//!
//! Source: W3C Recommendation "Trace Context", §3.2 (`traceparent`) and §3.3 (`tracestate`).

use super::span::{SpanId, TraceId};

/// The caller's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteParent {
    /// `trace-id`
    pub trace_id: TraceId,
    /// `parent-id`
    pub span_id: SpanId,
    /// The `sampled` flag.
    pub sampled: bool,
    /// `tracestate`, empty if absent or malformed.
    pub trace_state: String,
}

/// `tracestate` longer than this is dropped; the Recommendation asks to keep at least 512.
const TRACE_STATE_MAX: usize = 1024;
/// List members that `tracestate` may have.
const TRACE_STATE_MEMBERS: usize = 32;

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Parses the two headers; `None` if `traceparent` is malformed, which means: start a new trace.
#[must_use]
pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<RemoteParent> {
    let mut parts = traceparent.trim().split('-');
    let version: [u8; 1] = hex(parts.next()?)?;
    let trace_id: [u8; 16] = hex(parts.next()?)?;
    let span_id: [u8; 8] = hex(parts.next()?)?;
    let flags: [u8; 1] = hex(parts.next()?)?;
    // Version 00 has exactly four fields, ff is invalid, later ones may have more.
    let more = parts.next().is_some();
    if version == [0xff] || version == [0] && more || trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some(RemoteParent {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        sampled: flags[0] & 1 != 0,
        trace_state: tracestate.and_then(valid_trace_state).unwrap_or_default(),
    })
}

fn valid_trace_state(text: &str) -> Option<String> {
    let text = text.trim();
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let valid = |member: &str| {
        member.split_once('=').is_some_and(|(key, value)| {
            !key.is_empty()
                && key.len() <= 256
                && value.len() <= 256
                && key
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'))
                && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=')
        })
    };
    let ok = text.len() <= TRACE_STATE_MAX
        && members.clone().count() <= TRACE_STATE_MEMBERS
        && members.clone().all(valid);
    ok.then(|| members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_is_taken() {
        let parent = parse(GOOD, Some("congo=t61rcWkgMzE, rojo=00f067aa0ba902b7")).unwrap();
        assert_eq!(parent.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id.to_string(), "00f067aa0ba902b7");
        assert!(parent.sampled);
        assert_eq!(parent.trace_state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
        assert!(!parse(&GOOD.replace("-01", "-00"), None).unwrap().sampled);
        assert!(parse(&format!("cc{}-what-else", &GOOD[2..]), None).is_some());
    }

    #[test]
    fn malformed_headers_start_a_new_trace() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(parse(bad, None), None, "{bad}");
        }
        assert_eq!(parse(GOOD, Some("no equals sign")).unwrap().trace_state, "");
    }

    proptest! {
        #[test]
        fn never_panics(traceparent in ".{0,80}", tracestate in ".{0,80}") {
            let _ = parse(&traceparent, Some(&tracestate));
        }
    }
}
