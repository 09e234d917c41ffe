//! Requests and answers → spans with the right parents.
//!
//! For synchronous servers (a thread or a process handles one request at a time) the parent of a client
//! request is the server request that its thread has read and not yet answered. Where a thread serves
//! several requests at once (an event loop), a parent is left out, never guessed.

use std::{collections::HashMap, sync::Arc};

use tracekit_protocol::{Begin, End, Event, Outcome, Request, Role};

use super::{
    attributes, context,
    database::{Statements, describe_redis, describe_sql},
    http,
    peer::ServiceMap,
    span::{Attributes, Resource, Span, SpanId, SpanKind, Status, TraceId},
};
use crate::{
    net::{Caller, Connection},
    probes::record::{Chosen, ConnectionId},
};

/// Requests in flight that are remembered; a process that opens more and never answers is not worth it.
const MAX_IN_FLIGHT: usize = 64 * 1024;
/// Threads that are remembered.
const MAX_THREADS: usize = 64 * 1024;
/// Connections that are remembered for one served request.
const MAX_CALLS: usize = 256;

/// Name, status and attributes of a span, as its protocol's conventions say.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Span name.
    pub name: String,
    /// Status.
    pub status: Status,
    /// Attributes.
    pub attributes: Attributes,
}

/// What the correlation needs to know from outside.
pub trait Environment {
    /// The service that a process is.
    fn resource(&self, tgid: u32) -> Arc<Resource>;
    /// The process runs an event loop, so that non-blocking sockets mean interleaved requests.
    fn has_event_loop(&self, tgid: u32) -> bool;
    /// Head sampling of a trace; `parent` is the sampled flag that came with the request.
    fn sample(&self, trace_id: TraceId, parent: Option<bool>) -> bool;
    /// `CLOCK_MONOTONIC` to Unix time, both in nanoseconds.
    fn unix_nanos(&self, monotonic: u64) -> u64;
}

/// A request in flight.
#[derive(Debug, Clone)]
struct Open {
    trace_id: TraceId,
    span_id: SpanId,
    parent: Option<SpanId>,
    parent_is_remote: bool,
    trace_state: String,
    sampled: bool,
    thread: Thread,
    /// Where the application made this call.
    caller: Option<Arc<Caller>>,
}

type ExchangeId = (ConnectionId, u64);
type Thread = (u32, u32);

/// What a thread is serving.
#[derive(Debug, Default)]
struct Serving {
    /// Requests that it read and has not answered yet, oldest first; all of one connection.
    open: Vec<ExchangeId>,
    /// It was seen to serve several connections at once.
    interleaves: bool,
    /// Connections that it has sent requests on for the request that it serves.
    calls: Vec<ConnectionId>,
}

/// Joins requests with their causes.
#[derive(Default)]
pub struct Correlator {
    open: HashMap<ExchangeId, Open>,
    threads: HashMap<Thread, Serving>,
    services: ServiceMap,
    statements: Statements,
    /// See [`Correlator::quiet`].
    quiet: Vec<ConnectionId>,
}

impl Correlator {
    /// With the user's names of services.
    #[must_use]
    pub fn new(services: ServiceMap) -> Self {
        Self { services, ..Self::default() }
    }

    /// Something happened on a connection; gives the span that it completes.
    pub fn event(&mut self, connection: &Connection, event: Event, env: &impl Environment) -> Option<Span> {
        match event {
            Event::Begin(begin) => {
                self.begin(connection, &begin, env);
                None
            }
            Event::End(end) => self.end(connection, *end, env),
        }
    }

    /// Connections that were used for requests which have been answered since: nothing more will come on
    /// them for those, so that answers whose end can't be told have ended.
    pub fn quiet(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.quiet)
    }

    /// A process is gone: forget its threads.
    pub fn process_gone(&mut self, tgid: u32) {
        self.threads.retain(|thread, _| thread.0 != tgid);
        self.open.retain(|id, _| id.0.tgid != tgid);
    }

    fn begin(&mut self, connection: &Connection, begin: &Begin, env: &impl Environment) {
        if self.open.len() >= MAX_IN_FLIGHT {
            return;
        }
        let thread = (connection.id.tgid, begin.tid);
        let exchange = (connection.id, begin.id);
        let ids = connection.chosen.and_then(|chosen| chosen.ids);
        let open = match begin.role {
            Role::Server => {
                self.serve(connection, thread, exchange, env);
                let remote = begin
                    .traceparent
                    .as_deref()
                    .and_then(|header| context::parse(header, begin.tracestate.as_deref()));
                match remote {
                    Some(remote) => Open {
                        trace_id: remote.trace_id,
                        span_id: new_span_id(),
                        parent: Some(remote.span_id),
                        parent_is_remote: true,
                        sampled: env.sample(remote.trace_id, Some(remote.sampled)),
                        trace_state: remote.trace_state,
                        thread,
                        caller: None,
                    },
                    None => begun(thread, connection.chosen, env),
                }
            }
            Role::Client => match self.cause(thread, connection.id) {
                // What the request carries is another trace: there the kernel side knew less.
                Some(cause) if ids.is_some_and(|(trace_id, ..)| trace_id != cause.trace_id.0) => {
                    Open { caller: connection.caller.clone(), ..begun(thread, connection.chosen, env) }
                }
                Some(cause) => Open {
                    trace_id: cause.trace_id,
                    span_id: ids.map_or_else(new_span_id, |(_, span_id, _)| SpanId(span_id)),
                    parent: Some(cause.span_id),
                    parent_is_remote: false,
                    trace_state: cause.trace_state.clone(),
                    sampled: cause.sampled,
                    thread,
                    caller: connection.caller.clone(),
                },
                None => Open { caller: connection.caller.clone(), ..begun(thread, connection.chosen, env) },
            },
        };
        self.open.insert(exchange, open);
    }

    /// The server request on whose behalf a thread acts.
    fn cause(&mut self, thread: Thread, call: ConnectionId) -> Option<&Open> {
        let serving = self.threads.get_mut(&thread)?;
        if serving.interleaves {
            return None;
        }
        if serving.calls.len() < MAX_CALLS && !serving.calls.contains(&call) {
            serving.calls.push(call);
        }
        self.open.get(serving.open.first()?)
    }

    /// A thread has read a request.
    fn serve(
        &mut self,
        connection: &Connection,
        thread: Thread,
        exchange: ExchangeId,
        env: &impl Environment,
    ) {
        if self.threads.len() >= MAX_THREADS {
            self.threads.retain(|_, serving| !serving.open.is_empty());
            if self.threads.len() >= MAX_THREADS {
                return;
            }
        }
        let event_loop = connection.nonblocking && env.has_event_loop(thread.0);
        let serving = self.threads.entry(thread).or_default();
        serving.interleaves |= event_loop;
        if serving.open.iter().any(|(other, _)| *other != connection.id) {
            if connection.nonblocking {
                // Another connection's request is unanswered: this thread does several at once.
                serving.interleaves = true;
            } else {
                // It blocks in what it does, so it is done with that; its end was not seen.
                serving.open.clear();
            }
        }
        serving.open.push(exchange);
    }

    fn end(&mut self, connection: &Connection, end: End, env: &impl Environment) -> Option<Span> {
        let exchange = (connection.id, end.id);
        let open = self.open.remove(&exchange)?;
        if end.role == Role::Server
            && let Some(serving) = self.threads.get_mut(&open.thread)
        {
            serving.open.retain(|other| *other != exchange);
            self.quiet.append(&mut serving.calls);
            if serving.open.is_empty() && !serving.interleaves {
                self.threads.remove(&open.thread);
            }
        }
        let mut described = self.describe(connection, &end)?;
        if let Some(caller) = &open.caller {
            attributes::code(&mut described.attributes, caller);
        }
        let start = env.unix_nanos(end.start);
        Some(Span {
            trace_id: open.trace_id,
            span_id: open.span_id,
            parent_span_id: open.parent,
            parent_is_remote: open.parent_is_remote,
            trace_state: open.trace_state,
            sampled: open.sampled,
            name: described.name,
            kind: match end.role {
                Role::Server => SpanKind::Server,
                Role::Client => SpanKind::Client,
            },
            start_unix_nano: start,
            end_unix_nano: env.unix_nanos(end.end).max(start),
            status: described.status,
            attributes: described.attributes,
            resource: env.resource(connection.id.tgid),
        })
    }

    /// `None` for what is no span: connection set-up, and requests of whose answer nothing is known.
    fn describe(&mut self, connection: &Connection, end: &End) -> Option<Described> {
        let (role, outcome) = (end.role, end.outcome);
        match &end.request {
            Request::Http(http) if outcome == Outcome::Unknown && http.status.is_none() => None,
            Request::Http(http) => Some(http::describe(http, role, outcome, connection, &self.services)),
            Request::Sql(sql) => {
                Some(describe_sql(sql, role, outcome, connection, &self.services, &mut self.statements))
            }
            Request::Redis(redis) if redis.handshake => None,
            Request::Redis(redis) => Some(describe_redis(redis, role, outcome, connection, &self.services)),
        }
    }
}

/// A request without a parent, with the ids that the kernel side has chosen for it.
fn begun(thread: Thread, chosen: Option<Chosen>, env: &impl Environment) -> Open {
    let Some((trace_id, span_id, sampled)) = chosen.and_then(|chosen| chosen.ids) else {
        return root(thread, env);
    };
    let trace_id = TraceId(trace_id);
    let (span_id, sampled) = match span_id {
        // Of a request that was read only the trace is chosen.
        [0, 0, 0, 0, 0, 0, 0, 0] => (new_span_id(), env.sample(trace_id, None)),
        id => (SpanId(id), sampled),
    };
    Open { trace_id, span_id, sampled, ..root(thread, env) }
}

fn root(thread: Thread, env: &impl Environment) -> Open {
    let trace_id = new_trace_id();
    Open {
        trace_id,
        span_id: new_span_id(),
        parent: None,
        parent_is_remote: false,
        trace_state: String::new(),
        sampled: env.sample(trace_id, None),
        thread,
        caller: None,
    }
}

fn new_trace_id() -> TraceId {
    loop {
        let id: [u8; 16] = rand::random();
        if id != [0; 16] {
            return TraceId(id);
        }
    }
}

fn new_span_id() -> SpanId {
    loop {
        let id: [u8; 8] = rand::random();
        if id != [0; 8] {
            return SpanId(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracekit_protocol::exchange::Http;

    use super::*;
    use crate::probes::record::Endpoint;

    struct Env {
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

    const SYNC: Env = Env { event_loop: false };

    fn connection(inode: u64, nonblocking: bool) -> Connection {
        let ends = Some((Endpoint::Unix(None), Endpoint::Unix(None)));
        Connection { id: ConnectionId { tgid: 1, inode }, ends, nonblocking, caller: None, chosen: None }
    }

    fn begin(id: u64, role: Role, tid: u32) -> Event {
        Event::Begin(Begin { id, role, start: 1, tid, traceparent: None, tracestate: None })
    }

    fn end(id: u64, role: Role) -> Event {
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
}
