//! What a line breakpoint costs the thread: armed and not hit, hit and counted, hit and captured (20 variables, three
//! levels). Arguments: the interpreter, hits of a round, rounds.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::discovery::Inspector;
use tracekit_agent::probes::{ProbeOptions, Probes};
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::snapshot::engine::{Engine, LineSpec, hit};

/// A loop whose line 17 is run each time, and line 19 never.
const PROGRAM: &str = "\
import sys, time
class Item:
    def __init__(self, number):
        self.number, self.name, self.tags = number, 'item %d' % number, ['a', 'b', number]
def turns(count):
    a, b, c, d, e = 1, 2.5, 'text', b'bytes', None
    f, g, h = [1, 2, 3], (1, 'x'), {'key': 'value', 'other': [1, 2]}
    i, j, k = {1, 2}, Item(1), [Item(2), Item(3)]
    l, m, n = {'nested': {'more': {'most': 1}}}, 'x' * 300, list(range(50))
    o, p, q = 10 ** 30, True, {'item': Item(4)}
    r, s = ['%d' % at for at in range(20)], (None, False)
    start = time.thread_time_ns()
    for t in range(count):
        if t < 0:
            pass
        u = t
        v = u
        if t < 0:
            v = u
    print(time.thread_time_ns() - start, flush=True)
print('ready', flush=True)
for line in sys.stdin:
    turns(int(line))
";
const HIT: i32 = 17;
const NOT_HIT: i32 = 19;

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, python, hits, rounds] = arguments.as_slice() else {
        anyhow::bail!("usage: watchpoints INTERPRETER HITS ROUNDS");
    };
    let (hits, rounds): (u64, usize) = (hits.parse()?, rounds.parse()?);
    let mut child = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {python}"))?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let mut output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;

    let pid = child.id();
    let inspector = Inspector::default();
    let target = Target::open(&inspector.proc, &inspector.inspect(pid)?)?;
    let described = describe(&target).context("its interpreter is not known yet")?;
    let (mut probes, _records) = Probes::load(ProbeOptions::default())?;
    probes.describe(pid, &described)?;
    probes.select(pid)?;
    let (watchpoints, mut hit_records) = probes.watchpoints()?;
    let mut engine = Engine::new(watchpoints)?;
    engine.add_process(target)?;

    // Nothing, a line that is not hit, one that is counted, one that is captured.
    let modes = [(None, false), (Some(NOT_HIT), true), (Some(HIT), false), (Some(HIT), true)];
    let mut times: [Vec<u64>; 4] = Default::default();
    let (mut objects, mut bytes, mut took) = (0, 0, 0);
    for round in 0..=rounds {
        for ((at, capture), times) in modes.into_iter().zip(&mut times) {
            let added = match at {
                Some(at) => Some(engine.add(pid, LineSpec { capture, ..LineSpec::new("<string>", at) })?),
                None => None,
            };
            writeln!(input, "{hits}")?;
            line.clear();
            output.read_line(&mut line)?;
            if let Some(id) = added {
                let counted = engine.status(id).context("it has a status")?.hits;
                let wanted = if at == Some(HIT) { hits } else { 0 };
                ensure!(counted.hits == wanted && counted.lost == 0, "{counted:?} of {wanted}");
                let (mut raw, mut flags) = (Vec::new(), 0);
                hit_records.drain(|bytes| raw.extend(hit::decode(bytes).map(|hit| (hit, ()))));
                engine.hits(raw, |hit, ()| {
                    // Decoding teaches the kernel side about types.
                    let _ = hit.raw.variables(hit.live, hit.limits, false);
                    let record = hit.raw.record;
                    (objects, bytes, took) = (record.objects, record.image, record.took);
                    flags |= record.flags;
                });
                ensure!(flags == 0, "something was not captured: {flags}");
                engine.remove(id);
            }
            // The first round warms up.
            if round > 0 {
                times.push(line.trim().parse::<u64>()? * 1000 / hits);
            }
        }
    }
    drop(input);
    child.wait()?;
    let [none, not_hit, counted, captured] = times.map(|mut times| median(&mut times));
    let ns = |picoseconds: u64| picoseconds / 1000;
    println!(
        "a turn: {none} ps; armed and not hit: {not_hit} ps; counted: {} ns a hit; captured: {} ns a hit, of which {took} ns \
         for {objects} objects, {bytes} bytes",
        ns(counted.saturating_sub(none)),
        ns(captured.saturating_sub(none)),
    );
    Ok(())
}
