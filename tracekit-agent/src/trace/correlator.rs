//! Requests and answers → spans with the right parents.
//!
//! Where a thread, or a greenlet in it, handles one request at a time, the parent of a client request is the
//! server request that it has read and not yet answered. Where a thread serves several requests at once (an
//! event loop), it is the request for which the task acts that sends ([`super::actors`]); that may be known only
//! when the task answers, so that spans wait for it. What is not known is left out, never guessed.

mod ends;
mod joining;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tracekit_common::actor::{IN_GREENLET, IN_TASK, IN_WAITING_LANE, Identity, KNOWN, WAITS_ELSEWHERE};
use tracekit_protocol::{Begin, End, Event, Outcome, Request, Role, exchange::SqlSystem};

use super::{
    actors::{ActorId, Actors, Served},
    attributes,
    context::{self, RemoteParent},
    database::{Statements, describe_redis, describe_sql},
    existing::{Existing, Finished, Look},
    http,
    joined::Joined,
    peer::ServiceMap,
    repeats::{Insight, Repeated, Repeats},
    span::{Attributes, Resource, Span, SpanId, SpanKind, SpanRef, Status, TraceId},
};
use crate::{
    net::{Connection, Origin},
    probes::record::{Chosen, ConnectionId, NewActor},
    python::library::{Category, Libraries},
};

use joining::Link;

/// Requests in flight that are remembered; a process that opens more and never answers is not worth it.
const MAX_IN_FLIGHT: usize = 64 * 1024;
/// Threads and greenlets that are remembered.
const MAX_LANES: usize = 64 * 1024;
/// Connections that are remembered for one served request.
const MAX_CALLS: usize = 256;
/// Spans that wait for their parent at most, and for how many nanoseconds.
const MAX_HELD: usize = 8 * 1024;
const HELD_NANOS: u64 = 60_000_000_000;

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
    /// The network namespace of a process, if that is known: addresses mean the same in it.
    fn network(&self, tgid: u32) -> Option<u64> {
        let _ = tgid;
        None
    }
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
    lane: Lane,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    begin: u64,
    /// Who sent it, if it is not known for which request.
    actor: Option<ActorId>,
    /// Its ids are in the headers that the other end gets.
    sent: bool,
    /// Where the application made this call.
    origin: Option<Arc<Origin>>,
    /// Of this request, which is served: spans of its calls were exported.
    has_children: bool,
    /// The request for which it was sent, or itself.
    request: Option<ExchangeId>,
    /// What the request carried.
    header: Option<RemoteParent>,
    /// What was seen of the stack that made the call.
    libraries: Libraries,
}

type ExchangeId = (ConnectionId, u64);
/// Process, thread, and which of its stacks: that of a greenlet, if there are any.
type Lane = (u32, u32, u64);

/// A client span of which it is not known for which request it was sent.
struct Held {
    finished: Finished,
    actor: ActorId,
    /// When it was sent, and when it was complete; nanoseconds of `CLOCK_MONOTONIC`.
    begin: u64,
    since: u64,
    /// What of it may be repeated.
    call: Option<Repeated>,
}

/// What a thread is serving, or a greenlet in it.
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
    lanes: HashMap<Lane, Serving>,
    actors: Actors,
    held: Vec<Held>,
    services: ServiceMap,
    statements: Statements,
    insight: Insight,
    repeats: Repeats,
    existing: Existing,
    joined: Joined,
    /// Requests whose calls are known, but not yet for what these were made; by the call.
    links: HashMap<ExchangeId, Link>,
    /// Spans of such requests.
    waiting: Vec<Finished>,
    /// See [`Correlator::quiet`].
    quiet: Vec<ConnectionId>,
    /// See [`Correlator::losses`].
    losses: u32,
}

impl Correlator {
    /// With the user's names of services.
    #[must_use]
    pub fn new(services: ServiceMap, insight: Insight) -> Self {
        Self { services, insight, repeats: Repeats::new(insight.repeats), ..Self::default() }
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

    /// A task, thread or greenlet was made, or work handed over. Spans whose parent is known by that go to `emit`.
    pub fn made(&mut self, new: &NewActor, emit: impl FnMut(Span)) {
        let lane = self.lane(new.tgid, new.tid, &new.by);
        let request = if new.by.flags & IN_TASK != 0 { None } else { self.served(lane) };
        if self.actors.made(new, request)
            && let Some(request) = self.actors.request_of((new.tgid, new.actor))
        {
            self.settle(new.tgid, Some(request.exchange), emit);
        }
    }

    /// Notes how many records were lost so far, as a record says: what was known of requests that are in flight may be
    /// over since.
    pub fn losses(&mut self, losses: u32) {
        if self.losses != losses {
            self.losses = losses;
            self.actors.lost();
            for serving in self.lanes.values_mut() {
                serving.open.clear();
            }
        }
    }

    /// The request that a thread or greenlet has read and not answered, if that is one at a time.
    fn served(&self, lane: Lane) -> Option<Arc<Served>> {
        let request = self.lanes.get(&lane).filter(|serving| !serving.interleaves);
        request.and_then(|serving| self.actors.open(*serving.open.first()?))
    }

    /// Somebody writes on this connection; `time` in nanoseconds of `CLOCK_MONOTONIC`. Spans whose parent is known by
    /// that go to `emit`.
    pub fn wrote(&mut self, connection: &Connection, by: &Identity, time: u64, emit: impl FnMut(Span)) {
        let (id, tgid) = (connection.id, connection.id.tgid);
        if by.actor != 0
            && let Some(request) = self.actors.answers((tgid, by.actor), id, connection.opened)
        {
            self.settle(tgid, Some(request.exchange), emit);
        }
        self.actors.wrote(id, by.actor, time);
    }

    /// It has turned out for which requests some actors of a process act. What they have sent hangs under those, or, if
    /// `only` is given, under that one.
    fn settle(&mut self, tgid: u32, only: Option<ExchangeId>, mut emit: impl FnMut(Span)) {
        let is_meant = |served: &Served, begin: u64| {
            only.is_none_or(|only| served.exchange == only) && begin >= served.begin
        };
        // What its actors do later may be for another request.
        for (exchange, open) in &mut self.open {
            if exchange.0.tgid == tgid
                && let Some(actor) = open.actor
                && let Some(served) = self.actors.request_of(actor)
            {
                open.actor = None;
                if is_meant(&served, open.begin) {
                    open.cause(&served);
                }
            }
        }
        let mut parents = HashSet::new();
        for mut held in std::mem::take(&mut self.held) {
            if held.actor.0 != tgid || self.actors.may_be_known_later(held.actor) {
                self.held.push(held);
                continue;
            }
            if let Some(served) = self.actors.request_of(held.actor)
                && is_meant(&served, held.begin)
            {
                held.caused_by(&served);
                if let Some(call) = &held.call {
                    self.repeats.called(served.span_id, call);
                }
                parents.insert(served.exchange);
            }
            self.finish(held.finished).map(&mut emit);
        }
        for parent in parents {
            self.has_child(Some(parent));
        }
        self.settle_links();
    }

    /// Gives up on parents that will not be known any more; all of them with `None`. `now` is in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub fn release(&mut self, now: Option<u64>, mut emit: impl FnMut(Span)) {
        if let Some(now) = now {
            self.actors.tick(now);
        }
        let oldest = self.actors.oldest_open();
        for held in std::mem::take(&mut self.held) {
            // Only who answers a request that was there before the call tells for which request that was.
            let waits = now.is_some_and(|now| now.saturating_sub(held.since) < HELD_NANOS)
                && (self.actors.waits_for_end(held.actor)
                    || oldest.get(&held.actor.0).is_some_and(|begin| *begin <= held.begin)
                        && self.actors.may_be_known_later(held.actor));
            if waits {
                self.held.push(held);
            } else {
                self.finish(held.finished).map(&mut emit);
            }
        }
        if now.is_none() {
            self.unlink(|_| true);
        }
        self.settle_links();
        self.existing.release(now);
        self.existing.ready().into_iter().for_each(emit);
    }

    /// Connections that were used for requests which have been answered since: nothing more will come on
    /// them for those, so that answers whose end can't be told have ended.
    pub fn quiet(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.quiet)
    }

    /// The request for which somebody acts in a thread, and its span, if that is known.
    #[must_use]
    pub fn serving(
        &self,
        tgid: u32,
        tid: u32,
        by: &Identity,
    ) -> Option<((ConnectionId, u64), Option<SpanRef>)> {
        let of_lane = if by.flags & IN_TASK == 0 { self.served(self.lane(tgid, tid, by)) } else { None };
        let request = of_lane.or_else(|| self.actors.request_of((tgid, by.actor)))?;
        let (trace_id, span_id) = (request.trace_id, Some(request.span_id));
        let ours = SpanRef { trace_id, span_id, sampled: request.sampled };
        Some((request.exchange, self.existing.of_request(request.exchange, ours)))
    }

    /// A connection is closed.
    pub fn closed(&mut self, id: ConnectionId) {
        self.actors.closed(id);
        self.existing.closed(id);
    }

    /// A process is gone: forget its threads. Spans that wait for their parent go to `emit`.
    pub fn process_gone(&mut self, tgid: u32, mut emit: impl FnMut(Span)) {
        self.lanes.retain(|lane, _| lane.0 != tgid);
        self.open.retain(|id, _| id.0.tgid != tgid);
        self.actors.process_gone(tgid);
        self.repeats.process_gone(tgid);
        for held in std::mem::take(&mut self.held) {
            if held.actor.0 == tgid {
                self.finish(held.finished).map(&mut emit);
            } else {
                self.held.push(held);
            }
        }
        self.unlink(|call| call.0.tgid == tgid);
        self.existing.process_gone(tgid);
        self.existing.ready().into_iter().for_each(emit);
    }

    /// This process may have a tracer of its own: spans wait until it was looked at.
    pub fn may_have_tracer(&mut self, pid: u32) {
        self.existing.selected(pid);
    }

    /// A process has a child.
    pub fn forked(&mut self, parent: u32, child: u32) {
        self.existing.forked(parent, child);
    }

    /// It was found out whether a process has a tracer of its own.
    pub fn looked(&mut self, look: Look) {
        self.existing.looked(look);
    }

    /// Processes that spans wait for to be looked at.
    #[must_use]
    pub fn to_look_at(&self) -> Vec<u32> {
        self.existing.wanted()
    }

    /// What is sent on this connection next is sent through these libraries.
    pub fn sent_through(&mut self, id: ConnectionId, libraries: Libraries) {
        self.existing.sent_through(id, libraries);
    }

    /// Spans that have waited and can be exported now, and how many will not be, since this was asked last.
    pub fn waited(&mut self) -> (Vec<Span>, u64) {
        (self.existing.ready(), self.existing.held_back())
    }

    /// Where something happens. If only the thread is known, or was when it read, that has to do.
    fn lane(&self, tgid: u32, tid: u32, by: &Identity) -> Lane {
        let lane = (tgid, tid, by.lane);
        let thread_will_do = by.lane != 0 && by.flags & IN_GREENLET == 0;
        if thread_will_do && !self.lanes.contains_key(&lane) && self.lanes.contains_key(&(tgid, tid, 0)) {
            return (tgid, tid, 0);
        }
        lane
    }

    fn begin(&mut self, connection: &Connection, begin: &Begin, env: &impl Environment) {
        if self.open.len() >= MAX_IN_FLIGHT {
            return;
        }
        let by = &connection.by;
        let tgid = connection.id.tgid;
        let lane = self.lane(tgid, begin.tid, by);
        let exchange = (connection.id, begin.id);
        let open = match begin.role {
            Role::Server => {
                self.serve(connection, lane, exchange, env);
                let remote = header(begin, env);
                self.existing.began(exchange, remote.clone());
                let mut open = begun(lane, begin.start, connection.chosen, env);
                open.request = Some(exchange);
                if let Some(remote) = remote {
                    open.trace_id = remote.trace_id;
                    open.parent = Some(remote.span_id);
                    open.parent_is_remote = true;
                    open.sampled = remote.sampled;
                    open.trace_state = remote.trace_state;
                }
                self.repeats.began(tgid, open.span_id);
                self.actors.began(Arc::new(Served {
                    exchange,
                    begin: begin.start,
                    trace_id: open.trace_id,
                    span_id: open.span_id,
                    trace_state: open.trace_state.clone(),
                    sampled: open.sampled,
                }));
                open
            }
            Role::Client => {
                let mut open = begun(lane, begin.start, connection.chosen, env);
                open.origin.clone_from(&connection.origin);
                open.header = header(begin, env);
                open.libraries = self.existing.call(connection.id);
                // What a thread has read itself it has not got from elsewhere.
                let mut cause = if by.flags & IN_TASK == 0 { self.cause(lane, connection.id) } else { None };
                if cause.is_none() && by.actor != 0 {
                    let actor = (tgid, by.actor);
                    cause = self.actors.request_of(actor);
                    if cause.is_none() && self.actors.may_be_known_later(actor) {
                        self.actors.awaited(actor);
                        open.actor = Some(actor);
                    }
                }
                if let Some(cause) = cause {
                    open.cause(&cause);
                    if let Some(header) = &open.header {
                        self.existing.carries(cause.exchange, header);
                    }
                    if open.sent {
                        self.existing.told(cause.exchange);
                    }
                }
                open
            }
        };
        self.open.insert(exchange, open);
        self.join_begun(connection, begin, env);
    }

    /// The server request on whose behalf a thread or greenlet acts.
    fn cause(&mut self, lane: Lane, call: ConnectionId) -> Option<Arc<Served>> {
        let serving = self.lanes.get_mut(&lane)?;
        if serving.interleaves {
            return None;
        }
        if serving.calls.len() < MAX_CALLS && !serving.calls.contains(&call) {
            serving.calls.push(call);
        }
        self.actors.open(*serving.open.first()?)
    }

    /// A thread or greenlet has read a request.
    fn serve(&mut self, connection: &Connection, lane: Lane, exchange: ExchangeId, env: &impl Environment) {
        if self.lanes.len() >= MAX_LANES {
            self.lanes.retain(|_, serving| !serving.open.is_empty());
            if self.lanes.len() >= MAX_LANES {
                return;
            }
        }
        // A thread whose event loop is on another stack switches between greenlets, each of which serves one
        // request at a time.
        let flags = connection.by.flags;
        let known_as_one = flags & IN_GREENLET != 0;
        let greenlet = connection.by.lane != 0
            && (known_as_one || flags & (KNOWN | WAITS_ELSEWHERE) == KNOWN | WAITS_ELSEWHERE);
        self.actors.serves((lane.0, connection.by.actor));
        let event_loop = connection.nonblocking && !greenlet && env.has_event_loop(lane.0);
        let serving = self.lanes.entry(lane).or_default();
        if greenlet && !known_as_one && serving.open.is_empty() {
            // What was there before was on another stack at the same address.
            serving.interleaves = false;
        }
        serving.interleaves |= event_loop;
        if serving.open.iter().any(|(other, _)| *other != connection.id) {
            if connection.nonblocking && (!greenlet || flags & IN_WAITING_LANE != 0) {
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
        self.join_ended(connection, end.role, exchange, env);
        if end.role == Role::Server {
            self.actors.ended(exchange);
            self.existing.ended(exchange, end.end);
            if let Some(serving) = self.lanes.get_mut(&open.lane) {
                serving.open.retain(|other| *other != exchange);
                self.quiet.append(&mut serving.calls);
                if serving.open.is_empty() && !serving.interleaves {
                    self.lanes.remove(&open.lane);
                }
            }
        }
        let described = match self.describe(connection, &end) {
            None if open.has_children => self.incomplete(connection, &end),
            described => described,
        };
        let Some(mut described) = described else {
            self.unlink(|call| *call == exchange);
            return None;
        };
        let took = Duration::from_nanos(end.end.saturating_sub(end.start));
        if let Some(origin) = &open.origin
            && self.insight.slow_call.is_some_and(|limit| took >= limit)
        {
            attributes::stacktrace(&mut described.attributes, origin);
        }
        let call = Repeated::of(end.role, &described.attributes, open.origin.as_deref());
        if end.role == Role::Server {
            self.repeats.ended(open.span_id, &mut described.attributes);
        } else if let (Some(parent), Some(call)) = (open.parent, &call) {
            self.repeats.called(parent, call);
        }
        let (actor, begin, since, request) = (open.actor, open.begin, end.end, open.request);
        let finished = finished(open, described, connection, &end, env);
        match actor {
            Some(actor) if self.actors.may_be_known_later(actor) && self.held.len() < MAX_HELD => {
                self.held.push(Held { finished, actor, begin, since, call });
                None
            }
            _ => {
                self.has_child(request);
                self.finish(finished)
            }
        }
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

impl Open {
    fn cause(&mut self, cause: &Served) {
        self.request = Some(cause.exchange);
        if self.sent && self.trace_id != cause.trace_id {
            // The other end has been told of another trace: the kernel side knew less.
            return;
        }
        self.trace_id = cause.trace_id;
        self.parent = Some(cause.span_id);
        self.trace_state.clone_from(&cause.trace_state);
        self.sampled = cause.sampled;
    }
}

impl Held {
    fn caused_by(&mut self, cause: &Served) {
        self.finished.request = Some(cause.exchange);
        let span = &mut self.finished.span;
        if self.finished.sent && span.trace_id != cause.trace_id {
            return;
        }
        span.trace_id = cause.trace_id;
        span.parent_span_id = Some(cause.span_id);
        span.trace_state.clone_from(&cause.trace_state);
        span.sampled = cause.sampled;
    }
}

/// What a request carries, with the decision whether its trace is exported.
fn header(begin: &Begin, env: &impl Environment) -> Option<RemoteParent> {
    let mut header = context::parse(begin.traceparent.as_deref()?, begin.tracestate.as_deref())?;
    header.sampled = env.sample(header.trace_id, Some(header.sampled));
    Some(header)
}

fn category(request: &Request) -> Category {
    match request {
        Request::Http(_) => Category::Http,
        Request::Redis(_) => Category::Redis,
        Request::Sql(sql) => match sql.system {
            SqlSystem::PostgreSql => Category::PostgreSql,
            SqlSystem::MySql | SqlSystem::MariaDb => Category::MySql,
        },
    }
}

/// The span of what has ended.
fn finished(
    open: Open,
    mut described: Described,
    connection: &Connection,
    end: &End,
    env: &impl Environment,
) -> Finished {
    if let Some(origin) = &open.origin {
        attributes::code(&mut described.attributes, &origin.caller);
    }
    let start = env.unix_nanos(end.start);
    let span = Span {
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
    };
    Finished {
        span,
        exchange: (connection.id, end.id),
        request: open.request,
        begin: open.begin,
        category: category(&end.request),
        libraries: open.libraries,
        header: open.header,
        sent: open.sent,
    }
}

/// A request without a parent, with the ids that the kernel side has chosen for it.
fn begun(lane: Lane, begin: u64, chosen: Option<Chosen>, env: &impl Environment) -> Open {
    let open = root(lane, begin, env);
    let Some((trace_id, span_id, sampled)) = chosen.and_then(|chosen| chosen.ids) else {
        return open;
    };
    let trace_id = TraceId(trace_id);
    match span_id {
        // Of a request that was read only the trace is chosen.
        [0, 0, 0, 0, 0, 0, 0, 0] => Open { trace_id, sampled: env.sample(trace_id, None), ..open },
        id => Open { trace_id, span_id: SpanId(id), sampled, sent: true, ..open },
    }
}

fn root(lane: Lane, begin: u64, env: &impl Environment) -> Open {
    let trace_id = new_trace_id();
    Open {
        trace_id,
        span_id: new_span_id(),
        parent: None,
        parent_is_remote: false,
        trace_state: String::new(),
        sampled: env.sample(trace_id, None),
        lane,
        begin,
        actor: None,
        sent: false,
        origin: None,
        has_children: false,
        request: None,
        header: None,
        libraries: Libraries::default(),
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
mod tests;
