//! Dumps of processes that change their objects all the time: whatever is not marked must be true. Few dumps
//! here; `cargo xtask bench dumps` does a hundred thousand.

mod busy;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use busy::Tally;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::python::dump::Variables;
use tracekit_agent::python::object::Limits;
use tracekit_agent::python::runtime::Target;
use tracekit_tests::interpreters::{Interpreter, installed};
use tracekit_tests::paths;
use tracekit_tests::process::Process;
use tracekit_tests::stage::Stage;

/// Seconds of dumps for one interpreter.
const SECONDS: Duration = Duration::from_secs(2);
/// Checksums that must have been compared, so that something was tested, and how long that may take where
/// threads rarely stand still.
const ENOUGH: u64 = 100;
/// Where there is no GIL they only rest when they wait for each other.
const ENOUGH_WITHOUT_GIL: u64 = 10;
const LIMIT: Duration = Duration::from_secs(180);

/// Dumps a busy process for a while, and until there is enough to say something.
fn dump(pid: u32, enough: u64) -> Result<Tally> {
    let inspector = Inspector::default();
    let inspected = inspector.inspect(pid)?;
    let target = Target::open(&inspector.proc, &inspected)?;
    let reader = target.reader()?;
    let variables = Variables { limits: Limits::default(), redact: false };
    let mut tally = Tally::default();
    let start = Instant::now();
    while start.elapsed() < SECONDS || (tally.compared < enough && start.elapsed() < LIMIT) {
        tally.add(&target.stacks(&reader, Some(variables), |_, _| true)?);
    }
    Ok(tally)
}

/// Returns how many torn values were noticed.
fn check(interpreter: &Interpreter, logs: &Path) -> Result<u64> {
    let mut command = interpreter.command();
    command.arg(paths::apps().join("busy.py")).arg("2");
    let mut process = Process::start(&interpreter.id, logs, command)?;
    // It has done some rounds when it has said so twice.
    process
        .ready(Duration::from_secs(20), || Ok((process_lines(logs, &interpreter.id) > 1).then_some(())))?;
    let enough = if interpreter.is("freethreaded") { ENOUGH_WITHOUT_GIL } else { ENOUGH };
    let tally = dump(process.pid(), enough)?;
    println!("{}: {tally}", interpreter.id);
    ensure!(process.exited()?.is_none(), "the process has ended:\n{}", process.log_tail());
    ensure!(tally.wrong == 0 && tally.unreadable == 0, "{tally}");
    ensure!(tally.compared >= enough, "{tally}");
    Ok(tally.caught)
}

fn process_lines(logs: &Path, name: &str) -> usize {
    std::fs::read_to_string(logs.join(format!("{name}.out"))).map_or(0, |text| text.lines().count())
}

#[test]
fn no_wrong_value_of_a_busy_process_goes_unnoticed() -> Result<()> {
    Stage::run("dumps", |stage| {
        let (mut failures, mut caught) = (Vec::new(), 0);
        // One build of each version: they differ in how they are linked only. What has a root of its own has
        // not got the application in it.
        let mut seen = std::collections::BTreeSet::new();
        for interpreter in installed()? {
            let kind = (interpreter.minor().to_owned(), interpreter.is("freethreaded"));
            if interpreter.root.is_some() || !seen.insert(kind) {
                continue;
            }
            match check(&interpreter, stage.logs()) {
                Ok(found) => caught += found,
                Err(error) => failures.push(format!("{}: {error:#}", interpreter.id)),
            }
        }
        // Torn values must have been there, or nothing was tested.
        if caught == 0 {
            failures.push("no value was torn".into());
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        Ok(())
    })
}
