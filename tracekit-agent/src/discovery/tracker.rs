//! Keeps the set of selected processes true while processes fork, exec and exit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::InspectError;
use super::{Inspected, Inspector, Selector};

/// When an executed program is looked at again: a dynamically linked interpreter maps its library some
/// milliseconds after `exec`, a wrapper that loads one (uWSGI) later.
const RETRIES: &[Duration] = &[
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(200),
    Duration::from_millis(1500),
];
/// Every so many rescans, processes that were not Python are looked at again: one may have loaded it since.
const RECHECK: u64 = 12;

/// What the tracker needs to know of processes.
pub trait Inspect {
    /// Looks at a process.
    ///
    /// # Errors
    /// Why it cannot be traced.
    fn inspect(&self, pid: u32) -> Result<Inspected, InspectError>;
    /// Every process.
    fn pids(&self) -> Vec<u32>;
    /// What differs when a pid is given to another process: its start. `None` if there is no such process.
    fn identity(&self, pid: u32) -> Option<u64>;
}

impl Inspect for Inspector {
    fn inspect(&self, pid: u32) -> Result<Inspected, InspectError> {
        Inspector::inspect(self, pid)
    }

    fn pids(&self) -> Vec<u32> {
        self.proc.pids()
    }

    fn identity(&self, pid: u32) -> Option<u64> {
        self.proc.stat(pid).ok().filter(|stat| !stat.zombie).map(|stat| stat.start_ticks)
    }
}

/// A change of the selected set.
#[derive(Debug, Clone)]
pub enum Change {
    /// Trace this process from now on.
    Selected(Arc<Inspected>),
    /// It is gone, or runs something else now.
    Deselected(u32),
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    attempt: usize,
    due: Instant,
}

/// Keeps the set of selected processes.
///
/// Events may come late, twice or not at all: every one is checked against what is true now, and
/// [`Self::rescan`] repairs what was missed.
#[derive(Debug)]
pub struct Tracker<I = Inspector> {
    inspector: I,
    selector: Selector,
    selected: HashMap<u32, Arc<Inspected>>,
    pending: HashMap<u32, Pending>,
    /// Not Python, with their identity.
    rejected: HashMap<u32, u64>,
    rescans: u64,
}

impl<I: Inspect> Tracker<I> {
    /// Nothing is selected until the first [`Self::rescan`].
    pub fn new(inspector: I, selector: Selector) -> Self {
        Self {
            inspector,
            selector,
            selected: HashMap::new(),
            pending: HashMap::new(),
            rejected: HashMap::new(),
            rescans: 0,
        }
    }

    /// The selected process of that pid.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Arc<Inspected>> {
        self.selected.get(&pid)
    }

    /// All selected processes, in no order.
    pub fn selected(&self) -> impl Iterator<Item = &Arc<Inspected>> {
        self.selected.values()
    }

    /// A process (not a thread) was forked. The child of a selected process is selected at once: gunicorn's
    /// workers never exec. Its interpreter is its parent's, so it needs no waiting.
    pub fn on_fork(&mut self, parent: u32, child: u32) -> Vec<Change> {
        let Some(template) = self.selected.get(&parent).cloned() else { return Vec::new() };
        if !self.selector.inherits() || self.selected.contains_key(&child) || child == parent {
            return Vec::new();
        }
        let inspected = match self.inspector.inspect(child) {
            Ok(inspected) => inspected,
            Err(
                InspectError::NotFound { .. }
                | InspectError::NotPython { .. }
                | InspectError::Unsupported { .. },
            ) => {
                // Gone already, or it has executed something else: that event follows.
                return Vec::new();
            }
            Err(_) => inherit(&template, child),
        };
        vec![self.select(inspected)]
    }

    /// A process executed a program: whatever it was, it is looked at anew, now and later.
    pub fn on_exec(&mut self, pid: u32, now: Instant) -> Vec<Change> {
        self.rejected.remove(&pid);
        let mut changes: Vec<Change> = self.deselect(pid).into_iter().collect();
        changes.extend(self.attempt(pid, 0, now));
        changes
    }

    /// A process (its last thread) exited.
    pub fn on_exit(&mut self, pid: u32) -> Vec<Change> {
        self.rejected.remove(&pid);
        self.pending.remove(&pid);
        self.deselect(pid).into_iter().collect()
    }

    /// When [`Self::poll`] has something to do next.
    #[must_use]
    pub fn pending(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.due).min()
    }

    /// Looks again at the executed programs that are due.
    pub fn poll(&mut self, now: Instant) -> Vec<Change> {
        let mut due: Vec<(u32, usize)> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due <= now)
            .map(|(pid, pending)| (*pid, pending.attempt))
            .collect();
        due.sort_unstable();
        due.into_iter().filter_map(|(pid, attempt)| self.attempt(pid, attempt, now)).collect()
    }

    /// Compares with what runs now. To be called at the start and then every few seconds: it finds what no
    /// event tells (a port opened, an interpreter loaded late, a lost event).
    pub fn rescan(&mut self) -> Vec<Change> {
        let recheck = self.rescans.is_multiple_of(RECHECK);
        self.rescans += 1;
        let mut changes = Vec::new();
        let pids = self.inspector.pids();
        let mut known: Vec<u32> = self.selected.keys().copied().collect();
        known.sort_unstable();
        for pid in known {
            let start = self.selected.get(&pid).map(|inspected| inspected.process.start_ticks);
            if self.inspector.identity(pid) != start {
                self.pending.remove(&pid);
                changes.extend(self.deselect(pid));
            }
        }
        self.rejected.retain(|pid, _| pids.binary_search(pid).is_ok());
        for pid in pids {
            if self.selected.contains_key(&pid) || self.pending.contains_key(&pid) {
                continue;
            }
            let identity = self.inspector.identity(pid);
            if !recheck && identity.is_some() && self.rejected.get(&pid).copied() == identity {
                continue;
            }
            match self.inspector.inspect(pid) {
                Ok(inspected) if self.selector.matches(&inspected) => changes.push(self.select(inspected)),
                Err(InspectError::NotPython { .. } | InspectError::Unsupported { .. }) => {
                    if let Some(identity) = identity {
                        self.rejected.insert(pid, identity);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        changes
    }

    fn attempt(&mut self, pid: u32, attempt: usize, now: Instant) -> Option<Change> {
        self.pending.remove(&pid);
        match self.inspector.inspect(pid) {
            Ok(inspected) if self.selector.matches(&inspected) => {
                if self.selected.contains_key(&pid) {
                    return None;
                }
                return Some(self.select(inspected));
            }
            Err(
                InspectError::NotFound { .. }
                | InspectError::Denied { .. }
                | InspectError::Unsupported { .. },
            ) => {
                return None;
            }
            // Python, but not selected yet: the port may be opened in a moment.
            Ok(_) | Err(_) => {}
        }
        if let Some(delay) = RETRIES.get(attempt) {
            self.pending.insert(pid, Pending { attempt: attempt + 1, due: now + *delay });
        }
        None
    }

    fn select(&mut self, inspected: Inspected) -> Change {
        let inspected = Arc::new(inspected);
        self.rejected.remove(&inspected.pid());
        self.selected.insert(inspected.pid(), inspected.clone());
        Change::Selected(inspected)
    }

    fn deselect(&mut self, pid: u32) -> Option<Change> {
        self.selected.remove(&pid).map(|_| Change::Deselected(pid))
    }
}

/// A child that could not be read, as its parent's copy.
fn inherit(parent: &Inspected, child: u32) -> Inspected {
    let mut inspected = parent.clone();
    inspected.process.ancestors.insert(0, parent.pid());
    inspected.process.pid = child;
    inspected.process.namespace_pid = child;
    inspected
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::testing::inspected;
    use super::*;

    /// Processes that exist only in a table.
    #[derive(Default)]
    struct Table(RefCell<HashMap<u32, (u64, Option<Inspected>)>>);

    impl Table {
        fn python(&self, pid: u32, parent: u32, start: u64, line: &str) {
            let mut process = inspected(pid, line);
            process.process.ancestors = vec![parent];
            process.process.start_ticks = start;
            self.0.borrow_mut().insert(pid, (start, Some(process)));
        }

        fn other(&self, pid: u32, start: u64) {
            self.0.borrow_mut().insert(pid, (start, None));
        }

        fn gone(&self, pid: u32) {
            self.0.borrow_mut().remove(&pid);
        }
    }

    impl Inspect for &Table {
        fn inspect(&self, pid: u32) -> Result<Inspected, InspectError> {
            match self.0.borrow().get(&pid) {
                Some((_, Some(inspected))) => Ok(inspected.clone()),
                Some((_, None)) => Err(InspectError::NotPython { pid, exe: None }),
                None => Err(InspectError::NotFound { pid }),
            }
        }

        fn pids(&self) -> Vec<u32> {
            let mut pids: Vec<u32> = self.0.borrow().keys().copied().collect();
            pids.sort_unstable();
            pids
        }

        fn identity(&self, pid: u32) -> Option<u64> {
            self.0.borrow().get(&pid).map(|(start, _)| *start)
        }
    }

    fn text(changes: &[Change]) -> String {
        let words: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::Selected(inspected) => format!("+{}", inspected.pid()),
                Change::Deselected(pid) => format!("-{pid}"),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn a_prefork_server_and_its_workers() {
        let table = Table::default();
        table.python(10, 1, 100, "python gunicorn app:wsgi");
        table.other(11, 100);
        let mut tracker = Tracker::new(&table, Selector::pids([10]));
        assert_eq!(text(&tracker.rescan()), "+10");
        assert_eq!(text(&tracker.rescan()), "");
        table.python(20, 10, 200, "python gunicorn app:wsgi");
        assert_eq!(text(&tracker.on_fork(10, 20)), "+20");
        assert_eq!(text(&tracker.on_fork(10, 20)), "", "the same event twice");
        assert_eq!(text(&tracker.on_fork(11, 21)), "", "not selected");
        assert_eq!(text(&tracker.on_fork(10, 22)), "", "gone before it was looked at");
        assert_eq!(text(&tracker.on_exit(20)), "-20");
        assert_eq!(text(&tracker.on_exit(20)), "");
        assert_eq!(tracker.selected().count(), 1);
    }

    #[test]
    fn a_child_that_executes_something_else() {
        let table = Table::default();
        table.python(10, 1, 100, "python app.py");
        let mut tracker = Tracker::new(&table, Selector::all());
        tracker.rescan();
        table.python(20, 10, 200, "python app.py");
        tracker.on_fork(10, 20);
        table.other(20, 200);
        let now = Instant::now();
        assert_eq!(text(&tracker.on_exec(20, now)), "-20");
        assert!(tracker.pending().is_some());
    }

    #[test]
    fn an_interpreter_that_is_mapped_late() {
        let table = Table::default();
        table.other(30, 5);
        let mut tracker = Tracker::new(&table, Selector::all());
        let start = Instant::now();
        assert_eq!(text(&tracker.on_exec(30, start)), "");
        let due = tracker.pending().unwrap();
        assert_eq!(text(&tracker.poll(start)), "", "not due yet");
        assert_eq!(text(&tracker.poll(due)), "");
        table.python(30, 1, 5, "python app.py");
        let due = tracker.pending().unwrap();
        assert_eq!(text(&tracker.poll(due)), "+30");
        assert_eq!(tracker.pending(), None);
    }

    #[test]
    fn retries_end() {
        let table = Table::default();
        table.other(30, 5);
        let mut tracker = Tracker::new(&table, Selector::all());
        tracker.on_exec(30, Instant::now());
        let mut polls = 0;
        while let Some(due) = tracker.pending() {
            tracker.poll(due);
            polls += 1;
        }
        assert_eq!(polls, RETRIES.len());
    }

    #[test]
    fn lost_events_and_reused_pids() {
        let table = Table::default();
        table.python(10, 1, 100, "python app.py");
        table.python(11, 1, 100, "python app.py");
        let mut tracker = Tracker::new(&table, Selector::all());
        assert_eq!(text(&tracker.rescan()), "+10 +11");
        table.gone(10);
        table.python(11, 1, 300, "python other.py");
        assert_eq!(text(&tracker.rescan()), "-10 -11 +11");
    }

    #[test]
    fn python_loaded_long_after_exec() {
        let table = Table::default();
        table.other(10, 100);
        let mut tracker = Tracker::new(&table, Selector::all());
        tracker.rescan();
        table.python(10, 1, 100, "uwsgi");
        let found = (0..RECHECK).map(|_| text(&tracker.rescan())).find(|changes| !changes.is_empty());
        assert_eq!(found.as_deref(), Some("+10"));
    }

    #[test]
    fn without_children() {
        use super::super::SelectorArgs;
        let table = Table::default();
        table.python(10, 1, 100, "python app.py");
        table.python(20, 10, 200, "python app.py");
        let args = SelectorArgs { pid: vec![10], no_children: true, ..SelectorArgs::default() };
        let mut tracker = Tracker::new(&table, args.compile_required().unwrap());
        assert_eq!(text(&tracker.rescan()), "+10");
        assert_eq!(text(&tracker.on_fork(10, 20)), "");
    }
}
