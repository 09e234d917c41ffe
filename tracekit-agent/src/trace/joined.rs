//! Both ends of a connection on this host: which call of one is which request of the other.
//!
//! Nothing of the stream is needed for that but where requests begin and end. A request that was read belongs to
//! the call that was sent before and not answered when it was read; if that is one, it is certain, wherever
//! both ends were joined. It tells how the ordinals of both ends differ, and these say it where several calls
//! are under way (pipelined); where they don't, nothing is said.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use tracekit_protocol::Role;

use crate::{
    net::Connection,
    probes::record::{ConnectionId, Endpoint},
};

/// Connections that are remembered; and requests of one that are under way.
const MAX_PAIRS: usize = 16 * 1024;
const MAX_UNDER_WAY: usize = 64;

type ExchangeId = (ConnectionId, u64);

/// A connection of this host, by both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    network: u64,
    client: SocketAddr,
    server: SocketAddr,
}

impl Pair {
    /// The connection on which a process has this role, in its network namespace. `None` for Unix sockets.
    #[must_use]
    pub fn of(connection: &Connection, role: Role, network: u64) -> Option<Self> {
        let (Endpoint::Ip(local), Endpoint::Ip(remote)) = connection.ends.as_ref()? else { return None };
        // An IPv6 socket may serve IPv4.
        let [local, remote] = [local, remote].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        Some(match role {
            Role::Client => Self { network, client: local, server: remote },
            Role::Server => Self { network, client: remote, server: local },
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    exchange: ExchangeId,
    /// Entry of the write, or return of the read; nanoseconds of `CLOCK_MONOTONIC`.
    start: u64,
    decided: bool,
}

#[derive(Debug, Default)]
struct Ends {
    calls: VecDeque<UnderWay>,
    requests: VecDeque<UnderWay>,
    /// Ordinals of the server's end less those of the client's.
    offset: Option<u64>,
}

/// A call, and the request that it is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// At the client's end.
    pub call: ExchangeId,
    /// At the server's.
    pub request: ExchangeId,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Joined {
    pairs: HashMap<Pair, Ends>,
}

impl Joined {
    /// A request begins at one end of a connection.
    pub fn began(&mut self, pair: Pair, role: Role, exchange: ExchangeId, start: u64) -> Option<Match> {
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&pair) {
            self.pairs.retain(|_, ends| !(ends.calls.is_empty() && ends.requests.is_empty()));
            if self.pairs.len() >= MAX_PAIRS {
                return None;
            }
        }
        let ends = self.pairs.entry(pair).or_default();
        let list = match role {
            Role::Client => &mut ends.calls,
            Role::Server => &mut ends.requests,
        };
        if list.front().is_some_and(|other| other.exchange.0 != exchange.0) {
            // The address is another connection's now.
            list.clear();
            ends.offset = None;
        }
        if list.len() >= MAX_UNDER_WAY {
            list.pop_front();
        }
        list.push_back(UnderWay { exchange, start, decided: false });
        ends.next()
    }

    /// A request is answered at one end.
    pub fn ended(&mut self, pair: Pair, role: Role, exchange: ExchangeId) {
        let Some(ends) = self.pairs.get_mut(&pair) else { return };
        match role {
            Role::Client => ends.calls.retain(|call| call.exchange != exchange),
            // Its call may be reported later.
            Role::Server => ends.requests.retain(|request| request.exchange != exchange || !request.decided),
        }
    }

    /// An end of a connection is closed.
    pub fn closed(&mut self, pair: Pair) {
        self.pairs.remove(&pair);
    }
}

impl Ends {
    /// The first request that is not decided on, if its call is known.
    fn next(&mut self) -> Option<Match> {
        let call_starts: Vec<u64> = self.calls.iter().map(|call| call.start).collect();
        let oldest = call_starts.first().copied()?;
        // Read before anything that is under way was sent: their calls were not seen.
        self.requests.retain(|request| request.decided || request.start >= oldest);
        let under_way = self.requests.iter().filter(|request| !request.decided).count();
        let request = self.requests.iter_mut().find(|request| !request.decided)?;
        let sent = call_starts.iter().filter(|start| **start <= request.start).count();
        let call = self.calls.iter_mut().find(|call| !call.decided && call.start <= request.start)?;
        let offset = request.exchange.1.wrapping_sub(call.exchange.1);
        let alone = sent == 1 && under_way == 1;
        if !alone && self.offset != Some(offset) {
            request.decided = true;
            return None;
        }
        self.offset = Some(offset);
        (call.decided, request.decided) = (true, true);
        Some(Match { call: call.exchange, request: request.exchange })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ConnectionId = ConnectionId { tgid: 1, inode: 10 };
    const SERVER: ConnectionId = ConnectionId { tgid: 2, inode: 20 };

    fn pair() -> Pair {
        let [client, server] = ["127.0.0.1:40000", "127.0.0.1:80"].map(|end| end.parse().unwrap());
        Pair { network: 1, client, server }
    }

    fn sent(joined: &mut Joined, number: u64, time: u64) -> Option<Match> {
        joined.began(pair(), Role::Client, (CLIENT, number), time)
    }

    fn read(joined: &mut Joined, number: u64, time: u64) -> Option<Match> {
        joined.began(pair(), Role::Server, (SERVER, number), time)
    }

    fn over(joined: &mut Joined, call: u64, request: u64) {
        joined.ended(pair(), Role::Server, (SERVER, request));
        joined.ended(pair(), Role::Client, (CLIENT, call));
    }

    fn found(call: u64, request: u64) -> Option<Match> {
        Some(Match { call: (CLIENT, call), request: (SERVER, request) })
    }

    #[test]
    fn one_request_after_the_other_wherever_the_ends_were_joined() {
        let mut joined = Joined::default();
        for number in 0..10 {
            assert_eq!(sent(&mut joined, number, 100 * number), None);
            assert_eq!(read(&mut joined, number + 7, 100 * number + 5), found(number, number + 7));
            over(&mut joined, number, number + 7);
        }
    }

    #[test]
    fn the_request_may_be_reported_before_its_call() {
        let mut joined = Joined::default();
        assert_eq!(read(&mut joined, 0, 105), None);
        assert_eq!(sent(&mut joined, 0, 100), found(0, 0));
        over(&mut joined, 0, 0);
        assert_eq!(read(&mut joined, 1, 205), None);
        joined.ended(pair(), Role::Server, (SERVER, 1));
        assert_eq!(sent(&mut joined, 1, 200), found(1, 1));
    }

    #[test]
    fn a_request_that_was_under_way_has_no_call() {
        let mut joined = Joined::default();
        assert_eq!(read(&mut joined, 0, 50), None);
        assert_eq!(sent(&mut joined, 0, 100), None);
        assert_eq!(read(&mut joined, 1, 105), found(0, 1));
    }

    #[test]
    fn pipelined_requests_go_by_their_ordinals_once_these_are_known() {
        let mut joined = Joined::default();
        assert_eq!([sent(&mut joined, 0, 100), sent(&mut joined, 1, 100)], [None, None]);
        assert_eq!([read(&mut joined, 4, 105), read(&mut joined, 5, 105)], [None, None]);
        over(&mut joined, 0, 4);
        over(&mut joined, 1, 5);
        sent(&mut joined, 2, 200);
        assert_eq!(read(&mut joined, 6, 205), found(2, 6));
        over(&mut joined, 2, 6);
        assert_eq!([sent(&mut joined, 3, 300), sent(&mut joined, 4, 300)], [None, None]);
        assert_eq!(read(&mut joined, 7, 305), found(3, 7));
        assert_eq!(read(&mut joined, 8, 305), found(4, 8));
    }

    #[test]
    fn another_connection_with_the_same_address_starts_anew() {
        let mut joined = Joined::default();
        sent(&mut joined, 0, 100);
        let other = ConnectionId { inode: 11, ..CLIENT };
        assert_eq!(joined.began(pair(), Role::Client, (other, 0), 200), None);
        assert_eq!(read(&mut joined, 0, 205).map(|found| found.call), Some((other, 0)));
    }
}
