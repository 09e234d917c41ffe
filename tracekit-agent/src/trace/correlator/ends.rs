//! What ends in another way than by an answer: threads and greenlets, and requests that the agent does not see to
//! their end.

use tracekit_protocol::{End, Event, Outcome, Request, Role};

use super::{Correlator, Described, Environment, ExchangeId, finished};
use crate::{
    net::Connection,
    trace::{http, span::Span},
};

impl Correlator {
    /// A thread or greenlet has ended. Spans whose parent is known by that go to `emit`.
    pub fn actor_ended(&mut self, tgid: u32, actor: u64, emit: impl FnMut(Span)) {
        if self.actors.actor_ended((tgid, actor)) {
            self.settle(tgid, None, emit);
        }
    }

    /// The agent stops tracing while a request is being served. If spans of its calls were exported, so is its own: it
    /// ends now, and says that it is incomplete.
    pub fn stopped(
        &mut self,
        connection: &Connection,
        event: &Event,
        env: &impl Environment,
    ) -> Option<Span> {
        let Event::End(end) = event else { return None };
        let open = self.open.remove(&(connection.id, end.id)).filter(|open| open.has_children)?;
        let mut described = self.incomplete(connection, end)?;
        self.repeats.ended(open.span_id, &mut described.attributes);
        let finished = finished(open, described, connection, end, env);
        self.finish(finished)
    }

    /// As much as is known of a request whose end is not.
    pub(super) fn incomplete(&self, connection: &Connection, end: &End) -> Option<Described> {
        let Request::Http(http) = &end.request else { return None };
        let mut described = http::describe(http, Role::Server, Outcome::Unknown, connection, &self.services);
        described.attributes.push(("tracekit.incomplete", true.into()));
        Some(described)
    }

    /// The span of a call was exported that was made for this request.
    pub(super) fn has_child(&mut self, parent: Option<ExchangeId>) {
        if let Some(open) = parent.and_then(|parent| self.open.get_mut(&parent)) {
            open.has_children = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use tracekit_common::actor::{IN_GREENLET, Identity, KNOWN};

    use super::super::tests::{SYNC, begin, connection, end};
    use super::*;
    use crate::probes::record::{Cause, NewActor};
    use crate::trace::span::Value;

    const THREAD: Identity = Identity { actor: 5, lane: 0, flags: KNOWN, losses: 0 };

    /// A request, the thread that it has started, and a call which that has made.
    fn call_of_thread(correlator: &mut Correlator) -> Option<Span> {
        correlator.event(&connection(1, false), begin(1, Role::Server, 7), &SYNC);
        let by = Identity { flags: KNOWN, ..Identity::default() };
        correlator.made(&NewActor { tgid: 1, tid: 7, actor: 5, time: 1, by, cause: Cause::Lasting }, |_| {});
        let client = Connection { by: THREAD, ..connection(2, false) };
        correlator.event(&client, begin(1, Role::Client, 8), &SYNC);
        correlator.event(&client, end(1, Role::Client), &SYNC)
    }

    #[test]
    fn a_call_of_a_thread_waits_for_its_end() {
        let mut correlator = Correlator::default();
        assert_eq!(call_of_thread(&mut correlator), None);
        let request = correlator.event(&connection(1, false), end(1, Role::Server), &SYNC).unwrap();
        let mut spans = Vec::new();
        correlator.release(Some(2), |span| spans.push(span));
        assert_eq!(spans.len(), 0);
        correlator.actor_ended(1, 5, |span| spans.push(span));
        let parents: Vec<_> = spans.iter().map(|span| span.parent_span_id).collect();
        assert_eq!(parents, [Some(request.span_id)]);
    }

    #[test]
    fn a_thread_that_lives_on_makes_calls_without_a_parent() {
        let mut correlator = Correlator::default();
        assert_eq!(call_of_thread(&mut correlator), None);
        correlator.event(&connection(1, false), end(1, Role::Server), &SYNC);
        let mut spans = Vec::new();
        for second in [1, 3, 7] {
            correlator.release(Some(second * 1_000_000_000), |span| spans.push(span));
        }
        assert_eq!(spans.iter().map(|span| span.parent_span_id).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn greenlets_are_lanes_by_their_number() {
        let mut correlator = Correlator::default();
        let of = |inode: u64, lane: u64| Connection {
            by: Identity { actor: lane, lane, flags: KNOWN | IN_GREENLET, losses: 0 },
            ..connection(inode, true)
        };
        for lane in [1, 2] {
            correlator.event(&of(lane, lane), begin(1, Role::Server, 7), &SYNC);
        }
        let mut call = |inode: u64, lane: u64| {
            correlator.event(&of(inode, lane), begin(1, Role::Client, 7), &SYNC);
            correlator.event(&of(inode, lane), end(1, Role::Client), &SYNC).unwrap().trace_id
        };
        let called = [call(3, 1), call(4, 2), call(5, 3)];
        let served = [1, 2]
            .map(|lane| correlator.event(&of(lane, lane), end(1, Role::Server), &SYNC).unwrap().trace_id);
        assert_eq!(called[..2], served);
        assert!(!served.contains(&called[2]));
    }

    #[test]
    fn requests_with_calls_that_are_open_at_the_stop_are_incomplete() {
        let mut correlator = Correlator::default();
        for tid in [7, 8] {
            correlator.event(&connection(tid, false), begin(1, Role::Server, tid as u32), &SYNC);
        }
        let client = connection(2, false);
        correlator.event(&client, begin(1, Role::Client, 7), &SYNC);
        let call = correlator.event(&client, end(1, Role::Client), &SYNC).unwrap();
        correlator.event(&client, begin(2, Role::Client, 7), &SYNC);
        let request = correlator.stopped(&connection(7, false), &end(1, Role::Server), &SYNC).unwrap();
        assert_eq!(call.parent_span_id, Some(request.span_id));
        assert!(request.attributes.contains(&("tracekit.incomplete", Value::Bool(true))));
        // What nobody refers to, and calls that are open too, are left out.
        assert_eq!(correlator.stopped(&connection(8, false), &end(1, Role::Server), &SYNC), None);
        assert_eq!(correlator.stopped(&client, &end(2, Role::Client), &SYNC), None);
    }
}
