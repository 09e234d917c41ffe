//! The kernel side's stacks are those that the process says it has, on every interpreter.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::probes::record::{self, ProcessEvent, Record, Stack, WalkEnd};
use tracekit_agent::probes::{ProbeOptions, Probes, Records};
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::python::stack::Resolver;
use tracekit_common::python::{MAX_FRAMES, Python, STACKS};
use tracekit_tests::interpreters::{Running, installed, python};
use tracekit_tests::paths;

/// File, line, name; the newest first.
type Frames = Vec<(String, i64, String)>;

/// How long records may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the program and waits until its first threads wait.
fn start(mut command: Command) -> Result<Running> {
    let source = std::fs::read_to_string(paths::apps().join("stacks.py"))?;
    command.args(["-c", &source]);
    let running = Running::start(command, Stdio::piped())?;
    ensure!(running.said == "ready\n", "it said {:?}", running.said);
    Ok(running)
}

/// Lets it go on, and gives what it says of its stacks.
fn go(running: &mut Running) -> Result<BTreeMap<String, Frames>> {
    Ok(serde_json::from_str(&running.ask("")?)?)
}

/// What was sent, with the stack that was reported before it by the same thread.
fn collect(records: &mut Records, wanted: usize, mut forked: impl FnMut(u32, u32)) -> Vec<(String, Stack)> {
    let mut stacks: BTreeMap<u32, Stack> = BTreeMap::new();
    let mut found = Vec::new();
    let end = Instant::now() + PATIENCE;
    while found.len() < wanted && Instant::now() < end {
        records.wait(Duration::from_millis(20));
        records.drain(|bytes| match record::decode(bytes) {
            Some(Record::Stack(stack)) => drop(stacks.insert(stack.tid, stack)),
            Some(Record::Data(data)) => {
                if let Some(stack) = stacks.remove(&data.tid) {
                    found.push((String::from_utf8_lossy(data.head).into_owned(), stack));
                }
            }
            Some(Record::Process(ProcessEvent::Fork { parent, child })) => forked(parent, child),
            _ => {}
        });
    }
    found
}

/// Tells the kernel side of a process whose stacks are wanted.
fn select(probes: &mut Probes, pid: u32) -> Result<Target> {
    let inspector = Inspector::default();
    let target = Target::open(&inspector.proc, &inspector.inspect(pid)?)?;
    let python = describe(&target).context("it is not described")?;
    probes.describe(pid, &Python { flags: python.flags | STACKS, ..python })?;
    probes.select(pid)?;
    Ok(target)
}

/// Runs the program in one interpreter; the differences.
fn check(probes: &mut Probes, records: &mut Records, mut running: Running, pid: u32) -> Result<Vec<String>> {
    let target = select(probes, pid)?;
    let mut resolvers = BTreeMap::from([(pid, Resolver::new(target))]);
    let mut differences = Vec::new();
    let said = go(&mut running)?;
    ensure!(said.len() >= 26, "it sent from {} places only", said.len());
    compare(&said, records, &mut resolvers, &mut differences)?;
    let said = go(&mut running)?;
    compare(&said, records, &mut resolvers, &mut differences)?;
    probes.deselect(pid);
    Ok(differences)
}

fn compare(
    said: &BTreeMap<String, Frames>,
    records: &mut Records,
    resolvers: &mut BTreeMap<u32, Resolver>,
    differences: &mut Vec<String>,
) -> Result<()> {
    let found = collect(records, said.len(), |parent, child| {
        if let Some(resolver) = resolvers.get(&parent).map(|resolver| resolver.forked(child)) {
            resolvers.insert(child, resolver);
        }
    });
    for (name, wanted) in said {
        let mut matching = found.iter().filter(|(sent, _)| sent == name);
        let (Some((_, stack)), None) = (matching.next(), matching.next()) else {
            let sent: Vec<_> = found.iter().map(|(name, _)| name).collect();
            differences.push(format!("{name}: none or several among the stacks of {sent:?}"));
            continue;
        };
        let resolver = resolvers.get_mut(&stack.tgid).context("a stack of another process")?;
        let frames: Frames = resolver
            .resolve(&stack.frames)
            .iter()
            .map(|frame| {
                let code = frame.code.as_ref().map(|known| &known.code);
                let text = |text: Option<&String>| text.cloned().unwrap_or_default();
                let line = frame.line.map_or(-1, i64::from);
                (text(code.map(|code| &code.filename)), line, text(code.map(|code| &code.name)))
            })
            .collect();
        let end = if wanted.len() > MAX_FRAMES { WalkEnd::Limit } else { WalkEnd::Oldest };
        let wanted = wanted.get(..MAX_FRAMES).unwrap_or(wanted);
        if frames != wanted || stack.end != end {
            differences.push(format!("{name}: {:?} {frames:?} is not {wanted:?}", stack.end));
        }
    }
    Ok(())
}

fn load() -> Result<(Probes, Records)> {
    Probes::load(ProbeOptions::default()).context("load the kernel side")
}

#[test]
fn stacks_are_what_the_process_says() -> Result<()> {
    let (mut probes, mut records) = load()?;
    let mut failures = Vec::new();
    for interpreter in installed()? {
        let outcome = start(interpreter.command()).and_then(|running| {
            let pid = running.pid();
            check(&mut probes, &mut records, running, pid)
        });
        match outcome {
            Ok(differences) if differences.is_empty() => println!("{}: equal", interpreter.id),
            Ok(differences) => {
                let (losses, all) = (probes.losses(), differences.join("\n  "));
                failures.push(format!("{} ({losses:?} so far):\n  {all}", interpreter.id));
            }
            Err(error) => failures.push(format!("{}: {error:#}", interpreter.id)),
        }
    }
    if !failures.is_empty() {
        bail!("{} interpreters differ:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

#[test]
fn threads_are_found_in_another_pid_namespace() -> Result<()> {
    let (mut probes, mut records) = load()?;
    // One that has the thread's id in its thread state, and one in whose C library it is looked for.
    for minor in ["3.9", "3.12"] {
        let python = python(minor)?.command();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(python.get_program());
        let running = start(command)?;
        let children = tracekit_tests::process::children(running.pid());
        let pid = *children.first().context("unshare has started nothing")?;
        let differences = check(&mut probes, &mut records, running, pid)?;
        ensure!(differences.is_empty(), "{minor}: {}", differences.join("\n"));
    }
    Ok(())
}

/// Sends on a new connection for each line.
const SENDS: &str = r#"
import os, socket, sys
kept = []
def send():
    kept.append(socket.socketpair())
    os.write(kept[-1][0].fileno(), b"sent")
def called(levels):
    return called(levels - 1) if levels else send()
print("ready", flush=True)
for line in sys.stdin:
    called(3)
    print("done", flush=True)
"#;

#[test]
fn walks_end_at_an_event_loop() -> Result<()> {
    let (mut probes, mut records) = load()?;
    for minor in ["3.8", "3.11", "3.14"] {
        let all = installed()?;
        let interpreter = all.iter().find(|row| row.minor() == minor).context("there is no such Python")?;
        let mut command = interpreter.command();
        command.args(["-c", SENDS]);
        let mut running = Running::start(command, Stdio::piped())?;
        let pid = running.pid();
        select(&mut probes, pid)?;
        let mut stack = || -> Result<Stack> {
            running.ask("")?;
            let (_, stack) = collect(&mut records, 1, |_, _| {}).pop().context("there is no stack")?;
            Ok(stack)
        };
        let whole = stack()?;
        ensure!(whole.frames.len() == 6 && whole.end == WalkEnd::Oldest, "{minor}: {whole:?}");
        probes.end_walks_at(pid, Some(whole.frames[3]));
        let shorter = stack()?;
        // Two frames are the same place.
        ensure!(
            shorter.frames == whole.frames[..3] && shorter.end == WalkEnd::EventLoop,
            "{minor}: {shorter:?}"
        );
        probes.end_walks_at(pid, None);
        let again = stack()?;
        ensure!(again.frames == whole.frames && again.end == WalkEnd::Oldest, "{minor}: {again:?}");
        probes.deselect(pid);
    }
    Ok(())
}
