//! The running agent: reads records, keeps the set of processes, hands spans out.
//!
//! One thread does it all, in the order in which things happened; parsing and correlation take a few
//! microseconds a record. What may take long (export, printing) has threads of its own.

pub mod clock;
mod hits;
mod makers;
pub mod priority;
mod pythons;
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    discovery::{Change, Inspected, Inspector, Selector, Tracker},
    export::{Counter, Counters, Handle, Sampler},
    net::{Connection, Connections, Verdict},
    probes::{
        Losses, Probes, Records,
        record::{self, ProcessEvent, Record},
    },
    snapshot::{
        breakpoint::Source,
        debugger::Debugger,
        registry::{Actor, Registry},
    },
    trace::{
        correlator::{Correlator, Environment as _},
        peer::ServiceMap,
        repeats::Insight,
    },
};
use clock::monotonic_nanos;
use hits::Waiting;
use pythons::Pythons;
use tracekit_protocol::{Close, Direction, Event, Role};
use world::World;

/// How long records may wait in the ring buffer: as live as a person can tell, and 50 wake-ups a second.
const POLL: Duration = Duration::from_millis(20);
/// How often the clock, the losses and the set of processes are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often all processes are looked at, for what events did not tell.
const RESCAN: Duration = Duration::from_secs(10);

/// A connection without transfers for this long, in nanoseconds, is quiet.
const QUIET_NANOS: u64 = 1_000_000_000;

/// What to trace and how.
#[derive(Debug)]
pub struct AgentConfig {
    /// What looks at processes.
    pub inspector: Inspector,
    /// Which processes.
    pub selector: Selector,
    /// Name of the service, for all of them.
    pub service_name: Option<String>,
    /// Names of the services at the other ends.
    pub services: ServiceMap,
    /// What is said of calls beyond what they are.
    pub insight: Insight,
    /// Which traces are exported.
    pub sampler: Sampler,
    /// What is done about processes that export spans themselves.
    pub existing_sdk: ExistingSdk,
    /// Services whose outgoing requests are left as they are.
    pub propagate_not: Vec<String>,
    /// Told which processes are traced.
    pub breakpoints: Arc<Registry>,
    /// Also processes that start later; otherwise those that run now, and their children.
    pub follow: bool,
}

/// What is done about processes that export spans themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExistingSdk {
    /// Spans that they make themselves are held back; others join their traces.
    HoldBack,
    /// Nothing: all spans are exported.
    Ignore,
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// All traced processes have exited.
    ProcessesGone,
}

/// The running agent.
pub struct Agent {
    parts: Parts,
    records: Records,
    losses: Losses,
    follow: bool,
}

impl Agent {
    /// Selects the processes that run now, for the loaded kernel side.
    #[must_use]
    pub fn start(
        config: AgentConfig,
        (probes, records): (Probes, Records),
        debugger: Debugger,
        spans: Handle,
        counters: Arc<Counters>,
    ) -> Self {
        let parts = Parts {
            probes,
            connections: Connections::default(),
            correlator: Correlator::new(config.services, config.insight),
            tracker: Tracker::new(config.inspector, config.selector),
            world: World::new(config.service_name, config.sampler),
            pythons: Pythons::new(config.insight.slow_call.is_some()),
            spans,
            counters,
            propagate_not: config.propagate_not,
            breakpoints: config.breakpoints,
            debugger,
            hits: Waiting::default(),
            existing_sdk: config.existing_sdk,
        };
        let mut agent = Self { parts, records, losses: Losses::default(), follow: config.follow };
        let changes = agent.parts.tracker.rescan();
        agent.parts.apply(changes);
        agent
    }

    /// The processes that are traced.
    pub fn selected(&self) -> impl Iterator<Item = &Arc<Inspected>> {
        self.parts.tracker.selected()
    }

    /// Works until told to stop, or (unless it follows new processes) until nothing is left to trace.
    pub fn run(&mut self, stop: &AtomicBool) -> Ended {
        let mut housekeeping = Instant::now() + HOUSEKEEPING;
        let mut rescan = Instant::now() + RESCAN;
        while !stop.load(Ordering::Relaxed) {
            self.records.wait(POLL);
            self.drain();
            if self.parts.debugger.needs_watchpoints() {
                self.load_watchpoints();
            }
            let now = Instant::now();
            if self.parts.tracker.pending().is_some_and(|due| due <= now) {
                let changes = self.parts.tracker.poll(now);
                self.parts.apply(changes);
            }
            self.parts.pythons.look(now, &mut self.parts.probes);
            self.parts.look_for_tracers();
            if now >= housekeeping {
                housekeeping = now + HOUSEKEEPING;
                self.parts.world.tick();
                let started = self.parts.pythons.tick(&mut self.parts.probes);
                self.parts.started(started);
                self.parts.probes.tick();
                self.count_losses();
                self.parts.breakpoints.tick(Timestamp::now());
                self.parts.settle_quiet();
            }
            if now >= rescan {
                rescan = now + RESCAN;
                if self.follow {
                    let changes = self.parts.tracker.rescan();
                    self.parts.apply(changes);
                }
            }
            if !self.follow
                && self.parts.tracker.pending().is_none()
                && self.parts.tracker.selected().next().is_none()
            {
                return Ended::ProcessesGone;
            }
        }
        // What was in the ring buffer when the signal came. Nothing is added to it any more, or where processes do more
        // than the agent has CPU for it would never be empty.
        self.parts.probes.deselect_all();
        self.drain();
        self.count_losses();
        self.parts.look_for_tracers();
        self.parts.stopped();
        Ended::Stopped
    }

    fn drain(&mut self) {
        let Self { parts, records, .. } = self;
        // Before the records of what came before them on the same threads.
        parts.hits.read();
        let count = records.drain(|bytes| match record::decode(bytes) {
            Some(record) => parts.take(record),
            None => tracing::error!(
                length = bytes.len(),
                "malformed record from the kernel side; please report this"
            ),
        });
        parts.hits_before(u64::MAX);
        parts.counters.add(Counter::EventsReceived, count);
    }

    /// Not before there is a breakpoint: the kernel takes a while to check the program.
    fn load_watchpoints(&mut self) {
        // Watched threads take a descriptor each. Refused, fewer can be watched.
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        let watchpoints = self.parts.probes.watchpoints().map(|(watchpoints, hits)| {
            self.parts.hits = Waiting::new(hits);
            watchpoints
        });
        self.parts.debugger.armed_with(watchpoints.map_err(|error| error.to_string()));
    }

    fn count_losses(&mut self) {
        let now = self.parts.probes.losses();
        let lost = now.ring_full - self.losses.ring_full;
        if lost > 0 {
            self.parts.counters.add(Counter::EventsLost, lost);
            tracing::warn!(
                lost,
                "the ring buffer was full, so spans may be missing: make it larger (--ring-bytes), \
                 give the agent more CPU, or trace fewer processes"
            );
        }
        self.losses = now;
    }
}

/// Events of a connection go through the correlation; the spans that come of it are handed out.
fn emit(correlator: &mut Correlator, world: &World, spans: &Handle) -> impl FnMut(&Connection, Event) {
    move |connection, event| {
        if let Some(span) = correlator.event(connection, event, world) {
            spans.submit(span);
        }
    }
}

/// What handling one record needs of the agent.
struct Parts {
    probes: Probes,
    connections: Connections,
    correlator: Correlator,
    tracker: Tracker,
    world: World,
    pythons: Pythons,
    spans: Handle,
    counters: Arc<Counters>,
    breakpoints: Arc<Registry>,
    debugger: Debugger,
    hits: Waiting,
    existing_sdk: ExistingSdk,
    /// Services whose outgoing requests are left as they are.
    propagate_not: Vec<String>,
}

impl Parts {
    fn take(&mut self, record: Record<'_>) {
        match record {
            Record::Connection { id, local, remote, time } => {
                self.counters.add(Counter::ConnectionsTracked, 1);
                self.connections.opened(id, local, remote, time);
            }
            Record::Stack(stack) => self.pythons.stack(stack),
            Record::Data(data) => {
                self.come_to(data.returned);
                let Self { probes, connections, correlator, world, pythons, spans, .. } = self;
                correlator.losses(data.by.losses);
                tracing::trace!(id = ?data.id, tid = data.tid, direction = ?data.direction, by = ?data.by, "data");
                if data.direction == Direction::Outbound
                    && let Some(sent) = pythons.sends(&data, probes)
                {
                    correlator.sent_through(data.id, sent.libraries);
                    connections.sent_from(data.id, sent.origin);
                }
                if data.direction == Direction::Outbound
                    && let Some(connection) = connections.get(data.id)
                {
                    correlator.wrote(connection, &data.by, data.returned, |span| spans.submit(span));
                }
                let mut emit = emit(correlator, world, spans);
                let verdict = connections.data(&data, |connection, event| {
                    if matches!(&event, Event::Begin(begin) if begin.role == Role::Server && begin.id == 0) {
                        probes.is_server(connection.id);
                    }
                    emit(connection, event);
                });
                drop(emit);
                if verdict == Verdict::Ignore {
                    self.counters.add(Counter::ConnectionsOpaque, 1);
                    self.probes.ignore(data.id);
                }
                self.settle();
            }
            Record::Close { id, time, tid, close } => {
                self.come_to(time);
                let Self { probes, connections, correlator, world, spans, .. } = self;
                if close == Close::Local {
                    probes.connection_ended(id);
                }
                connections.closed(id, close, time, tid, emit(correlator, world, spans));
                if close == Close::Local {
                    correlator.closed(id);
                }
                self.settle();
            }
            Record::Process(event) => self.process(event),
            Record::Actor(new) => {
                tracing::trace!(?new, "actor");
                self.correlator.losses(new.by.losses);
                self.pythons.made(&new, &mut self.probes);
                self.correlator.made(&new, |span| self.spans.submit(span));
            }
            Record::ActorEnded { tgid, actor } => {
                let Self { correlator, spans, .. } = self;
                correlator.actor_ended(tgid, actor, |span| spans.submit(span));
            }
            Record::Chosen(id, chosen) => self.connections.chosen(id, chosen),
            Record::NotHttp(cookie) => self.probes.leave_alone(cookie),
        }
    }

    /// Tells of processes that export spans themselves, and hands out the spans that have waited for that.
    fn look_for_tracers(&mut self) {
        let Self { correlator, pythons, probes, spans, counters, existing_sdk, .. } = self;
        pythons.look_at(&correlator.to_look_at(), probes);
        for look in pythons.looks() {
            if look.sdk.is_some()
                && *existing_sdk == ExistingSdk::HoldBack
                && let Err(error) = probes.leave_requests(look.pid)
            {
                tracing::warn!(pid = look.pid, %error, "requests may carry ids that its own tracer does not know");
            }
            correlator.looked(look);
        }
        let (ready, held_back) = correlator.waited();
        ready.into_iter().for_each(|span| spans.submit(span));
        counters.add(Counter::SpansHeldBack, held_back);
    }

    /// Comes to what was recorded at this time. Records are added while others are handled, so that there may be new hits
    /// before it.
    fn come_to(&mut self, time: u64) {
        self.hits.read_until(time);
        self.hits_before(time);
    }

    /// Hits before this time belong to the requests that are open now.
    fn hits_before(&mut self, time: u64) {
        while let Some(hit) = self.hits.before(time) {
            let moment = hits::moment(&hit, &self.correlator, &self.connections);
            if !self.debugger.hit(hit, moment) {
                self.counters.add(Counter::HitsLost, 1);
            }
        }
    }

    /// Their interpreters can be read.
    fn started(&mut self, processes: Vec<Arc<Inspected>>) {
        for inspected in processes {
            let resource = self.world.resource(inspected.pid());
            self.debugger.started(inspected, resource);
        }
    }

    /// Ends what hung on requests that have been answered.
    fn settle(&mut self) {
        let Self { connections, correlator, world, spans, .. } = self;
        for id in correlator.quiet() {
            connections.settle(id, emit(correlator, world, spans));
        }
    }

    /// Ends what hangs on connections that have been quiet for a while.
    fn settle_quiet(&mut self) {
        let Self { connections, correlator, world, spans, .. } = self;
        correlator.release(Some(monotonic_nanos()), |span| spans.submit(span));
        connections
            .settle_quiet(monotonic_nanos().saturating_sub(QUIET_NANOS), emit(correlator, world, spans));
    }

    /// Hands out what will not be seen to its end.
    fn stopped(&mut self) {
        let Self { connections, correlator, world, spans, counters, .. } = self;
        correlator.release(None, |span| spans.submit(span));
        connections.stopped(monotonic_nanos(), |connection, event| {
            if let Some(span) = correlator.stopped(connection, &event, world) {
                spans.submit(span);
            }
        });
        correlator.release(None, |span| spans.submit(span));
        counters.add(Counter::SpansHeldBack, correlator.waited().1);
    }

    fn process(&mut self, event: ProcessEvent) {
        let changes = match event {
            ProcessEvent::Fork { parent, child } => {
                self.world.forked(parent, child);
                self.correlator.forked(parent, child);
                self.pythons.forked(parent, child, &mut self.probes);
                self.debugger.forked(parent, child);
                self.tracker.on_fork(parent, child)
            }
            ProcessEvent::Exec(pid) => {
                self.pythons.remove(pid);
                self.debugger.gone(pid);
                self.probes.process_gone(pid);
                let changes = self.tracker.on_exec(pid, Instant::now());
                if changes.is_empty() {
                    // It may have inherited the selection by fork alone, and is something else now.
                    self.probes.deselect(pid);
                }
                changes
            }
            ProcessEvent::Exit(pid) => {
                let changes = self.tracker.on_exit(pid);
                if changes.is_empty() {
                    // It may have inherited the selection by fork alone; others are forgotten below.
                    self.forget(pid);
                }
                changes
            }
            ProcessEvent::Trapped(pid) => {
                self.trapped(pid);
                Vec::new()
            }
        };
        self.apply(changes);
    }

    /// A debug exception came without a reason. Watched lines cause such exceptions, and the next one may be the end of
    /// another process.
    fn trapped(&self, pid: u32) {
        tracing::error!(
            pid,
            "got a SIGTRAP, which ends most processes: a debug exception came of which the processor did not say why, as \
             happens on some virtual machines. All breakpoints are off now; `tracekit kill-switch off` takes the risk again"
        );
        let who = format!("tracekit, because of a debug exception without a reason in PID {pid}");
        let actor = Actor { who, ..Actor::agent() };
        self.breakpoints.set_kill_switch(true, None, Source::Local, &actor, Timestamp::now());
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Selected(inspected) => {
                    let pid = inspected.pid();
                    self.world.add(&inspected);
                    let service = self.world.service_name(pid);
                    let propagate = !self.propagate_not.iter().any(|name| name == service);
                    // First what its stacks are read with, or the calls until then would have no line.
                    let can_be_read = self.pythons.add(&inspected, &mut self.probes);
                    match self.probes.select_with(pid, propagate) {
                        Ok(()) => {
                            if self.existing_sdk == ExistingSdk::HoldBack {
                                self.correlator.may_have_tracer(pid);
                            }
                            let service = self.world.service_name(pid);
                            let start_ticks = inspected.process.start_ticks;
                            self.breakpoints.process_started(pid, start_ticks, service, Timestamp::now());
                            tracing::info!(pid, service = self.world.service_name(pid), "tracing");
                            if can_be_read {
                                self.started(vec![inspected]);
                            }
                        }
                        Err(error) => {
                            self.probes.deselect(pid);
                            self.forget(pid);
                            tracing::error!(pid, %error, "can't trace this process");
                        }
                    }
                }
                Change::Deselected(pid) => {
                    self.probes.deselect(pid);
                    self.forget(pid);
                    tracing::info!(pid, "not tracing any more");
                }
            }
        }
    }

    /// Ends what is in flight in a process that is gone.
    fn forget(&mut self, pid: u32) {
        let Self { connections, correlator, world, pythons, spans, .. } = self;
        connections.process_gone(pid, monotonic_nanos(), emit(correlator, world, spans));
        correlator.process_gone(pid, |span| spans.submit(span));
        world.remove(pid);
        pythons.remove(pid);
        self.debugger.gone(pid);
        self.probes.process_gone(pid);
        self.breakpoints.process_gone(pid, Timestamp::now());
    }
}
