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
    pub fn actor_ended(&mut self, tgid: u32, actor: u64, mut emit: impl FnMut(Span)) {
        if !self.actors.actor_ended((tgid, actor)) {
            return;
        }
        for (exchange, open) in &mut self.open {
            if exchange.0.tgid == tgid
                && let Some(actor) = open.actor
                && let Some(served) = self.actors.request_of(actor)
            {
                open.actor = None;
                if open.begin >= served.begin {
                    open.cause(&served);
                }
            }
        }
        let mut parents = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            if held.actor.0 != tgid || self.actors.may_be_known_later(held.actor) {
                self.held.push(held);
                continue;
            }
            if let Some(served) = self.actors.request_of(held.actor)
                && held.begin >= served.begin
            {
                held.caused_by(&served);
                parents.push(served.exchange);
            }
            emit(held.span);
        }
        for parent in parents {
            self.has_child(Some(parent));
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
        let described = self.incomplete(connection, end)?;
        Some(finished(open, described, connection, end, env))
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
