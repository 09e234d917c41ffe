//! Requests whose other end is traced too take trace and parent from there ([`super::super::joined`]).
//!
//! Which request a call belongs to may turn out later, and with it the trace of all that follows from the call:
//! spans of that wait.

use super::*;
use crate::trace::joined::{Match, Pair};

/// A request, and the trace that it had before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    request: ExchangeId,
    trace_id: TraceId,
}

fn pair(connection: &Connection, role: Role, env: &impl Environment) -> Option<Pair> {
    Pair::of(connection, role, env.network(connection.id.tgid)?)
}

impl Correlator {
    /// A request begins; it is among the open ones.
    pub(super) fn join_begun(&mut self, connection: &Connection, begin: &Begin, env: &impl Environment) {
        let Some(pair) = pair(connection, begin.role, env) else { return };
        let exchange = (connection.id, begin.id);
        let Some(Match { call, request }) = self.joined.began(pair, begin.role, exchange, begin.start) else {
            return;
        };
        let has_tracer = |id: ExchangeId| self.existing.has_tracer(id.0.tgid);
        let (Some(open), Some(_)) = (self.open.get(&request), self.open.get(&call)) else { return };
        // A header says more. Where a tracer makes the spans, ours are not there to be joined.
        if open.parent.is_some() || has_tracer(call) || has_tracer(request) {
            return;
        }
        self.links.insert(call, Link { request, trace_id: open.trace_id });
        self.settle_links();
    }

    /// A request is answered.
    pub(super) fn join_ended(
        &mut self,
        connection: &Connection,
        role: Role,
        exchange: ExchangeId,
        env: &impl Environment,
    ) {
        if let Some(pair) = pair(connection, role, env) {
            self.joined.ended(pair, role, exchange);
        }
    }

    /// Joins requests with calls whose own request is known by now.
    pub(super) fn settle_links(&mut self) {
        // Each round may settle what follows from the one before.
        for _ in 0..=self.links.len() {
            let unsettled: HashSet<ExchangeId> = self.links.values().map(|link| link.request).collect();
            let settled = self.links.keys().find_map(|call| {
                let open = self.open.get(call)?;
                let waits = open.actor.is_some() || open.request.is_some_and(|of| unsettled.contains(&of));
                (!waits).then(|| (*call, open.as_remote()))
            });
            let Some((call, remote)) = settled else { return };
            if let Some(link) = self.links.remove(&call) {
                self.adopt(link, Some(&remote));
            }
        }
    }

    /// A call has no span, or never will.
    pub(super) fn unlink(&mut self, which: impl Fn(&ExchangeId) -> bool) {
        let calls: Vec<ExchangeId> = self.links.keys().filter(|call| which(call)).copied().collect();
        for call in calls {
            if let Some(link) = self.links.remove(&call) {
                self.adopt(link, None);
            }
        }
    }

    /// A span is complete; it is given back if it can be exported at once.
    pub(super) fn finish(&mut self, finished: Finished) -> Option<Span> {
        if self.links.is_empty() {
            return self.existing.finish(finished);
        }
        let waits = finished.request.is_some_and(|of| self.links.values().any(|link| link.request == of));
        if waits && self.waiting.len() < MAX_HELD {
            self.waiting.push(finished);
            return None;
        }
        if let Some(link) = self.links.remove(&finished.exchange) {
            let span = &finished.span;
            let remote = RemoteParent {
                trace_id: span.trace_id,
                span_id: span.span_id,
                sampled: span.sampled,
                trace_state: span.trace_state.clone(),
            };
            self.adopt(link, Some(&remote));
        }
        self.existing.finish(finished)
    }

    /// The request is that of this call, as all that was done for it; or it is known of none.
    fn adopt(&mut self, link: Link, remote: Option<&RemoteParent>) {
        let Link { request, trace_id } = link;
        if let Some(remote) = remote {
            for (exchange, open) in &mut self.open {
                if open.request == Some(request) && open.trace_id == trace_id {
                    if *exchange == request {
                        open.parent = Some(remote.span_id);
                        open.parent_is_remote = true;
                    } else if open.sent {
                        // The other end has been told of another trace.
                        open.parent = None;
                        continue;
                    }
                    open.trace_id = remote.trace_id;
                    open.sampled = remote.sampled;
                    open.trace_state.clone_from(&remote.trace_state);
                }
            }
            let held = self.held.iter_mut().map(|held| &mut held.finished);
            for finished in held.chain(&mut self.waiting) {
                let span = &mut finished.span;
                if finished.request == Some(request) && span.trace_id == trace_id {
                    if finished.exchange == request {
                        span.parent_span_id = Some(remote.span_id);
                        span.parent_is_remote = true;
                    } else if finished.sent {
                        span.parent_span_id = None;
                        continue;
                    }
                    span.trace_id = remote.trace_id;
                    span.sampled = remote.sampled;
                    span.trace_state.clone_from(&remote.trace_state);
                }
            }
            self.actors.moved(request, remote);
        }
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|finished: &Finished| finished.request == Some(request));
        self.waiting = waiting;
        for finished in ready {
            let span = self.finish(finished);
            self.existing.hand_out(span);
        }
    }
}

impl Open {
    fn as_remote(&self) -> RemoteParent {
        RemoteParent {
            trace_id: self.trace_id,
            span_id: self.span_id,
            sampled: self.sampled,
            trace_state: self.trace_state.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracekit_common::actor::Identity;
    use tracekit_protocol::exchange::Http;

    use super::*;
    use crate::probes::record::{Cause, Endpoint};

    struct Env;

    impl Environment for Env {
        fn resource(&self, _: u32) -> Arc<Resource> {
            Arc::new(Resource { attributes: Vec::new() })
        }
        fn has_event_loop(&self, _: u32) -> bool {
            false
        }
        fn sample(&self, _: TraceId, parent: Option<bool>) -> bool {
            parent.unwrap_or(true)
        }
        fn network(&self, _: u32) -> Option<u64> {
            Some(1)
        }
        fn unix_nanos(&self, monotonic: u64) -> u64 {
            monotonic
        }
    }

    /// Of process `tgid`, from port to port.
    fn connection(tgid: u32, local: u16, remote: u16) -> Connection {
        let ip = |port: u16| Endpoint::Ip(([127, 0, 0, 1], port).into());
        Connection {
            id: ConnectionId { tgid, inode: u64::from(local) },
            ends: Some((ip(local), ip(remote))),
            nonblocking: false,
            origin: None,
            by: Identity::default(),
            opened: 0,
            chosen: None,
        }
    }

    fn begin(role: Role, start: u64) -> Event {
        Event::Begin(Begin { id: 0, role, start, tid: 7, traceparent: None, tracestate: None })
    }

    fn end(role: Role, start: u64, end: u64) -> Event {
        let request = Request::Http(Http { method: "GET".into(), status: Some(200), ..Http::default() });
        let outcome = Outcome::Complete;
        Event::End(Box::new(End { id: 0, role, start, first_response_byte: None, end, outcome, request }))
    }

    /// The front's request, its call, the request at the other end, and a call of that.
    fn connections() -> [Connection; 4] {
        [connection(1, 80, 5000), connection(1, 6000, 90), connection(2, 90, 6000), connection(2, 7000, 95)]
    }

    fn check_one_trace(spans: &[Span]) {
        let [database, back, call, front] = spans else { panic!("{spans:?}") };
        assert_eq!(database.parent_span_id, Some(back.span_id));
        assert_eq!((back.parent_span_id, back.parent_is_remote), (Some(call.span_id), true));
        assert_eq!(call.parent_span_id, Some(front.span_id));
        assert!(spans.iter().all(|span| span.trace_id == front.trace_id));
    }

    fn ends(correlator: &mut Correlator) -> Vec<Span> {
        let [front, call, back, database] = connections();
        let mut spans = Vec::new();
        for (connection, role, start, time) in [
            (&database, Role::Client, 30, 40),
            (&back, Role::Server, 25, 50),
            (&call, Role::Client, 20, 60),
            (&front, Role::Server, 10, 70),
        ] {
            spans.extend(correlator.event(connection, end(role, start, time), &Env));
        }
        spans
    }

    #[test]
    fn both_ends_are_one_trace() {
        let mut correlator = Correlator::default();
        let [front, call, back, database] = connections();
        correlator.event(&front, begin(Role::Server, 10), &Env);
        correlator.event(&call, begin(Role::Client, 20), &Env);
        correlator.event(&back, begin(Role::Server, 25), &Env);
        correlator.event(&database, begin(Role::Client, 30), &Env);
        check_one_trace(&ends(&mut correlator));
    }

    #[test]
    fn also_if_the_call_is_reported_late() {
        let mut correlator = Correlator::default();
        let [front, call, back, database] = connections();
        correlator.event(&front, begin(Role::Server, 10), &Env);
        correlator.event(&back, begin(Role::Server, 25), &Env);
        correlator.event(&database, begin(Role::Client, 30), &Env);
        correlator.event(&call, begin(Role::Client, 20), &Env);
        check_one_trace(&ends(&mut correlator));
    }

    /// The front's call is made by a task of which is known only later for which request it acts.
    #[test]
    fn also_if_it_turns_out_later_what_the_call_is_for() {
        let mut correlator = Correlator::default();
        let task = Identity { actor: 5, lane: 9, flags: IN_TASK, ..Identity::default() };
        let (tgid, tid, by, cause) = (1, 7, Identity::default(), Cause::None);
        correlator.made(&NewActor { tgid, tid, actor: 5, time: 1, by, cause }, |_| {});
        let [front, call, back, database] = connections();
        let call = Connection { by: task, ..call };
        correlator.event(&front, begin(Role::Server, 10), &Env);
        correlator.event(&call, begin(Role::Client, 20), &Env);
        correlator.event(&back, begin(Role::Server, 25), &Env);
        correlator.event(&database, begin(Role::Client, 30), &Env);
        for (connection, role, start, time) in
            [(&database, Role::Client, 30, 40), (&back, Role::Server, 25, 50), (&call, Role::Client, 20, 60)]
        {
            assert_eq!(correlator.event(connection, end(role, start, time), &Env), None);
        }
        let mut spans = Vec::new();
        correlator.wrote(&front, &task, 65, |span| spans.push(span));
        let (waited, _) = correlator.waited();
        let front = correlator.event(&front, end(Role::Server, 10, 70), &Env);
        check_one_trace(&waited.into_iter().chain(spans).chain(front).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_span_joins_nothing_and_nothing_waits_for_it() {
        let mut correlator = Correlator::default();
        let [_, call, back, _] = connections();
        let task = Identity { actor: 5, lane: 9, flags: IN_TASK, ..Identity::default() };
        let (tgid, tid, by, cause) = (1, 7, Identity::default(), Cause::None);
        correlator.made(&NewActor { tgid, tid, actor: 5, time: 1, by, cause }, |_| {});
        correlator.event(&Connection { by: task, ..call }, begin(Role::Client, 20), &Env);
        correlator.event(&back, begin(Role::Server, 25), &Env);
        assert_eq!(correlator.event(&back, end(Role::Server, 25, 50), &Env), None);
        correlator.process_gone(1, |_| {});
        let (spans, _) = correlator.waited();
        let parents: Vec<_> = spans.iter().map(|span| span.parent_span_id).collect();
        assert!(parents.is_empty() || parents == [None]);
        assert!(correlator.waiting.is_empty() && correlator.links.is_empty());
    }
}
