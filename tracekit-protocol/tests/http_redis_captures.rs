//! What recorded connections of real clients and servers come to.

mod support;

use support::{Capture, assert_paired, ends};
use tracekit_protocol::{Event, Outcome, Request, Role};

/// One line for an exchange: what the table of each test compares.
fn line(event: &tracekit_protocol::End) -> String {
    let outcome = match event.outcome {
        Outcome::Complete => "",
        Outcome::ClosedLocally => " closed-locally",
        Outcome::ClosedByPeer => " closed-by-peer",
        Outcome::Unknown => " unknown",
    };
    match &event.request {
        Request::Http(http) => {
            let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
            format!(
                "{} {} {} {}>{}{outcome}",
                http.method,
                http.target,
                number(http.status.map(u64::from)),
                number(http.request_body_size),
                number(http.response_body_size),
            )
        }
        Request::Redis(redis) => {
            let text = if redis.batch.is_empty() {
                tracekit_protocol::redis::sanitize(&redis.command, &redis.arguments)
            } else {
                let names: Vec<_> = redis.batch.iter().map(|c| c.command.as_str()).take(4).collect();
                format!("{}({}: {})", redis.command, redis.batch_size, names.join(" "))
            };
            let error = redis.error.as_ref().map_or(String::new(), |e| format!(" !{}", e.prefix));
            let handshake = if redis.handshake { " handshake" } else { "" };
            format!("{text}{error}{handshake}{outcome}")
        }
        other => panic!("neither HTTP nor Redis: {other:?}"),
    }
}

/// Client and server see the same exchanges.
fn check(name: &str, expected: &[&str]) -> Vec<Event> {
    let capture = Capture::load(name);
    let events = capture.play();
    assert_paired(&events);
    let lines: Vec<_> = ends(&events).into_iter().map(line).collect();
    assert_eq!(lines, expected, "{name}");
    assert!(ends(&events).iter().all(|e| e.role == Role::Client));
    let served = capture.from_the_server().play();
    assert_paired(&served);
    let swap = |l: &String| {
        let l = l.replace("closed-locally", "closed-by-");
        l.replace("closed-by-peer", "closed-locally").replace("closed-by-", "closed-by-peer")
    };
    let seen: Vec<_> = ends(&served).into_iter().map(line).collect();
    assert_eq!(seen, lines.iter().map(swap).collect::<Vec<_>>(), "{name}, from the server");
    assert!(ends(&served).iter().all(|e| e.role == Role::Server));
    events
}

#[test]
fn dump() {
    for c in Capture::all() {
        let events = c.play();
        println!("== {}", c.name);
        for e in ends(&events) { println!("{:?},", line(e)); }
        let s = c.clone().from_the_server().play();
        if ends(&s).len() != ends(&events).len() { println!("SERVER {}", ends(&s).len()); }
    }
}
