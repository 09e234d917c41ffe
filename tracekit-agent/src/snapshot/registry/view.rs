//! A breakpoint as it is shown: what it is, its state, what was counted.

use jiff::Timestamp;
use serde::Serialize;

use super::Inner;
use crate::snapshot::breakpoint::{Breakpoint, Id};
use crate::snapshot::state::{Counters, State};

/// Processes that are listed with a breakpoint; the counters are of all.
const MAX_LISTED: usize = 64;

/// A breakpoint with its state and counters. JSON: the keys of [`Breakpoint`], `state` with `mode` or `reason`,
/// `captures_left`, `counters`, `process_count`, `processes`.
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
    /// How many processes are selected.
    pub process_count: usize,
    /// The first 64 of these.
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
        let is_there = self.has_process_of(entry);
        let selected = self
            .processes
            .iter()
            .filter(|(pid, process)| is_there && entry.breakpoint.selects(**pid, &process.service));
        let processes = selected.clone().take(MAX_LISTED).map(|(pid, process)| {
            let known = entry.processes.get(pid);
            ProcessView {
                pid: *pid,
                service: process.service.to_string(),
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
            process_count: selected.clone().count(),
            processes: processes.collect(),
        })
    }
}
