//! The mechanism of line breakpoints: from a file and a line of a process to watched addresses, and from hits to values.
//!
//! `lines` finds the instructions with which a line begins, `recipe` tells the kernel side how objects are copied, `known`
//! what conditions are about, `hit` decodes what it reports. Rules of use (limits, who may) are not here.
//!
//! Debug registers are few. While all armed addresses of the host fit, each is watched on every processor: that covers
//! all threads and forks at once. Beyond that, each process and its forks have their own; and if one process has more
//! than fit, they take turns, which the status says (`plan`).
//!
//! Hits are executions, but for code that is armed while it is cold: the interpreter may read the instruction once more
//! while it specialises it (3.11, globals) or makes its cache (3.8 to 3.10, at the 1024th call), with the same frame
//! running. Under `sys.settrace` 3.11 reads it three times; and code that a JIT has compiled (3.14+) reads it no more.

pub mod anchor;
pub mod hit;
mod known;
pub mod lines;
mod plan;
pub mod recipe;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracekit_common::watchpoint::{
    Armed, Bucket, CAPTURE, Condition, Hits, Known, LOCALS_IN_DICT, MAX_BREAKPOINTS, MAX_CONDITIONS,
    MAX_COPY, MAX_IMAGE, MAX_ITEMS, MAX_LAYOUTS, MAX_SLOTS, NO_FAMILY, ObjectLayout, TypeKey,
    bucket_of_breakpoint,
};

use self::anchor::Anchor;
use self::hit::RawHit;
use self::lines::{LineError, Place, Signature};
use self::plan::plan;
use crate::probes::ProbeError;
use crate::probes::tasks::Family;
use crate::probes::watchpoint::{Scope, Support, Watch, WatchError, Watchpoints};
use crate::python::code::scan;
use crate::python::layout::LineTable;
use crate::python::object::Limits;
use crate::python::reader::{Code, Reader, bytecodes};
use crate::python::runtime::Target;
use crate::snapshot::expression::Decision;

/// How often a process is searched for a module that is not loaded yet, and looked at whether armed code is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A search that took long is repeated after so many times that time.
const SEARCH_SHARE: u32 = 50;
/// How often a process is searched even if it seems to have done nothing.
const SEARCH_EVERY: Duration = Duration::from_secs(60);
/// How long watched addresses that take turns keep their turn.
const TURN: Duration = Duration::from_millis(500);
/// How often it is measured what an access costs.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// Debug registers that are used at most, if the machine has so many.
const MAX_REGISTERS: usize = 16;
/// Characters of a text that are captured behind what is shown: a word that ends in between is known whole, and is shown
/// unless it is a secret.
const BEYOND: u32 = 128;
/// Characters of a text at most: of four bytes each, behind the largest head of one (`PyCompactUnicodeObject` of 3.8).
const MAX_TEXT: u32 = (MAX_COPY - 72) / 4;
/// Addresses of one breakpoint at most: more copies of one line are not watched.
const MAX_PLACES: usize = 16;
/// Types that are remembered as told to the kernel side; then they are told again, because memory of a type may have
/// become another's.
const MAX_TOLD: usize = 4096;
/// How long they are.
const TOLD: Duration = Duration::from_secs(10);

/// Opcodes that begin no line and are not specialised, but could be mistaken for a copy because their argument is 0 or
/// their columns are the statement's: END_FOR, POP_ITER, END_SEND, POP_TOP, POP_EXCEPT, PUSH_EXC_INFO, COPY, SWAP, RERAISE,
/// JUMP_BACKWARD. CPython `Include/opcode.h`, `opcode_ids.h`.
const STRUCTURAL: &[(u8, &[u8])] = &[
    (11, &[1, 35, 89, 99, 119, 120, 140]),
    (12, &[1, 4, 5, 35, 89, 99, 119, 120, 140]),
    (13, &[11, 12, 31, 32, 33, 61, 77, 102, 115]),
    (14, &[9, 10, 29, 30, 31, 32, 59, 75, 105, 117]),
    (15, &[9, 10, 27, 28, 29, 30, 57, 74, 104, 116]),
];

/// Why breakpoints don't work, or one can't be set.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel side is refused.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// This machine has no watchpoints that work.
    #[error("line breakpoints don't work here: {0}")]
    Unsupported(String),
    /// The process is not known to the engine.
    #[error("process {0} is not known")]
    NoProcess(u32),
    /// There are too many breakpoints.
    #[error("there are {MAX_BREAKPOINTS} breakpoints already; remove some")]
    TooMany,
    /// Another breakpoint is there.
    #[error("breakpoint {0} is on that line already")]
    Taken(u32),
    /// The line is none.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The interpreter's layout can't be given to the kernel side.
    #[error("cannot use the interpreter of process {0} for breakpoints: {1}")]
    Layout(u32, &'static str),
}

/// A breakpoint as it is asked for.
#[derive(Debug, Clone)]
pub struct LineSpec {
    /// End of the file's path, in whole components: `shop/views.py`.
    pub file: String,
    /// The line.
    pub line: i32,
    /// Capture stack and variables, or only count.
    pub capture: bool,
    /// What bounds the capture, and the decoding of it.
    pub limits: Limits,
    /// Bytes of an image.
    pub bytes: u32,
    /// Limit of captures, `None` for none.
    pub bucket: Option<Bucket>,
    /// The function that the line was in when it was armed first: it is armed nowhere else.
    pub anchor: Option<Anchor>,
    /// What hits must meet, decided by the kernel side as far as it knows; the others are not captured.
    pub condition: Option<Decision>,
}

impl LineSpec {
    /// A breakpoint with the default limits, no limit of captures and no condition.
    #[must_use]
    pub fn new(file: impl Into<String>, line: i32) -> Self {
        let limits = Limits::default();
        let (file, bytes) = (file.into(), 16 * 1024);
        Self { file, line, capture: true, limits, bytes, bucket: None, anchor: None, condition: None }
    }
}

/// How a breakpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No module with that file is loaded.
    Pending,
    /// Its addresses are watched.
    Active {
        /// On every processor, or on the threads of its process.
        scope: Scope,
        /// They take turns with others, so that executions are missed.
        rotating: bool,
    },
    /// Nothing is watched for now: [`Engine::pause`].
    Paused,
    /// The code is not what it was.
    Stale(String),
    /// It can't be armed, for this reason.
    Error(String),
}

/// State and counters of a breakpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub state: State,
    /// Its counters.
    pub hits: Hits,
    /// Qualified names of the code objects, with the offset of the watched instruction.
    pub places: Vec<(String, u32)>,
}

/// A hit, with what it takes to decode it.
pub struct Hit<'h> {
    /// The breakpoint.
    pub breakpoint: u32,
    /// The line as it is now.
    pub line: i32,
    /// As it was reported.
    pub raw: RawHit,
    /// Reads the process, for what lives longer than the hit.
    pub live: &'h Reader<'h>,
    /// What bounds values.
    pub limits: Limits,
}

struct Process {
    target: Target,
    /// The process that it was forked from, in which its breakpoints were added; or itself.
    family: u32,
    layout: u32,
    /// Its code objects.
    searched: RefCell<Option<Searched>>,
    /// Objects that conditions are about, once they are found.
    known: Cell<Option<Known>>,
    /// Types of which the kernel side was told.
    told: HashSet<u64>,
    since: Instant,
}

impl Process {
    fn new(target: Target, family: u32, layout: u32) -> Self {
        Self {
            target,
            family,
            layout,
            searched: RefCell::default(),
            known: Cell::new(None),
            told: HashSet::new(),
            since: Instant::now(),
        }
    }

    /// Its code objects, as they were a moment ago.
    fn codes(&self, reader: &Reader<'_>) -> Option<Rc<[Rc<Code>]>> {
        let mut searched = self.searched.borrow_mut();
        let start = Instant::now();
        let faults = self.target.minor_faults();
        if let Some(known) = searched.as_ref() {
            // One that sleeps loads nothing.
            let sleeps = faults.is_some() && faults == known.faults && start < known.outdated;
            if start < known.until || sleeps {
                return Some(Rc::clone(&known.codes));
            }
        }
        let codes: Rc<[Rc<Code>]> = scan(&self.target, reader).ok()?.codes.into();
        let pause = LOOK_EVERY.max(start.elapsed().saturating_mul(SEARCH_SHARE));
        let (until, outdated) = (Instant::now() + pause, start + SEARCH_EVERY);
        *searched = Some(Searched { codes: Rc::clone(&codes), until, faults, outdated });
        Some(codes)
    }
}

/// What a search for code objects has found.
struct Searched {
    codes: Rc<[Rc<Code>]>,
    /// Until then they are believed to be all.
    until: Instant,
    /// Page faults of the process before the search.
    faults: Option<u64>,
    /// After that it is searched again even if there were no page faults.
    outdated: Instant,
}

struct Breakpoint {
    pid: u32,
    spec: LineSpec,
    /// The line as it is now.
    line: i32,
    anchor: Option<Anchor>,
    places: Vec<Place>,
    /// The condition as the kernel side has it, and its number there.
    condition: Option<(u32, Box<Condition>)>,
    state: State,
    paused: bool,
    looked: Instant,
}

impl Breakpoint {
    /// The hit is its own, not of one that had its number before.
    fn is_hit_by(&self, hit: &RawHit) -> bool {
        let record = &hit.record;
        self.places.iter().any(|place| place.address() == record.address && place.code.address == record.code)
    }
}

/// Line breakpoints of the processes of a host.
pub struct Engine {
    watchpoints: Watchpoints,
    registers: usize,
    /// What an access costs beside the program, and when that was measured.
    trap_cost: (Duration, Instant),
    processes: HashMap<u32, Process>,
    /// Those that the kernel side knows, by their number.
    layouts: Vec<ObjectLayout>,
    breakpoints: BTreeMap<u32, Breakpoint>,
    watched: HashMap<(u64, Scope), Watch>,
    /// The number that the next condition gets, if it is free.
    next_condition: u32,
    /// When something could not be watched, last.
    failed: Option<Instant>,
    turn: Instant,
    turns: usize,
}

impl Engine {
    /// Tries whether watchpoints work. The kernel side comes from [`Probes`](crate::probes::Probes).
    ///
    /// # Errors
    /// They don't.
    pub fn new(watchpoints: Watchpoints) -> Result<Self, EngineError> {
        if let Support::Unsupported(reason) = watchpoints.self_test() {
            return Err(EngineError::Unsupported(reason));
        }
        let registers = watchpoints.free_slots(MAX_REGISTERS);
        let trap_cost = (watchpoints.trap_cost(), Instant::now());
        let (processes, breakpoints, watched) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        let (layouts, turn, turns) = (Vec::new(), Instant::now(), 0);
        Ok(Self {
            watchpoints,
            registers,
            trap_cost,
            processes,
            layouts,
            breakpoints,
            watched,
            next_condition: 0,
            failed: None,
            turn,
            turns,
        })
    }

    /// Debug registers that were free at the start.
    #[must_use]
    pub fn registers(&self) -> usize {
        self.registers
    }

    /// The kernel side: kill switch, limits of processes and of the agent.
    pub fn watchpoints(&mut self) -> &mut Watchpoints {
        &mut self.watchpoints
    }

    /// A process may get breakpoints. It must be selected and described to the probes.
    ///
    /// # Errors
    /// There are too many.
    pub fn add_process(&mut self, target: Target) -> Result<(), EngineError> {
        let pid = target.pid;
        let layout =
            recipe::object_layout(&target.layout).ok_or(EngineError::Layout(pid, "an offset is none"))?;
        let known = self.layouts.iter().position(|known| *known == layout).unwrap_or(self.layouts.len());
        let number = u32::try_from(known).ok().filter(|number| *number < MAX_LAYOUTS);
        let number = number.ok_or(EngineError::Layout(pid, "there are too many interpreters"))?;
        if known == self.layouts.len() {
            self.watchpoints.set_layout(number, &layout)?;
            self.layouts.push(layout);
        }
        // One that was forked goes on to run into the breakpoints of its family, beside those of its own.
        let family = self.processes.get(&pid).map_or(pid, |known| known.family);
        self.processes.insert(pid, Process::new(target, family, number));
        Ok(())
    }

    /// A breakpoint of the family that a process was forked in is one in the process, too: it has the same code.
    #[must_use]
    pub fn covers(&self, id: u32, pid: u32) -> bool {
        let Some(breakpoint) = self.breakpoints.get(&id) else { return false };
        let Some(process) = self.processes.get(&pid) else { return false };
        process.family == breakpoint.pid
            && !breakpoint.places.is_empty()
            && is_there(&process.target, &breakpoint.places)
    }

    /// A process was forked from another: it has its code at the same addresses.
    pub fn forked(&mut self, parent: u32, child: u32) {
        if let Some(process) = self.processes.get(&parent) {
            let process = Process::new(process.target.forked(child), process.family, process.layout);
            self.processes.insert(child, process);
        }
    }

    /// A process has ended, or is another program. Its breakpoints end with it.
    pub fn remove_process(&mut self, pid: u32) {
        self.processes.remove(&pid);
        let ended: Vec<u32> =
            self.breakpoints.iter().filter(|(_, known)| known.pid == pid).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.remove(id));
    }

    /// Adds a breakpoint in a process and its forks, and arms it; its number.
    ///
    /// # Errors
    /// There is no code on that line, or the file is ambiguous. A file that is not loaded is no error: the breakpoint
    /// waits for it.
    pub fn add(&mut self, pid: u32, spec: LineSpec) -> Result<u32, EngineError> {
        let id =
            (0..MAX_BREAKPOINTS).find(|id| !self.breakpoints.contains_key(id)).ok_or(EngineError::TooMany)?;
        if !self.processes.contains_key(&pid) {
            return Err(EngineError::NoProcess(pid));
        }
        let mut breakpoint = Breakpoint {
            pid,
            line: spec.line,
            anchor: spec.anchor.clone(),
            places: Vec::new(),
            condition: None,
            state: State::Pending,
            paused: false,
            looked: Instant::now(),
            spec,
        };
        self.find(&mut breakpoint)?;
        if let Some(other) = self.taken(&breakpoint) {
            return Err(EngineError::Taken(other));
        }
        self.watchpoints.clear_hits(id)?;
        self.watchpoints.limit(bucket_of_breakpoint(id), breakpoint.spec.bucket.as_ref())?;
        self.breakpoints.insert(id, breakpoint);
        self.arrange();
        Ok(id)
    }

    /// What a breakpoint captures, and how often, is this from now on. Where it is stays as it is, and no hit is missed.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn change(&mut self, id: u32, spec: LineSpec) -> Result<(), EngineError> {
        let Some(known) = self.breakpoints.get_mut(&id) else { return Ok(()) };
        let LineSpec { file, line, anchor, .. } = known.spec.clone();
        known.spec = LineSpec { file, line, anchor, ..spec };
        self.watchpoints.limit(bucket_of_breakpoint(id), known.spec.bucket.as_ref())?;
        self.arrange();
        Ok(())
    }

    /// Removes a breakpoint.
    pub fn remove(&mut self, id: u32) {
        if let Some(breakpoint) = self.breakpoints.remove(&id) {
            self.arrange();
            self.forget(&breakpoint);
            let _ = self.watchpoints.limit(bucket_of_breakpoint(id), None);
        }
    }

    /// Watches a breakpoint's line no more until it is to go on; it keeps its counters.
    pub fn pause(&mut self, id: u32, pause: bool) {
        if let Some(breakpoint) = self.breakpoints.get_mut(&id)
            && breakpoint.paused != pause
        {
            breakpoint.paused = pause;
            self.arrange();
        }
    }

    /// State and counters of a breakpoint.
    #[must_use]
    pub fn status(&self, id: u32) -> Option<Status> {
        let breakpoint = self.breakpoints.get(&id)?;
        let places = breakpoint.places.iter().map(|place| (place.code.qualname.clone(), place.offset));
        Some(Status {
            state: breakpoint.state.clone(),
            hits: self.watchpoints.hits(id),
            places: places.collect(),
        })
    }

    /// Counters of a breakpoint.
    #[must_use]
    pub fn counters(&self, id: u32) -> Option<Hits> {
        self.breakpoints.contains_key(&id).then(|| self.watchpoints.hits(id))
    }

    /// How a breakpoint is, and the function with its line, once that is known.
    #[must_use]
    pub fn state(&self, id: u32) -> Option<(&State, Option<&Anchor>)> {
        self.breakpoints.get(&id).map(|known| (&known.state, known.anchor.as_ref()))
    }

    /// The breakpoint of the same process that is on the same line.
    fn taken(&self, new: &Breakpoint) -> Option<u32> {
        let addresses: Vec<u64> = new.places.iter().map(Place::address).collect();
        let is_there = |known: &Breakpoint| {
            known.pid == new.pid && known.places.iter().any(|place| addresses.contains(&place.address()))
        };
        self.breakpoints.iter().find(|(_, known)| is_there(known)).map(|(id, _)| *id)
    }

    /// What an access to a watched address costs beside the kernel side's program, measured once a minute: on virtual
    /// machines it varies.
    #[must_use]
    pub fn trap_cost(&self) -> Duration {
        self.trap_cost.0
    }

    /// Finds the places of a breakpoint; none if its file is not loaded.
    fn find(&self, breakpoint: &mut Breakpoint) -> Result<(), EngineError> {
        let process = self.processes.get(&breakpoint.pid).ok_or(EngineError::NoProcess(breakpoint.pid))?;
        let target = &process.target;
        breakpoint.looked = Instant::now();
        // A process in which no Python code runs at the moment, or that ends, is like one that has not loaded the file.
        let Ok(reader) = target.reader() else { return Ok(()) };
        let Some(codes) = process.codes(&reader) else { return Ok(()) };
        let files = codes.iter().map(|code| code.filename.as_str());
        let file = match lines::file_of(files, &breakpoint.spec.file) {
            Ok(file) => file,
            Err(LineError::NoFile(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if let Some(anchor) = &breakpoint.anchor {
            let Some(line) = anchor.line(&codes, file) else {
                let function = &anchor.function;
                breakpoint.state =
                    State::Stale(format!("{function} in {file} is not what it was, or is gone"));
                return Ok(());
            };
            breakpoint.line = line;
        }
        let signature = |code: &Code, offset: u32| signature(&reader, code, offset);
        let places = lines::places(&codes, file, breakpoint.line, signature)?;
        let first = places.first().map(|place| Anchor::new(&place.code, breakpoint.line));
        breakpoint.anchor = breakpoint.anchor.take().or(first);
        breakpoint.places =
            places.into_iter().flat_map(|place| with_copies(&reader, place)).take(MAX_PLACES).collect();
        Ok(())
    }

    /// Watches what is to be watched, as far as there are registers.
    fn arrange(&mut self) {
        let mut wanted: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
        for (id, breakpoint) in &mut self.breakpoints {
            if breakpoint.paused {
                breakpoint.state = State::Paused;
            } else if breakpoint.state == State::Paused {
                breakpoint.state = State::Pending;
            }
            if !breakpoint.paused {
                let addresses = breakpoint.places.iter().map(|place| (place.address(), *id));
                wanted.entry(breakpoint.pid).or_default().extend(addresses);
            }
        }
        let plan = plan(&wanted, self.registers, self.turns);
        for (id, (scope, rotating)) in plan.states {
            if let Some(breakpoint) = self.breakpoints.get_mut(&id) {
                breakpoint.state = State::Active { scope, rotating };
            }
        }
        // Registers must be free before they can be taken.
        self.watched.retain(|place, _| plan.watches.contains_key(place));
        self.failed = None;
        let conditional = self
            .breakpoints
            .iter()
            .filter(|(_, known)| known.spec.condition.is_some() || known.condition.is_some());
        let conditional: Vec<u32> = conditional.map(|(id, _)| *id).collect();
        conditional.into_iter().for_each(|id| self.decide(id));
        for ((address, scope), ids) in plan.watches {
            for id in &ids {
                let outcome = self.arm(address, scope, *id);
                if let (Err(reason), Some(breakpoint)) = (outcome, self.breakpoints.get_mut(id)) {
                    breakpoint.state = State::Error(reason);
                    self.failed = Some(Instant::now());
                }
            }
        }
    }

    /// Tells the kernel side the condition of a breakpoint. One that is changed has another number than before: a hit of
    /// this moment is not compared with half of each.
    fn decide(&mut self, id: u32) {
        let Some(breakpoint) = self.breakpoints.get(&id) else { return };
        let wanted = self.condition(breakpoint);
        let now = breakpoint.condition.as_ref();
        if now.map(|(_, condition)| &**condition) == wanted.as_ref() {
            return;
        }
        let taken: HashSet<u32> = self
            .breakpoints
            .values()
            .filter_map(|known| known.condition.as_ref().map(|(number, _)| *number))
            .collect();
        let numbers = (0..MAX_CONDITIONS).map(|at| self.next_condition.wrapping_add(at) % MAX_CONDITIONS);
        let free = numbers.into_iter().find(|number| !taken.contains(number));
        let set = wanted.zip(free).and_then(|(condition, number)| {
            self.next_condition = number + 1;
            self.watchpoints.set_condition(number, &condition).ok()?;
            Some((number, Box::new(condition)))
        });
        if let Some(breakpoint) = self.breakpoints.get_mut(&id) {
            breakpoint.condition = set;
        }
    }

    /// The condition of a breakpoint, if the kernel side can decide it in all its places.
    fn condition(&self, breakpoint: &Breakpoint) -> Option<Condition> {
        let decision = breakpoint.spec.condition.as_ref()?;
        let process = self.processes.get(&breakpoint.pid)?;
        let known = process.known.get().or_else(|| {
            process.known.set(known::find(&process.target));
            process.known.get()
        })?;
        let mut all = breakpoint.places.iter().map(|place| decision.bind(&place.code, &known));
        let first = all.next()??;
        all.all(|other| other.as_ref() == Some(&first)).then_some(first)
    }

    fn arm(&mut self, address: u64, scope: Scope, id: u32) -> Result<(), String> {
        let armed = self.armed(address, id).ok_or("it has no code")?;
        let pid = self.breakpoints.get(&id).map_or(NO_FAMILY, |known| known.pid);
        for family in [pid, NO_FAMILY] {
            self.watchpoints.describe(family, address, &armed).map_err(|error| error.to_string())?;
        }
        if self.watched.contains_key(&(address, scope)) {
            return Ok(());
        }
        let watch = match scope {
            Scope::Processors => self.watchpoints.watch(address),
            Scope::Tasks(pid) => self.watchpoints.watch_tasks(address, &self.family(pid)),
        };
        let watch = watch.map_err(|error: WatchError| error.to_string())?;
        self.watched.insert((address, scope), watch);
        Ok(())
    }

    /// A process with breakpoints, and what was forked from it.
    fn family(&self, pid: u32) -> Family {
        let mut family = Family::of(pid);
        for (known, process) in &self.processes {
            if process.family != pid {
                family.others.insert(*known);
            } else if *known != pid {
                family.forks.push(*known);
            }
        }
        family
    }

    /// Hits of a breakpoint that is removed mean nothing any more.
    fn forget(&mut self, breakpoint: &Breakpoint) {
        for address in breakpoint.places.iter().map(Place::address) {
            self.watchpoints.forget(breakpoint.pid, address);
            let is_there = |known: &Breakpoint| known.places.iter().any(|place| place.address() == address);
            if !self.breakpoints.values().any(is_there) {
                self.watchpoints.forget(NO_FAMILY, address);
            }
        }
    }

    /// What the kernel side is to know of an address.
    fn armed(&self, address: u64, id: u32) -> Option<Armed> {
        let breakpoint = self.breakpoints.get(&id)?;
        let place = breakpoint.places.iter().find(|place| place.address() == address)?;
        let process = self.processes.get(&breakpoint.pid)?;
        let (code, spec) = (&place.code, &breakpoint.spec);
        let small = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let dict = if code.is_function() { 0 } else { LOCALS_IN_DICT };
        Some(Armed {
            code: code.address,
            index: id,
            flags: dict | if spec.capture { CAPTURE } else { 0 },
            layout: process.layout,
            slots: small(code.locals.len()).min(MAX_SLOTS),
            depth: small(spec.limits.depth),
            items: small(spec.limits.items),
            text: small(spec.limits.text).saturating_add(BEYOND).min(MAX_TEXT),
            bytes: spec.bytes.min(MAX_IMAGE),
            condition: breakpoint.condition.as_ref().map_or(0, |(number, _)| number + 1),
            reserved: 0,
        })
    }

    /// What is due: looks for modules that were not loaded, looks whether code is still what it was, gives others their
    /// turn. To be called several times a second.
    pub fn tick(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.trap_cost.1) >= MEASURE_EVERY {
            // Not if all registers are taken: then it is what it was.
            let cost = Some(self.watchpoints.trap_cost()).filter(|cost| !cost.is_zero());
            self.trap_cost = (cost.unwrap_or(self.trap_cost.0), now);
        }
        let due = |breakpoint: &Breakpoint| now.duration_since(breakpoint.looked) >= LOOK_EVERY;
        let ids: Vec<u32> =
            self.breakpoints.iter().filter(|(_, known)| due(known)).map(|(id, _)| *id).collect();
        let mut changed = false;
        for id in ids {
            let Some(mut breakpoint) = self.breakpoints.remove(&id) else { continue };
            breakpoint.looked = now;
            if breakpoint.places.is_empty() {
                if let Err(error) = self.find(&mut breakpoint) {
                    breakpoint.state = State::Error(error.to_string());
                }
                if let Some(other) = self.taken(&breakpoint) {
                    breakpoint.places.clear();
                    breakpoint.state = State::Error(EngineError::Taken(other).to_string());
                }
                changed |= !breakpoint.places.is_empty();
            } else if self.is_stale(&breakpoint) {
                self.forget(&breakpoint);
                breakpoint.places.clear();
                breakpoint.state = State::Stale("its code was freed, and is not loaded again".to_owned());
                changed = true;
            } else if breakpoint.spec.condition.is_some() && breakpoint.condition.is_none() {
                // When no Python code ran, not all was found that conditions need.
                changed |= self.condition(&breakpoint).is_some();
            }
            self.breakpoints.insert(id, breakpoint);
        }
        let rotating = |known: &Breakpoint| matches!(known.state, State::Active { rotating: true, .. });
        if now.duration_since(self.turn) >= TURN && self.breakpoints.values().any(rotating) {
            self.turn = now;
            self.turns = self.turns.wrapping_add(1);
            changed = true;
        }
        // Somebody else may have had the registers for a moment.
        changed |= self.failed.is_some_and(|failed| now.duration_since(failed) >= LOOK_EVERY);
        if changed {
            self.arrange();
        }
    }

    /// The memory of a code object is another's.
    fn is_stale(&self, breakpoint: &Breakpoint) -> bool {
        let Some(process) = self.processes.get(&breakpoint.pid) else { return true };
        !is_there(&process.target, &breakpoint.places)
    }

    /// Gives hits to `take`, in their order within each process, and tells the kernel side what was learned from them.
    pub fn hits<T>(&mut self, raw: Vec<(RawHit, T)>, mut take: impl FnMut(Hit<'_>, T)) {
        let mut by_process: BTreeMap<u32, Vec<(RawHit, T)>> = BTreeMap::new();
        raw.into_iter().for_each(|hit| by_process.entry(hit.0.record.tgid).or_default().push(hit));
        for (tgid, raw) in by_process {
            // A worker of which nobody has said that it was forked.
            if !self.processes.contains_key(&tgid) {
                let hit = raw.iter().find_map(|(hit, _)| {
                    self.breakpoints.get(&hit.record.index).filter(|known| known.is_hit_by(hit))
                });
                let Some(parent) = hit.map(|known| known.pid) else { continue };
                self.forked(parent, tgid);
            }
            let Some(process) = self.processes.get_mut(&tgid) else { continue };
            process.target.memory.forget();
            let live = Reader::new(&process.target.memory, process.target.layout);
            for (raw, with) in raw {
                let id = raw.record.index;
                let Some(breakpoint) = self.breakpoints.get(&id).filter(|known| known.is_hit_by(&raw)) else {
                    continue;
                };
                // More is not in images.
                let limits = breakpoint.spec.limits;
                let limits = Limits { items: limits.items.min(MAX_ITEMS as usize), ..limits };
                take(Hit { breakpoint: id, line: breakpoint.line, raw, live: &live, limits }, with);
            }
            if process.told.len() > MAX_TOLD || process.since.elapsed() > TOLD {
                process.told.clear();
                process.since = Instant::now();
            }
            for found in live.known_types() {
                if process.told.insert(found.address)
                    && let Some(recipe) = recipe::recipe(&live, &found)
                {
                    let key = TypeKey { address: found.address, tgid, reserved: 0 };
                    self.watchpoints.set_recipe(&key, &recipe);
                }
            }
        }
    }
}

/// A process has this code at these places.
fn is_there(target: &Target, places: &[Place]) -> bool {
    target.memory.forget();
    let reader = Reader::new(&target.memory, target.layout);
    places.iter().all(|place| {
        let same = |now: Rc<Code>| {
            now.filename == place.code.filename
                && now.name == place.code.name
                && now.first_line == place.code.first_line
                && now.length == place.code.length
        };
        reader.code(place.code.address).is_ok_and(same)
    })
}

/// Without a GIL every thread may run a copy of the bytecode (3.14+).
fn with_copies(reader: &Reader<'_>, place: Place) -> Vec<Place> {
    if reader.layout.copies.is_none() {
        return vec![place];
    }
    let copies = bytecodes(reader.memory, &reader.layout, &place.code).unwrap_or_default();
    let copies = copies.into_iter().filter(|start| *start != 0);
    copies
        .map(|start| {
            let code = Code { bytecode: start, ..Code::clone(&place.code) };
            Place { code: Rc::new(code), offset: place.offset }
        })
        .collect()
}

fn signature(reader: &Reader<'_>, code: &Code, offset: u32) -> Option<Signature> {
    let address = code.bytecode.wrapping_add(u64::from(offset));
    let instruction = [reader.memory.u8(address).ok()?, reader.memory.u8(address.wrapping_add(1)).ok()?];
    if reader.layout.lines != LineTable::Locations {
        return lines::signature(instruction, None, offset);
    }
    let table = reader.memory.u64(code.address.wrapping_add(reader.layout.code.line_table)).ok()?;
    let (start, length) = reader.bytes_data(table, 1 << 24).ok()?;
    let table = reader.memory.bytes(start, usize::try_from(length).ok()?).ok()?;
    let structural = STRUCTURAL.iter().find(|(minor, _)| *minor == reader.layout.minor)?.1;
    let [opcode, _] = instruction;
    let opcode = structural.contains(&opcode).then_some(opcode);
    Some(Signature { opcode, ..lines::signature(instruction, Some(&table), offset)? })
}
