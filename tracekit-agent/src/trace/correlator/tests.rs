use tracekit_protocol::exchange::Http;

use super::*;
use crate::probes::record::{Cause, Endpoint};

pub(super) struct Env {
    event_loop: bool,
}

impl Environment for Env {
    fn resource(&self, _: u32) -> Arc<Resource> {
        Arc::new(Resource { attributes: Vec::new() })
    }
    fn has_event_loop(&self, _: u32) -> bool {
        self.event_loop
    }
    fn sample(&self, _: TraceId, parent: Option<bool>) -> bool {
        parent.unwrap_or(true)
    }
    fn unix_nanos(&self, monotonic: u64) -> u64 {
        monotonic
    }
}

pub(super) const SYNC: Env = Env { event_loop: false };

pub(super) fn connection(inode: u64, nonblocking: bool) -> Connection {
    let ends = Some((Endpoint::Unix(None), Endpoint::Unix(None)));
    Connection {
        id: ConnectionId { tgid: 1, inode },
        ends,
        nonblocking,
        origin: None,
        by: Identity::default(),
        opened: 0,
        chosen: None,
    }
}

pub(super) fn begin(id: u64, role: Role, tid: u32) -> Event {
    Event::Begin(Begin { id, role, start: 1, tid, traceparent: None, tracestate: None })
}

pub(super) fn end(id: u64, role: Role) -> Event {
    let request = Request::Http(Http { method: "GET".into(), status: Some(200), ..Http::default() });
    let outcome = Outcome::Complete;
    Event::End(Box::new(End { id, role, start: 1, first_response_byte: None, end: 2, outcome, request }))
}

#[test]
fn a_call_hangs_under_the_request_of_its_thread() {
    let mut correlator = Correlator::default();
    let (server, client) = (connection(1, false), connection(2, false));
    correlator.event(&server, begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
    let call = correlator.event(&client, end(1, Role::Client), &SYNC).unwrap();
    let request = correlator.event(&server, end(1, Role::Server), &SYNC).unwrap();
    assert_eq!(call.parent_span_id, Some(request.span_id));
    assert_eq!(call.trace_id, request.trace_id);
    assert_eq!(request.parent_span_id, None);
    // After the answer the thread acts for nobody.
    correlator.event(&client, begin(2, Role::Client, 7), &SYNC);
    assert_eq!(correlator.event(&client, end(2, Role::Client), &SYNC).unwrap().parent_span_id, None);
}

fn chosen(inode: u64, trace: u8, span: u8, read: bool) -> Connection {
    let ids = Some(([trace; 16], [span; 8], true));
    let chosen = Chosen { tid: 7, entered: 1, ids, read };
    Connection { chosen: Some(chosen), ..connection(inode, false) }
}

#[test]
fn ids_that_the_kernel_side_has_chosen_are_taken() {
    let mut correlator = Correlator::default();
    let (server, client) = (chosen(1, 1, 0, true), chosen(2, 1, 2, false));
    correlator.event(&server, begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
    let call = correlator.event(&client, end(1, Role::Client), &SYNC).unwrap();
    let request = correlator.event(&server, end(1, Role::Server), &SYNC).unwrap();
    assert_eq!((call.trace_id, call.span_id), (TraceId([1; 16]), SpanId([2; 8])));
    assert_eq!((request.trace_id, call.parent_span_id), (TraceId([1; 16]), Some(request.span_id)));
    assert_ne!(request.span_id, SpanId([0; 8]));
}

#[test]
fn a_call_that_carries_another_trace_has_no_parent_in_this_one() {
    let mut correlator = Correlator::default();
    let client = chosen(2, 3, 2, false);
    correlator.event(&connection(1, false), begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
    let call = correlator.event(&client, end(1, Role::Client), &SYNC).unwrap();
    assert_eq!((call.trace_id, call.parent_span_id), (TraceId([3; 16]), None));
}

#[test]
fn threads_do_not_mix() {
    let mut correlator = Correlator::default();
    let client = connection(3, false);
    correlator.event(&connection(1, false), begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 8), &SYNC);
    assert_eq!(correlator.event(&client, end(1, Role::Client), &SYNC).unwrap().parent_span_id, None);
}

#[test]
fn event_loops_get_no_parents() {
    let mut correlator = Correlator::default();
    let env = Env { event_loop: true };
    let client = connection(3, true);
    correlator.event(&connection(1, true), begin(1, Role::Server, 7), &env);
    correlator.event(&client, begin(1, Role::Client, 7), &env);
    assert_eq!(correlator.event(&client, end(1, Role::Client), &env).unwrap().parent_span_id, None);
}

#[test]
fn non_blocking_sockets_without_a_loop_are_timeouts_until_requests_interleave() {
    let mut correlator = Correlator::default();
    let client = connection(3, true);
    correlator.event(&connection(1, true), begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
    assert!(correlator.event(&client, end(1, Role::Client), &SYNC).unwrap().parent_span_id.is_some());
    correlator.event(&connection(2, true), begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(2, Role::Client, 7), &SYNC);
    assert_eq!(correlator.event(&client, end(2, Role::Client), &SYNC).unwrap().parent_span_id, None);
}

#[test]
fn a_blocking_thread_is_done_with_what_it_read_before() {
    let mut correlator = Correlator::default();
    let (second, client) = (connection(2, false), connection(3, false));
    correlator.event(&connection(1, false), begin(1, Role::Server, 7), &SYNC);
    correlator.event(&second, begin(1, Role::Server, 7), &SYNC);
    correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
    let call = correlator.event(&client, end(1, Role::Client), &SYNC).unwrap();
    let request = correlator.event(&second, end(1, Role::Server), &SYNC).unwrap();
    assert_eq!(call.parent_span_id, Some(request.span_id));
}

/// A task's call that ends before the task shows for which request it acts.
fn call_of_unknown_task(correlator: &mut Correlator) -> (Connection, Option<Span>) {
    let env = Env { event_loop: true };
    let server = Connection { opened: 0, ..connection(1, true) };
    let task = Identity { actor: 5, lane: 9, flags: KNOWN | IN_TASK, losses: 0 };
    let made = NewActor { tgid: 1, tid: 7, actor: 5, time: 1, by: Identity::default(), cause: Cause::None };
    correlator.made(&made, |_| {});
    correlator.event(&server, begin(1, Role::Server, 7), &env);
    let client = Connection { by: task, ..connection(3, true) };
    correlator.event(&client, begin(1, Role::Client, 7), &env);
    let span = correlator.event(&client, end(1, Role::Client), &env);
    (server, span)
}

#[test]
fn a_span_waits_until_its_task_answers() {
    let mut correlator = Correlator::default();
    let (server, early) = call_of_unknown_task(&mut correlator);
    assert_eq!(early, None);
    let mut spans = Vec::new();
    let task = Identity { actor: 5, lane: 9, flags: KNOWN | IN_TASK, losses: 0 };
    correlator.wrote(&server, &task, 2, |span| spans.push(span));
    let request = correlator.event(&server, end(1, Role::Server), &Env { event_loop: true }).unwrap();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans.first().unwrap().parent_span_id, Some(request.span_id));
    assert_eq!(spans.first().unwrap().trace_id, request.trace_id);
}

#[test]
fn a_span_waits_until_it_is_known_whose_work_it_is() {
    let mut correlator = Correlator::default();
    let (_, early) = call_of_unknown_task(&mut correlator);
    assert_eq!(early, None);
    let made = |actor: u64, by: u64, cause: Cause| {
        let by = Identity { actor: by, ..Identity::default() };
        NewActor { tgid: 1, tid: 7, actor, time: 1, by, cause }
    };
    let mut spans = Vec::new();
    correlator.made(&made(6, 0, Cause::Read(ConnectionId { tgid: 1, inode: 1 })), |span| spans.push(span));
    correlator.made(&made(5, 6, Cause::None), |span| spans.push(span));
    let server = connection(1, true);
    let request = correlator.event(&server, end(1, Role::Server), &Env { event_loop: true }).unwrap();
    let parents: Vec<_> = spans.iter().map(|span| span.parent_span_id).collect();
    assert_eq!(parents, [Some(request.span_id)]);
}

#[test]
fn a_thread_may_serve_another_request_after_a_loss() {
    let mut correlator = Correlator::default();
    let (server, client) = (connection(1, false), connection(2, false));
    let call = |correlator: &mut Correlator, id: u64| {
        correlator.event(&client, begin(id, Role::Client, 7), &SYNC);
        correlator.event(&client, end(id, Role::Client), &SYNC).unwrap().parent_span_id
    };
    correlator.event(&server, begin(1, Role::Server, 7), &SYNC);
    correlator.losses(0);
    assert!(call(&mut correlator, 1).is_some());
    // Its end was lost, or that of its answer, and the begin of the next one.
    correlator.losses(8);
    assert_eq!(call(&mut correlator, 2), None);
    // What has begun since is known.
    correlator.event(&server, begin(2, Role::Server, 7), &SYNC);
    correlator.losses(8);
    assert!(call(&mut correlator, 3).is_some());
}

#[test]
fn a_span_that_waits_in_vain_has_no_parent() {
    let mut correlator = Correlator::default();
    let (_, early) = call_of_unknown_task(&mut correlator);
    assert_eq!(early, None);
    let mut spans = Vec::new();
    correlator.release(Some(HELD_NANOS), |span| spans.push(span));
    assert_eq!(spans.len(), 0);
    correlator.release(Some(3 * HELD_NANOS), |span| spans.push(span));
    assert_eq!(spans.iter().map(|span| span.parent_span_id).collect::<Vec<_>>(), [None]);
}

#[test]
fn greenlets_of_one_thread_do_not_mix() {
    let mut correlator = Correlator::default();
    let env = Env { event_loop: true };
    let of = |inode: u64, lane: u64| Connection {
        by: Identity { actor: 0, lane, flags: KNOWN | WAITS_ELSEWHERE, losses: 0 },
        ..connection(inode, true)
    };
    correlator.event(&of(1, 100), begin(1, Role::Server, 7), &env);
    correlator.event(&of(2, 200), begin(1, Role::Server, 7), &env);
    correlator.event(&of(3, 100), begin(1, Role::Client, 7), &env);
    correlator.event(&of(4, 300), begin(1, Role::Client, 7), &env);
    let call = correlator.event(&of(3, 100), end(1, Role::Client), &env).unwrap();
    let other = correlator.event(&of(4, 300), end(1, Role::Client), &env).unwrap();
    let request = correlator.event(&of(1, 100), end(1, Role::Server), &env).unwrap();
    assert_eq!((call.parent_span_id, other.parent_span_id), (Some(request.span_id), None));
}

#[test]
fn the_callers_context_is_honoured() {
    let mut correlator = Correlator::default();
    let server = connection(1, false);
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    correlator.event(
        &server,
        Event::Begin(Begin {
            id: 1,
            role: Role::Server,
            start: 1,
            tid: 7,
            traceparent: Some(header.to_owned()),
            tracestate: Some("a=b".to_owned()),
        }),
        &SYNC,
    );
    let span = correlator.event(&server, end(1, Role::Server), &SYNC).unwrap();
    assert_eq!(span.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span.parent_span_id.map(|id| id.to_string()).as_deref(), Some("00f067aa0ba902b7"));
    assert!(span.parent_is_remote);
    assert!(!span.sampled);
    assert_eq!(span.trace_state, "a=b");
}
