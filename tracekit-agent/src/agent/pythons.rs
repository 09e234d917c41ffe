//! The interpreters of traced processes: what the kernel side is told of them, and what its stacks say.

use std::{
    collections::HashMap,
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
    waiting: HashMap<u32, Option<Arc<Caller>>>,
    places: Places,
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

    /// A thread is about to send something from here.
    pub fn stack(&mut self, stack: &Stack, probes: &mut Probes) {
        let caller = self.caller(stack, probes);
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(stack.tid, caller);
    }

    /// Where from a thread sends; `None` if nothing was said of what it sends now.
    pub fn sends(&mut self, tid: u32) -> Option<Option<Arc<Caller>>> {
        self.waiting.remove(&tid)
    }

    /// The newest frame of the application, unless an event loop stands before it.
    fn caller(&mut self, stack: &Stack, probes: &mut Probes) -> Option<Arc<Caller>> {
        let resolver = self.resolvers.get_mut(&stack.tgid)?;
        let known_to_kernel = stack.end == WalkEnd::Application;
        let mut in_event_loop = false;
        for frame in &stack.frames {
            let resolved = resolver.frame(frame);
            let Some(known) = resolved.code else { continue };
            in_event_loop |= known.is_event_loop;
            if known.is_library {
                continue;
            }
            if !known_to_kernel {
                probes.stop_walks_at(stack.tgid, frame.code);
            }
            // Below an event loop is what started it, and that asked for nothing.
            return (!in_event_loop).then(|| self.places.of(stack.tgid, frame, &known, resolved.line));
        }
        if known_to_kernel && let Some(frame) = stack.frames.last() {
            // Its memory is another's since.
            probes.walk_past(stack.tgid, frame.code);
        }
        None
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
