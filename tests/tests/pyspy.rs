//! `tracekit dump` and py-spy's `dump` of the same processes: what py-spy shows, tracekit shows.
//!
//! Every thread, every frame with its function, file and line, and every local variable with its value must be
//! the same. Permitted are differences in which py-spy says less:
//!
//! - integers beyond 64 bits, which it prints as `+bigint`;
//! - objects that it does not decode and prints as `<X at 0x…>`: the type must be X, and what is in `others` of
//!   `tests/apps/locals.py` must have been decoded; variables that closures share, which it prints as
//!   `<cell at 0x…>`, must be their values;
//! - what either cuts short: the parts that both have must be equal;
//! - the forms of literals: it prints `3` for 3.0 and `(3)` for `(3,)`, and strings always in double quotes.
//!
//! py-spy reads without pausing the process here, as tracekit does: the process stands still.

mod shown;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value as Json;
use shown::Shown;
use tracekit_tests::interpreters::{Interpreter, installed};
use tracekit_tests::process::run as output_of;
use tracekit_tests::{agent, paths};

/// Versions that py-spy must be able to read, so that something is compared.
const READ_BY_PYSPY: &[&str] = &["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];

/// What was compared.
#[derive(Debug, Default)]
struct Compared {
    frames: usize,
    variables: usize,
    /// Values that only tracekit decodes.
    decoded: usize,
}

/// Ends the process with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `locals.py` and waits until its threads stand still.
fn start(mut command: Command) -> Result<Running> {
    let script = std::fs::File::open(paths::apps().join("locals.py"))?;
    command.arg("-").stdin(script).stdout(Stdio::piped());
    let mut running = Running(command.spawn().with_context(|| format!("start {command:?}"))?);
    let out = running.0.stdout.take().context("its standard output is a pipe")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    ensure!(line == "ready\n", "{command:?} said {line:?}");
    Ok(running)
}

fn list<'j>(value: &'j Json, key: &str) -> Result<&'j Vec<Json>> {
    value[key].as_array().with_context(|| format!("no {key} in {value}"))
}

fn compare(theirs: &Json, ours: &Json) -> Result<Compared> {
    let mut compared = Compared::default();
    let threads = list(ours, "threads")?;
    for thread in theirs.as_array().context("not a list of threads")? {
        let id = &thread["thread_id"];
        let same = threads.iter().find(|ours| ours["thread_id"] == *id);
        let same = same.with_context(|| format!("no thread {}", thread["thread_name"]))?;
        ensure!(same["changing"] == false, "thread {id} stands still, but is marked");
        if !thread["os_thread_id"].is_null() {
            ensure!(thread["os_thread_id"] == same["tid"], "thread {id}: tid {}", same["tid"]);
        }
        let places = |thread: &Json, keys: [&str; 3]| -> Result<Vec<Vec<Json>>> {
            let frames = list(thread, "frames")?.iter();
            Ok(frames.map(|frame| keys.iter().map(|key| frame[*key].clone()).collect()).collect())
        };
        let wanted = places(thread, ["name", "filename", "line"])?;
        let found = places(same, ["function", "file", "line"])?;
        ensure!(wanted == found, "thread {id}:\n{wanted:?}\nis not\n{found:?}");
        for (theirs, ours) in list(thread, "frames")?.iter().zip(list(same, "frames")?) {
            compared.frames += 1;
            let variables = theirs["locals"].as_array().into_iter().flatten();
            for variable in variables {
                let name = variable["name"].as_str().context("a variable without a name")?;
                let text = variable["repr"].as_str().with_context(|| format!("{name} without a value"))?;
                let place = || format!("{} in {}: {text}", name, theirs["name"]);
                let shown = Shown::parse(text).with_context(place)?;
                let value = &ours["locals"][name];
                shown.agrees(value).with_context(place)?;
                ensure!(value["changing"].is_null(), "{}: is marked", place());
                compared.variables += 1;
                if matches!(shown, Shown::Object(_)) {
                    let has_parts = |key: &str| match &value[key] {
                        Json::Object(parts) => !parts.is_empty(),
                        Json::Array(parts) => !parts.is_empty(),
                        other => !other.is_null(),
                    };
                    let is_decoded = ["value", "elements", "entries", "fields"].into_iter().any(has_parts);
                    ensure!(is_decoded || theirs["name"] != "others", "{}: {value}", place());
                    compared.decoded += usize::from(is_decoded);
                }
            }
        }
    }
    Ok(compared)
}

/// Compares one process; `None` if py-spy cannot read it.
fn check(command: Command) -> Result<Option<Compared>> {
    let process = start(command)?;
    let pid = process.0.id().to_string();
    let mut pyspy = Command::new(paths::venv("pyspy", "py-spy")?);
    pyspy.args(["dump", "--json", "--nonblocking", "-llll", "--pid", &pid]);
    let theirs = match output_of(&mut pyspy) {
        Ok(text) => serde_json::from_str(&text).context("py-spy's output")?,
        Err(error) => {
            println!("py-spy: {}", error.to_string().lines().nth(1).unwrap_or_default());
            return Ok(None);
        }
    };
    let arguments = ["dump", "--all-threads", "--locals", "--show-secrets", "--depth", "8", "-o", "json"];
    let ours = output_of(agent::command(&arguments)?.args(["--pid", &pid]))?;
    let ours: Json = serde_json::from_str(&ours).context("tracekit's output")?;
    compare(&theirs, &ours).map(Some)
}

/// The interpreters, and Debian's own of this machine.
fn commands() -> Result<Vec<(String, String, Command)>> {
    let row = |interpreter: &Interpreter| {
        (interpreter.id.clone(), interpreter.minor().to_owned(), interpreter.command())
    };
    let mut rows: Vec<_> = installed()?.iter().map(row).collect();
    if Path::new("/usr/bin/python3").exists() {
        rows.push(("python3 of the system".into(), String::new(), Command::new("/usr/bin/python3")));
    }
    Ok(rows)
}

#[test]
fn what_pyspy_shows_is_shown() -> Result<()> {
    let (mut failures, mut read) = (Vec::new(), Vec::new());
    for (id, minor, command) in commands()? {
        match check(command) {
            Ok(Some(compared)) => {
                println!("{id}: {compared:?}");
                if compared.frames < 70 || compared.variables < 90 || compared.decoded < 15 {
                    failures.push(format!("{id}: too little was compared: {compared:?}"));
                }
                read.push(minor);
            }
            Ok(None) => println!("{id}: not compared"),
            Err(error) => failures.push(format!("{id}: {error:#}")),
        }
    }
    for minor in READ_BY_PYSPY {
        if !read.iter().any(|found| found == minor) {
            failures.push(format!("no Python {minor} was compared"));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
