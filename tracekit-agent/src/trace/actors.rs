//! Who acts for which request: tasks of event loops, and work that was handed to other threads.
//!
//! An actor acts for the request for which the one acted that made it. The first in such a line is found by
//! what its thread had got before in the same callback of the event loop: the request for which the loop's
//! protocol made a task, or the connection for which a server made one. Where that is not known, the one that
//! writes the answer shows it afterwards.
//!
//! Whatever is not known for sure is nobody's: no parent is better than a wrong one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::span::{SpanId, TraceId};
use crate::probes::record::{Cause, ConnectionId, NewActor};

/// Actors that are remembered.
const MAX_ACTORS: usize = 64 * 1024;
/// How many makers are between an actor and the first that is known, at most.
const MAX_LINE: usize = 64;
/// Requests of one connection that wait for their answers, at most.
const MAX_OPEN: usize = 256;
/// Nanoseconds for which an actor is expected to turn out to act for a request.
const UNSETTLED_NANOS: u64 = 60_000_000_000;

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
    open: VecDeque<Arc<Served>>,
    /// Of those, how many have somebody that acts for them.
    taken: usize,
    /// Answered last.
    last: Option<Arc<Served>>,
}

impl Requests {
    fn current(&self) -> Option<&Arc<Served>> {
        self.open.front().or(self.last.as_ref())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Actors {
    actors: HashMap<ActorId, Actor>,
    /// Those whose maker did not act for anybody yet.
    unsettled: HashSet<ActorId>,
    connections: HashMap<ConnectionId, Requests>,
}

impl Actors {
    /// There is a new actor. `lane` is the request for which the thread or greenlet acted that made it, if no
    /// actor has.
    pub fn made(&mut self, new: &NewActor, lane: Option<Arc<Served>>) {
        if self.actors.len() >= MAX_ACTORS {
            self.forget_older_half();
        }
        let caused = match new.cause {
            Cause::Accept(id) => ActsFor::Connection(id),
            Cause::Read(id) => self.read_for(id).map_or(ActsFor::Unknown, ActsFor::Request),
            Cause::None => ActsFor::Unknown,
        };
        let mut maker = None;
        let acts_for = if !matches!(caused, ActsFor::Unknown) {
            caused
        } else if new.by.actor != 0 {
            let by = (new.tgid, new.by.actor);
            match self.of(by) {
                ActsFor::Request(request) if self.is_over_and_followed(&request) => ActsFor::Unknown,
                ActsFor::Connection(id) => match self.connections.get(&id) {
                    Some(requests) if !requests.open.is_empty() => {
                        requests.open.front().cloned().map_or(ActsFor::Unknown, ActsFor::Request)
                    }
                    // Between two requests: it may act for either.
                    Some(requests) if requests.last.is_some() => ActsFor::Unknown,
                    _ => ActsFor::Connection(id),
                },
                ActsFor::Unknown => {
                    maker = Some(new.by.actor);
                    ActsFor::Unknown
                }
                known => known,
            }
        } else {
            lane.map_or(ActsFor::Unknown, ActsFor::Request)
        };
        let id = (new.tgid, new.actor);
        if maker.is_some() {
            self.unsettled.insert(id);
        }
        self.actors.insert(id, Actor { maker, born: new.time, acts_for });
    }

    /// The request of this connection for which something is made by who has read it.
    fn read_for(&mut self, id: ConnectionId) -> Option<Arc<Served>> {
        let requests = self.connections.get_mut(&id)?;
        // Of several that were read together it is the first, if nothing is done for that yet.
        if requests.open.len() > 1 && requests.taken > 0 {
            return None;
        }
        let request = requests.open.front().cloned()?;
        requests.taken = 1;
        Some(request)
    }

    /// The request is answered, and another one waits behind it: what is made now may be for that.
    fn is_over_and_followed(&self, request: &Served) -> bool {
        let Some(requests) = self.connections.get(&request.exchange.0) else { return false };
        !requests.open.is_empty() && !requests.open.iter().any(|open| open.exchange == request.exchange)
    }

    fn of(&self, id: ActorId) -> ActsFor {
        let (tgid, mut number) = id;
        for _ in 0..MAX_LINE {
            let Some(actor) = self.actors.get(&(tgid, number)) else { return ActsFor::Unknown };
            match (&actor.acts_for, actor.maker) {
                (ActsFor::Unknown, Some(maker)) => number = maker,
                (known, _) => return known.clone(),
            }
        }
        ActsFor::Unknown
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
        self.actors.contains_key(&id) && matches!(self.of(id), ActsFor::Unknown)
    }

    /// A request that is not answered yet.
    #[must_use]
    pub fn open(&self, exchange: (ConnectionId, u64)) -> Option<Arc<Served>> {
        let open = &self.connections.get(&exchange.0)?.open;
        open.iter().find(|request| request.exchange == exchange).cloned()
    }

    /// A request was read.
    pub fn began(&mut self, request: Arc<Served>) {
        let requests = self.connections.entry(request.exchange.0).or_default();
        if requests.open.len() >= MAX_OPEN {
            requests.open.pop_front();
        }
        requests.open.push_back(request);
    }

    /// It is answered, or never will be.
    pub fn ended(&mut self, exchange: (ConnectionId, u64)) {
        let Some(requests) = self.connections.get_mut(&exchange.0) else { return };
        if requests.open.front().is_some_and(|first| first.exchange == exchange) {
            requests.last = requests.open.pop_front();
            requests.taken = 0;
        } else {
            requests.open.retain(|open| open.exchange != exchange);
        }
    }

    /// An actor writes on a connection that was opened at this time (nanoseconds of `CLOCK_MONOTONIC`), on which
    /// a request waits for its answer: that is the one for which it acts, and those that made it. Gives the
    /// request if that was news.
    pub fn answers(&mut self, id: ActorId, connection: ConnectionId, opened: u64) -> Option<Arc<Served>> {
        let request = self.connections.get(&connection)?.open.front().cloned()?;
        if !matches!(self.of(id), ActsFor::Unknown) {
            return None;
        }
        let (tgid, mut number) = id;
        let mut news = false;
        for _ in 0..MAX_LINE {
            // Who was there before the connection may act for others too, and of who was there before the
            // probes nothing is known.
            let Some(actor) = self.actors.get_mut(&(tgid, number)).filter(|actor| actor.born >= opened)
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
        self.connections.retain(|id, _| id.tgid != tgid);
    }

    /// Gives up what will not be known any more; `now` in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn tick(&mut self, now: u64) {
        let actors = &self.actors;
        self.unsettled.retain(|id| {
            actors.get(id).is_some_and(|actor| now.saturating_sub(actor.born) < UNSETTLED_NANOS)
        });
    }

    fn forget_older_half(&mut self) {
        let mut born: Vec<u64> = self.actors.values().map(|actor| actor.born).collect();
        let middle = born.len() / 2;
        let (_, oldest_kept, _) = born.select_nth_unstable(middle);
        let oldest_kept = *oldest_kept;
        self.actors.retain(|_, actor| actor.born >= oldest_kept);
        let actors = &self.actors;
        self.unsettled.retain(|id| actors.contains_key(id));
    }
}
