//! The debug registers, of which the whole machine has four.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};

use crate::process::run;

/// Waits for all other tests with breakpoints: there are four debug registers for the whole machine.
///
/// # Errors
/// The file that stands for them cannot be locked.
pub fn debug_registers() -> Result<File> {
    let path = std::env::temp_dir().join("tracekit-debug-registers.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Runs a test with breakpoints while no other has any; again if it failed and the machine did: see [`Faults`].
///
/// # Errors
/// Those of the test, of [`debug_registers`] and [`Faults`].
pub fn with_debug_registers(mut test: impl FnMut() -> Result<()>) -> Result<()> {
    let _registers = debug_registers()?;
    let mut faults = Faults::count()?;
    for _ in 0..2 {
        let Err(error) = test() else { return Ok(()) };
        let seen = faults.since()?;
        ensure!(seen > 0, error);
        println!("again, after {seen} debug exceptions without a reason: {error:#}");
    }
    test()
}

/// Debug exceptions without a reason (DR6 is 0), which some virtual machines raise now and then where watchpoints are
/// hit. Linux takes them for the instruction `INT1` and kills who gets one: see docs/compatibility.md.
pub struct Faults {
    processors: Vec<Counter>,
    seen: u64,
}

impl Faults {
    /// Counts them from now on, on every processor.
    ///
    /// # Errors
    /// There is no tracefs, or the kernel does not count signals.
    pub fn count() -> Result<Self> {
        // `TRAP_BRKPT`, which `exc_debug` sends and `INT3` does not.
        const FILTER: &CStr = c"sig == 5 && code == 1";
        const PERF_EVENT_IOC_SET_FILTER: libc::c_ulong = 0x4008_2406;
        let event = Tracepoint::with_id(signal_generate()?);
        let mut processors = Vec::new();
        for processor in 0..std::thread::available_parallelism()?.get() {
            let mut builder = Builder::new(event);
            let builder = builder.any_pid().one_cpu(processor).include_kernel().include_hv();
            let mut counter = builder.build().context("count signals")?;
            // SAFETY: the kernel reads the filter, up to its 0.
            let outcome =
                unsafe { libc::ioctl(counter.as_raw_fd(), PERF_EVENT_IOC_SET_FILTER, FILTER.as_ptr()) };
            ensure!(outcome == 0, "count SIGTRAP: {}", std::io::Error::last_os_error());
            counter.enable()?;
            processors.push(counter);
        }
        Ok(Self { processors, seen: 0 })
    }

    /// How many there were since the last call.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn since(&mut self) -> Result<u64> {
        let counts = self.processors.iter_mut().map(Counter::read);
        let all = counts.sum::<std::io::Result<u64>>().context("read how many signals were counted")?;
        Ok(all - std::mem::replace(&mut self.seen, all))
    }
}

/// The number of that tracepoint.
fn signal_generate() -> Result<u64> {
    const ID: &str = "/sys/kernel/tracing/events/signal/signal_generate/id";
    if !Path::new(ID).exists() {
        run(Command::new("mount").args(["-t", "tracefs", "nodev", "/sys/kernel/tracing"]))?;
    }
    let id = std::fs::read_to_string(ID).with_context(|| format!("read {ID}"))?;
    id.trim_end().parse().with_context(|| format!("{ID} is {id:?}"))
}
