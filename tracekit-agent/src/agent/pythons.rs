//! The interpreters of traced processes: what the kernel side is told of them, and what its stacks say.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tracekit_common::{
    actor::{IN_TASK, Identity},
    python::{DEEPER, Frame, Python, STACKS},
};

use super::makers::{Made, Makers};
use crate::{
    discovery::{Inspected, proc_fs::ProcFs},
    net::{Caller, Origin},
    probes::{
        Function, Probes,
        record::{Data, NewActor, Stack, WalkEnd},
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
/// Nanoseconds between the making of an actor and the reading of the stack, at most: what is longer was interrupted.
const AT_ONCE: u64 = 10_000_000;
/// Threads with event loops that are remembered.
const MAX_LOOPS: usize = 16 * 1024;
/// How long walks of a thread's stack end at its event loop, until it is looked again what is below that.
const LOOP_BELIEVED: Duration = Duration::from_secs(10);
/// How long it is not looked again where that says nothing.
const LOOP_LOOKED: Duration = Duration::from_secs(1);
/// Places of a stack below the innermost one, at most.
const MAX_BELOW: usize = 7;
/// What hands work to threads.
const EXECUTORS: &str = "/concurrent/futures/thread.py";
/// Places that are remembered.
const MAX_PLACES: usize = 16 * 1024;

/// See the module.
#[derive(Default)]
pub struct Pythons {
    resolvers: HashMap<u32, Resolver>,
    families: Families,
    /// Processes that have not started their interpreter yet, and since when.
    starting: HashMap<u32, (Arc<Inspected>, Instant)>,
    /// From where threads do what they do next.
    waiting: HashMap<u32, Stack>,
    /// Threads that were seen to run tasks, and so an event loop.
    loops: HashMap<(u32, u32), Loop>,
    makers: Makers,
    places: Places,
    /// Whether it is wanted what the callers of the application's functions are.
    deeper: bool,
    /// What each process has loaded.
    actors: HashMap<u32, Watched>,
    /// What was found of tracers, until somebody asks.
    looks: Vec<Look>,
    reported: Reported,
}

/// The event loop of a thread.
struct Loop {
    /// The kernel side's walks end there.
    is_end: bool,
    /// When to look again at what is below it.
    due: Instant,
}

/// From where something is sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Where in the application.
    pub origin: Option<Arc<Origin>>,
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
    /// `deeper`: stacks are wanted beyond their first frame of the application.
    #[must_use]
    pub fn new(deeper: bool) -> Self {
        Self { deeper, ..Self::default() }
    }

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
        let flags = python.flags | STACKS | if self.deeper { DEEPER } else { 0 };
        let python = Python { flags, family, ..python };
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
        self.makers.process_gone(pid);
        self.loops.retain(|thread, _| thread.0 != pid);
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
        let functions = [
            (Function::TaskInit, handles.task_init),
            (Function::QueuePut, handles.queue_put),
            (Function::DequeAppend, handles.deque_append),
            (Function::GreenletInit, handles.greenlet_init),
            (Function::GreenletDealloc, handles.greenlet_dealloc),
        ];
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

    /// A thread is about to do something from here: its next record says what.
    pub fn stack(&mut self, stack: Stack) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(stack.tid, stack);
    }

    /// Where from in the application a thread sends this; `None` if nothing was said of what it sends now.
    pub fn sends(&mut self, data: &Data<'_>, probes: &mut Probes) -> Option<Sent> {
        let stack = self.waiting.remove(&data.tid)?;
        // Read in this very call, else it is not of what is sent.
        let since = if data.entered < data.returned { data.entered } else { 0 };
        if !(since..=data.returned).contains(&stack.time) {
            return None;
        }
        let tgid = data.id.tgid;
        let walked = self.walk(&stack, &data.by, probes);
        let libraries = walked.libraries;
        if walked.is_elsewhere {
            return Some(Sent { origin: None, libraries });
        }
        let origin = self.origin(walked.places, tgid, &data.by);
        let origin = origin.or_else(|| self.makers.origin(tgid, &data.by, data.entered));
        Some(Sent { origin, libraries })
    }

    /// A task was made, or work was handed over.
    pub fn made(&mut self, new: &NewActor, probes: &mut Probes) {
        let Some(stack) = self.waiting.remove(&new.tid) else { return };
        // The stack is reported right before the record, else it is not of what is made.
        if !(stack.time..=stack.time.saturating_add(AT_ONCE)).contains(&new.time) {
            return;
        }
        let Walked { places, directly, is_item, is_elsewhere, .. } = self.walk(&stack, &new.by, probes);
        if is_elsewhere {
            return;
        }
        let made = match self.origin(places, new.tgid, &new.by) {
            Some(origin) => Made::new(origin, directly, is_item, new.time),
            None => match self.makers.inherited(new.tgid, &new.by, new.time) {
                Some(origin) => Made::new(origin, false, is_item, new.time),
                None => return,
            },
        };
        self.makers.insert(new.tgid, new.actor, made);
    }

    /// These places, and below them those from where the task was made that is there.
    fn origin(&mut self, places: Vec<Arc<Caller>>, tgid: u32, by: &Identity) -> Option<Arc<Origin>> {
        let mut places = places.into_iter();
        let caller = places.next()?;
        let mut below: Vec<Arc<Caller>> = places.collect();
        if self.deeper
            && let Some(maker) = self.makers.known(tgid, by)
        {
            let room = MAX_BELOW.saturating_sub(below.len());
            let all = std::iter::once(&maker.caller).chain(&maker.below);
            below.extend(all.take(room).map(Arc::clone));
        }
        Some(Arc::new(Origin { caller, below }))
    }

    /// The newest frames of the application, but for those below an event loop: they have started it, and asked for
    /// nothing.
    fn walk(&mut self, stack: &Stack, by: &Identity, probes: &mut Probes) -> Walked {
        let mut walked = Walked { directly: true, ..Walked::default() };
        let Some(resolver) = self.resolvers.get_mut(&stack.tgid) else { return walked };
        let thread = (stack.tgid, stack.tid);
        let now = Instant::now();
        if by.flags & IN_TASK != 0 && !self.loops.contains_key(&thread) {
            if self.loops.len() >= MAX_LOOPS {
                self.loops.clear();
            }
            self.loops.insert(thread, Loop { is_end: false, due: now });
        }
        let mut event_loop = self.loops.get_mut(&thread);
        // An event loop in C has no frame of its own: it runs where its thread waits.
        let waiter = (stack.waiter.code != 0 && event_loop.is_some()).then_some(stack.waiter);
        let mut in_event_loop = false;
        let mut is_awaited = false;
        let mut first = None;
        for (index, frame) in stack.frames.iter().enumerate() {
            in_event_loop |= waiter == Some(*frame);
            let Some(known) = resolver.code_at(frame.code, now) else { continue };
            in_event_loop |= known.is_event_loop;
            if in_event_loop
                && let Some(event_loop) = event_loop.take()
                && event_loop.due <= now
            {
                let below = stack.frames.get(index + 1..).unwrap_or_default();
                event_loop.look(*frame, stack, below, resolver, probes, now);
            }
            if in_event_loop && first.is_some() {
                break;
            }
            if known.is_library {
                if let Some(library) = known.library
                    && first.is_none()
                    && (!in_event_loop || library == Library::Exporter)
                {
                    walked.libraries.add(library);
                }
                if first.is_none() {
                    walked.is_elsewhere |= known.runs_on_another_stack;
                    is_awaited |= walked.is_item && walked.directly && known.waits_for_work;
                    walked.directly &= known.acts_for_its_caller || is_awaited;
                    walked.is_item |= index == 0 && known.code.filename.ends_with(EXECUTORS);
                }
                continue;
            }
            first.get_or_insert((index, frame.code));
            if in_event_loop || walked.is_elsewhere {
                break;
            }
            walked.libraries.whole = true;
            walked.places.push(self.places.of(stack.tgid, frame, &known, resolver));
            if walked.places.len() > usize::from(self.deeper) * MAX_BELOW {
                break;
            }
        }
        match (first, stack.application) {
            (Some((index, code)), known) if known != Some(index) => probes.stop_walks_at(stack.tgid, code),
            _ => {}
        }
        if let Some(index) = stack.application
            && first.is_none_or(|(first, _)| first > index)
            && let Some(frame) = stack.frames.get(index)
        {
            // Its memory is another's since.
            probes.walk_past(stack.tgid, frame.code);
        }
        walked
    }
}

impl Loop {
    /// Ends walks at the frame that runs it, if what is `below` that in a stack says nothing that a span needs.
    fn look(
        &mut self,
        frame: Frame,
        stack: &Stack,
        below: &[Frame],
        resolver: &mut Resolver,
        probes: &mut Probes,
        now: Instant,
    ) {
        if self.is_end {
            // The next one is to be whole.
            *self = Self { is_end: false, due: now };
            probes.end_walks_at(stack.tid, None);
            return;
        }
        let says_nothing = |frame: &Frame| {
            resolver
                .code_at(frame.code, now)
                .is_some_and(|known| !known.runs_on_another_stack && known.library != Some(Library::Exporter))
        };
        self.is_end = stack.end == WalkEnd::Oldest && below.iter().all(says_nothing);
        self.due = now + if self.is_end { LOOP_BELIEVED } else { LOOP_LOOKED };
        if self.is_end {
            probes.end_walks_at(stack.tid, Some(frame));
        }
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

/// What a stack says.
#[derive(Default)]
struct Walked {
    /// Where in the application it is, the newest place first.
    places: Vec<Arc<Caller>>,
    /// There is nothing between the application and what is done that would have reasons of its own for it.
    directly: bool,
    /// Work is handed to a thread.
    is_item: bool,
    /// The application's innermost frames are on another stack, of which nothing is known.
    is_elsewhere: bool,
    /// Through which libraries.
    libraries: Libraries,
}

/// Places that were met: they are met again and again.
#[derive(Default)]
struct Places(HashMap<(u32, Frame), (Arc<KnownCode>, Arc<Caller>)>);

impl Places {
    fn of(
        &mut self,
        tgid: u32,
        frame: &Frame,
        known: &Arc<KnownCode>,
        resolver: &mut Resolver,
    ) -> Arc<Caller> {
        if let Some((code, caller)) = self.0.get(&(tgid, *frame))
            && Arc::ptr_eq(code, known)
        {
            return Arc::clone(caller);
        }
        let code = &known.code;
        let line = resolver.line(known, frame);
        let caller = Arc::new(Caller { function: code.qualname.clone(), file: code.filename.clone(), line });
        if self.0.len() >= MAX_PLACES {
            self.0.clear();
        }
        self.0.insert((tgid, *frame), (Arc::clone(known), Arc::clone(&caller)));
        caller
    }
}
