//! Line breakpoints count every execution and capture what the program had, on every interpreter.

mod watching;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::probes::watchpoint::Scope;
use tracekit_agent::python::object::{Content, Limits};
use tracekit_agent::snapshot::engine::{EngineError, LineSpec, State};
use tracekit_common::watchpoint::{Bucket, MAX_ITEMS, bucket_of_process};
use tracekit_tests::debug_registers::{Faults, with_debug_registers};
use tracekit_tests::interpreters::{Interpreter, installed, python};
use tracekit_tests::paths;

use self::watching::{Hit, Stage};

/// How the program is called, which comes as an argument: not `<string>`, which code that libraries make is.
const FILE: &str = "app/lines.py";
const BEGIN: &str = "import sys; exec(compile(sys.argv[1], 'app/lines.py', 'exec'))";
/// Rounds of the program for each batch of lines.
const ROUNDS: u64 = 5;

/// A process that ends with the test.
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command, source: &str) -> Result<Self> {
        command
            .args(["-c", BEGIN, source])
            .env("PYTHON_JIT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut running = Self { child, input, output };
        ensure!(running.line()? == "ready", "it is not ready");
        Ok(running)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "it ended: {:?}", self.child.wait()?);
        Ok(line.trim_end().to_owned())
    }

    fn say(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        self.line()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines with a mark `#= N`, and N.
fn marked(source: &str) -> Vec<(i32, u64)> {
    let number = |at: usize| i32::try_from(at + 1).ok();
    source
        .lines()
        .enumerate()
        .filter_map(|(at, line)| Some((number(at)?, line.split_once("#= ")?.1.trim().parse().ok()?)))
        .collect()
}

/// Adds breakpoints from `lines` as long as their addresses fit the registers; the breakpoints.
fn batch(
    stage: &mut Stage,
    pid: u32,
    lines: &mut impl Iterator<Item = (i32, u64)>,
    held: &mut Option<(i32, u64)>,
    capture: bool,
    failures: &mut Vec<String>,
) -> Result<Vec<(u32, i32, u64)>> {
    let (mut used, mut added) = (0, Vec::new());
    while let Some((line, wanted)) = held.take().or_else(|| lines.next()) {
        let limits = Limits { time: Duration::from_secs(20), ..Limits::default() };
        let spec = LineSpec { capture, limits, bytes: 32 * 1024, ..LineSpec::new(FILE, line) };
        let id = match stage.engine.add(pid, spec) {
            Ok(id) => id,
            // Some lines have code in some versions only.
            Err(EngineError::Line(_)) if wanted == 0 => continue,
            Err(error) => {
                failures.push(format!("line {line}: {error}"));
                continue;
            }
        };
        let status = stage.engine.status(id).context("it has a status")?;
        let places = status.places.len();
        if used + places > stage.engine.registers() {
            stage.engine.remove(id);
            ensure!(!added.is_empty(), "line {line} has {places} addresses: {status:?}");
            *held = Some((line, wanted));
            break;
        }
        used += places;
        added.push((id, line, wanted));
    }
    Ok(added)
}

/// Runs `command`, in which each line runs `rounds` times what its mark says, for all lines in batches.
fn count(
    stage: &mut Stage,
    running: &mut Running,
    source: &str,
    command: &str,
    rounds: u64,
) -> Result<Vec<String>> {
    let pid = running.child.id();
    let mut lines = marked(source).into_iter().filter(|(_, wanted)| *wanted > 0);
    let (mut held, mut failures) = (None, Vec::new());
    loop {
        let added = batch(stage, pid, &mut lines, &mut held, false, &mut failures)?;
        if added.is_empty() {
            return Ok(failures);
        }
        running.say(command)?;
        for (id, line, wanted) in added {
            let status = stage.engine.status(id).context("it has a status")?;
            let (hits, wanted) = (status.hits, wanted * rounds);
            if hits.hits != wanted || hits.unknown != 0 {
                let text = source.lines().nth(line as usize - 1).unwrap_or_default();
                failures.push(format!("{line}: {} of {wanted}: {text}: {status:?}", hits.hits));
            }
            stage.engine.remove(id);
        }
    }
}

fn source() -> Result<String> {
    Ok(std::fs::read_to_string(paths::apps().join("lines.py"))?)
}

/// Every interpreter, or those that `TRACEKIT_INTERPRETERS` names in part.
fn chosen() -> Result<Vec<Interpreter>> {
    let wanted = std::env::var("TRACEKIT_INTERPRETERS").unwrap_or_default();
    Ok(installed()?.into_iter().filter(|row| row.id.contains(&wanted)).collect())
}

/// For checks of many interpreters, with millions of hits.
struct Checks {
    stage: Stage,
    faults: Faults,
    failed: Vec<String>,
}

impl Checks {
    fn new() -> Result<Self> {
        Ok(Self { stage: Stage::new()?, faults: Faults::count()?, failed: Vec::new() })
    }

    /// Notes what differs in a check; in a second one if in the first one the machine failed (see [`Faults`]).
    fn check(&mut self, name: &str, mut check: impl FnMut(&mut Stage) -> Result<Vec<String>>) -> Result<()> {
        let begun = Instant::now();
        self.faults.since()?;
        let mut check = |stage: &mut Stage| check(stage).unwrap_or_else(|error| vec![format!("{error:#}")]);
        let mut differences = check(&mut self.stage);
        if !differences.is_empty() && self.faults.since()? > 0 {
            println!("{name}: a debug exception without a reason: {}; again", differences.join(", "));
            differences = check(&mut self.stage);
        }
        println!("{name}: {} differences in {:?}", differences.len(), begun.elapsed());
        self.failed.extend(differences.into_iter().map(|difference| format!("{name}: {difference}")));
        Ok(())
    }

    fn outcome(self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{}", self.failed.join("\n"));
        Ok(())
    }
}

fn for_each(check: impl Fn(&mut Stage, &mut Running) -> Result<Vec<String>>) -> Result<()> {
    let (source, mut checks) = (source()?, Checks::new()?);
    for interpreter in chosen()? {
        checks.check(&interpreter.id, |stage| {
            let mut running = Running::start(interpreter.command(), &source)?;
            let pid = running.child.id();
            stage.attach(pid)?;
            let outcome = check(stage, &mut running);
            stage.detach(pid);
            outcome
        })?;
    }
    checks.outcome()
}

#[test]
fn hits_are_executions() -> Result<()> {
    with_debug_registers(|| {
        let source = source()?;
        for_each(|stage, running| count(stage, running, &source, &format!("run {ROUNDS}"), ROUNDS))
    })
}

#[test]
fn threads_and_forks_are_counted() -> Result<()> {
    with_debug_registers(|| {
        let source = source()?;
        // A few lines are enough: what differs is the thread.
        let few: String = source
            .lines()
            .map(|line| {
                if line.contains("found += at") || line.contains("got = yield") {
                    line
                } else {
                    line.split("#= ").next().unwrap_or("")
                }
            })
            .map(|line| format!("{line}\n"))
            .collect();
        for_each(|stage, running| {
            let mut failures = count(stage, running, &few, "threads 20", 160)?;
            failures.extend(count(stage, running, &few, "fork 20", 80)?);
            Ok(failures)
        })
    })
}

/// Code that has not run yet, of which each line runs once in a call, the body of the loop twice.
const COLD: &str = r#"
import sys
total = 0
class Box:
    pass
def cold(box, number):
    first = number + 1  #= 1
    second = total + first  #= 1
    box.kept = len("text")  #= 1
    for part in (1, 2):  #= 1
        second += part  #= 2
    if second > number:  #= 1
        text = str(second)  #= 1
    box.kept = box.kept.bit_length()  #= 1
    third = [text, second][1]  #= 1
    return third  #= 1
def generating():
    at = 0  #= 1
    while True:
        at = yield at  #= 1
print("ready", flush=True)
box = Box()
for line in sys.stdin:
    generator = generating()
    next(generator)
    for number in range(int(line)):
        cold(box, number)
        generator.send(number)
    print("done", flush=True)
"#;

#[test]
fn cold_code() -> Result<()> {
    with_debug_registers(|| {
        let mut checks = Checks::new()?;
        // Neither symbols nor how it is linked make a difference.
        let is_plain = |row: &Interpreter| !row.id.contains("-static") && !row.id.contains("-stripped");
        for interpreter in chosen()?.into_iter().filter(is_plain) {
            checks.check(&interpreter.id, |stage| cold(stage, &interpreter))?;
        }
        checks.outcome()
    })
}

fn cold(stage: &mut Stage, interpreter: &Interpreter) -> Result<Vec<String>> {
    let calls = 1500;
    let mut lines = marked(COLD).into_iter();
    let (mut held, mut failed, mut more) = (None, Vec::new(), Vec::new());
    loop {
        let mut running = Running::start(interpreter.command(), COLD)?;
        let pid = running.child.id();
        stage.attach(pid)?;
        let added = batch(stage, pid, &mut lines, &mut held, false, &mut failed)?;
        if added.is_empty() {
            break;
        }
        running.say(&calls.to_string())?;
        for (id, line, each) in added {
            let hits = stage.engine.status(id).context("it has a status")?.hits.hits;
            let text = COLD.lines().nth(line as usize - 1).unwrap_or_default().trim();
            let wanted = match text {
                _ if text.starts_with("at = 0") => 1,
                // Once more when the generator is started.
                _ if text.starts_with("at = yield") => each * calls + 1,
                _ => each * calls,
            };
            if hits != wanted {
                more.push((hits.wrapping_sub(wanted), text));
            }
        }
        stage.detach(pid);
    }
    println!("{}: {more:?}", interpreter.id);
    // docs/compatibility.md: how often the interpreter looks at its own instructions.
    let most = match interpreter.minor() {
        "3.8" | "3.9" | "3.10" | "3.11" => 1,
        _ => 0,
    };
    failed.extend(more.iter().filter(|(count, _)| *count > most).map(|row| format!("{row:?} more")));
    Ok(failed)
}

/// What the program says of its variables at a line, for each execution.
type Told = BTreeMap<String, Vec<BTreeMap<String, String>>>;

#[test]
fn variables_are_what_the_program_had() -> Result<()> {
    with_debug_registers(|| {
        let source = source()?;
        for_each(|stage, running| {
            let pid = running.child.id();
            let all = marked(&source);
            let numbers: Vec<String> = all.iter().map(|(line, _)| line.to_string()).collect();
            let mut failures = Vec::new();
            let told: Told = serde_json::from_str(&running.say(&format!("trace {}", numbers.join(" ")))?)?;
            let mut lines = all.into_iter().filter(|(_, wanted)| *wanted > 0);
            let mut held = None;
            loop {
                let added = batch(stage, pid, &mut lines, &mut held, true, &mut failures)?;
                if added.is_empty() {
                    return Ok(failures);
                }
                // With the first hits types become known.
                running.say("run 1")?;
                stage.hits(false);
                running.say("run 1")?;
                let hits = stage.hits(false);
                for (id, line, wanted) in added {
                    let Some(told) = told.get(&line.to_string()) else {
                        failures.push(format!("{line}: settrace has not seen it"));
                        continue;
                    };
                    let of_line: Vec<&Hit> = hits.iter().filter(|hit| hit.breakpoint == id).collect();
                    if of_line.len() as u64 != wanted {
                        failures.push(format!("{line}: {} captures of {wanted}", of_line.len()));
                    }
                    failures.extend(of_line.iter().filter_map(|hit| compare(line, hit, told)));
                    stage.engine.remove(id);
                }
            }
        })
    })
}

/// The captured variables are those of one of the executions.
fn compare(line: i32, hit: &Hit, told: &[BTreeMap<String, String>]) -> Option<String> {
    let variables = match &hit.variables {
        Ok(variables) => variables,
        Err(error) => return Some(format!("{line}: {error}")),
    };
    let found: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    let same = |told: &BTreeMap<String, String>| {
        let shown = |map: &BTreeMap<String, String>| -> Vec<(String, String)> {
            let named = map.iter().filter(|(name, _)| !IGNORED.contains(&name.as_str()));
            named.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        shown(told) == shown(&found)
    };
    if told.iter().any(same) {
        return None;
    }
    Some(format!("{line}: {found:?} is none of {told:?}, {:?}", hit.raw.record))
}

/// Variables that differ from round to round, or whose text is not what Python prints: exceptions, tracebacks, iterators,
/// classes in functions, and what class bodies have beside their names.
const IGNORED: &[&str] = &[
    "attribute",
    "raised",
    "trace",
    "error",
    ".0",
    "Body",
    "__class__",
    "__repr__",
    "__firstlineno__",
    "__static_attributes__",
    "__classdict__",
    "__conditional_annotations__",
];

/// The line with a mark that is not a number.
fn line_of(source: &str, mark: &str) -> Result<i32> {
    let at = source.lines().position(|line| line.ends_with(mark)).context("there is no such line")?;
    Ok(i32::try_from(at + 1)?)
}

/// A text form of what all variables at the line must be, given one.
fn one_instant(hit: &Hit) -> Option<String> {
    let variables = match &hit.variables {
        Ok(variables) => variables,
        Err(error) => return Some(error.clone()),
    };
    let of = |name: &str| {
        let found = variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.to_string()).unwrap_or_default()
    };
    let number = of("first");
    let wanted = [
        ("second", number.clone()),
        ("items", format!("[{number}]")),
        ("table", format!("{{'number': {number}}}")),
        ("text", format!("'{number}'")),
        ("thing", format!("Thing(name='{number}', parts=[{number}])")),
    ];
    let different = wanted.iter().find(|(name, wanted)| of(name) != *wanted);
    if let Some((name, wanted)) = different {
        return Some(format!("{name} is {}, not {wanted}", of(name)));
    }
    // Set by the other thread at once; not there in the first turn.
    let mark = of("mark");
    let mut halves = mark.trim_matches(['[', ']']).split(", ");
    (halves.next() != halves.next() && !mark.is_empty()).then(|| format!("mark is {mark}"))
}

#[test]
fn captures_are_of_one_instant() -> Result<()> {
    with_debug_registers(|| {
        let source = source()?;
        let line = line_of(&source, "# instant")?;
        // 100 000 in all where there is time.
        let wanted: u64 = std::env::var("TRACEKIT_CAPTURES").map_or(Ok(2_000), |count| count.parse())?;
        let mut stage = Stage::new()?;
        for minor in ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"] {
            let all = chosen()?;
            let Some(interpreter) = all.iter().find(|row| row.minor() == minor && !row.is("debug")) else {
                continue;
            };
            let mut running = Running::start(interpreter.command(), &source)?;
            let pid = running.child.id();
            stage.attach(pid)?;
            let id = stage.engine.add(pid, LineSpec::new(FILE, line))?;
            writeln!(running.input, "instants 1000000000 shared")?;
            let (mut seen, mut numbers) = (0, 0);
            let end = Instant::now() + Duration::from_secs(30) + Duration::from_millis(wanted * 2);
            while seen < wanted && Instant::now() < end {
                stage.records.wait(Duration::from_millis(50));
                for hit in stage.hits(false) {
                    seen += 1;
                    if seen <= 4 {
                        // Types are not known yet.
                        continue;
                    }
                    ensure!(hit.raw.record.flags == 0, "{minor}: {:?}", hit.raw.record);
                    let difference = one_instant(&hit);
                    ensure!(difference.is_none(), "{minor}: {difference:?} in {:?}", hit.variables);
                    numbers += 1;
                }
            }
            let status = stage.engine.status(id).context("it has a status")?;
            println!("{minor}: {numbers} captures, {:?}", status.hits);
            ensure!(seen >= wanted, "{minor}: {seen} captures only");
            stage.detach(pid);
        }
        Ok(())
    })
}

/// Arms a line of the process that `TRACEKIT_TEST_PID` names, and reads hits until it is killed.
#[test]
#[ignore = "is run by `nothing_remains_of_a_killed_agent`"]
fn arms_and_reads() -> Result<()> {
    let Ok(pid) = std::env::var("TRACEKIT_TEST_PID") else { return Ok(()) };
    let pid: u32 = pid.parse()?;
    let mut stage = Stage::new()?;
    stage.attach(pid)?;
    stage.engine.add(pid, LineSpec::new(FILE, line_of(&source()?, "# instant")?))?;
    eprintln!("armed");
    let mut seen = false;
    loop {
        stage.records.wait(Duration::from_millis(50));
        if !stage.hits(false).is_empty() && !seen {
            eprintln!("hit");
            seen = true;
        }
    }
}

#[test]
fn nothing_remains_of_a_killed_agent() -> Result<()> {
    with_debug_registers(|| {
        let source = source()?;
        let registers = Stage::new()?.engine.registers();
        let before = tracekit_tests::kernel::bpf_objects()?;
        let all = chosen()?;
        let interpreter = all.first().context("no interpreter is chosen")?;
        let mut running = Running::start(interpreter.command(), &source)?;
        for _ in 0..3 {
            let mut agent = Command::new(std::env::current_exe()?)
                .args(["--exact", "arms_and_reads", "--ignored", "--nocapture"])
                .env("TRACEKIT_TEST_PID", running.child.id().to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut said = BufReader::new(agent.stderr.take().context("its output is a pipe")?).lines();
            let first = said.next().transpose()?;
            writeln!(running.input, "instants 400000 alone")?;
            // While hits arrive.
            let second = said.next().transpose()?;
            agent.kill()?;
            agent.wait()?;
            ensure!(
                first.as_deref() == Some("armed") && second.as_deref() == Some("hit"),
                "the agent says {first:?}"
            );
            ensure!(running.line()? == "done", "the program does not go on");
        }
        ensure!(running.say("run 1")? == "done", "the program does not go on");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let after = tracekit_tests::kernel::bpf_objects()?;
            let mut left: Vec<_> = after.iter().filter(|(key, _)| !before.contains_key(*key)).collect();
            left.retain(|(_, name)| name.starts_with("line_hit"));
            if left.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "{left:?} is left");
            std::thread::sleep(Duration::from_millis(200));
        }
        ensure!(Stage::new()?.engine.registers() == registers, "debug registers are taken");
        Ok(())
    })
}

/// A program that loads a module when it is told to, and drops it.
const LATE: &str = "\
import gc, sys, types
code = compile('''
def late(number):
    match_me = number + 1
    return match_me
''', 'app/late.py', 'exec')
def main():
    global code
    module = None
    print('ready', flush=True)
    for line in sys.stdin:
        if line.startswith('load'):
            module = {}
            exec(code, module)
        elif line.startswith('call'):
            for at in range(int(line.split()[1])):
                module['late'](at)
        elif line.startswith('drop'):
            module = code = None
            gc.collect()
            # Its memory becomes another's.
            kept = [compile('x%d = %d' % (at, at), 'app/other.py', 'exec') for at in range(500)]
        print('done', flush=True)
main()
";

/// Until the status is so.
fn until(stage: &mut Stage, id: u32, wanted: impl Fn(&State) -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        stage.engine.tick();
        let status = stage.engine.status(id).context("it has a status")?;
        if wanted(&status.state) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "it stays {status:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn modules_that_come_and_go() -> Result<()> {
    with_debug_registers(|| {
        let mut stage = Stage::new()?;
        for minor in ["3.8", "3.12"] {
            let mut running = Running::start(python(minor)?.command(), LATE)?;
            let pid = running.child.id();
            stage.attach(pid)?;
            let waiting = stage.engine.add(pid, LineSpec::new("app/never.py", 3))?;
            let id = stage.engine.add(pid, LineSpec::new("late.py", 3))?;
            running.say("load")?;
            until(&mut stage, id, |state| matches!(state, State::Active { .. }))?;
            running.say("call 7")?;
            let status = stage.engine.status(id).context("it has a status")?;
            ensure!(status.hits.hits == 7, "{minor}: {status:?}");
            ensure!(stage.engine.status(waiting).map(|status| status.state) == Some(State::Pending));
            let error =
                stage.engine.add(pid, LineSpec::new("late.py", 77)).err().context("there is no line 77")?;
            ensure!(error.to_string().ends_with("the nearest lines are 2, 3, 4"), "{error}");
            running.say("drop")?;
            until(&mut stage, id, |state| matches!(state, State::Stale(_)))?;
            stage.detach(pid);
        }
        Ok(())
    })
}

#[test]
fn limits_and_the_kill_switch() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let mut running = Running::start(python("3.12")?.command(), &source)?;
        let pid = running.child.id();
        stage.attach(pid)?;
        let line = line_of(&source, "total += 1  #= 1")?;
        let second = 1_000_000_000;
        // Three at once, then one an hour.
        let bucket = Bucket { interval: 3600 * second, tolerance: 2 * 3600 * second, due: 0, left: u64::MAX };
        let id = stage.engine.add(pid, LineSpec { bucket: Some(bucket), ..LineSpec::new(FILE, line) })?;
        running.say("run 10")?;
        let hits = stage.engine.status(id).context("it has a status")?.hits;
        ensure!((hits.hits, hits.captured, hits.limited) == (10, 3, 7), "{hits:?}");
        stage.engine.remove(id);
        // Five in all, and none while the switch is on.
        let bucket = Bucket { interval: 0, tolerance: 0, due: 0, left: 5 };
        let id = stage.engine.add(pid, LineSpec { bucket: Some(bucket), ..LineSpec::new(FILE, line) })?;
        stage.engine.watchpoints().kill(true)?;
        running.say("run 4")?;
        stage.engine.watchpoints().kill(false)?;
        running.say("run 7")?;
        let hits = stage.engine.status(id).context("it has a status")?.hits;
        ensure!((hits.hits, hits.captured, hits.limited, hits.killed) == (11, 5, 2, 4), "{hits:?}");
        // One of the process, whatever the breakpoint has.
        stage.engine.remove(id);
        let one = Bucket { interval: 0, tolerance: 0, due: 0, left: 1 };
        stage.engine.watchpoints().limit(bucket_of_process(pid), Some(&one))?;
        let id = stage.engine.add(pid, LineSpec::new(FILE, line))?;
        running.say("run 3")?;
        let hits = stage.engine.status(id).context("it has a status")?.hits;
        ensure!((hits.captured, hits.limited) == (1, 2), "{hits:?}");
        Ok(())
    })
}

#[test]
fn workers_of_before_and_after() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let line = line_of(&source, "total += 1  #= 1")?;
        let counting = |line| LineSpec { capture: false, ..LineSpec::new(FILE, line) };
        for minor in ["3.8", "3.12", "3.14"] {
            let all = installed()?;
            let interpreter =
                all.iter().find(|row| row.minor() == minor).context("there is no such Python")?;
            let mut running = Running::start(interpreter.command(), &source)?;
            let mut other = Running::start(interpreter.command(), &source)?;
            let (pid, other_pid) = (running.child.id(), other.child.id());
            stage.attach(pid)?;
            running.say("workers")?;
            // On every processor, then on threads: the other process has more lines than fit.
            for crowd in [0, stage.engine.registers()] {
                let id = stage.engine.add(pid, counting(line))?;
                let mut others = Vec::new();
                if crowd > 0 {
                    stage.attach(other_pid)?;
                    for at in 0..crowd as i32 {
                        let line = if at == 0 { line } else { line + 1 + at };
                        others.push(stage.engine.add(other_pid, counting(line))?);
                    }
                }
                let status = stage.engine.status(id).context("it has a status")?;
                let scope = if crowd == 0 { Scope::Processors } else { Scope::Tasks(pid) };
                ensure!(status.state == State::Active { scope, rotating: false }, "{minor}: {status:?}");
                let before = if crowd == 0 { 4 } else { 8 };
                running.say("work 25")?;
                let hits = stage.engine.status(id).context("it has a status")?.hits;
                ensure!((hits.hits, hits.unknown) == (before * 50, 0), "{minor}: {before} workers, {hits:?}");
                running.say("workers")?;
                running.say("work 25")?;
                running.say("run 25")?;
                other.say("run 25")?;
                let hits = stage.engine.status(id).context("it has a status")?.hits;
                let wanted = (2 * before + 4) * 50 + 25;
                ensure!((hits.hits, hits.unknown) == (wanted, 0), "{minor}: {wanted} wanted, {hits:?}");
                for id in others {
                    let hits = stage.engine.status(id).context("it has a status")?.hits.hits;
                    ensure!(hits == 25, "{minor}: the other process has {hits}");
                }
                stage.engine.remove(id);
            }
            stage.detach(pid);
            stage.detach(other_pid);
        }
        Ok(())
    })
}

#[test]
fn the_same_address_in_several_processes() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let line = line_of(&source, "total += 1  #= 1")?;
        let start = || {
            let interpreter = python("3.12")?.command();
            let mut command = Command::new("setarch");
            command.arg("-R").arg(interpreter.get_program()).args(interpreter.get_args());
            Running::start(command, &source)
        };
        let (mut one, mut other) = (start()?, start()?);
        let (pid, other_pid) = (one.child.id(), other.child.id());
        let counting = |line| LineSpec { capture: false, ..LineSpec::new(FILE, line) };
        let hits = |stage: &Stage, id| stage.engine.status(id).map(|status| status.hits).unwrap_or_default();
        stage.attach(pid)?;
        stage.attach(other_pid)?;
        let id = stage.engine.add(pid, counting(line))?;
        one.say("run 3")?;
        other.say("run 4")?;
        let of_one = hits(&stage, id);
        // What is there in the other process is none of this breakpoint's.
        ensure!((of_one.hits, of_one.foreign) == (3, 4), "are the addresses the same? {of_one:?}");
        let other_id = stage.engine.add(other_pid, counting(line))?;
        one.say("run 5")?;
        other.say("fork 6")?;
        ensure!(hits(&stage, id).hits == 8 && hits(&stage, other_id).hits == 24);
        stage.engine.remove(id);
        one.say("run 7")?;
        other.say("run 8")?;
        ensure!(hits(&stage, other_id).hits == 32, "{:?}", hits(&stage, other_id));
        Ok(())
    })
}

#[test]
fn more_processes_than_registers() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let line = line_of(&source, "total += 1  #= 1")?;
        let mut all = Vec::new();
        for rounds in 1..=stage.engine.registers() + 2 {
            let running = Running::start(python("3.12")?.command(), &source)?;
            let pid = running.child.id();
            stage.attach(pid)?;
            let spec = LineSpec { capture: false, ..LineSpec::new(FILE, line) };
            all.push((rounds as u64, stage.engine.add(pid, spec)?, running));
        }
        for (rounds, _, running) in &mut all {
            running.say(&format!("threads {rounds}"))?;
        }
        for (rounds, id, running) in &all {
            let status = stage.engine.status(*id).context("it has a status")?;
            let scope = Scope::Tasks(running.child.id());
            ensure!(status.state == State::Active { scope, rotating: false }, "{status:?}");
            ensure!(status.hits.hits == 8 * rounds, "{rounds} rounds: {status:?}");
        }
        // When enough have ended, the others are on every processor again.
        for (_, _, running) in all.drain(..3) {
            stage.detach(running.child.id());
        }
        for (rounds, id, running) in &mut all {
            running.say("run 1")?;
            let status = stage.engine.status(*id).context("it has a status")?;
            let scope = Scope::Processors;
            ensure!(status.state == State::Active { scope, rotating: false }, "{status:?}");
            ensure!(status.hits.hits == 8 * *rounds + 1, "{rounds} rounds: {status:?}");
        }
        Ok(())
    })
}

#[test]
fn threads_that_come_and_go_are_counted_once() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let line = line_of(&source, "total += 1  #= 1")?;
        let interpreter = python("3.12")?;
        let mut running = Running::start(interpreter.command(), &source)?;
        let other = Running::start(interpreter.command(), &source)?;
        let (pid, other_pid) = (running.child.id(), other.child.id());
        stage.attach(pid)?;
        stage.attach(other_pid)?;
        let counting = |line| LineSpec { capture: false, ..LineSpec::new(FILE, line) };
        for at in 0..stage.engine.registers() as i32 {
            stage.engine.add(other_pid, counting(if at == 0 { line } else { line + 1 + at }))?;
        }
        for _ in 0..10 {
            // While threads are started and end, at most two at a time.
            writeln!(running.input, "bursts 200")?;
            let id = stage.engine.add(pid, counting(line))?;
            ensure!(running.line()? == "done");
            let status = stage.engine.status(id).context("it has a status")?;
            let burst = status.hits.hits;
            ensure!(burst <= 200, "{burst} hits of at most 200");
            let state = State::Active { scope: Scope::Tasks(pid), rotating: false };
            ensure!(status.state == state, "{status:?}");
            running.say("threads 5")?;
            running.say("fork 5")?;
            let hits = stage.engine.status(id).context("it has a status")?.hits.hits - burst;
            ensure!(hits == 40 + 20, "{hits} hits of 60");
            stage.engine.remove(id);
        }
        Ok(())
    })
}

#[test]
fn more_lines_than_registers() -> Result<()> {
    with_debug_registers(|| {
        let (mut stage, source) = (Stage::new()?, source()?);
        let line = line_of(&source, "total += 1  #= 1")?;
        let start = |stage: &mut Stage| -> Result<Running> {
            let running = Running::start(python("3.12")?.command(), &source)?;
            stage.attach(running.child.id())?;
            Ok(running)
        };
        let (mut one, mut other) = (start(&mut stage)?, start(&mut stage)?);
        let registers = stage.engine.registers();
        // As many in two processes: each on its own threads, those of before and of after.
        let lines = [0, 1, 2].map(|at| if at == 0 { line } else { line + at + 1 });
        let mut ids = Vec::new();
        for pid in [one.child.id(), other.child.id()] {
            for line in lines {
                ids.push((
                    pid,
                    stage.engine.add(pid, LineSpec { capture: false, ..LineSpec::new(FILE, line) })?,
                ));
            }
        }
        ensure!(ids.len() > registers, "{registers} registers");
        one.say("run 5")?;
        other.say("threads 3")?;
        for (pid, id) in &ids {
            let status = stage.engine.status(*id).context("it has a status")?;
            let wanted = if *pid == one.child.id() { 5 } else { 24 };
            let scope = Scope::Tasks(*pid);
            ensure!(status.state == State::Active { scope, rotating: false }, "{status:?}");
            ensure!(status.hits.hits == wanted, "{wanted}: {status:?}");
        }
        // More in one: they take turns, and each gets one.
        stage.detach(other.child.id());
        let pid = one.child.id();
        let mut marked = marked(&source).into_iter().filter(|(_, wanted)| *wanted == 1);
        for (line, _) in marked.by_ref().take(4) {
            ids.push((pid, stage.engine.add(pid, LineSpec { capture: false, ..LineSpec::new(FILE, line) })?));
        }
        ids.retain(|(owner, _)| *owner == pid);
        let end = Instant::now() + Duration::from_secs(20);
        let hits = |stage: &Stage, id: u32| stage.engine.status(id).map_or(0, |status| status.hits.hits);
        let before: Vec<u64> = ids.iter().map(|(_, id)| hits(&stage, *id)).collect();
        loop {
            one.say("run 1")?;
            stage.engine.tick();
            let status = stage.engine.status(ids[0].1).context("it has a status")?;
            ensure!(matches!(status.state, State::Active { rotating: true, .. }), "{status:?}");
            if ids.iter().zip(&before).all(|((_, id), before)| hits(&stage, *id) > *before) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not all had their turn");
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// What `tests/apps/values.py` does instead of waiting: shows each value to a line.
const SHOW: &str = "
    while sys.stdin.readline():
        for name, value in values.items():
            show(name, value)
        print('done', flush=True)


def show(name, value):
    return name  # shown


";

/// Kinds of values that images don't have: views of memory that may be anywhere, and the list in which an ordered dict has
/// its order.
const NOT_IN_IMAGES: &[&str] = &["memoryview", "ordered dict"];
/// Items of a container that an image has at most.
const ITEMS: usize = MAX_ITEMS as usize;

#[test]
fn values_of_all_kinds() -> Result<()> {
    with_debug_registers(|| {
        let source = std::fs::read_to_string(paths::apps().join("values.py"))?;
        let (head, tail) = source
            .split_once("    while True:\n        time.sleep(3600)\n    return password, request\n")
            .context("values.py waits otherwise")?;
        let source = format!("{head}{SHOW}{}", tail.trim_start_matches('\n'));
        let line = line_of(&source, "# shown")?;
        let mut checks = Checks::new()?;
        for interpreter in chosen()? {
            checks.check(&interpreter.id, |stage| values_differ(stage, &interpreter, &source, line))?;
        }
        checks.outcome()
    })
}

fn values_differ(
    stage: &mut Stage,
    interpreter: &Interpreter,
    source: &str,
    line: i32,
) -> Result<Vec<String>> {
    let mut command = interpreter.command();
    command.args(["-c", BEGIN, source]).env("PYTHON_JIT", "0").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let input = child.stdin.take().context("its input is a pipe")?;
    let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut running = Running { child, input, output };
    let facts: serde_json::Value = serde_json::from_str(&running.line()?)?;
    let wanted = facts["values"].as_object().context("it says nothing of its values")?;
    let pid = running.child.id();
    stage.attach(pid)?;
    let limits = Limits {
        depth: 50,
        items: 1000,
        fields: 1000,
        text: 1000,
        values: 1_000_000,
        time: Duration::from_secs(20),
    };
    stage.engine.add(pid, LineSpec { limits, bytes: 32 * 1024, ..LineSpec::new(FILE, line) })?;
    // What a type's recipe is becomes known with its first hit, and of what is in it with the next.
    for _ in 0..3 {
        running.say("show")?;
        stage.hits(false);
    }
    running.say("show")?;
    let mut differences = BTreeMap::new();
    let mut shown = 0;
    for hit in stage.hits(false) {
        let variables = hit.variables.map_err(|error| anyhow::anyhow!(error))?;
        let of = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let (name, value) = (of("name").context("no name")?, of("value").context("no value")?);
        let name = name.to_string().trim_matches('\'').to_owned();
        shown += 1;
        let wanted = &wanted[&name];
        let parts = ["elements", "entries"].map(|key| wanted[key].as_array().map_or(0, Vec::len));
        if parts.iter().any(|count| *count > ITEMS) {
            // As many as there can be, and so marked.
            let shown = match &value.content {
                Content::Elements(items) => items.len(),
                Content::Entries(items) => items.len(),
                _ => 0,
            };
            if !(64..=ITEMS).contains(&shown) || value.truncated.is_none() {
                differences.insert(name, format!("{shown} items"));
            }
        } else if value.to_json() != *wanted {
            let (got, wanted): (String, String) = (
                value.to_json().to_string().chars().take(200).collect(),
                wanted.to_string().chars().take(200).collect(),
            );
            differences.insert(name, format!("{got} is not {wanted} {:?}", hit.raw.record.flags));
        }
    }
    differences.retain(|name, _| !NOT_IN_IMAGES.iter().any(|begin| name.starts_with(begin)));
    println!("{}: {} of {} ({shown}) differ", interpreter.id, differences.len(), wanted.len());
    stage.detach(pid);
    Ok(differences.into_iter().map(|(name, text)| format!("{name}: {text}")).collect())
}

/// A module and a class body that run several times, and `match` where it is known.
const BODIES: &str = r#"
import sys
MODULE = """first = 1
second = [first, 2]
class Body:
    inner = second
    other = 3
if first:
    third = {"x": first}
def twice(value):
    return value
twice(third)
"""
MATCH = """def matched(value):
    match value:
        case 1:
            return "one"
        case [first, *rest]:
            return rest
        case {"key": found} if found:
            return found
        case _:
            return None
for value in (1, [1, 2], {"key": 5}, {"key": 0}, "x"):
    matched(value)
"""
module = compile(MODULE, "app/module.py", "exec")
match = compile(MATCH, "app/matches.py", "exec") if sys.version_info >= (3, 10) else None
exec(module, {})
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        exec(module, {})
        if match:
            exec(match, {})
    print("done", flush=True)
"#;

#[test]
fn modules_classes_and_matches() -> Result<()> {
    with_debug_registers(|| {
        let mut stage = Stage::new()?;
        let module = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)];
        let matches = [(2, 5), (4, 1), (6, 1), (8, 1), (10, 2), (11, 1), (12, 5)];
        let mut failed = Vec::new();
        for interpreter in chosen()? {
            let mut running = Running::start(interpreter.command(), BODIES)?;
            let pid = running.child.id();
            stage.attach(pid)?;
            let newer = interpreter.minor() != "3.8" && interpreter.minor() != "3.9";
            let of_match = matches.iter().map(|row| ("matches.py", row)).filter(|_| newer);
            for (file, (line, wanted)) in module.iter().map(|row| ("module.py", row)).chain(of_match) {
                let id = stage.engine.add(pid, LineSpec::new(file, *line))?;
                // Cold code may be read once more than it is run, by the interpreter that specialises it.
                running.say("30")?;
                let before = stage.engine.status(id).context("it has a status")?.hits.hits;
                stage.hits(false);
                running.say("3")?;
                let hits = stage.engine.status(id).context("it has a status")?.hits;
                if hits.hits - before != wanted * 3 {
                    failed.push(format!(
                        "{}: {file}:{line}: {} of {}",
                        interpreter.id,
                        hits.hits - before,
                        wanted * 3
                    ));
                }
                let variables = stage.hits(false).pop().context("no capture")?.variables;
                let variables = variables.map_err(|error| anyhow::anyhow!(error))?;
                let of = |name: &str| {
                    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_string())
                };
                let (name, value) = match (file, line) {
                    ("module.py", 6 | 7) => ("second", "[1, 2]"),
                    ("module.py", 8 | 10) => ("third", "{'x': 1}"),
                    ("module.py", 5) => ("inner", "[1, 2]"),
                    ("module.py", 9) => ("value", "{'x': 1}"),
                    ("matches.py", 4) => ("value", "1"),
                    ("matches.py", 6) => ("rest", "[2]"),
                    ("matches.py", 8) => ("found", "5"),
                    _ => ("", ""),
                };
                if !name.is_empty() && of(name).as_deref() != Some(value) {
                    failed.push(format!("{}: {file}:{line}: {name} is {:?}", interpreter.id, of(name)));
                }
                stage.engine.remove(id);
            }
            stage.detach(pid);
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    })
}
