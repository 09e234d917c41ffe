//! A breakpoint as it is shown: what it is, its state, what was counted.

use jiff::Timestamp;
use serde::Serialize;

use super::Inner;
use crate::snapshot::breakpoint::{Breakpoint, Id};
use crate::snapshot::state::{Counters, State};

/// Processes that are listed with a breakpoint; the counters are of all.
const MAX_LISTED: usize = 256;

/// A breakpoint with its state and counters. JSON: the keys of [`Breakpoint`], `state` with `mode` or `reason`,
/// `captures_left`, `counters`, `processes`.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    /// What it is.
    #[serde(flatten)]
    pub breakpoint: Breakpoint,
    /// What has become of it.
    #[serde(flatten)]
    pub state: State,
    /// Captures until it is done.
    pub captures_left: u64,
    /// Of all processes, those that are gone included.
    pub counters: Counters,
    /// The selected processes.
    pub processes: Vec<ProcessView>,
}

/// A breakpoint in one process.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessView {
    /// The process.
    pub pid: u32,
    /// Its service.
    pub service: String,
    /// State there.
    #[serde(flatten)]
    pub state: State,
    /// Hits there.
    pub hits: u64,
    /// Captures there.
    pub captured: u64,
}

impl Inner {
    /// What is shown of a breakpoint.
    pub(super) fn view(&self, id: &Id, now: Timestamp) -> Option<View> {
        let entry = self.entries.get(id)?;
        let selected =
            self.processes.iter().filter(|(pid, service)| entry.breakpoint.selects(**pid, service));
        let processes = selected.take(MAX_LISTED).map(|(pid, service)| {
            let known = entry.processes.get(pid);
            ProcessView {
                pid: *pid,
                service: service.to_string(),
                state: known.map(|process| process.state.clone()).unwrap_or_default(),
                hits: known.map_or(0, |process| process.hits),
                captured: known.map_or(0, |process| process.captured),
            }
        });
        Some(View {
            breakpoint: Breakpoint::clone(&entry.breakpoint),
            state: self.state(id, now),
            captures_left: entry.left(),
            counters: entry.counters.clone(),
            processes: processes.collect(),
        })
    }
}
