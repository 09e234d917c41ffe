//! Which breakpoints there are, what users and control servers want of them, and what has become of them.
//!
//! One lock, held for microseconds; nothing waits inside. Users and servers change it from the control
//! thread. The engine looks at [`Registry::revision`] as often as it likes (an atomic read), takes
//! [`Registry::desired`] when that has changed, and reports states and counts. Everybody else listens to
//! [`Registry::subscribe`].

mod error;
mod event;
mod kill;
mod remote;
mod saved;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, btree_map};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::broadcast;

pub use error::{Misplaced, RegistryError};
pub use event::{Actor, Audit, AuditEntry, Change, Event};
pub use kill::{KillSwitch, Killed};
pub use remote::RemoteSpec;
pub use saved::Saved;
pub use view::{ProcessView, View};

use super::breakpoint::{Breakpoint, Id, Patch, Source, Spec, SpecError};
use super::engine::anchor::Anchor;
use super::limits::{MAX_BREAKPOINTS, MAX_REMOTE_BREAKPOINTS};
use super::state::{Counters, Pause, State};

/// Bytes of all texts of all breakpoints: a thousand may not be as large as each may be.
const MAX_TEXT: usize = 1 << 20;
/// Pairs of breakpoint and process whose state is kept.
const MAX_PAIRS: usize = 32 * 1024;
/// Traced processes that are known.
const MAX_PROCESSES: usize = 16 * 1024;
/// Services in which a breakpoint is tied to a function.
const MAX_ANCHORS: usize = 64;
/// Events that a slow listener may lag behind before it loses some; each may hold a breakpoint with its texts.
const EVENTS: usize = 256;
/// How long breakpoints that are done or have expired stay in the list.
const KEEP_FINISHED: SignedDuration = SignedDuration::from_hours(24);

/// Checks the expressions of a breakpoint, before it is one.
pub trait Language: Send + Sync {
    /// A condition or watch expression.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    fn check_expression(&self, source: &str) -> Result<(), String>;

    /// A log template with `{expression}` in it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    fn check_template(&self, source: &str) -> Result<(), String>;
}

/// Finds out whether a line can be armed in the processes that run now.
pub trait Locate: Send + Sync {
    /// Looks for the line in these processes. A file that none of them has loaded is no error: it may come.
    ///
    /// # Errors
    /// Several files match, or the line has no code.
    fn locate(&self, breakpoint: &Breakpoint, pids: &[u32]) -> Result<(), Misplaced>;
}

/// What the engine is to arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The revision that this is.
    pub revision: u64,
    /// Those that are switched on and not over. Which processes each is meant for, [`Breakpoint::selects`] says.
    pub breakpoints: Vec<Arc<Breakpoint>>,
    /// No captures in these services.
    pub kill_switch: KillSwitch,
}

#[derive(Debug)]
struct InProcess {
    state: State,
    hits: u64,
    captured: u64,
}

#[derive(Debug)]
struct Traced {
    start_ticks: u64,
    service: Arc<str>,
}

#[derive(Debug)]
struct Entry {
    breakpoint: Arc<Breakpoint>,
    /// When the one process started that it is for: its number may be given to another.
    start_ticks: Option<u64>,
    counters: Counters,
    /// Captures since it was switched on last: these are what `limits.hits` bounds.
    used: u64,
    /// What the control server said, to notice what has changed.
    remote: Option<RemoteSpec>,
    processes: BTreeMap<u32, InProcess>,
    /// By service, what the line was when it was armed first.
    anchors: BTreeMap<String, Anchor>,
    /// The state that was told last.
    told: State,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Id, Entry>,
    kill_switch: KillSwitch,
    /// Traced processes.
    processes: BTreeMap<u32, Traced>,
    /// Pairs of breakpoint and process.
    pairs: usize,
    text: usize,
    /// Of the last event.
    sequence: u64,
}

/// See the module.
pub struct Registry {
    inner: Mutex<Inner>,
    revision: AtomicU64,
    /// Told of each new revision.
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
    events: broadcast::Sender<Arc<Event>>,
    language: Box<dyn Language>,
    locate: Option<Box<dyn Locate>>,
    audit: Box<dyn Audit>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Registry {
    /// Without breakpoints.
    #[must_use]
    pub fn new(language: Box<dyn Language>, audit: Box<dyn Audit>) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (revision, waker) = (AtomicU64::new(1), OnceLock::new());
        Self { inner: Mutex::default(), revision, waker, events, language, locate: None, audit }
    }

    /// Lines are looked up before a breakpoint is accepted.
    #[must_use]
    pub fn with_locate(mut self, locate: Box<dyn Locate>) -> Self {
        self.locate = Some(locate);
        self
    }

    /// Changes with everything that [`Registry::desired`] gives.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Tells somebody, once for all, whenever the revision changes. It must not wait, and not ask the registry.
    pub fn wake(&self, waker: Box<dyn Fn() + Send + Sync>) {
        // There is one engine.
        let _ = self.waker.set(waker);
    }

    fn changed(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.waker.get() {
            waker();
        }
    }

    /// All changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Adds a breakpoint.
    ///
    /// # Errors
    /// It cannot be one, or there are too many.
    pub fn add(&self, spec: Spec, actor: &Actor, now: Timestamp) -> Result<View, RegistryError> {
        let mut breakpoint = Breakpoint::new(Id::random(), spec, &actor.who, Source::Local, now)?;
        self.check_expressions(&breakpoint)?;
        self.check_place(&breakpoint)?;
        let mut inner = self.lock();
        while inner.entries.contains_key(&breakpoint.id) {
            breakpoint.id = Id::random();
        }
        self.make_room(&mut inner, &breakpoint, now)?;
        let id = breakpoint.id.clone();
        let mut entry = Entry::new(breakpoint, None);
        let process = entry.breakpoint.pid.and_then(|pid| inner.processes.get(&pid));
        entry.start_ticks = process.map(|process| process.start_ticks);
        inner.insert(entry);
        self.added(&mut inner, &id, actor, now).ok_or(RegistryError::NotFound(id))
    }

    /// Changes a breakpoint.
    ///
    /// # Errors
    /// There is none, or it cannot be like that.
    pub fn update(
        &self,
        id: &Id,
        patch: &Patch,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<View, RegistryError> {
        let mut inner = self.lock();
        let text = inner.text;
        let entry = inner.entries.get_mut(id).ok_or_else(|| RegistryError::NotFound(id.clone()))?;
        let current = &entry.breakpoint;
        let only_switch = Patch { enabled: patch.enabled, ..Patch::default() };
        if current.source == Source::Remote && *patch != only_switch {
            return Err(RegistryError::Remote(id.clone()));
        }
        let mut new = current.patched(patch, now)?;
        self.check_expressions(&new)?;
        let text = text - text_size(current) + text_size(&new);
        if text > MAX_TEXT {
            return Err(RegistryError::TooLarge);
        }
        let before = entry.audit_json();
        if patch.enabled == Some(true) && new.source == Source::Local {
            // Somebody wants to see more of it. How much a control server wants is its own affair.
            entry.used = 0;
            // And means the line as it is now.
            entry.anchors.clear();
            if new.has_expired(now) {
                new = new.renewed(now);
            }
        }
        let action = match patch.enabled {
            Some(true) if *patch == only_switch => "enable",
            Some(false) if *patch == only_switch => "disable",
            _ => "update",
        };
        entry.breakpoint = Arc::new(new);
        let after = entry.audit_json();
        inner.text = text;
        self.record(actor, action, Some(id), before, after, now);
        let view = inner.view(id, now).ok_or_else(|| RegistryError::NotFound(id.clone()))?;
        self.emit(&mut inner, now, Change::Updated { breakpoint: Box::new(view.clone()) });
        self.tell_state(&mut inner, id, now);
        Ok(view)
    }

    /// Removes a breakpoint and gives what it was.
    ///
    /// # Errors
    /// There is none, or it is a control server's.
    pub fn remove(&self, id: &Id, actor: &Actor, now: Timestamp) -> Result<View, RegistryError> {
        let mut inner = self.lock();
        let view = inner.view(id, now).ok_or_else(|| RegistryError::NotFound(id.clone()))?;
        if view.breakpoint.source == Source::Remote {
            return Err(RegistryError::Remote(id.clone()));
        }
        self.removed(&mut inner, id, actor, "remove", now);
        Ok(view)
    }

    /// One breakpoint.
    #[must_use]
    pub fn get(&self, id: &Id, now: Timestamp) -> Option<View> {
        self.lock().view(id, now)
    }

    /// All breakpoints, the oldest first.
    #[must_use]
    pub fn list(&self, now: Timestamp) -> Vec<View> {
        let inner = self.lock();
        let mut views: Vec<View> = inner.entries.keys().filter_map(|id| inner.view(id, now)).collect();
        drop(inner);
        views.sort_by(|a, b| {
            (a.breakpoint.created_at, &a.breakpoint.id).cmp(&(b.breakpoint.created_at, &b.breakpoint.id))
        });
        views
    }

    /// The kill switch.
    #[must_use]
    pub fn kill_switch(&self) -> KillSwitch {
        self.lock().kill_switch.clone()
    }

    /// Switches captures off (`on`) or on again, everywhere or in one service. A control server's switch is
    /// apart from that of users, and is always for a service.
    pub fn set_kill_switch(
        &self,
        on: bool,
        service: Option<&str>,
        source: Source,
        actor: &Actor,
        now: Timestamp,
    ) -> KillSwitch {
        let mut inner = self.lock();
        let before = to_json(&inner.kill_switch);
        let killed = Killed { by: actor.who.clone(), since: now, source };
        if inner.kill_switch.set(on, service, killed) {
            let after = to_json(&inner.kill_switch);
            self.record(actor, "kill-switch", None, before, after, now);
            let kill_switch = inner.kill_switch.clone();
            self.emit(&mut inner, now, Change::KillSwitch { kill_switch });
            self.tell_states(&mut inner, now);
        }
        inner.kill_switch.clone()
    }

    // ---- what the engine needs ----

    /// What is to be armed now.
    #[must_use]
    pub fn desired(&self, now: Timestamp) -> Desired {
        let inner = self.lock();
        let live = inner.entries.values().filter(|entry| entry.is_live(now) && inner.has_process_of(entry));
        Desired {
            // Read under the lock, under which it changes.
            revision: self.revision(),
            breakpoints: live.map(|entry| Arc::clone(&entry.breakpoint)).collect(),
            kill_switch: inner.kill_switch.clone(),
        }
    }

    /// A process is traced. `start_ticks` (clock ticks from boot to its start) tells it from others that had its
    /// number.
    pub fn process_started(&self, pid: u32, start_ticks: u64, service: &str, now: Timestamp) {
        let mut inner = self.lock();
        if inner.processes.len() < MAX_PROCESSES || inner.processes.contains_key(&pid) {
            inner.processes.insert(pid, Traced { start_ticks, service: service.into() });
            // Breakpoints for this process alone have somewhere to be again.
            self.changed();
            self.tell_states(&mut inner, now);
        }
    }

    /// A process is not traced any more.
    pub fn process_gone(&self, pid: u32, now: Timestamp) {
        let mut inner = self.lock();
        if inner.processes.remove(&pid).is_none() {
            return;
        }
        let mut gone = 0;
        for entry in inner.entries.values_mut() {
            gone += usize::from(entry.processes.remove(&pid).is_some());
        }
        inner.pairs -= gone;
        self.tell_states(&mut inner, now);
    }

    /// The services of the traced processes, each once.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<str>> {
        let processes = &self.lock().processes;
        let mut services: Vec<Arc<str>> =
            processes.values().map(|process| Arc::clone(&process.service)).collect();
        services.sort();
        services.dedup();
        services
    }

    /// What has become of a breakpoint in a process.
    pub fn report_state(&self, id: &Id, pid: u32, state: State, now: Timestamp) {
        let mut inner = self.lock();
        if let Some(process) = inner.in_process(id, pid)
            && process.state != state
        {
            process.state = state;
            self.tell_state(&mut inner, id, now);
        }
    }

    /// What a breakpoint's line was when it was armed first in a service.
    #[must_use]
    pub fn anchor(&self, id: &Id, service: &str) -> Option<Anchor> {
        self.lock().entries.get(id)?.anchors.get(service).cloned()
    }

    /// A breakpoint was armed in a service. The first time counts.
    pub fn report_anchor(&self, id: &Id, service: &str, anchor: &Anchor) {
        if let Some(entry) = self.lock().entries.get_mut(id)
            && entry.anchors.len() < MAX_ANCHORS
        {
            entry.anchors.entry(service.to_owned()).or_insert_with(|| anchor.clone());
        }
    }

    /// What was counted in a process since the last report. Gives the captures that are left; at 0 the
    /// breakpoint is done.
    pub fn report_hits(&self, id: &Id, pid: u32, counted: &Counters, now: Timestamp) -> u64 {
        let mut inner = self.lock();
        if let Some(process) = inner.in_process(id, pid) {
            process.hits = process.hits.saturating_add(counted.hits);
            process.captured = process.captured.saturating_add(counted.captured);
        }
        let Some(entry) = inner.entries.get_mut(id) else { return 0 };
        entry.counters.add(counted);
        entry.used = entry.used.saturating_add(counted.captured);
        let left = entry.left();
        if left == 0 {
            self.tell_state(&mut inner, id, now);
        }
        left
    }

    /// Ends what has expired. To be called about once a second.
    pub fn tick(&self, now: Timestamp) {
        let mut inner = self.lock();
        self.tell_states(&mut inner, now);
        let old = |entry: &Entry| {
            entry.breakpoint.source == Source::Local
                && !entry.is_live(now)
                && entry.breakpoint.expires_at.duration_until(now) > KEEP_FINISHED
        };
        let old: Vec<Id> =
            inner.entries.iter().filter(|(_, entry)| old(entry)).map(|(id, _)| id.clone()).collect();
        for id in old {
            self.removed(&mut inner, &id, &Actor::agent(), "forget", now);
        }
    }

    // ---- inside ----

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_expressions(&self, breakpoint: &Breakpoint) -> Result<(), RegistryError> {
        let wrong = |field: &'static str, source: &str, problem: String| {
            RegistryError::Spec(SpecError::invalid(field, format!("{source:?}: {problem}")))
        };
        if let Some(source) = &breakpoint.condition {
            self.language.check_expression(source).map_err(|problem| wrong("condition", source, problem))?;
        }
        for source in &breakpoint.expressions {
            self.language
                .check_expression(source)
                .map_err(|problem| wrong("expressions", source, problem))?;
        }
        if let Some(source) = &breakpoint.template {
            self.language.check_template(source).map_err(|problem| wrong("template", source, problem))?;
        }
        Ok(())
    }

    fn check_place(&self, breakpoint: &Breakpoint) -> Result<(), RegistryError> {
        let inner = self.lock();
        if let Some(pid) = breakpoint.pid
            && !inner.processes.contains_key(&pid)
        {
            return Err(RegistryError::NoProcess(pid));
        }
        let selected =
            inner.processes.iter().filter(|(pid, process)| breakpoint.selects(**pid, &process.service));
        let pids: Vec<u32> = selected.map(|(pid, _)| *pid).collect();
        // Looking into processes takes time.
        drop(inner);
        match &self.locate {
            Some(locate) => Ok(locate.locate(breakpoint, &pids)?),
            None => Ok(()),
        }
    }

    /// Sees to it that another fits, if need be in place of the oldest that is over.
    fn make_room(&self, inner: &mut Inner, new: &Breakpoint, now: Timestamp) -> Result<(), RegistryError> {
        if inner.text + text_size(new) > MAX_TEXT {
            return Err(RegistryError::TooLarge);
        }
        if new.source == Source::Remote {
            let remote = inner.entries.values().filter(|entry| entry.remote.is_some()).count();
            if remote >= MAX_REMOTE_BREAKPOINTS {
                return Err(RegistryError::Full { count: remote, whose: "a control server" });
            }
        }
        if inner.entries.len() < MAX_BREAKPOINTS {
            return Ok(());
        }
        let over = inner.entries.values().filter(|entry| {
            entry.remote.is_none() && matches!(entry.own_state(now), Some(State::Done | State::Expired))
        });
        let oldest = over.min_by_key(|entry| entry.breakpoint.created_at);
        match oldest.map(|entry| entry.breakpoint.id.clone()) {
            Some(id) => {
                self.removed(inner, &id, &Actor::agent(), "forget", now);
                Ok(())
            }
            None => Err(RegistryError::Full { count: inner.entries.len(), whose: "this agent" }),
        }
    }

    /// An entry was inserted; gives how it is shown.
    fn added(&self, inner: &mut Inner, id: &Id, actor: &Actor, now: Timestamp) -> Option<View> {
        let state = inner.state(id, now);
        let entry = inner.entries.get_mut(id)?;
        entry.told = state;
        let after = entry.audit_json();
        self.record(actor, "add", Some(id), Json::Null, after, now);
        let view = inner.view(id, now)?;
        self.emit(inner, now, Change::Added { breakpoint: Box::new(view.clone()) });
        Some(view)
    }

    fn removed(&self, inner: &mut Inner, id: &Id, actor: &Actor, action: &'static str, now: Timestamp) {
        let Some(entry) = inner.entries.remove(id) else { return };
        inner.text -= text_size(&entry.breakpoint);
        inner.pairs -= entry.processes.len();
        self.record(actor, action, Some(id), entry.audit_json(), Json::Null, now);
        self.emit(inner, now, Change::Removed { id: id.clone() });
    }

    fn tell_states(&self, inner: &mut Inner, now: Timestamp) {
        let ids: Vec<Id> = inner.entries.keys().cloned().collect();
        for id in ids {
            self.tell_state(inner, &id, now);
        }
    }

    fn tell_state(&self, inner: &mut Inner, id: &Id, now: Timestamp) {
        let state = inner.state(id, now);
        let Some(entry) = inner.entries.get_mut(id) else { return };
        if entry.told == state {
            return;
        }
        let before = std::mem::replace(&mut entry.told, state.clone());
        if matches!(state, State::Done | State::Expired) {
            let (before, after) = (to_json(&before), to_json(&state));
            self.record(&Actor::agent(), "end", Some(id), before, after, now);
        }
        self.emit(inner, now, Change::State { id: id.clone(), state });
    }

    /// Under the lock, so that events have the order of what happened.
    fn emit(&self, inner: &mut Inner, now: Timestamp, change: Change) {
        let concerns_engine = match &change {
            Change::State { state, .. } => !state.is_live(),
            _ => true,
        };
        if concerns_engine {
            self.changed();
        }
        inner.sequence += 1;
        // Fails if nobody listens.
        let _ = self.events.send(Arc::new(Event { sequence: inner.sequence, time: now, change }));
    }

    fn record(
        &self,
        actor: &Actor,
        action: &'static str,
        id: Option<&Id>,
        before: Json,
        after: Json,
        time: Timestamp,
    ) {
        let id = id.map(ToString::to_string);
        self.audit.record(&AuditEntry {
            time,
            actor: actor.clone(),
            action,
            id,
            before,
            after,
            refused: None,
        });
    }

    /// Somebody asked for a change and did not get it.
    pub fn record_refusal(
        &self,
        actor: &Actor,
        action: &'static str,
        id: Option<&str>,
        why: &str,
        time: Timestamp,
    ) {
        self.audit.record(&AuditEntry {
            time,
            actor: actor.clone(),
            action,
            id: id.map(str::to_owned),
            before: Json::Null,
            after: Json::Null,
            refused: Some(why.to_owned()),
        });
    }
}

impl Inner {
    fn insert(&mut self, entry: Entry) {
        self.text += text_size(&entry.breakpoint);
        self.entries.insert(entry.breakpoint.id.clone(), entry);
    }

    /// Where a breakpoint's state in a process is kept, if both are there and there is room.
    fn in_process(&mut self, id: &Id, pid: u32) -> Option<&mut InProcess> {
        if !self.processes.contains_key(&pid) {
            return None;
        }
        match self.entries.get_mut(id)?.processes.entry(pid) {
            btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            btree_map::Entry::Vacant(_) if self.pairs >= MAX_PAIRS => None,
            btree_map::Entry::Vacant(free) => {
                self.pairs += 1;
                Some(free.insert(InProcess { state: State::Pending, hits: 0, captured: 0 }))
            }
        }
    }

    /// Also if it is for all.
    fn has_process_of(&self, entry: &Entry) -> bool {
        let Some(pid) = entry.breakpoint.pid else { return true };
        self.processes.get(&pid).is_some_and(|process| Some(process.start_ticks) == entry.start_ticks)
    }

    fn state(&self, id: &Id, now: Timestamp) -> State {
        let Some(entry) = self.entries.get(id) else { return State::Disabled };
        if let Some(state) = entry.own_state(now) {
            return state;
        }
        let killed = State::Paused { reason: Pause::KillSwitch };
        let service = entry.breakpoint.service.as_deref();
        if self.kill_switch.all.is_some()
            || service.is_some_and(|service| self.kill_switch.is_on_for(service))
        {
            return killed;
        }
        if let Some(pid) = entry.breakpoint.pid
            && !self.has_process_of(entry)
        {
            return State::Error { reason: format!("process {pid} is not traced (any more)") };
        }
        let states = entry.processes.iter().map(|(pid, process)| match self.processes.get(pid) {
            Some(traced) if self.kill_switch.is_on_for(&traced.service) => &killed,
            _ => &process.state,
        });
        State::of_processes(states)
    }
}

impl Entry {
    fn new(breakpoint: Breakpoint, remote: Option<RemoteSpec>) -> Self {
        Self {
            breakpoint: Arc::new(breakpoint),
            start_ticks: None,
            counters: Counters::default(),
            used: 0,
            remote,
            processes: BTreeMap::new(),
            anchors: BTreeMap::new(),
            told: State::Pending,
        }
    }

    fn left(&self) -> u64 {
        self.breakpoint.limits.hits.saturating_sub(self.used)
    }

    /// The state that it has by itself, whatever processes there are.
    fn own_state(&self, now: Timestamp) -> Option<State> {
        if !self.breakpoint.enabled {
            Some(State::Disabled)
        } else if self.left() == 0 {
            Some(State::Done)
        } else if self.breakpoint.has_expired(now) {
            Some(State::Expired)
        } else {
            None
        }
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.own_state(now).is_none()
    }

    fn audit_json(&self) -> Json {
        to_json(&*self.breakpoint)
    }
}

/// Only for what has string keys and no failing parts.
fn to_json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

fn text_size(breakpoint: &Breakpoint) -> usize {
    let optional = [
        &breakpoint.condition,
        &breakpoint.template,
        &breakpoint.label,
        &breakpoint.function,
        &breakpoint.service,
    ];
    let optional: usize = optional.iter().map(|text| text.as_ref().map_or(0, String::len)).sum();
    let expressions: usize = breakpoint.expressions.iter().map(String::len).sum();
    breakpoint.file.len() + breakpoint.created_by.len() + optional + expressions
}
