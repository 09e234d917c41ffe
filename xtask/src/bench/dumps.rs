//! `cargo xtask bench dumps`: dumps of a process that changes its objects all the time.
//!
//! First as many as asked for, back to back, whose values are compared with their checksums. Then what dumps cost
//! the process: its work with and without them, in turn.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::paths;
use tracekit_tests::process::Process;
use tracekit_tests::stage::Stage;

use super::{SHOP, build_example, machine, median, read_process};
use crate::setup::step;

/// How much to dump.
#[derive(Debug, clap::Args)]
pub struct Dumps {
    /// Dumps whose values are compared.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Pairs of measurements with and without dumps, for every rate.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Dumps a second; 0 is back to back. May be repeated.
    #[arg(long, default_values_t = [10, 100, 0])]
    rate: Vec<u32>,
    /// The interpreter that runs the process.
    #[arg(long, default_value = "/usr/bin/python3")]
    python: String,
}

/// Dumps and prints what was found.
///
/// # Errors
/// Something does not start, or a value is wrong and not marked.
pub fn run(arguments: &Dumps) -> Result<()> {
    let reader = build_example("reader")?;
    let stage = Stage::new("bench-dumps")?;
    println!("{}\n", machine(SHOP)?);
    if arguments.count > 0 {
        step(&format!("{} dumps", arguments.count));
        // Two threads keep two cores busy: one computes, the other waits for the GIL.
        let process = busy(&stage, arguments, 2)?;
        let count = arguments.count.to_string();
        let measured = read_process(&reader, process.pid(), &["--check", "--count", &count])?;
        println!(
            "{} Median {:.2} ms, p99 {:.2} ms.\n",
            measured["tally"].as_str().unwrap_or_default(),
            super::number(&measured, "median_ms")?,
            super::number(&measured, "p99_ms")?
        );
    }
    println!("| dumps a second | rounds a second without | with | ratio, median | least | most |");
    println!("|---|---|---|---|---|---|");
    for rate in &arguments.rate {
        step(&format!("cost of {rate} dumps a second"));
        let process = busy(&stage, arguments, 1)?;
        let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..arguments.rounds {
            // The order turns.
            let mut pair = [0.0; 2];
            for dumps in if round % 2 == 0 { [false, true] } else { [true, false] } {
                let _dumping = if dumps { Some(dumping(&reader, process.pid(), *rate)?) } else { None };
                std::thread::sleep(Duration::from_millis(500));
                pair[usize::from(dumps)] = work(&process, arguments.seconds)?;
            }
            without.push(pair[0]);
            with.push(pair[1]);
            ratios.push(pair[1] / pair[0]);
        }
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "| {} | {:.0} | {:.0} | {:.4} | {least:.4} | {most:.4} |",
            if *rate == 0 { "back to back".to_owned() } else { rate.to_string() },
            median(without),
            median(with),
            median(ratios)
        );
    }
    Ok(())
}

/// `busy.py` with so many threads.
fn busy(stage: &Stage, arguments: &Dumps, threads: usize) -> Result<Process> {
    let mut command = Command::new(&arguments.python);
    command.arg(paths::apps().join("busy.py")).arg(threads.to_string());
    let mut process = Process::start("busy", stage.logs(), command)?;
    let out = process.stdout_path().to_owned();
    process.ready(Duration::from_secs(20), || Ok(last_line(&out).is_ok().then_some(())))?;
    Ok(process)
}

/// Ends the dumps with its value.
struct Dumping(Child);

impl Drop for Dumping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Dumps with variables until the value is dropped.
fn dumping(reader: &Path, pid: u32, rate: u32) -> Result<Dumping> {
    let mut command = Command::new(reader);
    command.args(["--pid", &pid.to_string(), "--locals", "--count", "1000000000"]);
    command.args(["--rate", &rate.to_string()]).stdout(Stdio::null());
    Ok(Dumping(command.spawn().with_context(|| format!("start {command:?}"))?))
}

/// Rounds a second that the process does.
fn work(process: &Process, seconds: u64) -> Result<f64> {
    let (rounds, since) = last_line(process.stdout_path())?;
    std::thread::sleep(Duration::from_secs(seconds));
    let (more, until) = last_line(process.stdout_path())?;
    ensure!(until > since, "the process has stopped:\n{}", process.log_tail());
    Ok((more - rounds) / (until - since))
}

/// Rounds and time that the process has printed last.
fn last_line(out: &Path) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(out)?;
    let end = text.rfind('\n').context("it has printed nothing yet")?;
    let line = text.get(..end).and_then(|text| text.lines().last()).unwrap_or_default();
    let (rounds, time) = line.split_once(' ').with_context(|| format!("it printed {line}"))?;
    Ok((rounds.parse()?, time.parse()?))
}
