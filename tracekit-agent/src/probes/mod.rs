//! The kernel side: load, attach, select processes, read records.

mod btf;
mod existing;
mod functions;
mod layout;
mod propagate;
pub mod record;
pub mod tasks;
pub mod watchpoint;

use std::{fs, io, os::fd::AsRawFd, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, RawTracePoint},
};
use thiserror::Error;
use tracekit_common::{
    actor::Actors,
    map::{ConnectionKey, ConnectionState, IGNORE, LOSSES, SERVER},
    propagate::PROPAGATE,
    python::{APPLICATION, CodeClass, CodeKey, Frame, Python},
};

use self::{
    btf::Btf,
    functions::Functions,
    propagate::{Globals, Propagation},
    record::ConnectionId,
    watchpoint::{HitRecords, Watchpoints},
};
pub use self::{
    functions::{Function, FunctionError},
    propagate::{Sampling, control_group_root},
};

/// The kernel object: built by `cargo xtask build-ebpf` from `tracekit-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../tracekit-ebpf/object/tracing.bpf.o");

/// Where the kernel describes its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Program and tracepoint, in the order of attaching: processes are followed before data flows.
const PROGRAMS: &[(&str, &str)] = &[
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("process_exit", "sched_process_exit"),
    ("sys_enter", "sys_enter"),
    ("sys_exit", "sys_exit"),
];

/// Why tracing can't start.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No type information.
    #[error(
        "can't read {VMLINUX}: {0}. tracekit needs a kernel built with CONFIG_DEBUG_INFO_BTF (5.10 or newer)"
    )]
    NoBtf(#[source] io::Error),
    /// Unusable type information.
    #[error("{0}")]
    Btf(#[from] btf::BtfError),
    /// Members that must be there are not.
    #[error("this kernel lacks what tracekit reads: {}", .0.join(", "))]
    Layout(Vec<String>),
    /// The caller may not use BPF.
    #[error(
        "not permitted to {what}: run as root, or with CAP_BPF and CAP_PERFMON (and CAP_SYS_PTRACE, \
         CAP_DAC_READ_SEARCH to inspect processes). `tracekit doctor` says what is missing"
    )]
    NotPermitted {
        /// What was tried.
        what: String,
    },
    /// The object can't be loaded.
    #[error("load the kernel object: {0}")]
    Load(#[source] EbpfError),
    /// A program was refused.
    #[error("{program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// Connections can't be followed.
    #[error(
        "follow new connections in the root of control groups: {0}. Mount it (mount -t cgroup2 none /sys/fs/cgroup), in a \
         container that of the host"
    )]
    ControlGroup(#[source] io::Error),
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
}

/// How to load.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Report every `exec` of the host, not only those of selected processes.
    pub follow_all: bool,
    /// Put headers of traces into outgoing requests of processes for which that is wanted.
    pub propagate: Option<Sampling>,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { ring_bytes: 8 * 1024 * 1024, follow_all: false, propagate: None }
    }
}

/// The loaded kernel side. Dropping it detaches everything; so does the kernel if the agent dies.
pub struct Probes {
    // The links live in the programs, those in here.
    ebpf: Ebpf,
    selected: HashMap<MapData, u32, u32>,
    connections: HashMap<MapData, ConnectionKey, ConnectionState>,
    roles: HashMap<MapData, ConnectionKey, u32>,
    pythons: HashMap<MapData, u32, Python>,
    codes: HashMap<MapData, CodeKey, CodeClass>,
    event_loops: HashMap<MapData, u32, Frame>,
    actors: HashMap<MapData, u32, Actors>,
    functions: Functions,
    losses: PerCpuArray<MapData, u64>,
    propagation: Option<Propagation>,
}

/// What [`Probes::losses`] counts, since the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records that found no room in the ring buffer.
    pub ring_full: u64,
    /// Captures that failed because memory of the process could not be read.
    pub fault: u64,
}

/// The reader's end of the ring buffer.
pub struct Records {
    ring: RingBuf<MapData>,
}

fn not_permitted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if matches!(code, Some(libc::EPERM | libc::EACCES)) {
            return true;
        }
        source = error.source();
    }
    false
}

impl Probes {
    /// Loads and attaches. No process is selected yet. What only propagation needs and is missing is told in the log.
    ///
    /// # Errors
    /// The kernel lacks something, or the caller a privilege.
    pub fn load(options: ProbeOptions) -> Result<(Self, Records), ProbeError> {
        if options.propagate.is_some() {
            match Self::load_object(options) {
                Ok((mut probes, records)) => match Propagation::attach(&mut probes.ebpf) {
                    Ok(propagation) => {
                        probes.propagation = Some(propagation);
                        return Ok((probes, records));
                    }
                    Err(error) => warn_of(&error),
                },
                Err(error) => warn_of(&error),
            }
        }
        // Another object: maps of sockets need a capability more to be created.
        Self::load_object(ProbeOptions { propagate: None, ..options })
    }

    fn load_object(options: ProbeOptions) -> Result<(Self, Records), ProbeError> {
        let image = fs::read(VMLINUX).map_err(ProbeError::NoBtf)?;
        let mut structures = layout::structures();
        structures.extend(propagate::STRUCTURES);
        let btf = Btf::parse(&image, &structures)?;
        let globals = layout::globals(&btf).map_err(ProbeError::Layout)?;
        let propagation = options.propagate.map(|sampling| Globals::new(&btf, sampling)).transpose()?;
        drop(image);

        let follow_all = u32::from(options.follow_all);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("EVENTS", options.ring_bytes);
        let processors = aya::util::nr_cpus()
            .map_err(|(_, error)| ProbeError::Map { map: "IMAGES", source: MapError::IoError(error) })?;
        loader.map_max_entries("IMAGES", u32::try_from(processors).unwrap_or(u32::MAX));
        loader.override_global("FOLLOW_ALL", &follow_all, true);
        for (name, value) in &globals {
            loader.override_global(name, value, true);
        }
        if let Some(propagation) = &propagation {
            propagation.set(&mut loader);
        }
        let object = if propagation.is_some() { propagate::OBJECT } else { OBJECT };
        let mut ebpf = loader.load(object).map_err(|error| {
            if not_permitted(&error) {
                ProbeError::NotPermitted { what: "create BPF maps".to_owned() }
            } else {
                ProbeError::Load(error)
            }
        })?;

        let mut syscalls: Array<_, u32> = take(&mut ebpf, "SYSCALLS")?;
        for (number, class) in layout::syscalls(propagation.is_some()) {
            syscalls.set(number, class, 0).map_err(|source| ProbeError::Map { map: "SYSCALLS", source })?;
        }
        let selected = take(&mut ebpf, "SELECTED")?;
        let connections = take(&mut ebpf, "CONNECTIONS")?;
        let roles = take(&mut ebpf, "ROLES")?;
        let pythons = take(&mut ebpf, "PYTHONS")?;
        let codes = take(&mut ebpf, "CODES")?;
        let event_loops = take(&mut ebpf, "EVENT_LOOPS")?;
        let actors = take(&mut ebpf, "ACTORS")?;
        let losses = take(&mut ebpf, "LOSS_COUNTS")?;
        let ring = take(&mut ebpf, "EVENTS")?;
        for (program, tracepoint) in PROGRAMS {
            attach(&mut ebpf, program, tracepoint)?;
        }
        let functions = Functions::default();
        let probes = Self {
            ebpf,
            selected,
            connections,
            roles,
            pythons,
            codes,
            event_loops,
            actors,
            functions,
            losses,
            propagation: None,
        };
        Ok((probes, Records { ring }))
    }

    /// The kernel side of line breakpoints. Once: the second time is an error.
    ///
    /// # Errors
    /// The kernel refuses the program; all else works without.
    pub fn watchpoints(&mut self) -> Result<(Watchpoints, HitRecords), ProbeError> {
        let loaded = Watchpoints::load(&mut self.ebpf)?;
        // Elsewhere nothing is lost in this way.
        if cfg!(target_arch = "x86_64") {
            attach(&mut self.ebpf, "signal_generate", "signal_generate")?;
        }
        Ok(loaded)
    }

    /// Starts tracing a process.
    ///
    /// # Errors
    /// The map is full.
    pub fn select(&mut self, tgid: u32) -> Result<(), ProbeError> {
        self.select_with(tgid, false)
    }

    /// As [`Probes::select`]; `propagate` if its outgoing requests get headers of traces.
    ///
    /// # Errors
    /// The map is full.
    pub fn select_with(&mut self, tgid: u32, propagate: bool) -> Result<(), ProbeError> {
        let flags = 1 | if propagate && self.propagation.is_some() { PROPAGATE } else { 0 };
        self.selected.insert(tgid, flags, 0).map_err(|source| ProbeError::Map { map: "SELECTED", source })?;
        if propagate && let Some(propagation) = &mut self.propagation {
            propagation.adopt(tgid);
        }
        Ok(())
    }

    /// Leaves the outgoing requests of a process as they are from now on: its own tracer writes their headers.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn leave_requests(&mut self, tgid: u32) -> Result<(), ProbeError> {
        let Ok(flags) = self.selected.get(&tgid, 0) else { return Ok(()) };
        if flags & PROPAGATE == 0 {
            return Ok(());
        }
        match self.selected.insert(tgid, flags & !PROPAGATE, 2) {
            // BPF_EXIST: it may have ended since.
            Err(_) if self.selected.get(&tgid, 0).is_err() => Ok(()),
            result => result.map_err(|source| ProbeError::Map { map: "SELECTED", source }),
        }
    }

    /// Follows connections that could not be followed at first. To be called now and then.
    pub fn tick(&mut self) {
        if let Some(propagation) = &mut self.propagation {
            propagation.tick();
        }
    }

    /// Has nothing to do with a socket any more: there is no HTTP on it.
    pub fn leave_alone(&mut self, cookie: u64) {
        if let Some(propagation) = &mut self.propagation {
            propagation.leave_alone(cookie);
        }
    }

    /// Stops tracing a process.
    pub fn deselect(&mut self, tgid: u32) {
        // It may have exited, and then the kernel side has removed it.
        let _ = self.selected.remove(&tgid);
        let _ = self.pythons.remove(&tgid);
        let _ = self.actors.remove(&tgid);
        self.functions.detach(tgid);
    }

    /// Stops tracing all processes, those that were started by traced ones included.
    pub fn deselect_all(&mut self) {
        let selected: Vec<u32> = self.selected.keys().filter_map(Result::ok).collect();
        for tgid in selected {
            let _ = self.selected.remove(&tgid);
        }
    }

    /// Says where the interpreter of a selected process keeps what the kernel side reads.
    ///
    /// # Errors
    /// The map is full.
    pub fn describe(&mut self, tgid: u32, python: &Python) -> Result<(), ProbeError> {
        self.pythons.insert(tgid, python, 0).map_err(|source| ProbeError::Map { map: "PYTHONS", source })
    }

    /// Says where the interpreter of a selected process keeps what tells who acts.
    ///
    /// # Errors
    /// The map is full.
    pub fn describe_actors(&mut self, tgid: u32, actors: &Actors) -> Result<(), ProbeError> {
        self.actors.insert(tgid, actors, 0).map_err(|source| ProbeError::Map { map: "ACTORS", source })
    }

    /// Probes a function of a selected process, once; `start` is what the process has at its address.
    ///
    /// # Errors
    /// The kernel refuses it, or the function's file cannot be opened.
    pub fn probe(
        &mut self,
        tgid: u32,
        function: Function,
        address: u64,
        start: &[u8],
    ) -> Result<(), FunctionError> {
        if self.functions.has(tgid, function) {
            return Ok(());
        }
        self.functions.attach(&mut self.ebpf, tgid, function, address, start)
    }

    /// Ends the probes on functions of a process that is gone or runs another program.
    pub fn process_gone(&mut self, tgid: u32) {
        self.functions.detach(tgid);
    }

    /// Says that a code object is the application's: walks of stacks stop there.
    pub fn stop_walks_at(&mut self, tgid: u32, code: u64) {
        // The map forgets what was not used for long; without an entry walks only take longer.
        let _ = self.codes.insert(CodeKey { code, tgid, reserved: 0 }, APPLICATION, 0);
    }

    /// Says that a code object is not the application's any more: its memory is another's.
    pub fn walk_past(&mut self, tgid: u32, code: u64) {
        let _ = self.codes.remove(&CodeKey { code, tgid, reserved: 0 });
    }

    /// Says which frame runs the event loop of a thread: walks of its stacks end there; [`None`]: they don't any more.
    pub fn end_walks_at(&mut self, tid: u32, frame: Option<Frame>) {
        // As above.
        let _ = match frame {
            Some(frame) => self.event_loops.insert(tid, frame, 0),
            None => self.event_loops.remove(&tid),
        };
    }

    /// Says that the process is the server of a connection: no stacks of what it sends are needed.
    pub fn is_server(&mut self, id: ConnectionId) {
        // As above: without an entry there are stacks that nobody needs.
        let _ = self.roles.insert(key_of(id), SERVER, 0);
    }

    /// Forgets what was said of a connection.
    pub fn connection_ended(&mut self, id: ConnectionId) {
        let _ = self.roles.remove(&key_of(id));
        if let Some(propagation) = &mut self.propagation {
            propagation.ended(id.inode);
        }
    }

    /// Stops capturing a connection that nobody can read.
    pub fn ignore(&mut self, id: ConnectionId) {
        let key = key_of(id);
        if let Ok(mut state) = self.connections.get(&key, 0) {
            state.flags |= IGNORE;
            // BPF_EXIST: it may have been closed since. Offsets that move meanwhile don't matter any more.
            let _ = self.connections.insert(key, state, 2);
        }
    }

    /// What the kernel side had to drop.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let sum = |index: u32| self.losses.get(&index, 0).map_or(0, |counts| counts.iter().sum());
        const { assert!(LOSSES == 2) };
        Losses { ring_full: sum(0), fault: sum(1) }
    }
}

/// Tracing goes on without propagation.
fn warn_of(error: &ProbeError) {
    // What the verifier has to say may be long; its verdict is at the end.
    let text = error.to_string();
    let (mut head, mut tail) = (text.len().min(300), text.len().saturating_sub(700));
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    let text = if head < tail {
        format!("{} … {}", text.get(..head).unwrap_or_default(), text.get(tail..).unwrap_or_default())
    } else {
        text
    };
    tracing::warn!(error = text, "outgoing requests get no traceparent");
}

fn key_of(id: ConnectionId) -> ConnectionKey {
    ConnectionKey { inode: id.inode, tgid: id.tgid, reserved: 0 }
}

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<T, ProbeError> {
    let data = ebpf
        .take_map(map)
        .ok_or(ProbeError::Map { map, source: MapError::InvalidName { name: map.to_owned() } })?;
    T::try_from(data).map_err(|source| ProbeError::Map { map, source })
}

fn attach(ebpf: &mut Ebpf, program: &'static str, tracepoint: &str) -> Result<(), ProbeError> {
    let wrap = |source: ProgramError| {
        // The verifier, too, says EACCES; but it says why.
        let judged = matches!(&source, ProgramError::LoadError { verifier_log, .. } if !verifier_log.to_string().is_empty());
        if !judged && not_permitted(&source) {
            ProbeError::NotPermitted { what: format!("load or attach the program {program}") }
        } else {
            ProbeError::Program { program, source: Box::new(source) }
        }
    };
    let loaded = ebpf.program_mut(program).ok_or_else(|| wrap(ProgramError::NotLoaded))?;
    let loaded: &mut RawTracePoint = loaded.try_into().map_err(wrap)?;
    loaded.load().map_err(wrap)?;
    loaded.attach(tracepoint).map_err(wrap)?;
    Ok(())
}

impl Records {
    /// Waits until the kernel side wakes the reader or the time is over. The kernel side wakes only when
    /// much is waiting, so a short time is the rule.
    pub fn wait(&self, time: Duration) {
        let timeout = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd`. Any error (a signal) is a short wait, which is harmless.
        unsafe { libc::poll(&raw mut poll, 1, timeout) };
    }

    /// Gives all waiting records to `take`; returns how many there were.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut count = 0;
        while let Some(item) = self.ring.next() {
            take(&item);
            count += 1;
        }
        count
    }
}
