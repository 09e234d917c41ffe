//! What a stack that the kernel side reads costs the thread: a program sends from a known depth, with stacks
//! and without, in turn. Run by `cargo xtask bench stack`; arguments: the interpreter, frames, rounds.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::probes::record::{self, Record};
use tracekit_agent::probes::{ProbeOptions, Probes, Records};
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::runtime::Target;
use tracekit_common::python::{Python, STACKS};

/// Sends of one round. Each is the first after an answer, so each has a stack. So few that their records don't
/// fill the ring buffer to where the kernel side wakes its reader, who takes no part while a round runs.
const SENDS: u32 = 2 * 250;

const PROGRAM: &str = "\
import socket, sys, time
a, b = socket.socketpair()
def rounds():
    for line in sys.stdin:
        start = time.thread_time_ns()
        for _ in range(int(line)):
            a.send(b'x'); b.recv(1); b.send(b'x'); a.recv(1)
        print(time.thread_time_ns() - start, flush=True)
def deep(levels):
    return deep(levels - 1) if levels else rounds()
print('ready', flush=True)
deep(int(sys.argv[1]) - 3)
";

/// Stacks, and frames of the longest one.
fn drain(records: &mut Records) -> (u32, usize) {
    let (mut stacks, mut frames) = (0, 0);
    records.drain(|bytes| {
        if let Some(Record::Stack(stack)) = record::decode(bytes) {
            stacks += 1;
            frames = frames.max(stack.frames.len());
        }
    });
    (stacks, frames)
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, python, frames, rounds] = arguments.as_slice() else {
        anyhow::bail!("usage: stacks INTERPRETER FRAMES ROUNDS");
    };
    let (depth, rounds): (usize, usize) = (frames.parse()?, rounds.parse()?);
    let mut command = Command::new(python);
    let mut child =
        command.args(["-c", PROGRAM, frames]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let mut output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;

    let pid = child.id();
    let inspector = Inspector::default();
    let target = Target::open(&inspector.proc, &inspector.inspect(pid)?)?;
    let python = describe(&target).context("its interpreter is not known yet")?;
    let ring_bytes = 64 << 20;
    let (mut probes, mut records) = Probes::load(ProbeOptions { ring_bytes, ..ProbeOptions::default() })?;

    let (mut untraced, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        for (traced, flags, times) in
            [(false, 0, &mut untraced), (true, 0, &mut without), (true, STACKS, &mut with)]
        {
            if traced {
                probes.select(pid)?;
            } else {
                probes.deselect(pid);
            }
            probes.describe(pid, &Python { flags: python.flags | flags, ..python })?;
            writeln!(input, "{}", SENDS / 2)?;
            line.clear();
            output.read_line(&mut line)?;
            let (stacks, longest) = drain(&mut records);
            ensure!(stacks == if flags == 0 { 0 } else { SENDS }, "{stacks} stacks of {SENDS} sends");
            ensure!(flags == 0 || longest == depth, "stacks of {longest} frames");
            // The first round warms up.
            if round > 0 {
                times.push(line.trim().parse::<u64>()? / u64::from(SENDS));
            }
        }
    }
    drop(input);
    child.wait()?;
    let (untraced, without, with) = (median(&mut untraced), median(&mut without), median(&mut with));
    println!(
        "a send and its receive: {untraced} ns; traced: {without} ns; with a stack of {depth} frames: {with} ns; \
         the stack: {} ns",
        with.saturating_sub(without)
    );
    Ok(())
}
