//! What outlives the agent.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, KillSwitch, Registry, RegistryError};
use crate::snapshot::breakpoint::{Breakpoint, Id, Source};
use crate::snapshot::engine::anchor::Anchor;
use crate::snapshot::state::Counters;

/// What is kept over a restart of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The breakpoint.
    pub breakpoint: Breakpoint,
    /// What was counted.
    #[serde(default)]
    pub counters: Counters,
    /// Captures since it was switched on last.
    #[serde(default)]
    pub used: u64,
    /// When the one process started that it is for, in clock ticks from boot.
    #[serde(default)]
    pub start_ticks: Option<u64>,
    /// By service, what the line was when it was armed first.
    #[serde(default)]
    pub anchors: BTreeMap<String, Anchor>,
}

impl Registry {
    /// What is to outlive the agent: local breakpoints, and the local kill switch.
    #[must_use]
    pub fn save(&self) -> (Vec<Saved>, KillSwitch) {
        let inner = self.lock();
        let local = inner.entries.values().filter(|entry| entry.remote.is_none());
        let saved = local.map(|entry| Saved {
            breakpoint: Breakpoint::clone(&entry.breakpoint),
            counters: entry.counters.clone(),
            used: entry.used,
            start_ticks: entry.start_ticks,
            anchors: entry.anchors.clone(),
        });
        (saved.collect(), inner.kill_switch.local())
    }

    /// Takes back what was saved; gives the problems of what cannot be used any more.
    pub fn restore(
        &self,
        saved: Vec<Saved>,
        kill_switch: KillSwitch,
        now: Timestamp,
    ) -> Vec<(Id, RegistryError)> {
        let mut refused = Vec::new();
        let mut inner = self.lock();
        for Saved { breakpoint, counters, used, start_ticks, anchors } in saved {
            let id = breakpoint.id.clone();
            let checked = breakpoint
                .check()
                .map_err(RegistryError::from)
                .and_then(|()| self.check_expressions(&breakpoint))
                .and_then(|()| match inner.entries.contains_key(&id) {
                    true => Err(RegistryError::Exists(id.clone())),
                    false => self.make_room(&mut inner, &breakpoint, now),
                });
            if let Err(error) = checked {
                refused.push((id, error));
                continue;
            }
            // A file may have been written by somebody else: only control servers make remote ones.
            let breakpoint = Breakpoint { source: Source::Local, ..breakpoint };
            let mut entry = Entry::new(breakpoint, None);
            (entry.counters, entry.used, entry.start_ticks) = (counters, used, start_ticks);
            entry.anchors = anchors;
            inner.insert(entry);
        }
        inner.kill_switch = kill_switch.local();
        self.tell_states(&mut inner, now);
        drop(inner);
        self.changed();
        refused
    }
}
