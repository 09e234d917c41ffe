//! Ids that the kernel side has chosen for requests, until the requests are seen.

use std::collections::{HashMap, VecDeque};

use tracekit_protocol::{Begin, Role};

use crate::probes::record::{Chosen, ConnectionId, Data};

/// Requests of one connection that are remembered: as many may be sent before one is seen.
const MAX_REQUESTS: usize = 64;
/// Connections with such requests.
const MAX_CONNECTIONS: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Choices {
    waiting: HashMap<ConnectionId, VecDeque<Chosen>>,
}

impl Choices {
    /// A record of the kernel side; the request's bytes follow.
    pub(super) fn add(&mut self, id: ConnectionId, chosen: Chosen) {
        if self.waiting.len() >= MAX_CONNECTIONS && !self.waiting.contains_key(&id) {
            // Their bytes never came: they were lost.
            self.waiting.clear();
        }
        let waiting = self.waiting.entry(id).or_default();
        if waiting.len() >= MAX_REQUESTS {
            waiting.pop_front();
        }
        waiting.push_back(chosen);
    }

    /// What was chosen for a request that these bytes complete the head of.
    pub(super) fn take(&mut self, begin: &Begin, data: &Data<'_>) -> Option<Chosen> {
        let waiting = self.waiting.get_mut(&data.id)?;
        let read = begin.role == Role::Server;
        if read {
            return waiting
                .iter()
                .position(|chosen| chosen.read && chosen.tid == data.tid)
                .and_then(|at| waiting.remove(at));
        }
        // A head may be sent in pieces; it was decided on with its last one, or with the last byte but one.
        waiting.retain(|chosen| chosen.read || chosen.entered >= begin.start);
        let front = waiting.front().filter(|chosen| !chosen.read && chosen.entered <= data.entered);
        front.copied().inspect(|_| {
            waiting.pop_front();
        })
    }

    /// All that these bytes lead to was seen.
    pub(super) fn seen(&mut self, data: &Data<'_>) {
        let Some(waiting) = self.waiting.get_mut(&data.id) else { return };
        waiting.retain(|chosen| !chosen.read);
        if waiting.is_empty() {
            self.waiting.remove(&data.id);
        }
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.waiting.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use tracekit_protocol::Direction;

    use super::*;

    const ID: ConnectionId = ConnectionId { tgid: 1, inode: 2 };

    fn sent(entered: u64, number: u8) -> Chosen {
        Chosen { tid: 3, entered, ids: Some(([number; 16], [number; 8], true)), read: false }
    }

    fn data(entered: u64) -> Data<'static> {
        Data {
            id: ID,
            tid: 3,
            entered,
            returned: entered + 1,
            direction: Direction::Outbound,
            offset: 0,
            length: Some(0),
            head: b"",
            tail: b"",
            nonblocking: false,
            by: tracekit_common::actor::Identity::default(),
        }
    }

    fn begin(role: Role, start: u64) -> Begin {
        Begin { id: 0, role, start, tid: 3, traceparent: None, tracestate: None }
    }

    #[test]
    fn requests_of_one_call_are_in_order() {
        let mut choices = Choices::default();
        choices.add(ID, sent(10, 1));
        choices.add(ID, sent(10, 2));
        assert_eq!(choices.take(&begin(Role::Client, 10), &data(10)), Some(sent(10, 1)));
        assert_eq!(choices.take(&begin(Role::Client, 10), &data(10)), Some(sent(10, 2)));
        assert_eq!(choices.take(&begin(Role::Client, 10), &data(10)), None);
        choices.seen(&data(10));
        assert!(choices.waiting.is_empty());
    }

    #[test]
    fn what_was_never_seen_is_not_for_the_next() {
        let mut choices = Choices::default();
        choices.add(ID, sent(10, 1));
        choices.add(ID, sent(20, 2));
        assert_eq!(choices.take(&begin(Role::Client, 20), &data(20)), Some(sent(20, 2)));
        choices.add(ID, sent(40, 3));
        assert_eq!(choices.take(&begin(Role::Client, 30), &data(30)), None);
    }

    #[test]
    fn a_head_in_pieces_has_what_was_chosen_with_its_last() {
        let mut choices = Choices::default();
        choices.add(ID, sent(15, 1));
        assert_eq!(choices.take(&begin(Role::Client, 10), &data(20)), Some(sent(15, 1)));
    }

    #[test]
    fn what_is_read_is_of_these_bytes_only() {
        let mut choices = Choices::default();
        let read = Chosen { read: true, entered: 0, ..sent(0, 1) };
        choices.add(ID, read);
        assert_eq!(choices.take(&begin(Role::Server, 5), &data(5)), Some(read));
        choices.add(ID, read);
        choices.seen(&data(5));
        assert_eq!(choices.take(&begin(Role::Server, 6), &data(6)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut choices = Choices::default();
        for inode in 0..3 * MAX_CONNECTIONS as u64 {
            for number in 0..2 {
                choices.add(ConnectionId { tgid: 1, inode }, sent(1, number));
            }
        }
        assert!(choices.waiting.len() <= MAX_CONNECTIONS);
        for _ in 0..3 * MAX_REQUESTS {
            choices.add(ID, sent(1, 1));
        }
        assert_eq!(choices.waiting[&ID].len(), MAX_REQUESTS);
    }
}
