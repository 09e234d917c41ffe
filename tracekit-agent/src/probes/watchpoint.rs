//! Hardware watchpoints with the kernel side's program on them, and the maps that it works with.
//!
//! A watchpoint lives as long as its [`Watch`]: the kernel removes it with the file descriptor, however the agent
//! ends. It takes one of the debug registers of a processor (x86: four), which debuggers use too.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{PerfEvent, ProgramError};
use tracekit_common::watchpoint::{
    Armed, ArmedKey, Bucket, Condition, Hits, KILL_SWITCH, MAX_BREAKPOINTS, MAX_LAYOUTS, ObjectLayout,
    Recipe, TypeKey,
};

use super::tasks::Family;
use super::{ProbeError, not_permitted, take};

/// The program for this architecture.
#[cfg(target_arch = "x86_64")]
const PROGRAM: &str = "line_hit_x86_64";
#[cfg(target_arch = "aarch64")]
const PROGRAM: &str = "line_hit_arm64";

/// Reads of the self-test.
const TEST_READS: u64 = 4;
/// Reads that are timed at once.
const TRAPS: u32 = 16;
/// How long it may take.
const TEST_TIME: Duration = Duration::from_millis(500);
/// How often all threads of a process are watched anew because one was born meanwhile.
const MAX_ROUNDS: usize = 20;

/// `PERF_TYPE_BREAKPOINT`, and what else of include/uapi/linux/perf_event.h and hw_breakpoint.h is used.
const PERF_TYPE_BREAKPOINT: u32 = 5;
const HW_BREAKPOINT_RW: u32 = 3;
const HW_BREAKPOINT_LEN_1: u64 = 1;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HV: u64 = 1 << 6;
/// Since 5.13.
const REMOVE_ON_EXEC: u64 = 1 << 36;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `_IOW('$', 8, __u32)`
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `struct perf_event_attr` to its fifth version (`PERF_ATTR_SIZE_VER5`), which kernels take since 4.1.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock_id: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<PerfEventAttr>() == 112);

/// Why a watchpoint can't be set.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// All debug registers are taken.
    #[error(
        "no debug register is free for a breakpoint: a debugger (gdb, perf, another agent) uses them, or too many lines \
         are armed; end it, or remove breakpoints"
    )]
    NoSlot,
    /// The caller lacks a privilege.
    #[error(
        "not permitted to set hardware watchpoints: run as root, or with CAP_PERFMON (before Linux 5.8 CAP_SYS_ADMIN)"
    )]
    NotPermitted,
    /// The kernel or the processor has none.
    #[error("this machine has no hardware watchpoints that the kernel offers ({0})")]
    Unsupported(io::Error),
    /// There is no such process (any more).
    #[error("process {0} has ended")]
    Gone(u32),
    /// Anything else.
    #[error("cannot set a watchpoint at {address:#x}: {error}")]
    Other {
        /// Where.
        address: u64,
        /// The system's error.
        error: io::Error,
    },
}

/// Where a watchpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// On every processor: every process that has something at the address runs into it, and all but the selected
    /// ones are passed over. Covers all threads and all forks.
    Processors,
    /// On every thread of one process and of those that were forked from it, and on all that these start or fork.
    Tasks(u32),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processors => f.write_str("on all processors"),
            Self::Tasks(pid) => write!(f, "on the threads of process {pid} and its forks"),
        }
    }
}

/// A watched address. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    /// The address.
    pub address: u64,
    /// Where.
    pub scope: Scope,
    events: Vec<OwnedFd>,
}

impl Watch {
    /// Debug registers that it takes, counted over processors or threads.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events.len()
    }
}

/// Whether line breakpoints work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// They do.
    Supported,
    /// They don't, for this reason.
    Unsupported(String),
}

/// What the kernel side of breakpoints consists of.
pub struct Watchpoints {
    program: OwnedFd,
    processors: Vec<u32>,
    breakpoints: HashMap<MapData, ArmedKey, Armed>,
    hits: PerCpuArray<MapData, Hits>,
    buckets: HashMap<MapData, u64, Bucket>,
    switches: Array<MapData, u32>,
    layouts: Array<MapData, ObjectLayout>,
    conditions: Array<MapData, Condition>,
    recipes: HashMap<MapData, TypeKey, Recipe>,
}

/// The reader's end of the hits.
pub struct HitRecords {
    ring: RingBuf<MapData>,
}

impl HitRecords {
    /// Gives all waiting records to `take`; returns how many there were.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut count = 0;
        while let Some(item) = self.ring.next() {
            take(&item);
            count += 1;
        }
        count
    }

    /// Waits until there is a record, or the time is over.
    pub fn wait(&self, time: Duration) {
        let timeout = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd`. Any error (a signal) is a short wait, which is harmless.
        unsafe { libc::poll(&raw mut poll, 1, timeout) };
    }
}

impl Watchpoints {
    /// Loads the program and takes the maps of breakpoints.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<(Self, HitRecords), ProbeError> {
        let wrap = |source: ProgramError| ProbeError::Program { program: PROGRAM, source: Box::new(source) };
        let program = ebpf.program_mut(PROGRAM).ok_or_else(|| wrap(ProgramError::NotLoaded))?;
        let program: &mut PerfEvent = program.try_into().map_err(wrap)?;
        program.load().map_err(|source| {
            let judged = matches!(&source, ProgramError::LoadError { verifier_log, .. } if !verifier_log.to_string().is_empty());
            if !judged && not_permitted(&source) {
                ProbeError::NotPermitted { what: format!("load the program {PROGRAM}") }
            } else {
                wrap(source)
            }
        })?;
        let program = program.fd().map_err(wrap)?.as_fd().try_clone_to_owned();
        let program = program.map_err(|error| wrap(ProgramError::IOError(error)))?;
        let processors = aya::util::online_cpus().map_err(|(path, error)| {
            wrap(ProgramError::IOError(io::Error::new(error.kind(), format!("{path}: {error}"))))
        })?;
        let watchpoints = Self {
            program,
            processors,
            breakpoints: take(ebpf, "BREAKPOINTS")?,
            hits: take(ebpf, "HITS")?,
            buckets: take(ebpf, "BUCKETS")?,
            switches: take(ebpf, "SWITCHES")?,
            layouts: take(ebpf, "LAYOUTS")?,
            conditions: take(ebpf, "CONDITIONS")?,
            recipes: take(ebpf, "RECIPES")?,
        };
        Ok((watchpoints, HitRecords { ring: take(ebpf, "SNAPSHOTS")? }))
    }

    /// Says what a hit at an address means in a process and its forks; with `NO_FAMILY` what it is counted as in all
    /// others. Before the address is watched.
    ///
    /// # Errors
    /// There are too many.
    pub fn describe(&mut self, family: u32, address: u64, armed: &Armed) -> Result<(), ProbeError> {
        map("BREAKPOINTS", self.breakpoints.insert(ArmedKey { address, family, reserved: 0 }, armed, 0))
    }

    /// Hits at an address mean nothing any more.
    pub fn forget(&mut self, family: u32, address: u64) {
        // It may not have been described.
        let _ = self.breakpoints.remove(&ArmedKey { address, family, reserved: 0 });
    }

    /// The counters of a breakpoint, of all processors together.
    #[must_use]
    pub fn hits(&self, index: u32) -> Hits {
        let Ok(all) = self.hits.get(&index, 0) else { return Hits::default() };
        let sum = |of: fn(&Hits) -> u64| all.iter().map(of).fold(0, u64::wrapping_add);
        Hits {
            hits: sum(|one| one.hits),
            captured: sum(|one| one.captured),
            unmet: sum(|one| one.unmet),
            undecided: sum(|one| one.undecided),
            limited: sum(|one| one.limited),
            killed: sum(|one| one.killed),
            lost: sum(|one| one.lost),
            foreign: sum(|one| one.foreign),
            spurious: sum(|one| one.spurious),
            unknown: sum(|one| one.unknown),
            nanoseconds: sum(|one| one.nanoseconds),
            last: all.iter().map(|one| one.last).max().unwrap_or(0),
        }
    }

    /// Sets the counters of a breakpoint to nothing. Hits of that moment may be lost or remain.
    ///
    /// # Errors
    /// There is no such breakpoint.
    pub fn clear_hits(&mut self, index: u32) -> Result<(), ProbeError> {
        let count = self.hits.get(&index, 0).map_or(0, |all| all.len());
        let none = aya::maps::PerCpuValues::try_from(vec![Hits::default(); count]);
        let none = none.map_err(|error| ProbeError::Map { map: "HITS", source: MapError::IoError(error) })?;
        map("HITS", self.hits.set(index, none, 0))
    }

    /// Limits captures; a key of `tracekit_common::watchpoint`. None: no limit.
    ///
    /// # Errors
    /// There are too many.
    pub fn limit(&mut self, key: u64, bucket: Option<&Bucket>) -> Result<(), ProbeError> {
        match bucket {
            Some(bucket) => map("BUCKETS", self.buckets.insert(key, bucket, 0)),
            None => {
                // There may be none.
                let _ = self.buckets.remove(&key);
                Ok(())
            }
        }
    }

    /// Switches all captures off or on: in force at the next hit.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn kill(&mut self, off: bool) -> Result<(), ProbeError> {
        map("SWITCHES", self.switches.set(KILL_SWITCH, u32::from(off), 0))
    }

    /// Says where the interpreter with this number keeps what is copied.
    ///
    /// # Errors
    /// There are too many: [`MAX_LAYOUTS`].
    pub fn set_layout(&mut self, number: u32, layout: &ObjectLayout) -> Result<(), ProbeError> {
        const { assert!(MAX_LAYOUTS > 0 && MAX_BREAKPOINTS > 0) };
        map("LAYOUTS", self.layouts.set(number, layout, 0))
    }

    /// A condition, by its number. Of one that hits are compared with, the kernel side may see parts of the old and of the
    /// new one.
    ///
    /// # Errors
    /// There are too many.
    pub fn set_condition(&mut self, number: u32, condition: &Condition) -> Result<(), ProbeError> {
        map("CONDITIONS", self.conditions.set(number, condition, 0))
    }

    /// Says how objects of a type are copied.
    pub fn set_recipe(&mut self, key: &TypeKey, recipe: &Recipe) {
        // The map forgets what was not used for long; without an entry the kernel side makes one.
        let _ = self.recipes.insert(key, recipe, 0);
    }

    /// Watches an address on every processor.
    ///
    /// # Errors
    /// [`WatchError`]; nothing is watched then.
    pub fn watch(&self, address: u64) -> Result<Watch, WatchError> {
        let mut events = Vec::new();
        for processor in &self.processors {
            match self.event(address, -1, i32::try_from(*processor).unwrap_or(-1), 0) {
                Ok(event) => events.push(event),
                // Taken off line since.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(why(address, error, 0)),
            }
        }
        Ok(Watch { address, scope: Scope::Processors, events })
    }

    /// Watches an address on the threads of a family of processes.
    ///
    /// A watched thread hands its watchpoint down to the threads and processes that it starts. So nothing is missed or
    /// counted twice if all threads that there are were watched before any was born: else it is done again.
    ///
    /// # Errors
    /// [`WatchError`]; nothing is watched then.
    pub fn watch_tasks(&self, address: u64, family: &Family) -> Result<Watch, WatchError> {
        let mut round = 0;
        loop {
            let threads = family.threads();
            let mut events = Vec::with_capacity(threads.len());
            for tid in &threads {
                match self.task_event(address, *tid) {
                    Ok(event) => events.push(event),
                    // Ended since.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(why(address, error, family.pid)),
                }
            }
            round += 1;
            if family.threads().is_subset(&threads) || round == MAX_ROUNDS {
                if events.is_empty() {
                    return Err(WatchError::Gone(family.pid));
                }
                return Ok(Watch { address, scope: Scope::Tasks(family.pid), events });
            }
        }
    }

    /// An event on a thread and on all that it will start; what runs another program loses it.
    fn task_event(&self, address: u64, tid: i32) -> io::Result<OwnedFd> {
        match self.event(address, tid, -1, INHERIT | REMOVE_ON_EXEC) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.event(address, tid, -1, INHERIT),
            outcome => outcome,
        }
    }

    /// Debug registers that are free on all processors now, as far as `most`: it takes and releases them.
    #[must_use]
    pub fn free_slots(&self, most: usize) -> usize {
        let byte = Box::new(AtomicU8::new(0));
        let address = std::ptr::from_ref::<AtomicU8>(&byte) as u64;
        let mut taken = Vec::new();
        while taken.len() < most {
            match self.watch(address) {
                Ok(watch) => taken.push(watch),
                Err(_) => break,
            }
        }
        taken.len()
    }

    /// What an access to a watched address costs, measured on one of the agent's own; nothing if that fails.
    #[must_use]
    pub fn trap_cost(&self) -> Duration {
        let byte = Box::new(AtomicU8::new(0));
        let address = std::ptr::from_ref::<AtomicU8>(&byte) as u64;
        // This thread.
        let Ok(_event) = self.event(address, 0, -1, 0) else { return Duration::ZERO };
        let time = |_| {
            let start = std::time::Instant::now();
            for _ in 0..TRAPS {
                byte.load(Ordering::SeqCst);
            }
            start.elapsed() / TRAPS
        };
        // What disturbs makes it longer.
        (0..8).map(time).min().unwrap_or_default()
    }

    fn event(&self, address: u64, pid: i32, processor: i32, flags: u64) -> io::Result<OwnedFd> {
        let event = open(address, pid, processor, flags)?;
        attach(event.as_fd(), self.program.as_fd())?;
        Ok(event)
    }

    /// Tries whether a thread gets past a watched byte, on a thread of the agent: on arm64 a kernel that does not step
    /// over the access (fixed in 6.6 and 6.10) would hold it there forever.
    #[must_use]
    pub fn self_test(&self) -> Support {
        let byte = Arc::new(AtomicU8::new(1));
        let done = Arc::new(AtomicU32::new(0));
        let (said_tid, tid) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let (said_end, end) = mpsc::channel();
        let (its_byte, its_done) = (Arc::clone(&byte), Arc::clone(&done));
        let reader = std::thread::Builder::new().name("watch-test".into()).spawn(move || {
            // SAFETY: gettid has no arguments and always succeeds.
            let _ = said_tid.send(unsafe { libc::gettid() });
            if goes.recv().is_err() {
                return;
            }
            for _ in 0..TEST_READS {
                its_byte.load(Ordering::SeqCst);
                its_done.fetch_add(1, Ordering::SeqCst);
            }
            let _ = said_end.send(());
        });
        let unsupported = |reason: String| Support::Unsupported(reason);
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => return unsupported(format!("cannot start a thread to try it on: {error}")),
        };
        let Ok(tid) = tid.recv_timeout(TEST_TIME) else {
            return unsupported("the thread to try it on does not start".into());
        };
        let address = std::ptr::from_ref::<AtomicU8>(&byte) as u64;
        let event = match self.event(address, tid, -1, 0) {
            Ok(event) => event,
            Err(error) => return unsupported(why(address, error, std::process::id()).to_string()),
        };
        let _ = go.send(());
        let ended = end.recv_timeout(TEST_TIME).is_ok();
        let count = count(event.as_fd());
        drop(event);
        let _ = reader.join();
        match count {
            _ if !ended => unsupported(format!(
                "a thread does not get past a watched byte ({} of {TEST_READS} reads): this kernel does not step over \
                 it; Linux 6.10 does",
                done.load(Ordering::SeqCst)
            )),
            Ok(TEST_READS) => Support::Supported,
            Ok(count) => unsupported(format!(
                "{TEST_READS} reads of a watched byte were counted as {count}: the processor, or its emulation, does not \
                 have working debug registers"
            )),
            Err(error) => unsupported(format!("cannot read the count of a watchpoint: {error}")),
        }
    }
}

/// Debug registers of this thread that are free and work, tried without a program.
///
/// # Errors
/// There are none, or they can't be had.
pub fn free_registers() -> Result<usize, WatchError> {
    // No processor has more than 16 (arm64).
    let bytes: Vec<AtomicU64> = (0..16).map(AtomicU64::new).collect();
    let mut events = Vec::new();
    for byte in &bytes {
        let address = std::ptr::from_ref::<AtomicU64>(byte) as u64;
        match open(address, 0, -1, 0) {
            Ok(event) => events.push(event),
            Err(error) if events.is_empty() => return Err(why(address, error, 0)),
            Err(_) => break,
        }
    }
    // One is enough: emulated processors count accesses to several for one another.
    let (Some(event), Some(byte)) = (events.first(), bytes.first()) else { return Ok(0) };
    for _ in 0..TEST_READS {
        byte.load(Ordering::SeqCst);
    }
    match count(event.as_fd()).map_err(|error| why(0, error, 0))? {
        TEST_READS => Ok(events.len()),
        counted => Err(WatchError::Unsupported(io::Error::other(format!(
            "{TEST_READS} reads of a watched byte were counted as {counted}"
        )))),
    }
}

fn map<T>(map: &'static str, outcome: Result<T, MapError>) -> Result<T, ProbeError> {
    outcome.map_err(|source| ProbeError::Map { map, source })
}

fn open(address: u64, pid: i32, processor: i32, flags: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_BREAKPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        sample_period: 1,
        flags: flags | EXCLUDE_KERNEL | EXCLUDE_HV,
        bp_type: HW_BREAKPOINT_RW,
        bp_addr: address,
        bp_len: HW_BREAKPOINT_LEN_1,
        ..PerfEventAttr::default()
    };
    // SAFETY: the attributes are valid for the call and have the size that they say.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, processor, -1, PERF_FLAG_FD_CLOEXEC)
    };
    match i32::try_from(fd) {
        // SAFETY: the call has just opened the descriptor, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn attach(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open, and the request takes a descriptor by value.
    let outcome = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How often an event has happened.
fn count(event: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = [0; 8];
    // SAFETY: the buffer has 8 bytes, which is what an event without a read format gives.
    let read = unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    if read == 8 { Ok(u64::from_ne_bytes(count)) } else { Err(io::Error::last_os_error()) }
}

fn why(address: u64, error: io::Error, pid: u32) -> WatchError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EBUSY) => WatchError::NoSlot,
        Some(libc::EPERM | libc::EACCES) => WatchError::NotPermitted,
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENOSYS) => WatchError::Unsupported(error),
        Some(libc::ESRCH) => WatchError::Gone(pid),
        _ => WatchError::Other { address, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = |code| why(0x1000, io::Error::from_raw_os_error(code), 7).to_string();
        assert!(error(libc::ENOSPC).contains("debugger"));
        assert!(error(libc::EACCES).contains("CAP_PERFMON"));
        assert_eq!(error(libc::ESRCH), "process 7 has ended");
        assert!(error(libc::EINVAL).contains("0x1000"));
    }
}
