//! What a line breakpoint costs the thread: armed and not hit, hit and counted, hit more often than it may be
//! captured, hit and captured (20 variables, three levels).
//!
//! Arguments: the command that runs `tests/apps/line_costs.py`. Each line of standard input, the turns of the loop when
//! nothing is captured and when each is, makes a round, whose numbers it prints as JSON: nanoseconds of processor time
//! and of time for all turns.

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tracekit_agent::discovery::Inspector;
use tracekit_agent::probes::{ProbeOptions, Probes};
use tracekit_agent::python::kernel::describe;
use tracekit_agent::python::runtime::Target;
use tracekit_agent::redact::Redactor;
use tracekit_agent::snapshot::engine::{Engine, LineSpec, hit};
use tracekit_agent::snapshot::expression::Expression;
use tracekit_common::watchpoint::Bucket;
use tracekit_tests::interpreters::Running;
use tracekit_tests::paths;

const FILE: &str = "line_target.py";

fn line_of(source: &str, marker: &str) -> Result<i32> {
    let at = source.lines().position(|line| line.ends_with(marker));
    Ok(i32::try_from(at.with_context(|| format!("no line ends with {marker:?}"))?)? + 1)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut command = Command::new(arguments.next().context("usage: watchpoints COMMAND...")?);
    command.args(arguments);
    let mut running = Running::start(command, Stdio::piped())?;
    let source = std::fs::read_to_string(paths::apps().join(FILE))?;
    let (run, never) =
        (line_of(&source, "# the line that is hit")?, line_of(&source, "# the line that never runs")?);

    let pid = running.pid();
    let inspector = Inspector::default();
    let target = Target::open(&inspector.proc, &inspector.inspect(pid)?)?;
    let described = describe(&target).context("its interpreter is not known yet")?;
    let (mut probes, _records) = Probes::load(ProbeOptions::default())?;
    probes.describe(pid, &described)?;
    probes.select(pid)?;
    let (watchpoints, mut records) = probes.watchpoints()?;
    let mut engine = Engine::new(watchpoints)?;
    engine.add_process(target)?;
    let once_a_second = Bucket { interval: 1_000_000_000, tolerance: 0, due: 0, left: u64::MAX };

    let condition = Expression::compile("t < 0", Redactor::standard())?.decision();

    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (many, few) = line.split_once(' ').context("two numbers of turns")?;
        let (many, few): (u64, u64) = (many.parse()?, few.parse()?);
        let mut round = json!({"trap": engine.trap_cost().as_nanos() as u64});
        let spec = |line| LineSpec { capture: false, ..LineSpec::new(FILE, line) };
        let modes = [
            ("plain", None, many),
            ("never", Some(LineSpec::new(FILE, never)), many),
            ("counted", Some(spec(run)), few),
            ("limited", Some(LineSpec { bucket: Some(once_a_second), ..LineSpec::new(FILE, run) }), few),
            ("condition", Some(LineSpec { condition: condition.clone(), ..LineSpec::new(FILE, run) }), few),
            ("captured", Some(LineSpec::new(FILE, run)), few),
        ];
        for (mode, spec, turns) in modes {
            let wanted = if spec.as_ref().is_some_and(|spec| spec.line == run) { turns } else { 0 };
            let added = spec.map(|spec| engine.add(pid, spec)).transpose()?;
            let times = running.ask(&format!("plain {turns}"))?;
            let mut times = times.split_whitespace().map(str::parse::<u64>);
            let mut time = || times.next().context("two times")?.context("a time");
            round[mode] = json!([time()?, time()?]);
            let Some(id) = added else { continue };
            let counted = engine.status(id).context("it has a status")?.hits;
            ensure!(counted.hits == wanted && counted.lost == 0, "{mode}: {counted:?} of {wanted}");
            let (mut raw, mut flags, mut captures) = (Vec::new(), 0, 0);
            records.drain(|bytes| raw.extend(hit::decode(bytes).map(|hit| (hit, ()))));
            engine.hits(raw, |hit, ()| {
                // Decoding teaches the kernel side about types.
                let _ = hit.raw.variables(hit.live, hit.limits, false);
                let record = hit.raw.record;
                if mode == "captured" {
                    round["took"] = record.took.into();
                    round["objects"] = record.objects.into();
                    round["bytes"] = record.image.into();
                }
                captures += 1;
                flags |= record.flags;
            });
            ensure!(flags == 0, "{mode}: something was not captured: {flags}");
            ensure!(mode != "captured" || captures == turns, "{captures} captures of {turns}");
            engine.remove(id);
        }
        println!("{round}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
