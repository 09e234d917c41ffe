//! Dumps of processes that change their objects all the time: whatever is not marked must be true.

mod busy;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use busy::Tally;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::python::dump::Variables;
use tracekit_agent::python::object::Limits;
use tracekit_agent::python::runtime::Target;
use tracekit_tests::interpreters::{Interpreter, installed};
use tracekit_tests::paths;
use tracekit_tests::process::Process;
use tracekit_tests::stage::Stage;

/// Seconds of dumps for one interpreter, unless `TRACEKIT_DUMPS_SECONDS` says otherwise.
const SECONDS: u64 = 3;

/// Dumps a busy process until the time is over.
fn dump_for(pid: u32, duration: Duration) -> Result<Tally> {
    let inspector = Inspector::default();
    let inspected = inspector.inspect(pid)?;
    let target = Target::open(&inspector.proc, &inspected)?;
    let reader = target.reader()?;
    let variables = Variables { limits: Limits::default(), redact: false };
    let mut tally = Tally::default();
    let start = Instant::now();
    while start.elapsed() < duration {
        tally.add(&target.stacks(&reader, Some(variables), |_, _| true)?);
    }
    Ok(tally)
}

fn check(interpreter: &Interpreter, logs: &Path) -> Result<()> {
    let seconds = match std::env::var("TRACEKIT_DUMPS_SECONDS") {
        Ok(text) => text.parse().context("TRACEKIT_DUMPS_SECONDS is not a number")?,
        Err(_) => SECONDS,
    };
    let mut command = interpreter.command();
    command.arg(paths::apps().join("busy.py")).arg("2");
    let mut process = Process::start(&interpreter.id, logs, command)?;
    // It has done some rounds when it has said so twice.
    process
        .ready(Duration::from_secs(20), || Ok((process_lines(logs, &interpreter.id) > 1).then_some(())))?;
    let tally = dump_for(process.pid(), Duration::from_secs(seconds))?;
    println!("{}: {tally}", interpreter.id);
    ensure!(process.exited()?.is_none(), "the process has ended:\n{}", process.log_tail());
    ensure!(tally.wrong == 0 && tally.unreadable == 0, "{tally}");
    // Otherwise nothing was tested.
    ensure!(tally.dumps > 20 && tally.compared > 10 * tally.dumps, "{tally}");
    Ok(())
}

fn process_lines(logs: &Path, name: &str) -> usize {
    std::fs::read_to_string(logs.join(format!("{name}.out"))).map_or(0, |text| text.lines().count())
}

#[test]
fn no_wrong_value_of_a_busy_process_goes_unnoticed() -> Result<()> {
    Stage::run("dumps", |stage| {
        let mut failures = Vec::new();
        // One build of each version: they differ in how they are linked only. What has a root of its own has
        // not got the application in it.
        let mut seen = std::collections::BTreeSet::new();
        for interpreter in installed()? {
            let kind = (interpreter.minor().to_owned(), interpreter.is("freethreaded"));
            if interpreter.root.is_some() || !seen.insert(kind) {
                continue;
            }
            if let Err(error) = check(&interpreter, stage.logs()) {
                failures.push(format!("{}: {error:#}", interpreter.id));
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        Ok(())
    })
}
