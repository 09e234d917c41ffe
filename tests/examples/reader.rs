//! Dumps a process from within one long-lived process, as a running agent would, and says as JSON how long that
//! took: what `cargo xtask bench reader` and `bench dumps` measure. With `--check`, the process is `busy.py` and
//! its values are compared with their checksums.

#[path = "../tests/busy/mod.rs"]
mod busy;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use busy::Tally;
use serde_json::json;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::python::code::scan;
use tracekit_agent::python::dump::Variables;
use tracekit_agent::python::object::Limits;
use tracekit_agent::python::runtime::Target;

/// The arguments.
struct Arguments {
    pid: u32,
    /// Dumps.
    count: usize,
    /// Dumps a second at most; 0 is as fast as they can be had.
    rate: f64,
    locals: bool,
    check: bool,
    /// Search for code objects instead.
    code: bool,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { pid: 0, count: 1, rate: 0.0, locals: false, check: false, code: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--pid" => parsed.pid = value()?.parse()?,
            "--count" => parsed.count = value()?.parse()?,
            "--rate" => parsed.rate = value()?.parse()?,
            "--locals" => parsed.locals = true,
            "--check" => parsed.check = true,
            "--code" => parsed.code = true,
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(parsed)
}

/// Processor time that this process has used.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is of a timespec that lives until the call is over; on failure it stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let variables = Variables { limits: Limits::default(), redact: false };
    let variables = (arguments.locals || arguments.check).then_some(variables);
    let begin = Instant::now();
    let inspector = Inspector::default();
    let inspected = inspector.inspect(arguments.pid)?;
    let target = Target::open(&inspector.proc, &inspected)?;
    let reader = target.reader()?;
    let opened = begin.elapsed();
    let (mut times, mut tally, mut sizes) = (Vec::new(), Tally::default(), [0; 3]);
    // Processor time of all but the first, which does not depend on what else runs.
    let mut used = Duration::ZERO;
    for turn in 0..arguments.count {
        if arguments.rate > 0.0 {
            let due = begin + Duration::from_secs_f64(turn as f64 / arguments.rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let (start, before) = (Instant::now(), processor_time());
        if arguments.code {
            let found = scan(&target, &reader)?;
            times.push(start.elapsed());
            used += if turn == 0 { Duration::ZERO } else { processor_time().saturating_sub(before) };
            sizes = [found.codes.len(), (found.searched >> 20) as usize, 0];
            continue;
        }
        let threads = target.stacks(&reader, variables, |_, _| true)?;
        times.push(start.elapsed());
        used += if turn == 0 { Duration::ZERO } else { processor_time().saturating_sub(before) };
        if arguments.check {
            tally.add(&threads);
        } else {
            let frames = threads.iter().flat_map(|thread| &thread.frames);
            let of_frame = |frame: &tracekit_agent::python::dump::FrameState| {
                frame.variables.as_ref().map_or(0, Vec::len)
            };
            sizes = [threads.len(), frames.clone().count(), frames.map(of_frame).sum()];
        }
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let first = times.first().copied().context("nothing to do with --count 0")?;
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    let result = json!({
        "open_ms": milliseconds(opened),
        "first_ms": milliseconds(first),
        "median_ms": milliseconds(at(0.5)),
        "p99_ms": milliseconds(at(0.99)),
        "processor_ms": milliseconds(used) / (arguments.count.saturating_sub(1).max(1) as f64),
        "sizes": sizes,
        "tally": arguments.check.then(|| tally.to_string()),
        "changing_threads": tally.changing_threads,
        "threads": tally.threads,
        "compared": tally.compared,
        "caught": tally.caught,
        "unproven": tally.unproven,
        "wrong": tally.wrong + tally.unreadable,
    });
    println!("{result}");
    ensure!(tally.wrong == 0 && tally.unreadable == 0, "{tally}");
    Ok(())
}
