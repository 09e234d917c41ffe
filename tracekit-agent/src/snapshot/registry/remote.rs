//! The breakpoints of control servers.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Actor, Change, Entry, MAX_TEXT, Registry, RegistryError, text_size};
use crate::snapshot::breakpoint::{Breakpoint, Id, Source, Spec};

/// The end of a breakpoint is put off when that gives it this much more.
const RENEW: SignedDuration = SignedDuration::from_hours(1);

/// A breakpoint as a control server wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteSpec {
    /// The server's name for it.
    pub id: Id,
    /// What it is. The service is always given.
    pub spec: Spec,
    /// When it ends; takes precedence over the limits.
    pub expires_at: Option<Timestamp>,
    /// Captures that the server has already, of all agents.
    pub captured: u64,
}

impl Registry {
    /// Takes over a control server's whole list for a service. Gives the problems of those that cannot be
    /// breakpoints.
    pub fn sync_remote(
        &self,
        service: &str,
        wanted: &[RemoteSpec],
        actor: &Actor,
        now: Timestamp,
    ) -> Vec<(Id, RegistryError)> {
        let gone: Vec<Id> = {
            let inner = self.lock();
            let of_service = inner.entries.values().filter(|entry| {
                entry.remote.is_some() && entry.breakpoint.service.as_deref() == Some(service)
            });
            of_service
                .map(|entry| &entry.breakpoint.id)
                .filter(|id| !wanted.iter().any(|wanted| wanted.id == **id))
                .cloned()
                .collect()
        };
        for id in gone {
            self.remove_remote(&id, actor, now);
        }
        let refused = wanted.iter().filter_map(|wanted| {
            let result = self.upsert_remote(wanted, actor, now);
            result.err().map(|error| (wanted.id.clone(), error))
        });
        refused.collect()
    }

    /// Adds or changes a control server's breakpoint. What a user has switched off stays off until the server
    /// changes the breakpoint.
    ///
    /// # Errors
    /// It cannot be one, or there are too many.
    pub fn upsert_remote(
        &self,
        wanted: &RemoteSpec,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        let id = &wanted.id;
        let mut new = Breakpoint::new(id.clone(), wanted.spec.clone(), &actor.who, Source::Remote, now)?;
        if let Some(expires_at) = wanted.expires_at {
            new.expires_at = expires_at.min(new.expires_at);
        }
        self.check_expressions(&new)?;
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(id) else {
            self.make_room(&mut inner, &new, now)?;
            let mut entry = Entry::new(new, Some(wanted.clone()));
            entry.used = wanted.captured;
            inner.insert(entry);
            self.added(&mut inner, id, actor, now);
            return Ok(());
        };
        let Some(known) = &mut entry.remote else { return Err(RegistryError::Exists(id.clone())) };
        let same = known.spec == wanted.spec && known.expires_at == wanted.expires_at;
        *known = wanted.clone();
        // The server counts what all agents have captured, this one what it has not told yet.
        entry.used = entry.used.max(wanted.captured);
        if same {
            // As long as the server wants it, it goes on: the end is a day after the server was heard last.
            let known = &entry.breakpoint;
            if known.expires_at.duration_until(new.expires_at) > RENEW {
                entry.breakpoint =
                    Arc::new(Breakpoint { expires_at: new.expires_at, ..Breakpoint::clone(known) });
            }
            self.tell_state(&mut inner, id, now);
            return Ok(());
        }
        let before = entry.audit_json();
        let old_size = text_size(&entry.breakpoint);
        new.created_at = entry.breakpoint.created_at;
        let text = inner.text - old_size + text_size(&new);
        if text > MAX_TEXT {
            return Err(RegistryError::TooLarge);
        }
        let Some(entry) = inner.entries.get_mut(id) else { return Err(RegistryError::NotFound(id.clone())) };
        entry.used = wanted.captured;
        entry.breakpoint = Arc::new(new);
        let after = entry.audit_json();
        inner.text = text;
        self.record(actor, "update", Some(id), before, after, now);
        if let Some(view) = inner.view(id, now) {
            self.emit(&mut inner, now, Change::Updated { breakpoint: Box::new(view) });
        }
        self.tell_state(&mut inner, id, now);
        Ok(())
    }

    /// A control server has removed a breakpoint.
    pub fn remove_remote(&self, id: &Id, actor: &Actor, now: Timestamp) {
        let mut inner = self.lock();
        if inner.entries.get(id).is_some_and(|entry| entry.remote.is_some()) {
            self.removed(&mut inner, id, actor, "remove", now);
        }
    }
}
