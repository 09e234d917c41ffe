//! What the registry tells others: changes to whoever listens, and to the audit log.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

use super::{KillSwitch, View};
use crate::snapshot::breakpoint::Id;
use crate::snapshot::state::State;

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// A user (`uid 0, pid 4711`), an address, a control server's URL, or `tracekit` itself.
    pub who: String,
    /// How the wish came: `unix`, `tcp`, `remote` or `agent`.
    pub via: &'static str,
}

impl Actor {
    /// The agent itself: expiry, limits.
    #[must_use]
    pub fn agent() -> Self {
        Self { who: "tracekit".to_owned(), via: "agent" }
    }
}

/// A change of the registry.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Number of the event, ascending.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// What has changed. JSON: `{"event": "added", "breakpoint": {…}}`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Change {
    /// A breakpoint is there.
    Added {
        /// The breakpoint.
        breakpoint: Box<View>,
    },
    /// A breakpoint has been changed by somebody.
    Updated {
        /// The breakpoint as it is now.
        breakpoint: Box<View>,
    },
    /// A breakpoint is gone.
    Removed {
        /// Which.
        id: Id,
    },
    /// A breakpoint has another state.
    State {
        /// Which.
        id: Id,
        /// The state and what belongs to it.
        #[serde(flatten)]
        state: State,
    },
    /// The kill switch.
    KillSwitch {
        /// As it is now.
        kill_switch: KillSwitch,
    },
}

/// An entry of the audit log.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEntry {
    /// When.
    pub time: Timestamp,
    /// Who, and how.
    #[serde(flatten)]
    pub actor: Actor,
    /// What: `add`, `update`, `enable`, `disable`, `remove`, `expire`, `kill-switch`, …
    pub action: &'static str,
    /// The breakpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it was.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub before: Json,
    /// How it is now.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub after: Json,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Where audit entries go. Must not block for long: it is called with every change.
pub trait Audit: Send + Sync {
    /// Writes an entry.
    fn record(&self, entry: &AuditEntry);
}

/// Without an audit log; for tests of other things.
impl Audit for () {
    fn record(&self, _: &AuditEntry) {}
}
