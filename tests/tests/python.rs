//! Reads every interpreter of `cargo xtask interpreters` and compares with what it says of itself
//! (`tests/apps/values.py`): values, stacks, code objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value as Json;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::python::code::{qualified_names, scan};
use tracekit_agent::python::frame::locals;
use tracekit_agent::python::object::{Content, Decoder, Limits};
use tracekit_agent::python::reader::{Code, Reader};
use tracekit_agent::python::runtime::Target;
use tracekit_tests::agent;
use tracekit_tests::interpreters::{Interpreter, Running, installed};
use tracekit_tests::paths;

/// What is compared: differences, or why it could not be read.
type Check = fn(&Subject, &Target, &Reader<'_>) -> Result<Vec<String>>;
const CHECKS: &[(&str, Check)] = &[("values", values), ("stacks", stacks), ("code", code)];
/// Failures of one interpreter that are reported.
const REPORTED: usize = 20;

/// A process that runs `tests/apps/values.py`, and what it says of itself.
struct Subject {
    process: Running,
    /// The interpreter's process: `process`, or a child of it.
    pid: u32,
    facts: Json,
}

impl Subject {
    fn start(interpreter: &Interpreter, jit: bool) -> Result<Self> {
        let mut command = interpreter.command();
        command.env("PYTHON_JIT", if jit { "1" } else { "0" });
        // From standard input: those in a tree of their own see no file of the repository.
        command.arg("-");
        Self::of(command, Stdio::from(File::open(paths::apps().join("values.py"))?))
    }

    fn of(command: Command, input: Stdio) -> Result<Self> {
        let process = Running::start(command, input)?;
        let facts = serde_json::from_str(&process.said).context("what it prints is no JSON")?;
        Ok(Self { pid: process.pid(), process, facts })
    }

    fn open(&self) -> Result<Target> {
        let inspector = Inspector::default();
        let inspected = inspector.inspect(self.pid)?;
        Ok(Target::open(&inspector.proc, &inspected)?)
    }
}

/// Runs a check for every row, two at a time: while one process starts, another is read.
fn for_each<T: Sync>(
    rows: &[T],
    name: impl Fn(&T) -> String + Sync,
    check: impl Fn(&T) -> Result<Vec<String>> + Sync,
) -> Result<()> {
    let next = Mutex::new(rows.iter());
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(row) = next.lock().ok().and_then(|mut rows| rows.next()) {
            let found = check(row).unwrap_or_else(|error| vec![format!("{error:#}")]);
            let found = found.into_iter().take(REPORTED).map(|failure| format!("{}: {failure}", name(row)));
            if let Ok(mut failures) = failures.lock() {
                failures.extend(found);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    ensure!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

fn large_limits() -> Limits {
    Limits {
        depth: 50,
        items: 1000,
        fields: 1000,
        text: 1000,
        values: 10_000_000,
        time: Duration::from_secs(100),
    }
}

fn short(value: &Json) -> String {
    value.to_string().chars().take(160).collect()
}

/// The facts of one kind.
fn told<'f>(facts: &'f Json, kind: &str) -> Result<&'f Vec<Json>> {
    facts[kind].as_array().with_context(|| format!("it says nothing of its {kind}"))
}

/// Every value of the corpus that the main thread holds, in JSON and as text.
fn values(subject: &Subject, target: &Target, reader: &Reader<'_>) -> Result<Vec<String>> {
    let main = subject.pid;
    let stacks = target.stacks(reader, None, |_, tid| tid == Some(main))?;
    let mut frames = stacks.iter().flat_map(|stack| &stack.stack.frames);
    let frame = frames.find(|frame| frame.code.name == "hold").context("no frame of hold()")?;
    let variables = locals(reader, frame)?;
    let corpus = variables.iter().find(|local| local.name == "values").context("no variable values")?;
    let mut decoder = Decoder::new(reader, large_limits(), false);
    let value = decoder.value(corpus.object);
    let Content::Entries(entries) = &value.content else { bail!("the corpus is {value}") };
    let expected = subject.facts["values"].as_object().context("it says nothing of its values")?;
    let mut failures = Vec::new();
    if entries.len() != expected.len() {
        failures.push(format!("{} values, not {}", entries.len(), expected.len()));
    }
    for (key, value) in entries {
        let Content::Str(name) = &key.content else { continue };
        let (got, wanted) = (value.to_json(), &expected[name]);
        if got != *wanted {
            failures.push(format!("{name}: {} is not {}", short(&got), short(wanted)));
        }
        let wanted = subject.facts["text"][name].as_str();
        let has_surrogate = value.to_string().contains('\u{fffd}');
        if let Some(wanted) = wanted.filter(|_| value.truncated.is_none() && !has_surrogate)
            && value.to_string() != *wanted
        {
            failures.push(format!("{name}: the text {value} is not {wanted}"));
        }
    }
    Ok(failures)
}

/// Files, lines and functions of the stacks of all parked threads.
fn stacks(subject: &Subject, target: &Target, reader: &Reader<'_>) -> Result<Vec<String>> {
    let stacks = target.stacks(reader, None, |_, _| true)?;
    let expected = subject.facts["stacks"].as_object().context("it says nothing of its stacks")?;
    ensure!(expected.len() == 7, "{} threads", expected.len());
    let mut failures = Vec::new();
    for (native_id, wanted) in expected {
        let is_wanted = |id: Option<u32>| id.is_some_and(|id| id.to_string() == *native_id);
        let Some(found) = stacks.iter().find(|stack| is_wanted(stack.state.native_id)) else {
            failures.push(format!("no thread {native_id}"));
            continue;
        };
        let frames: Vec<Json> = found
            .stack
            .frames
            .iter()
            .map(|frame| serde_json::json!([frame.code.filename, frame.line, frame.code.name]))
            .collect();
        let got = Json::Array(frames);
        if got != *wanted || found.changing || found.stack.broken.is_some() {
            failures.push(format!("thread {native_id}: {got} is not {wanted}: {:?}", found.stack.broken));
        }
    }
    Ok(failures)
}

/// Lines of every instruction of every code object of the script, and the qualified names of its functions.
fn code(subject: &Subject, target: &Target, reader: &Reader<'_>) -> Result<Vec<String>> {
    let found = scan(target, reader)?;
    let own: Vec<_> = found.codes.iter().filter(|code| code.filename == "<stdin>").cloned().collect();
    let names = qualified_names(reader, &own);
    let mut failures = Vec::new();
    for wanted in told(&subject.facts, "code")? {
        let (name, first) = (wanted[0].as_str().unwrap_or_default(), wanted[1].as_i64());
        let lines = wanted[2].as_array().context("a code object has no lines")?;
        let same = own.iter().filter(|code| code.name == name && Some(code.first_line.into()) == first);
        let fits = |code: &Code| {
            lines.iter().all(|pair| {
                let at = pair[0].as_u64().and_then(|at| u32::try_from(at).ok());
                at.is_some_and(|at| code.line_at(at).map(i64::from) == pair[1].as_i64())
            })
        };
        if !same.clone().any(|code| fits(code)) {
            failures.push(format!("{name}:{first:?}: {} code objects, no lines as in it", same.count()));
        }
    }
    let mut qualnames: BTreeMap<(&str, i64), Vec<&String>> = BTreeMap::new();
    for code in &own {
        let name = names.get(&code.address).context("a code object has no qualified name")?;
        qualnames.entry((&code.name, code.first_line.into())).or_default().push(name);
    }
    for wanted in told(&subject.facts, "qualnames")? {
        let key = (wanted[0].as_str().unwrap_or_default(), wanted[1].as_i64().unwrap_or_default());
        let wanted = wanted[2].as_str().unwrap_or_default();
        let got = qualnames.get(&key).cloned().unwrap_or_default();
        if !got.iter().any(|name| *name == wanted) {
            failures.push(format!("{key:?}: {got:?} is not {wanted}"));
        }
    }
    Ok(failures)
}

#[test]
fn every_interpreter_is_read_as_it_says() -> Result<()> {
    let interpreters = installed()?;
    ensure!(!interpreters.is_empty(), "the manifest has no interpreter: run `cargo xtask interpreters`");
    // Debian's of these versions have the JIT, switched off unless asked for.
    let has_jit =
        |row: &&Interpreter| row.is("debian") && !row.is("debug") && matches!(row.minor(), "3.14" | "3.15");
    let plain = interpreters.iter().map(|interpreter| (interpreter, false));
    let jit = interpreters.iter().filter(has_jit).map(|interpreter| (interpreter, true));
    let rows: Vec<(&Interpreter, bool)> = plain.chain(jit).collect();
    let check = |(interpreter, jit): &(&Interpreter, bool)| {
        let subject = Subject::start(interpreter, *jit)?;
        let reported = subject.facts["jit"].as_bool().unwrap_or_default();
        ensure!(reported == *jit, "the JIT is on: {reported}");
        let target = subject.open()?;
        let reader = target.reader()?;
        let mut failures = Vec::new();
        for (what, check) in CHECKS {
            let found = check(&subject, &target, &reader).unwrap_or_else(|error| vec![format!("{error:#}")]);
            failures.extend(found.into_iter().map(|failure| format!("{what}: {failure}")));
        }
        println!("{}: {} values", interpreter.id, subject.facts["values"].as_object().map_or(0, |v| v.len()));
        Ok(failures)
    };
    let name = |(interpreter, jit): &(&Interpreter, bool)| {
        format!("{}{}", interpreter.id, if *jit { " with the JIT" } else { "" })
    };
    for_each(&rows, name, check)
}

#[test]
fn a_process_in_a_pid_namespace() -> Result<()> {
    // Before 3.11 native thread ids come from the C library's descriptors, which differ.
    let ids = ["3.8-pyenv", "3.9-debian-bullseye", "3.12-pyenv", "3.13-musl", "3.14-debian-sid"];
    let mut rows = installed()?;
    rows.retain(|row| ids.contains(&row.id.as_str()));
    ensure!(!rows.is_empty(), "none of {ids:?} is there: run `cargo xtask interpreters`");
    let check = |interpreter: &Interpreter| {
        let inside = interpreter.command();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(inside.get_program()).args(inside.get_args());
        command.arg("-");
        let mut subject = Subject::of(command, Stdio::from(File::open(paths::apps().join("values.py"))?))?;
        let children = tracekit_tests::process::children(subject.process.pid());
        subject.pid = *children.first().context("unshare has no child")?;
        let target = subject.open()?;
        let reader = target.reader()?;
        let mut failures = stacks(&subject, &target, &reader)?;
        let found = target.stacks(&reader, None, |_, _| true)?;
        if !found.iter().any(|stack| stack.tid == Some(subject.pid) && stack.state.native_id == Some(1)) {
            failures.push("its main thread is not thread 1 inside, and its pid outside".to_owned());
        }
        Ok(failures)
    };
    for_each(&rows, |interpreter| interpreter.id.clone(), check)
}

/// A thread of another interpreter in the same process waits in `inner`.
const SUBINTERPRETER: &str = "
import os, threading, time
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
reading, writing = os.pipe()
code = '''
import os, time
def inner():
    os.write(%d, b'x')
    time.sleep(3600)
inner()
''' % writing
def outer():
    run = getattr(interpreters, 'exec', None) or interpreters.run_string
    run(interpreters.create(), code)
threading.Thread(target=outer, daemon=True).start()
os.read(reading, 1)
time.sleep(0.05)
print('ready', flush=True)
time.sleep(3600)
";

#[test]
fn every_interpreter_of_a_process_is_read() -> Result<()> {
    let check = |interpreter: &Interpreter| {
        let mut command = interpreter.command();
        command.args(["-c", SUBINTERPRETER]);
        let process = Running::start(command, Stdio::null())?;
        let inspector = Inspector::default();
        let target = Target::open(&inspector.proc, &inspector.inspect(process.pid())?)?;
        let reader = target.reader()?;
        let found: Vec<(bool, Vec<String>)> = target
            .stacks(&reader, None, |_, _| true)?
            .iter()
            .map(|thread| {
                let names = thread.stack.frames.iter().map(|frame| frame.code.name.clone());
                (thread.state.interpreter == 0, names.collect())
            })
            .collect();
        let has = |main: bool, names: &[&str]| {
            found
                .iter()
                .any(|(of_main, frames)| *of_main == main && frames.iter().take(names.len()).eq(names))
        };
        let all =
            has(false, &["inner", "<module>"]) && has(true, &["<module>"]) && has(true, &["outer", "run"]);
        Ok(if all { Vec::new() } else { vec![format!("{found:?}")] })
    };
    for_each(&installed()?, |interpreter| interpreter.id.clone(), check)
}

#[test]
fn the_thread_that_runs_holds_the_gil() -> Result<()> {
    let check = |interpreter: &Interpreter| {
        let mut command = interpreter.command();
        command.args(["-c", "print('ready', flush=True)\nwhile True: pass"]);
        let process = Running::start(command, Stdio::null())?;
        let inspector = Inspector::default();
        let target = Target::open(&inspector.proc, &inspector.inspect(process.pid())?)?;
        let mut seen = BTreeSet::new();
        // It gave the GIL away to print, and may not have it back yet.
        for _ in 0..200 {
            let stacks = target.stacks(&target.reader()?, None, |_, _| true)?;
            seen.insert(stacks.first().context("no thread")?.state.holds_gil);
            if !seen.contains(&Some(false)) || seen.contains(&Some(true)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let wanted = if interpreter.is("freethreaded") { None } else { Some(true) };
        Ok(if seen.contains(&wanted) { Vec::new() } else { vec![format!("{seen:?} is not {wanted:?}")] })
    };
    for_each(&installed()?, |interpreter| interpreter.id.clone(), check)
}

/// Interpreters with a numpy of their own: `tests/requirements/numpy-*.txt`.
const NUMPY: &[&str] = &["numpy-1.24", "numpy-1.26", "numpy-2.0", "numpy-2", "numpy-freethreaded"];

#[test]
fn every_numpy_is_read_as_it_says() -> Result<()> {
    let check = |environment: &&str| {
        let mut command = Command::new(paths::venv(environment, "python")?);
        command.arg(paths::apps().join("numpy_values.py"));
        let subject = Subject::of(command, Stdio::null())?;
        let target = subject.open()?;
        values(&subject, &target, &target.reader()?)
    };
    for_each(NUMPY, |environment| (*environment).to_owned(), check)
}

#[test]
fn the_verbs_redact_unless_told_otherwise() -> Result<()> {
    let interpreters = installed()?;
    let interpreter = interpreters.last().context("no interpreter: run `cargo xtask interpreters`")?;
    let subject = Subject::start(interpreter, false)?;
    let pid = subject.pid.to_string();
    let run = |arguments: &[&str]| tracekit_tests::process::run(&mut agent::command(arguments)?);
    for format in ["table", "json"] {
        let text = run(&["dump", "--pid", &pid, "--locals", "--all-threads", "-o", format])?;
        ensure!(text.contains("fine") && !text.contains("hunter2"), "{text}");
    }
    let shown = run(&["dump", "--pid", &pid, "--locals", "--show-secrets"])?;
    ensure!(shown.contains("password = 'hunter2'"), "{shown}");
    let code: Json = serde_json::from_str(&run(&["code", "--pid", &pid, "<stdin>", "-o", "json"])?)?;
    let functions = code[0]["functions"].as_array().context("no functions")?;
    ensure!(functions.iter().any(|row| row["name"] == "Worker.run"), "{functions:?}");
    Ok(())
}
