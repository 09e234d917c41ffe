//! The interpreters of traced processes: what the kernel side is told of them, and what its stacks say.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tracekit_common::python::{Frame, Python, STACKS};

use crate::{
    discovery::{Inspected, proc_fs::ProcFs},
    net::Caller,
    probes::{
        Function, Probes,
        record::{Stack, WalkEnd},
        tasks::Families,
    },
    python::{
        MemorySource as _,
        actors::{self, Handles},
        kernel::describe,
        library::{Libraries, Library},
        modules::{self, Mark},
        runtime::Target,
        sdk::{self, Sdk},
        stack::{KnownCode, Resolver},
    },
    trace::existing::Look,
};

use super::clock::monotonic_nanos;

/// How long a process is waited for to start its interpreter.
const START: Duration = Duration::from_secs(60);
/// Threads whose stack waits for what they send.
const MAX_WAITING: usize = 4096;
/// How often a process is looked at for what it has loaded: at first, and later.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// While somebody waits for it.
const LOOK_AT_ONCE: Duration = Duration::from_millis(100);
/// For how long after an import it is expected that what was imported is set up.
const SET_UP: Duration = Duration::from_secs(10);
/// How long a process whose modules can't be read is tried.
const TRIES: Duration = Duration::from_secs(5);
/// Bytes of a function that are read to see where to probe it.
const PROBED_BYTES: usize = 8;
/// Places that are remembered.
const MAX_PLACES: usize = 16 * 1024;

/// See the module.
#[derive(Default)]
pub struct Pythons {
    resolvers: HashMap<u32, Resolver>,
    families: Families,
    /// Processes that have not started their interpreter yet, and since when.
    starting: HashMap<u32, (Arc<Inspected>, Instant)>,
    /// Callers of what threads send next.
    waiting: HashMap<u32, Sent>,
    places: Places,
    /// What each process has loaded.
    actors: HashMap<u32, Watched>,
    /// What was found of tracers, until somebody asks.
    looks: Vec<Look>,
    reported: Reported,
}

/// From where something is sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Where in the application.
    pub caller: Option<Arc<Caller>>,
    /// Through which libraries.
    pub libraries: Libraries,
}

/// What was told of a process.
struct Watched {
    told: Option<Handles>,
    since: Instant,
    /// When to look again.
    due: Instant,
    looked: Instant,
    /// What was imported then, and since when.
    mark: Option<Mark>,
    marked: Instant,
    /// A tracer is imported, and not set up.
    is_expected: bool,
    sdk: Option<Arc<Sdk>>,
    /// Since when less is found of it than that.
    less: Option<Instant>,
}

impl Pythons {
    /// A process is traced. Whether it can be read: not if it is still starting.
    pub fn add(&mut self, inspected: &Arc<Inspected>, probes: &mut Probes) -> bool {
        let pid = inspected.pid();
        let open = self.open(inspected, probes);
        if open.is_none() {
            self.starting.insert(pid, (Arc::clone(inspected), Instant::now()));
        }
        open == Some(true)
    }

    /// Whether the process can be read; `None` if that is not settled.
    fn open(&mut self, inspected: &Inspected, probes: &mut Probes) -> Option<bool> {
        let pid = inspected.pid();
        let target = match Target::open(&ProcFs::default(), inspected) {
            Ok(target) => target,
            Err(error) => {
                tracing::info!(pid, %error, "spans will not say which code made them");
                return Some(false);
            }
        };
        let python = describe(&target)?;
        // Of an interpreter that is not laid out as expected nothing is believed.
        if let Err(error) = target.reader() {
            tracing::info!(pid, %error, "spans will not say which code made them");
            return Some(false);
        }
        let family = self.families.of(pid);
        let python = Python { flags: python.flags | STACKS, family, ..python };
        if let Err(error) = probes.describe(pid, &python) {
            tracing::warn!(pid, %error, "spans will not say which code made them");
        }
        self.resolvers.insert(pid, Resolver::new(target));
        self.look_into(pid, probes);
        Some(true)
    }

    /// A traced process has a child, which the kernel side knows already.
    pub fn forked(&mut self, parent: u32, child: u32, probes: &mut Probes) {
        if let Some(resolver) = self.resolvers.get(&parent) {
            self.families.forked(parent, child);
            let resolver = resolver.forked(child);
            self.resolvers.insert(child, resolver);
            // The kernel side has copied what it was told of the parent; probes are not inherited.
            self.look_into(child, probes);
        }
    }

    /// A process is gone, or runs another program.
    pub fn remove(&mut self, pid: u32) {
        self.resolvers.remove(&pid);
        self.starting.remove(&pid);
        self.families.remove(pid);
        self.actors.remove(&pid);
    }

    /// Looks again at processes that were starting; those that can be read now.
    pub fn tick(&mut self, probes: &mut Probes) -> Vec<Arc<Inspected>> {
        let mut started = Vec::new();
        for (pid, (inspected, since)) in std::mem::take(&mut self.starting) {
            match self.open(&inspected, probes) {
                Some(true) => started.push(inspected),
                None if since.elapsed() < START => {
                    self.starting.insert(pid, (inspected, since));
                }
                _ => {}
            }
        }
        started
    }

    /// Looks at what processes have loaded, where that is due.
    pub fn look(&mut self, now: Instant, probes: &mut Probes) {
        let due: Vec<u32> =
            self.actors.iter().filter(|(_, watched)| watched.due <= now).map(|(pid, _)| *pid).collect();
        for pid in due {
            self.look_into(pid, probes);
        }
    }

    /// Looks again at processes that somebody waits for, as far as that is necessary.
    pub fn look_at(&mut self, pids: &[u32], probes: &mut Probes) {
        let now = Instant::now();
        for pid in pids {
            let Some(watched) = self.actors.get(pid) else {
                if !self.starting.contains_key(pid) {
                    self.looks.push(Look { pid: *pid, time: u64::MAX, sdk: None });
                }
                continue;
            };
            let time = monotonic_nanos();
            let mark = self.resolvers.get(pid).and_then(|resolver| modules::mark(resolver.target()));
            let same = mark.is_some() && mark == watched.mark && !watched.is_expected;
            if same && now.duration_since(watched.marked) >= SET_UP {
                self.looks.push(Look { pid: *pid, time, sdk: watched.sdk.clone() });
            } else if now.duration_since(watched.looked) >= LOOK_AT_ONCE {
                self.look_into(*pid, probes);
            }
        }
    }

    /// What was found of tracers since this was asked last.
    pub fn looks(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.looks)
    }

    /// Looks at what the process has imported: tells the kernel side of asyncio and executors and probes them,
    /// and finds its tracer.
    fn look_into(&mut self, pid: u32, probes: &mut Probes) {
        let Some(target) = self.resolvers.get(&pid).map(Resolver::target) else { return };
        let (now, time) = (Instant::now(), monotonic_nanos());
        let watched = self.actors.entry(pid).or_insert_with(|| Watched::new(now));
        let young = watched.since.elapsed() < START;
        // Most is loaded at the start, some with the first request.
        watched.due = now + if young { LOOK_OFTEN } else { LOOK_SELDOM };
        watched.looked = now;
        // Before anything else, so that what is imported meanwhile is seen next time.
        let mark = modules::mark(target);
        let found = modules::read(target, |modules| Some((actors::find(modules)?, sdk::find(modules))));
        let (handles, tracer) = found.unzip();
        let tracer = tracer.flatten();
        if tracer.is_some() || target.layout.free_threaded || watched.since.elapsed() >= TRIES {
            if let Some(tracer) = tracer {
                if watched.mark != mark {
                    (watched.mark, watched.marked) = (mark, now);
                }
                watched.is_expected = tracer.is_expected;
                if watched.has_tracer(now, tracer.sdk) {
                    self.reported.tell(pid, watched.sdk.as_deref());
                }
            }
            self.looks.push(Look { pid, time, sdk: watched.sdk.clone() });
        }
        let Some(handles) = handles else { return };
        if watched.told == Some(handles) {
            return;
        }
        watched.told = Some(handles);
        tracing::debug!(pid, ?handles, "actors");
        let functions = [(Function::TaskInit, handles.task_init), (Function::QueuePut, handles.queue_put)];
        for (function, address) in functions {
            let Some(address) = address else { continue };
            let start = target.memory.bytes(address, PROBED_BYTES).unwrap_or_default();
            if let Err(error) = probes.probe(pid, function, address, &start) {
                tracing::warn!(pid, ?function, %error, "some spans will lack their parents");
            }
        }
        if let Err(error) = probes.describe_actors(pid, &handles.actors) {
            tracing::warn!(pid, %error, "some spans will lack their parents");
        }
    }

    /// A thread is about to send something from here.
    pub fn stack(&mut self, stack: &Stack, probes: &mut Probes) {
        let sent = self.sent(stack, probes);
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(stack.tid, sent);
    }

    /// Where from a thread sends; `None` if nothing was said of what it sends now.
    pub fn sends(&mut self, tid: u32) -> Option<Sent> {
        self.waiting.remove(&tid)
    }

    /// The newest frame of the application, unless an event loop stands before it, and the libraries before it.
    fn sent(&mut self, stack: &Stack, probes: &mut Probes) -> Sent {
        let mut sent = Sent::default();
        let Some(resolver) = self.resolvers.get_mut(&stack.tgid) else { return sent };
        let known_to_kernel = stack.end == WalkEnd::Application;
        let mut in_event_loop = false;
        for frame in &stack.frames {
            let resolved = resolver.frame(frame);
            let Some(known) = resolved.code else { continue };
            in_event_loop |= known.is_event_loop;
            if known.is_library {
                if let Some(library) = known.library
                    && (!in_event_loop || library == Library::Exporter)
                {
                    sent.libraries.add(library);
                }
                continue;
            }
            if !known_to_kernel {
                probes.stop_walks_at(stack.tgid, frame.code);
            }
            // Below an event loop is what started it, and that asked for nothing.
            if !in_event_loop {
                sent.libraries.whole = true;
                sent.caller = Some(self.places.of(stack.tgid, frame, &known, resolved.line));
            }
            return sent;
        }
        if known_to_kernel && let Some(frame) = stack.frames.last() {
            // Its memory is another's since.
            probes.walk_past(stack.tgid, frame.code);
        }
        sent
    }
}

impl Watched {
    fn new(now: Instant) -> Self {
        Self {
            told: None,
            since: now,
            due: now,
            looked: now,
            mark: None,
            marked: now,
            is_expected: false,
            sdk: None,
            less: None,
        }
    }

    /// This tracer was found now; whether that is news. An interpreter that ends loses its modules one by one
    /// while its tracer still exports, so that less is believed only after a while.
    fn has_tracer(&mut self, now: Instant, sdk: Option<Sdk>) -> bool {
        let includes = match (&sdk, &self.sdk) {
            (Some(sdk), Some(known)) => sdk.includes(known),
            (None, Some(_)) => false,
            (_, None) => true,
        };
        if !includes && now.duration_since(*self.less.get_or_insert(now)) < SET_UP {
            return false;
        }
        self.less = None;
        let is_news = self.sdk.as_deref() != sdk.as_ref();
        if is_news {
            self.sdk = sdk.map(Arc::new);
        }
        is_news
    }
}

/// What was said of tracers: workers of a service have all the same.
#[derive(Default)]
struct Reported(HashSet<(&'static str, Vec<&'static str>)>);

impl Reported {
    fn tell(&mut self, pid: u32, sdk: Option<&Sdk>) {
        let Some(sdk) = sdk else {
            tracing::info!(pid, "exports no spans itself any more");
            return;
        };
        let (tracer, watches) = (sdk.vendor.name(), sdk.instrumentations.join(", "));
        if self.0.insert((tracer, sdk.instrumentations.clone())) {
            tracing::warn!(pid, tracer, watches, "exports spans itself; see --existing-sdk");
        } else {
            tracing::info!(pid, tracer, watches, "exports spans itself");
        }
    }
}

/// Places that were met: they are met again and again.
#[derive(Default)]
struct Places(HashMap<(u32, Frame), (Arc<KnownCode>, Arc<Caller>)>);

impl Places {
    fn of(&mut self, tgid: u32, frame: &Frame, known: &Arc<KnownCode>, line: Option<i32>) -> Arc<Caller> {
        if let Some((code, caller)) = self.0.get(&(tgid, *frame))
            && Arc::ptr_eq(code, known)
        {
            return Arc::clone(caller);
        }
        let code = &known.code;
        let caller = Arc::new(Caller { function: code.qualname.clone(), file: code.filename.clone(), line });
        if self.0.len() >= MAX_PLACES {
            self.0.clear();
        }
        self.0.insert((tgid, *frame), (Arc::clone(known), Arc::clone(&caller)));
        caller
    }
}
