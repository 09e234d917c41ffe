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
        record::{Data, NewActor, Stack},
        tasks::Families,
    },
    python::{
        MemorySource as _,
        actors::{Handles, find},
        kernel::describe,
        runtime::Target,
        stack::{KnownCode, Resolver},
    },
};

/// How long a process is waited for to start its interpreter.
const START: Duration = Duration::from_secs(60);
/// Threads whose stack waits for what they send.
const MAX_WAITING: usize = 4096;
/// How often a process is looked at for what it has loaded: at first, and later.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// Bytes of a function that are read to see where to probe it.
const PROBED_BYTES: usize = 8;
/// Nanoseconds between the making of an actor and the reading of the stack, at most: what is longer was interrupted.
const AT_ONCE: u64 = 10_000_000;
/// Threads with event loops that are remembered.
const MAX_LOOPS: usize = 16 * 1024;
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
    loops: HashSet<(u32, u32)>,
    makers: Makers,
    places: Places,
    /// Whether it is wanted what the callers of the application's functions are.
    deeper: bool,
    /// What each process has loaded.
    actors: HashMap<u32, Watched>,
}

/// What was told of a process.
struct Watched {
    told: Option<Handles>,
    since: Instant,
    /// When to look again.
    due: Instant,
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
        self.look_for_actors(pid, probes);
        Some(true)
    }

    /// A traced process has a child, which the kernel side knows already.
    pub fn forked(&mut self, parent: u32, child: u32, probes: &mut Probes) {
        if let Some(resolver) = self.resolvers.get(&parent) {
            self.families.forked(parent, child);
            let resolver = resolver.forked(child);
            self.resolvers.insert(child, resolver);
            // The kernel side has copied what it was told of the parent; probes are not inherited.
            self.look_for_actors(child, probes);
        }
    }

    /// A process is gone, or runs another program.
    pub fn remove(&mut self, pid: u32) {
        self.resolvers.remove(&pid);
        self.starting.remove(&pid);
        self.families.remove(pid);
        self.actors.remove(&pid);
        self.makers.process_gone(pid);
        self.loops.retain(|thread| thread.0 != pid);
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
            self.look_for_actors(pid, probes);
        }
    }

    /// Tells the kernel side what the process has loaded of asyncio and executors since, and probes it.
    fn look_for_actors(&mut self, pid: u32, probes: &mut Probes) {
        let Some(target) = self.resolvers.get(&pid).map(Resolver::target) else { return };
        let Some(found) = find(target) else { return };
        let now = Instant::now();
        let watched = self.actors.entry(pid).or_insert(Watched { told: None, since: now, due: now });
        if watched.told != Some(found) {
            watched.told = Some(found);
            tracing::debug!(pid, ?found, "actors");
            let functions = [
                (Function::TaskInit, found.task_init),
                (Function::QueuePut, found.queue_put),
                (Function::DequeAppend, found.deque_append),
                (Function::GreenletInit, found.greenlet_init),
                (Function::GreenletDealloc, found.greenlet_dealloc),
            ];
            for (function, address) in functions {
                let Some(address) = address else { continue };
                let start = target.memory.bytes(address, PROBED_BYTES).unwrap_or_default();
                if let Err(error) = probes.probe(pid, function, address, &start) {
                    tracing::warn!(pid, ?function, %error, "some spans will lack their parents");
                }
            }
            if let Err(error) = probes.describe_actors(pid, &found.actors) {
                tracing::warn!(pid, %error, "some spans will lack their parents");
            }
        }
        // Most is loaded at the start, some with the first request.
        let young = watched.since.elapsed() < START;
        watched.due = now + if young { LOOK_OFTEN } else { LOOK_SELDOM };
    }

    /// A thread is about to do something from here: its next record says what.
    pub fn stack(&mut self, stack: Stack) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(stack.tid, stack);
    }

    /// Where from in the application a thread sends this; `None` if nothing was said of what it sends now.
    pub fn sends(&mut self, data: &Data<'_>, probes: &mut Probes) -> Option<Option<Arc<Origin>>> {
        let stack = self.waiting.remove(&data.tid)?;
        // Read in this very call, else it is not of what is sent.
        let since = if data.entered < data.returned { data.entered } else { 0 };
        if !(since..=data.returned).contains(&stack.time) {
            return None;
        }
        let tgid = data.id.tgid;
        let walked = self.walk(&stack, &data.by, probes);
        if walked.is_elsewhere {
            return Some(None);
        }
        let origin = self.origin(walked.places, tgid, &data.by);
        Some(origin.or_else(|| self.makers.origin(tgid, &data.by, data.entered)))
    }

    /// A task was made, or work was handed over.
    pub fn made(&mut self, new: &NewActor, probes: &mut Probes) {
        let Some(stack) = self.waiting.remove(&new.tid) else { return };
        if !(new.time..=new.time.saturating_add(AT_ONCE)).contains(&stack.time) {
            return;
        }
        let Walked { places, directly, is_item, is_elsewhere } = self.walk(&stack, &new.by, probes);
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
        if by.flags & IN_TASK != 0 && !self.loops.contains(&thread) {
            if self.loops.len() >= MAX_LOOPS {
                self.loops.clear();
            }
            self.loops.insert(thread);
        }
        // An event loop in C has no frame of its own: it runs where its thread waits.
        let waiter = (stack.waiter.code != 0 && self.loops.contains(&thread)).then_some(stack.waiter);
        let mut in_event_loop = false;
        let mut is_awaited = false;
        let mut first = None;
        for (index, frame) in stack.frames.iter().enumerate() {
            in_event_loop |= waiter == Some(*frame);
            let Some(known) = resolver.code(frame.code) else { continue };
            in_event_loop |= known.is_event_loop;
            if in_event_loop && first.is_some() {
                break;
            }
            if known.is_library {
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
