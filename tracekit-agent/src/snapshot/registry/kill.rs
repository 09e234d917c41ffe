//! The kill switch: no captures at all, or none in one service.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::snapshot::breakpoint::Source;

/// Services that can be killed one by one; more than an agent has.
const MAX_SERVICES: usize = 1000;

/// Who has switched it on, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// A user, an address or a control server.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// A user's switch stays on when a control server says that its own is off.
    pub source: Source,
}

/// Where the kill switch is on. Local and remote switches are independent: either stops captures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KillSwitch {
    /// Everywhere.
    pub all: Option<Killed>,
    /// By users, in these services.
    pub services: BTreeMap<String, Killed>,
    /// By the control server, in these services.
    pub remote: BTreeMap<String, Killed>,
}

impl KillSwitch {
    /// No captures in this service.
    #[must_use]
    pub fn is_on_for(&self, service: &str) -> bool {
        self.all.is_some() || self.services.contains_key(service) || self.remote.contains_key(service)
    }

    /// It is on somewhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.all.is_some() || !self.services.is_empty() || !self.remote.is_empty()
    }

    /// Switches; true if that changes anything. `service`: only this one.
    pub(super) fn set(&mut self, on: bool, service: Option<&str>, killed: Killed) -> bool {
        let Some(service) = service else {
            if on == self.all.is_some() {
                // Off means off: also what was switched on service by service.
                let services = !on && !self.services.is_empty();
                if services {
                    self.services.clear();
                }
                return services;
            }
            if !on {
                self.services.clear();
            }
            self.all = on.then_some(killed);
            return true;
        };
        let map = match killed.source {
            Source::Local => &mut self.services,
            Source::Remote => &mut self.remote,
        };
        if on {
            if map.contains_key(service) || map.len() >= MAX_SERVICES {
                return false;
            }
            map.insert(service.to_owned(), killed);
            true
        } else {
            map.remove(service).is_some()
        }
    }

    /// The part that outlives the agent: a control server tells its own again.
    #[must_use]
    pub fn local(&self) -> Self {
        Self { remote: BTreeMap::new(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(source: Source) -> Killed {
        Killed { by: "me".into(), since: Timestamp::UNIX_EPOCH, source }
    }

    #[test]
    fn either_side_stops_and_each_only_starts_its_own() {
        let mut switch = KillSwitch::default();
        assert!(switch.set(true, Some("shop"), by(Source::Remote)));
        assert!(!switch.set(true, Some("shop"), by(Source::Remote)));
        assert!(switch.set(true, Some("shop"), by(Source::Local)));
        assert!(switch.is_on_for("shop") && !switch.is_on_for("cart"));
        assert!(switch.set(false, Some("shop"), by(Source::Remote)));
        assert!(switch.is_on_for("shop"));
        assert!(switch.set(false, None, by(Source::Local)));
        assert!(!switch.is_on());
        assert!(switch.set(true, None, by(Source::Local)));
        assert!(switch.is_on_for("anything"));
        assert_eq!(switch.local(), switch);
    }

    #[test]
    fn a_user_cannot_switch_the_servers_off() {
        let mut switch = KillSwitch::default();
        switch.set(true, Some("shop"), by(Source::Remote));
        assert!(!switch.set(false, None, by(Source::Local)));
        assert!(switch.is_on_for("shop"));
        assert!(!switch.local().is_on());
    }
}
