//! From where actors were made: a task whose stack has only frames of libraries makes its calls for the line that
//! made the task.

use std::{collections::HashMap, sync::Arc};

use tracekit_common::actor::{IN_TASK, Identity};

use crate::net::Origin;

/// Actors of one generation: there are two, and the older one is forgotten when the younger one is full.
const MAX_GENERATION: usize = 16 * 1024;
/// Nanoseconds for which what a library makes is believed to be for what it was called for.
const YOUNG: u64 = 1_000_000_000;

/// From where an actor was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The line.
    pub origin: Arc<Origin>,
    /// The application made it itself, for example by `asyncio.gather`: all that it does is done for that line. What a
    /// library made may outlive the call for which it was made.
    pub directly: bool,
    /// It is work that was handed to a thread, not a task.
    pub is_item: bool,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub born: u64,
    used: bool,
}

impl Made {
    /// Made right now, at `born` nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn new(origin: Arc<Origin>, directly: bool, is_item: bool, born: u64) -> Self {
        Self { origin, directly, is_item, born, used: false }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Makers {
    young: HashMap<(u32, u64), Made>,
    old: HashMap<(u32, u64), Made>,
}

impl Makers {
    /// An actor was made.
    pub fn insert(&mut self, tgid: u32, actor: u64, made: Made) {
        if self.young.len() >= MAX_GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert((tgid, actor), made);
    }

    fn get(&mut self, tgid: u32, by: &Identity) -> Option<&mut Made> {
        let id = (tgid, by.actor);
        // Not what a thread does for a task that waits for it: what was asked for in that task is not known.
        let is_item = by.flags & IN_TASK == 0;
        let Self { young, old } = self;
        young.get_mut(&id).or_else(|| old.get_mut(&id)).filter(|made| made.is_item == is_item)
    }

    /// The line for which an actor makes a call at `time` (nanoseconds of `CLOCK_MONOTONIC`), if its own stack does not
    /// say. Of what a library made only the first call is known to be for the line that the library was called from.
    pub fn origin(&mut self, tgid: u32, by: &Identity, time: u64) -> Option<Arc<Origin>> {
        let made = self.get(tgid, by)?;
        let known = made.directly || (!made.used && time.saturating_sub(made.born) < YOUNG);
        made.used = true;
        known.then(|| Arc::clone(&made.origin))
    }

    /// The line from which the application itself has made an actor.
    pub fn known(&mut self, tgid: u32, by: &Identity) -> Option<&Origin> {
        self.get(tgid, by).filter(|made| made.directly).map(|made| &*made.origin)
    }

    /// The line for which an actor makes another one at `time`, if its own stack does not say.
    pub fn inherited(&mut self, tgid: u32, by: &Identity, time: u64) -> Option<Arc<Origin>> {
        let made = self.get(tgid, by)?;
        // What the application started once may be a server: that line is none of its requests'.
        (made.directly && time.saturating_sub(made.born) < YOUNG).then(|| Arc::clone(&made.origin))
    }

    /// A process is gone.
    pub fn process_gone(&mut self, tgid: u32) {
        self.young.retain(|id, _| id.0 != tgid);
        self.old.retain(|id, _| id.0 != tgid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Caller;

    fn origin() -> Arc<Origin> {
        let caller = Caller { function: "f".into(), file: "/srv/app.py".into(), line: Some(1) };
        Arc::new(Origin { caller: Arc::new(caller), below: Vec::new() })
    }

    fn by(actor: u64, flags: u32) -> Identity {
        Identity { actor, flags, ..Identity::default() }
    }

    #[test]
    fn what_the_application_made_works_for_its_line() {
        let mut makers = Makers::default();
        makers.insert(1, 7, Made::new(origin(), true, false, 0));
        for time in [1, 2, 10 * YOUNG] {
            assert!(makers.origin(1, &by(7, IN_TASK), time).is_some());
        }
        assert!(makers.origin(2, &by(7, IN_TASK), 1).is_none(), "another process's");
        assert!(makers.origin(1, &by(7, 0), 1).is_none(), "a thread for which the task waits");
        assert!(makers.inherited(1, &by(7, IN_TASK), 10).is_some());
        assert!(makers.inherited(1, &by(7, IN_TASK), YOUNG).is_none());
    }

    #[test]
    fn what_a_library_made_is_believed_once_and_soon() {
        let mut makers = Makers::default();
        makers.insert(1, 7, Made::new(origin(), false, true, 5));
        assert!(makers.inherited(1, &by(7, 0), 5).is_none());
        assert!(makers.origin(1, &by(7, 0), 6).is_some());
        assert!(makers.origin(1, &by(7, 0), 7).is_none());
        makers.insert(1, 8, Made::new(origin(), false, true, 5));
        assert!(makers.origin(1, &by(8, 0), 5 + YOUNG).is_none());
    }

    #[test]
    fn their_number_is_bounded() {
        let mut makers = Makers::default();
        let last = 5 * MAX_GENERATION as u64;
        for actor in 0..last {
            makers.insert(1, actor, Made::new(origin(), true, false, 0));
        }
        assert!(makers.young.len() + makers.old.len() <= 2 * MAX_GENERATION);
        assert!(makers.origin(1, &by(last - 1, IN_TASK), 1).is_some());
        makers.process_gone(1);
        assert_eq!(makers.young.len() + makers.old.len(), 0);
    }
}
