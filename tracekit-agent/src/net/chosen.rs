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
