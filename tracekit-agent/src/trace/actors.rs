//! Who acts for which request: tasks of event loops, and work that was handed to other threads.
//!
//! An actor acts for the request for which the one acted that made it. The first in such a line is found by
//! what its thread had got before in the same callback of the event loop: the request for which the loop's
//! protocol made a task, or the connection for which a server made one. Where that is not known, the one that
//! writes the answer shows it afterwards.
//!
//! Threads and greenlets are actors too. One that was started for a request and has ended has worked for that request
//! alone; one that lives on may serve others, so that nothing is known of it before it ends.
//!
//! Whatever is not known for sure is nobody's: no parent is better than a wrong one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    context::RemoteParent,
    span::{SpanId, TraceId},
};
use crate::probes::record::{Cause, ConnectionId, NewActor};

/// Actors that are remembered.
const MAX_ACTORS: usize = 64 * 1024;
/// How many makers are between an actor and the first that is known, at most.
const MAX_LINE: usize = 64;
/// Requests of one connection that wait for their answers, at most.
const MAX_OPEN: usize = 256;
/// Nanoseconds for which an actor is expected to turn out to act for a request.
const UNSETTLED_NANOS: u64 = 60_000_000_000;
/// Nanoseconds after its request's end in which a thread or greenlet must end, or it lives on.
const LASTS_NANOS: u64 = 5_000_000_000;

/// One request that a process has read.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// On which connection, and which of its requests.
    pub exchange: (ConnectionId, u64),
    /// When it was read, nanoseconds of `CLOCK_MONOTONIC`.
    pub begin: u64,
    /// Its trace.
    pub trace_id: TraceId,
    /// The span of its handling.
    pub span_id: SpanId,
    /// W3C `tracestate`.
    pub trace_state: String,
    /// Its trace is exported.
    pub sampled: bool,
}

/// An actor of a process, by its number.
pub type ActorId = (u32, u64);

#[derive(Debug)]
struct Actor {
    /// Who made it, if that was an actor.
    maker: Option<u64>,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    born: u64,
    acts_for: ActsFor,
    life: Life,
}

/// What is known of how long an actor acts for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Always: a task, or work.
    Whole,
    /// A thread or a greenlet, of which nothing is known before it ends. Since when its request is answered, and
    /// whether somebody waits for its end.
    Runs { over: Option<u64>, awaited: bool },
    /// It was one, and did nothing else.
    Ended,
    /// It is one that serves others too, or may.
    LivesOn,
}

#[derive(Debug, Clone)]
enum ActsFor {
    /// What its maker acts for, if it has one; otherwise nobody knows.
    Unknown,
    /// One request, also when that is answered.
    Request(Arc<Served>),
    /// A connection: one request after the other.
    Connection(ConnectionId),
}

/// The requests of one connection.
#[derive(Debug, Default)]
struct Requests {
    /// Not answered, oldest first.
    open: VecDeque<Open>,
    /// Answered last.
    last: Option<Arc<Served>>,
    /// Who wrote on the connection last, and when.
    writer: (u64, u64),
    /// Something of this connection may have been lost since its last answer.
    uncertain: bool,
}

#[derive(Debug)]
struct Open {
    request: Arc<Served>,
    /// Somebody acts for it.
    taken: bool,
    /// A part of its answer is written.
    answering: bool,
}

impl Requests {
    /// The request that is handled where one is handled after the other. Who has written a part of an answer may
    /// have done with that, and have begun with the request behind it.
    fn current(&self) -> Option<&Arc<Served>> {
        match self.open.front() {
            _ if self.uncertain => None,
            Some(first) if first.answering && self.open.len() > 1 => None,
            Some(first) => Some(&first.request),
            None => self.last.as_ref(),
        }
    }

    /// The request for which something is made by who has read it.
    fn read(&mut self) -> Option<Arc<Served>> {
        let untaken = self.open.iter().filter(|open| !open.taken).count();
        let open = match self.open.len() {
            // Of several that were read together it is the first, if nothing is done for that yet.
            count if count == untaken || count == 1 => self.open.front_mut()?,
            // What was read alone while another one was handled.
            count if untaken == 1 => {
                let before = self.open.get(count - 2)?.request.begin;
                self.open.back_mut().filter(|open| !open.taken && open.request.begin > before)?
            }
            _ => return None,
        };
        open.taken = true;
        Some(Arc::clone(&open.request))
    }

    /// The first request that nobody acts for.
    fn next(&mut self) -> Option<Arc<Served>> {
        let open = self.open.iter_mut().find(|open| !open.taken).filter(|_| !self.uncertain)?;
        open.taken = true;
        Some(Arc::clone(&open.request))
    }

    /// Somebody who acts for `request` may have begun with the one behind it: who has written its answer when that
    /// one had been read already.
    fn may_be_for_next(&self, request: &Served, actor: u64) -> bool {
        let (writer, written) = self.writer;
        if writer != actor {
            return false;
        }
        let of_request = self.open.iter().find(|open| open.request.exchange == request.exchange);
        let over = of_request.is_none_or(|open| open.answering);
        let waits = |open: &Open| {
            !open.taken && open.request.exchange != request.exchange && open.request.begin <= written
        };
        self.uncertain || over && self.open.iter().any(waits)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Actors {
    actors: HashMap<ActorId, Actor>,
    /// Those whose maker did not act for anybody yet.
    unsettled: HashSet<ActorId>,
    /// Threads and greenlets that may end.
    running: HashSet<ActorId>,
    connections: HashMap<ConnectionId, Requests>,
}

impl Actors {
    /// There is a new actor, or it is known since who made one: then `true`. `lane` is the request for which the
    /// thread or greenlet acted that made it, if that was no task.
    pub fn made(&mut self, new: &NewActor, lane: Option<Arc<Served>>) -> bool {
        let id = (new.tgid, new.actor);
        if new.by.actor != 0
            && let Some(actor) = self.actors.get_mut(&id)
        {
            if actor.maker.is_some() || !matches!(actor.acts_for, ActsFor::Unknown) {
                return false;
            }
            actor.maker = Some(new.by.actor);
            self.unsettled.insert(id);
            return true;
        }
        if self.actors.len() >= MAX_ACTORS {
            self.forget_older_half();
        }
        let lasting = new.cause == Cause::Lasting;
        let (acts_for, maker) = self.acts_for(new, lane);
        let life = if !lasting {
            Life::Whole
        } else if maker.is_some() || matches!(acts_for, ActsFor::Request(_)) {
            self.running.insert(id);
            Life::Runs { over: None, awaited: false }
        } else {
            Life::LivesOn
        };
        if maker.is_some() && !lasting {
            self.unsettled.insert(id);
        }
        self.actors.insert(id, Actor { maker, born: new.time, acts_for, life });
        false
    }

    /// The request behind the one for which an actor acts.
    fn following(&mut self, id: ActorId) -> Option<Arc<Served>> {
        let ActsFor::Request(request) = self.of(id) else { return None };
        let (connection, ordinal) = request.exchange;
        let requests = self.connections.get_mut(&connection).filter(|requests| !requests.uncertain)?;
        let next = requests.open.iter_mut().find(|open| open.request.exchange.1 > ordinal)?;
        next.taken = true;
        Some(Arc::clone(&next.request))
    }

    /// A thread or greenlet has ended: whether somebody waited for that.
    pub fn actor_ended(&mut self, id: ActorId) -> bool {
        let Some(actor) = self.actors.get_mut(&id).filter(|_| self.running.remove(&id)) else { return false };
        let awaited = matches!(actor.life, Life::Runs { awaited: true, .. });
        actor.life = Life::Ended;
        awaited
    }

    /// Somebody waits for it to be known for which request the actor acts.
    pub fn awaited(&mut self, id: ActorId) {
        let (tgid, mut number) = id;
        for _ in 0..MAX_LINE {
            let Some(actor) = self.actors.get_mut(&(tgid, number)) else { break };
            if let Life::Runs { awaited, .. } = &mut actor.life {
                *awaited = true;
            }
            let Some(maker) = actor.maker else { break };
            number = maker;
        }
    }

    /// A thread or greenlet serves requests itself.
    pub fn serves(&mut self, id: ActorId) {
        if self.running.remove(&id)
            && let Some(actor) = self.actors.get_mut(&id)
        {
            actor.life = Life::LivesOn;
        }
    }

    /// For whom a new actor acts, and who made it, if that decides.
    fn acts_for(&mut self, new: &NewActor, lane: Option<Arc<Served>>) -> (ActsFor, Option<u64>) {
        let lasting = new.cause == Cause::Lasting;
        let caused = match new.cause {
            Cause::Accept(id) => Some(ActsFor::Connection(id)),
            // Who reads, or hands a connection over again, has acted for another request until then.
            Cause::Read(id) => {
                let request = self.connections.get_mut(&id).and_then(Requests::read);
                return (request.map_or(ActsFor::Unknown, ActsFor::Request), None);
            }
            Cause::After(number) => {
                let request = self.following((new.tgid, number));
                return (request.map_or(ActsFor::Unknown, ActsFor::Request), None);
            }
            Cause::Next => {
                let ActsFor::Request(request) = self.of((new.tgid, new.by.actor)) else {
                    return (ActsFor::Unknown, None);
                };
                let next = self.connections.get_mut(&request.exchange.0).and_then(Requests::next);
                return (next.map_or(ActsFor::Unknown, ActsFor::Request), None);
            }
            Cause::None | Cause::Lasting => None,
        };
        if let Some(known) = caused.or(lane.map(ActsFor::Request)) {
            return (known, None);
        }
        if new.by.actor == 0 {
            return (ActsFor::Unknown, None);
        }
        match self.of((new.tgid, new.by.actor)) {
            ActsFor::Request(request) => {
                let requests = self.connections.get(&request.exchange.0);
                let unclear = requests.is_some_and(|all| all.may_be_for_next(&request, new.by.actor));
                (if unclear { ActsFor::Unknown } else { ActsFor::Request(request) }, None)
            }
            ActsFor::Connection(id) => {
                let acts_for = match self.connections.get_mut(&id) {
                    // Between two requests it may act for either, and after a loss for any.
                    Some(requests)
                        if requests.open.is_empty() && requests.last.is_none() && !requests.uncertain =>
                    {
                        if lasting {
                            ActsFor::Unknown
                        } else {
                            ActsFor::Connection(id)
                        }
                    }
                    Some(requests) => match requests.current().cloned() {
                        Some(request) if !requests.open.is_empty() => {
                            if let Some(first) = requests.open.front_mut() {
                                first.taken = true;
                            }
                            ActsFor::Request(request)
                        }
                        _ => ActsFor::Unknown,
                    },
                    None if lasting => ActsFor::Unknown,
                    None => ActsFor::Connection(id),
                };
                (acts_for, None)
            }
            ActsFor::Unknown => (ActsFor::Unknown, Some(new.by.actor)),
        }
    }

    fn of(&self, id: ActorId) -> ActsFor {
        let (tgid, mut number) = id;
        let mut lasting = false;
        for _ in 0..MAX_LINE {
            let Some(actor) = self.actors.get(&(tgid, number)) else { return ActsFor::Unknown };
            match actor.life {
                Life::Whole => {}
                Life::Ended => lasting = true,
                Life::Runs { .. } | Life::LivesOn => return ActsFor::Unknown,
            }
            match (&actor.acts_for, actor.maker) {
                (ActsFor::Unknown, Some(maker)) => number = maker,
                // For which of its requests?
                (ActsFor::Connection(_), _) if lasting => return ActsFor::Unknown,
                (known, _) => return known.clone(),
            }
        }
        ActsFor::Unknown
    }

    /// It is known for which request the actor acts if a thread or greenlet ends.
    #[must_use]
    pub fn waits_for_end(&self, id: ActorId) -> bool {
        let (tgid, mut number) = id;
        for _ in 0..MAX_LINE {
            let Some(actor) = self.actors.get(&(tgid, number)) else { return false };
            match (&actor.acts_for, actor.life, actor.maker) {
                (_, Life::LivesOn, _) => return false,
                (ActsFor::Request(_), Life::Runs { .. }, _) => return true,
                (ActsFor::Unknown, _, Some(maker)) => number = maker,
                _ => return false,
            }
        }
        false
    }

    /// The request for which an actor acts now.
    #[must_use]
    pub fn request_of(&self, id: ActorId) -> Option<Arc<Served>> {
        match self.of(id) {
            ActsFor::Request(request) => Some(request),
            ActsFor::Connection(id) => self.connections.get(&id)?.current().cloned(),
            ActsFor::Unknown => None,
        }
    }

    /// It may still turn out for which request the actor acts.
    #[must_use]
    pub fn may_be_known_later(&self, id: ActorId) -> bool {
        match self.actors.get(&id).map(|actor| actor.life) {
            Some(Life::Whole) => matches!(self.of(id), ActsFor::Unknown),
            Some(Life::Runs { .. }) => self.waits_for_end(id),
            _ => false,
        }
    }

    /// A request that is not answered yet.
    #[must_use]
    pub fn open(&self, exchange: (ConnectionId, u64)) -> Option<Arc<Served>> {
        let open = &self.connections.get(&exchange.0)?.open;
        open.iter().map(|open| &open.request).find(|request| request.exchange == exchange).cloned()
    }

    /// When the oldest request was read that each process has not answered, nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn oldest_open(&self) -> HashMap<u32, u64> {
        let mut oldest = HashMap::new();
        for (id, requests) in &self.connections {
            if let Some(Open { request, .. }) = requests.open.front() {
                let begin: &mut u64 = oldest.entry(id.tgid).or_insert(request.begin);
                *begin = request.begin.min(*begin);
            }
        }
        oldest
    }

    /// A request was read.
    pub fn began(&mut self, request: Arc<Served>) {
        let requests = self.connections.entry(request.exchange.0).or_default();
        if requests.open.len() >= MAX_OPEN {
            requests.open.pop_front();
        }
        requests.open.push_back(Open { request, taken: false, answering: false });
    }

    /// The request is in the trace of its other end.
    pub fn moved(&mut self, exchange: (ConnectionId, u64), remote: &RemoteParent) {
        let Some(request) = self.open(exchange) else { return };
        let request = Arc::new(Served {
            trace_id: remote.trace_id,
            trace_state: remote.trace_state.clone(),
            sampled: remote.sampled,
            ..Served::clone(&request)
        });
        if let Some(requests) = self.connections.get_mut(&exchange.0) {
            let open = requests.open.iter_mut().filter(|open| open.request.exchange == exchange);
            open.for_each(|open| open.request = Arc::clone(&request));
        }
        for actor in self.actors.values_mut() {
            if let ActsFor::Request(of) = &mut actor.acts_for
                && of.exchange == exchange
            {
                *of = Arc::clone(&request);
            }
        }
    }

    /// It is answered, or never will be.
    pub fn ended(&mut self, exchange: (ConnectionId, u64)) {
        let Some(requests) = self.connections.get_mut(&exchange.0) else { return };
        if requests.open.front().is_some_and(|first| first.request.exchange == exchange) {
            requests.last = requests.open.pop_front().map(|first| first.request);
            requests.uncertain &= !requests.open.is_empty();
        } else {
            requests.open.retain(|open| open.request.exchange != exchange);
        }
    }

    /// Records were lost: what is known of requests may be over since, and others may have begun. Who acts for one
    /// request goes on doing so.
    pub fn lost(&mut self) {
        for requests in self.connections.values_mut() {
            requests.open.clear();
            requests.last = None;
            requests.uncertain = true;
        }
        // They may serve others since.
        for id in self.running.drain() {
            if let Some(actor) = self.actors.get_mut(&id) {
                actor.life = Life::LivesOn;
            }
        }
    }

    /// Somebody writes on a connection, at this time (nanoseconds of `CLOCK_MONOTONIC`); 0 if it is no actor.
    pub fn wrote(&mut self, connection: ConnectionId, actor: u64, time: u64) {
        let Some(requests) = self.connections.get_mut(&connection) else { return };
        requests.writer = (actor, time);
        if let Some(first) = requests.open.front_mut() {
            first.answering = true;
        }
    }

    /// An actor writes on a connection that was opened at this time (nanoseconds of `CLOCK_MONOTONIC`), on which
    /// a request waits for its answer: that is the one for which it acts, and those that made it. Gives the
    /// request if that was news.
    pub fn answers(&mut self, id: ActorId, connection: ConnectionId, opened: u64) -> Option<Arc<Served>> {
        let requests = self.connections.get_mut(&connection).filter(|requests| !requests.uncertain)?;
        let request = Arc::clone(&requests.open.front()?.request);
        if !matches!(self.of(id), ActsFor::Unknown) {
            return None;
        }
        let (tgid, mut number) = id;
        let mut news = false;
        for _ in 0..MAX_LINE {
            // Who was there before the connection may act for others too, and of who was there before the
            // probes nothing is known.
            // Threads and greenlets that answer may go on with another connection.
            let Some(actor) = self
                .actors
                .get_mut(&(tgid, number))
                .filter(|actor| actor.born >= opened && actor.life == Life::Whole)
            else {
                break;
            };
            let whole = if actor.born >= request.begin {
                ActsFor::Request(Arc::clone(&request))
            } else {
                ActsFor::Connection(connection)
            };
            actor.acts_for = match actor.acts_for {
                ActsFor::Unknown => whole,
                _ => break,
            };
            news = true;
            self.unsettled.remove(&(tgid, number));
            match actor.maker {
                Some(maker) => number = maker,
                None => break,
            }
        }
        if !news {
            return None;
        }
        let requests = self.connections.get_mut(&connection);
        if let Some(first) = requests.and_then(|requests| requests.open.front_mut()) {
            first.taken = true;
        }
        // Those that they have made since the request was read act for it too, and go on doing so.
        let made: Vec<ActorId> = self.unsettled.iter().filter(|id| id.0 == tgid).copied().collect();
        for id in made {
            let settled = match self.of(id) {
                ActsFor::Unknown => continue,
                ActsFor::Connection(of) if of == connection => {
                    let born = self.actors.get(&id).map_or(0, |actor| actor.born);
                    if born < request.begin {
                        continue;
                    }
                    ActsFor::Request(Arc::clone(&request))
                }
                known => known,
            };
            self.unsettled.remove(&id);
            if let Some(actor) = self.actors.get_mut(&id) {
                actor.acts_for = settled;
            }
        }
        Some(request)
    }

    /// A connection is closed.
    pub fn closed(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// A process is gone.
    pub fn process_gone(&mut self, tgid: u32) {
        self.actors.retain(|id, _| id.0 != tgid);
        self.unsettled.retain(|id| id.0 != tgid);
        self.running.retain(|id| id.0 != tgid);
        self.connections.retain(|id, _| id.tgid != tgid);
    }

    /// Gives up what will not be known any more; `now` in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn tick(&mut self, now: u64) {
        let actors = &self.actors;
        self.unsettled.retain(|id| {
            actors.get(id).is_some_and(|actor| now.saturating_sub(actor.born) < UNSETTLED_NANOS)
        });
        let (actors, connections) = (&mut self.actors, &self.connections);
        self.running.retain(|id| {
            let Some(actor) = actors.get_mut(id) else { return false };
            let Life::Runs { over, .. } = &mut actor.life else { return false };
            if let ActsFor::Request(request) = &actor.acts_for {
                let open = connections.get(&request.exchange.0).map(|requests| &requests.open);
                if !open.is_some_and(|open| open.iter().any(|open| open.request.exchange == request.exchange))
                {
                    over.get_or_insert(now);
                }
            }
            let lives_on = over.is_some_and(|over| now.saturating_sub(over) > LASTS_NANOS)
                || now.saturating_sub(actor.born) > UNSETTLED_NANOS;
            if lives_on {
                actor.life = Life::LivesOn;
            }
            !lives_on
        });
    }

    fn forget_older_half(&mut self) {
        let mut born: Vec<u64> = self.actors.values().map(|actor| actor.born).collect();
        let middle = born.len() / 2;
        let (_, oldest_kept, _) = born.select_nth_unstable(middle);
        let oldest_kept = *oldest_kept;
        let connections = &self.connections;
        // The task of a connection lives as long as that.
        let lives = |actor: &Actor| matches!(&actor.acts_for, ActsFor::Connection(id) if connections.contains_key(id));
        let living = self.actors.values().filter(|actor| actor.born < oldest_kept && lives(actor)).count();
        let keeps = living <= MAX_ACTORS / 4;
        self.actors.retain(|_, actor| actor.born >= oldest_kept || keeps && lives(actor));
        let actors = &self.actors;
        self.unsettled.retain(|id| actors.contains_key(id));
        self.running.retain(|id| actors.contains_key(id));
    }
}

#[cfg(test)]
mod tests;
