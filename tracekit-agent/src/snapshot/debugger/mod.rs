//! Breakpoints at work: arms what the registry wants, makes snapshots and log lines of hits, and keeps the limits.
//!
//! A thread of its own, because a search for code in a large process takes longer than the records of sockets may
//! wait. The agent tells it which processes there are, and hands it the hits with the requests that they belong to.

mod capture;
mod line;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::capture::Captured;
use self::line::{Line, Member};
use super::breakpoint::{Breakpoint, Id};
use super::engine::hit::RawHit;
use super::engine::{Engine, EngineError, Hit};
use super::limits::{Admission, Budget, Charge};
use super::outlet::Outlet;
use super::record::Request;
use super::registry::Registry;
use super::state::{Pause, State};
use crate::agent::clock::unix_offset;
use crate::discovery::Inspected;
use crate::discovery::proc_fs::ProcFs;
use crate::probes::tasks::Families;
use crate::probes::watchpoint::Watchpoints;
use crate::python::runtime::Target;
use crate::trace::span::{Resource, SpanRef};

/// How often counters are looked at, and with them the budget: a hot line is paused within this.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks around while nothing is armed.
const IDLE: Duration = Duration::from_secs(1);
/// Hits that wait to be decoded at most: images of 32 KiB.
const MAX_WAITING: usize = 256;

/// The request that a hit belongs to.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// What was asked for.
    pub request: Option<Request>,
    /// Its span.
    pub span: Option<SpanRef>,
}

enum Message {
    Watchpoints(Box<Result<Watchpoints, String>>),
    Process(ProcessEvent),
    Hit(Box<(RawHit, Moment)>),
    /// The registry wants something else.
    Changed,
    Stop,
}

enum ProcessEvent {
    Started(Arc<Inspected>, Arc<Resource>),
    Forked { parent: u32, child: u32 },
    Gone(u32),
}

/// The agent's end of the thread. Dropped, it disarms everything and ends the thread.
pub struct Debugger {
    messages: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    needs: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Debugger {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn start(registry: Arc<Registry>, outlet: Outlet, proc: ProcFs) -> std::io::Result<Self> {
        let (messages, received) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let its_waiting = Arc::clone(&waiting);
        let needs = Arc::new(AtomicBool::new(false));
        let its_needs = Arc::clone(&needs);
        let waker = messages.clone();
        // Fails when the thread has ended.
        registry.wake(Box::new(move || drop(waker.send(Message::Changed))));
        let thread = std::thread::Builder::new().name("debugger".into()).spawn(move || {
            Worker::new(registry, outlet, proc, its_needs).run(&received, &its_waiting);
        })?;
        Ok(Self { messages, waiting, needs, thread: Some(thread) })
    }

    /// There is a breakpoint, and nothing to arm it with: said once.
    #[must_use]
    pub fn needs_watchpoints(&self) -> bool {
        self.needs.swap(false, Ordering::Relaxed)
    }

    /// The kernel side of breakpoints is loaded; or is not, for this reason, and breakpoints are errors that say so.
    pub fn armed_with(&self, watchpoints: Result<Watchpoints, String>) {
        self.send(Message::Watchpoints(Box::new(watchpoints)));
    }

    /// A process is traced, and its interpreter is known to the kernel side.
    pub fn started(&self, inspected: Arc<Inspected>, resource: Arc<Resource>) {
        self.send(Message::Process(ProcessEvent::Started(inspected, resource)));
    }

    /// A process was forked from one that is known.
    pub fn forked(&self, parent: u32, child: u32) {
        self.send(Message::Process(ProcessEvent::Forked { parent, child }));
    }

    /// A process has ended, or runs another program.
    pub fn gone(&self, pid: u32) {
        self.send(Message::Process(ProcessEvent::Gone(pid)));
    }

    /// A breakpoint was hit. False if too many wait already: then it is lost.
    #[must_use]
    pub fn hit(&self, hit: RawHit, moment: Moment) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.send(Message::Hit(Box::new((hit, moment))));
        true
    }

    fn send(&self, message: Message) {
        // The thread ends after this only.
        let _ = self.messages.send(message);
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        self.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A traced process.
struct Process {
    inspected: Arc<Inspected>,
    resource: Arc<Resource>,
    budget: Budget,
    /// Paused until its budget allows more.
    paused: bool,
    /// Why it can have no breakpoints.
    error: Option<String>,
}

/// Where a breakpoint is in a process.
enum Placed {
    /// On this line.
    On(u32),
    /// On this line of the process that it was forked from.
    Covered(u32),
    /// Nowhere.
    Failed,
}

impl Placed {
    fn line(&self) -> Option<u32> {
        match self {
            Self::On(id) | Self::Covered(id) => Some(*id),
            Self::Failed => None,
        }
    }
}

struct Worker {
    /// Made when the first breakpoint is wanted.
    engine: Option<Engine>,
    /// Why there is none, and will be none.
    refused: Option<String>,
    /// Tells the agent that it is wanted.
    needs: Arc<AtomicBool>,
    asked: bool,
    registry: Arc<Registry>,
    outlet: Outlet,
    proc: ProcFs,
    processes: HashMap<u32, Process>,
    families: Families,
    /// Armed lines, by the engine's number.
    lines: BTreeMap<u32, Line>,
    /// Where breakpoints are.
    placed: BTreeMap<(u32, Id), Placed>,
    admission: Admission,
    revision: u64,
    unix_offset: u64,
    looked: Instant,
}

impl Worker {
    fn new(registry: Arc<Registry>, outlet: Outlet, proc: ProcFs, needs: Arc<AtomicBool>) -> Self {
        Self {
            engine: None,
            refused: None,
            needs,
            asked: false,
            registry,
            outlet,
            proc,
            processes: HashMap::new(),
            families: Families::default(),
            lines: BTreeMap::new(),
            placed: BTreeMap::new(),
            admission: Admission::default(),
            revision: 0,
            unix_offset: unix_offset(),
            looked: Instant::now(),
        }
    }

    fn run(&mut self, messages: &mpsc::Receiver<Message>, waiting: &AtomicUsize) {
        loop {
            let pause = if self.lines.is_empty() { IDLE } else { TICK };
            let due = self.looked + pause;
            let mut hits = Vec::new();
            let mut next = messages.recv_timeout(due.saturating_duration_since(Instant::now()));
            loop {
                match next {
                    Ok(Message::Hit(hit)) => {
                        waiting.fetch_sub(1, Ordering::Relaxed);
                        hits.push(*hit);
                    }
                    Ok(Message::Process(event)) => {
                        // Hits of a process that is gone since.
                        self.hits(std::mem::take(&mut hits));
                        self.process(event);
                    }
                    Ok(Message::Watchpoints(watchpoints)) => self.arm_with(*watchpoints),
                    Ok(Message::Changed) => {}
                    Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
                if Instant::now() >= due {
                    break;
                }
                next = messages.recv_timeout(Duration::ZERO);
            }
            self.hits(hits);
            self.follow();
            if Instant::now() >= due {
                self.looked = Instant::now();
                self.tick();
            }
        }
    }

    fn process(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started(inspected, resource) => self.started(inspected, resource),
            ProcessEvent::Forked { parent, child } => {
                self.families.forked(parent, child);
                if let Some(engine) = &mut self.engine {
                    engine.forked(parent, child);
                }
            }
            ProcessEvent::Gone(pid) => self.gone(pid),
        }
    }

    /// The kernel side is there, or will not be.
    fn arm_with(&mut self, watchpoints: Result<Watchpoints, String>) {
        let engine =
            watchpoints.and_then(|watchpoints| Engine::new(watchpoints).map_err(|error| error.to_string()));
        match engine {
            Ok(mut engine) => {
                for process in self.processes.values_mut() {
                    process.error = open(&mut engine, &self.proc, &process.inspected).err();
                }
                self.engine = Some(engine);
            }
            Err(reason) => {
                tracing::warn!("breakpoints don't work here: {reason}");
                self.refused = Some(reason);
            }
        }
        self.revision = 0;
    }

    fn started(&mut self, inspected: Arc<Inspected>, resource: Arc<Resource>) {
        let pid = inspected.pid();
        self.forget_lines(pid);
        let opened = self.engine.as_mut().map(|engine| open(engine, &self.proc, &inspected));
        let error = opened.and_then(Result::err);
        let (budget, paused) = (Budget::default(), false);
        self.processes.insert(pid, Process { inspected, resource, budget, paused, error });
        self.revision = 0;
    }

    fn gone(&mut self, pid: u32) {
        self.forget_lines(pid);
        self.families.remove(pid);
        if self.processes.remove(&pid).is_some() && self.families.has_forks(pid) {
            // Its breakpoints were those of its forks.
            self.revision = 0;
        }
        self.admission.forget_process(pid);
        if let Some(engine) = &mut self.engine {
            engine.remove_process(pid);
        }
    }

    fn forget_lines(&mut self, pid: u32) {
        let ended: Vec<u32> =
            self.lines.iter().filter(|(_, line)| line.pid == pid).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.disarm(id));
        self.placed.retain(|(of, _), _| *of != pid);
    }

    /// Arms what the registry wants now, and no more.
    fn follow(&mut self) {
        if self.registry.revision() == self.revision {
            return;
        }
        let desired = self.registry.desired(Timestamp::now());
        self.revision = desired.revision;
        if let Some(engine) = &mut self.engine
            && let Err(error) = engine.watchpoints().kill(desired.kill_switch.all.is_some())
        {
            tracing::error!(%error, "the kill switch");
        }
        let mut wanted: BTreeMap<(u32, Id), Arc<Breakpoint>> = BTreeMap::new();
        for (pid, process) in &self.processes {
            let service = process.resource.service_name();
            if desired.kill_switch.is_on_for(service) {
                continue;
            }
            let selected = desired.breakpoints.iter().filter(|wanted| wanted.selects(*pid, service));
            wanted.extend(selected.map(|breakpoint| ((*pid, breakpoint.id.clone()), Arc::clone(breakpoint))));
        }
        if self.engine.is_none() && self.refused.is_none() {
            if !wanted.is_empty() && !self.asked {
                self.asked = true;
                self.needs.store(true, Ordering::Relaxed);
            }
            return;
        }
        let gone: Vec<(u32, Id)> =
            self.placed.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.displace(&key);
            if self.registry.get(&key.1, Timestamp::now()).is_none() {
                self.admission.forget_breakpoint(&key.1);
            }
        }
        // Forks have what the process has that they come from.
        let (forks, others): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|((pid, _), _)| self.families.of(*pid) != *pid);
        for (key, breakpoint) in others.into_iter().chain(forks) {
            let line = self.placed.get(&key).and_then(|placed| self.lines.get(&placed.line()?));
            // What could not be placed is tried again when it, or anything else, has changed.
            if line.is_some_and(|line| line.has(&breakpoint)) {
                continue;
            }
            self.displace(&key);
            let placed = match self.covering(&key) {
                Some(id) => Placed::Covered(id),
                None => match self.place(key.0, &breakpoint) {
                    Ok(id) => Placed::On(id),
                    Err(reason) => {
                        let state = State::Error { reason };
                        self.registry.report_state(&key.1, key.0, state, Timestamp::now());
                        Placed::Failed
                    }
                },
            };
            let line = placed.line();
            self.placed.insert(key, placed);
            if let Some(id) = line {
                if let Some(line) = self.lines.get_mut(&id) {
                    // Here, too.
                    line.members.iter_mut().for_each(|member| member.told = None);
                }
                self.tell(id);
            }
        }
    }

    /// The line on which a breakpoint is in the process that this one was forked from, if that is here too.
    fn covering(&self, (pid, id): &(u32, Id)) -> Option<u32> {
        let family = Some(self.families.of(*pid)).filter(|family| family != pid)?;
        let Some(Placed::On(line)) = self.placed.get(&(family, id.clone())) else { return None };
        self.engine.as_ref()?.covers(*line, *pid).then_some(*line)
    }

    /// Takes a breakpoint out of a process.
    fn displace(&mut self, key: &(u32, Id)) {
        let Some(placed) = self.placed.remove(key) else { return };
        // When it is wanted again it is not armed until it is.
        self.registry.report_state(&key.1, key.0, State::Pending, Timestamp::now());
        let Placed::On(id) = placed else { return };
        self.account(id);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.members.retain(|member| member.breakpoint.id != key.1);
        if line.members.is_empty() {
            self.disarm(id);
        } else if let Some(engine) = &mut self.engine
            && let Err(error) = engine.change(id, line::spec(&line.members, None))
        {
            tracing::warn!(breakpoint = %key.1, pid = key.0, %error, "the line captures for one that is gone");
        }
    }

    fn disarm(&mut self, id: u32) {
        self.account(id);
        self.lines.remove(&id);
        if let Some(engine) = &mut self.engine {
            engine.remove(id);
        }
    }

    /// Puts a breakpoint into a process: on a line of its own, or on one that others are on.
    fn place(&mut self, pid: u32, breakpoint: &Arc<Breakpoint>) -> Result<u32, String> {
        let process = self.processes.get(&pid).ok_or("the process is not traced")?;
        if let Some(error) = &process.error {
            return Err(error.clone());
        }
        if let Some(reason) = &self.refused {
            return Err(reason.clone());
        }
        let engine = self.engine.as_mut().ok_or("the kernel side is not loaded")?;
        let anchor = self.registry.anchor(&breakpoint.id, process.resource.service_name());
        let member = Member::new(Arc::clone(breakpoint), self.outlet.redactor)?;
        let members = vec![member];
        let same = self.lines.iter().find(|(_, line)| line.pid == pid && line.is_at(breakpoint));
        let added = match same {
            Some((other, _)) => Err(EngineError::Taken(*other)),
            None => engine.add(pid, line::spec(&members, anchor)),
        };
        if let Err(EngineError::Taken(other)) = added {
            // What the line captures is what all want of it; no hit of the others is missed.
            self.account(other);
            let line = self.lines.get_mut(&other).ok_or("the line is taken")?;
            line.members.extend(members);
            let engine = self.engine.as_mut().ok_or("the kernel side is not loaded")?;
            engine.change(other, line::spec(&line.members, None)).map_err(|error| error.to_string())?;
            return Ok(other);
        }
        let id = added.map_err(|error| error.to_string())?;
        if let Some(engine) = &mut self.engine
            && process_is_paused(&self.processes, pid)
        {
            engine.pause(id, true);
        }
        self.lines.insert(id, Line::new(pid, members));
        Ok(id)
    }

    /// What is due: counters, budgets, states.
    fn tick(&mut self) {
        self.unix_offset = unix_offset();
        if let Some(engine) = &mut self.engine {
            engine.tick();
        }
        let ids: Vec<u32> = self.lines.keys().copied().collect();
        for id in &ids {
            self.account(*id);
        }
        self.spend();
        for id in ids {
            self.tell(id);
        }
    }

    /// Takes over what the kernel side has counted of a line.
    fn account(&mut self, id: u32) {
        let Some(engine) = &self.engine else { return };
        let (Some(line), Some(hits)) = (self.lines.get_mut(&id), engine.counters(id)) else { return };
        let cost = line.account(&hits, engine.trap_cost(), self.unix_offset);
        if let Some(process) = self.processes.get_mut(&line.pid)
            && let Charge::Over { pause } = process.budget.charge(cost, Instant::now())
            && !process.paused
        {
            process.paused = true;
            tracing::warn!(pid = line.pid, ?pause, "breakpoints take too much of the process's time; paused");
        }
        line.report(&self.registry);
    }

    /// Pauses the lines of processes that are over their budget, and goes on with those of others.
    fn spend(&mut self) {
        let now = Instant::now();
        for process in self.processes.values_mut().filter(|process| process.paused) {
            process.paused = process.budget.pause_left(now).is_some();
        }
        let Some(engine) = &mut self.engine else { return };
        for (id, line) in &self.lines {
            engine.pause(*id, process_is_paused(&self.processes, line.pid) || line.is_broken(now));
        }
    }

    /// Tells the registry how a line is.
    fn tell(&mut self, id: u32) {
        let Some(engine) = &self.engine else { return };
        let (Some(line), Some((armed, anchor))) = (self.lines.get_mut(&id), engine.state(id)) else { return };
        let Some(process) = self.processes.get(&line.pid) else { return };
        let now = Instant::now();
        for member in &mut line.members {
            let state = if process.paused {
                State::Paused { reason: Pause::Budget }
            } else if member.breaker.is_open(now) {
                State::Paused { reason: Pause::Breaker }
            } else if member.is_limited(now) {
                State::Paused { reason: Pause::Rate }
            } else {
                line::state(armed)
            };
            if member.told.as_ref() == Some(&state) {
                continue;
            }
            let id_of = &member.breakpoint.id;
            let covered = self.placed.iter().filter(|((_, breakpoint), placed)| {
                breakpoint == id_of && matches!(placed, Placed::Covered(line) if *line == id)
            });
            for pid in covered.map(|((pid, _), _)| *pid).chain([line.pid]) {
                self.registry.report_state(id_of, pid, state.clone(), Timestamp::now());
            }
            member.told = Some(state);
            if let Some(anchor) = anchor {
                self.registry.report_anchor(&member.breakpoint.id, process.resource.service_name(), anchor);
            }
        }
    }

    fn hits(&mut self, hits: Vec<(RawHit, Moment)>) {
        // A capture is of a hit that was counted.
        let mut ids: Vec<u32> = hits.iter().map(|(hit, _)| hit.record.index).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().for_each(|id| self.account(id));
        let Self { engine: Some(engine), lines, processes, registry, outlet, admission, unix_offset, .. } =
            self
        else {
            return;
        };
        if hits.is_empty() {
            return;
        }
        // Not even of hits that were on their way when it was switched on.
        let kill_switch = registry.kill_switch();
        engine.hits(hits, |hit: Hit<'_>, moment| {
            let Some(line) = lines.get_mut(&hit.breakpoint) else { return };
            // Of a process that was forked a moment ago it is what its parent is.
            let known = processes.get(&hit.raw.record.tgid).or_else(|| processes.get(&line.pid));
            let Some(process) = known else { return };
            if kill_switch.is_on_for(process.resource.service_name()) {
                return;
            }
            let hit = Captured {
                hit,
                moment,
                resource: &process.resource,
                unix_offset: *unix_offset,
                scope: OnceCell::new(),
            };
            line.hit(&hit, admission, registry, outlet);
        });
    }
}

/// Makes a process known to the engine.
fn open(engine: &mut Engine, proc: &ProcFs, inspected: &Inspected) -> Result<(), String> {
    let target = Target::open(proc, inspected).map_err(|error| error.to_string())?;
    engine.add_process(target).map_err(|error| error.to_string())
}

fn process_is_paused(processes: &HashMap<u32, Process>, pid: u32) -> bool {
    processes.get(&pid).is_some_and(|process| process.paused)
}
