//! What the thread that runs the line pays for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tracekit_tests::interpreters::Running;
use tracekit_tests::paths;

use super::contenders::{Contenders, probe};
use super::{HIT, NEVER};
use crate::bench::median;
use crate::setup::step;

const FILE: &str = "line_target.py";

/// Turns of the loop of which none is a hit.
const UNHIT: u64 = 100_000;
/// Turns of which each is a hit.
const HITS: u64 = 100;

/// What happens to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It never runs.
    Never,
    /// It is only counted.
    Counted,
    /// It is over its rate, which is once a second.
    Limited,
    /// A condition is false.
    Condition,
    /// It is captured.
    Captured,
}

/// One way to log the line.
struct Contender {
    label: &'static str,
    fate: Fate,
    process: usize,
    way: &'static str,
    /// The loop without it, in that process or in one that differs in nothing else.
    base: (usize, &'static str),
}

/// Processor time and time of one turn, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Turn {
    cpu: f64,
    wall: f64,
}

/// Of each round, what one turn costs more with the line logged than without.
type Costs = BTreeMap<(&'static str, Fate), Vec<Turn>>;

const AGENT: &str = "tracekit agent";
const MONITORING: &str = "sys.monitoring";
const SETTRACE: &str = "sys.settrace";
const DATADOG: &str = "ddtrace line probe";
const SEEDS: &str = "tracekit-apm capture_snapshot";

/// Runs every contender in turn and prints what the line costs.
///
/// # Errors
/// Something does not start, or hits are missing.
pub fn measure(contenders: &Contenders<'_>, example: &Path, rounds: usize) -> Result<()> {
    step(&format!("{rounds} rounds of the loop"));
    let program = paths::apps().join("line_costs.py");
    let mut command = contenders.command(&contenders.datadog, "python");
    let mut watched = Command::new(example);
    watched.arg(command.get_program()).arg(&program);
    watched.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut agent = Running::start(watched, Stdio::piped()).context("start the example watchpoints")?;

    command.arg(&program);
    let mut processes = vec![Running::start(command, Stdio::piped())?];
    let false_condition = json!({"lt": [{"ref": "t"}, 0]});
    for (name, probe) in [
        ("no-probe", None),
        ("never", Some(probe(FILE, NEVER, 1e9, None)?)),
        ("limited", Some(probe(FILE, HIT, 1.0, None)?)),
        ("condition", Some(probe(FILE, HIT, 1e9, Some(false_condition))?)),
        ("captured", Some(probe(FILE, HIT, 1e9, None)?)),
    ] {
        let mut command = contenders.command(&contenders.datadog, "python");
        contenders.probe(&mut command, name, probe.as_ref())?;
        command.arg(&program).arg("ddtrace");
        processes.push(Running::start(command, Stdio::piped())?);
    }
    for service in ["loop-off", "loop-condition", "loop"] {
        let mut command = contenders.command(&contenders.sdk, "python");
        command.env("SINK_SERVICE", service).arg(&program).arg("sdk");
        processes.push(Running::start(command, Stdio::piped())?);
    }
    let list = list();
    let mut costs = Costs::new();
    let mut last = Json::Null;
    let (datadog, sdk) = (contenders.sink.datadog(), contenders.sink.sdk());
    // The first round warms up.
    for round in 0..=rounds {
        let answer = agent.ask(&format!("{UNHIT} {HITS}"))?;
        last = serde_json::from_str(&answer).with_context(|| format!("the example said {answer}"))?;
        let bare = turn_of(&last, "plain", UNHIT)?;
        let mut results = Vec::new();
        for (fate, mode, turns) in [
            (Fate::Never, "never", UNHIT),
            (Fate::Counted, "counted", HITS),
            (Fate::Limited, "limited", HITS),
            (Fate::Condition, "condition", HITS),
            (Fate::Captured, "captured", HITS),
        ] {
            results.push((AGENT, fate, turn_of(&last, mode, turns)?, bare));
        }
        let mut bases: BTreeMap<(usize, &str), Turn> = BTreeMap::new();
        for contender in &list {
            let turns = if contender.fate == Fate::Never { UNHIT } else { HITS };
            let base = match bases.get(&contender.base) {
                Some(base) => *base,
                None => ask(&mut processes, contender.base.0, contender.base.1, UNHIT)?,
            };
            bases.insert(contender.base, base);
            let turn = ask(&mut processes, contender.process, contender.way, turns)?;
            results.push((contender.label, contender.fate, turn, base));
        }
        if round > 0 {
            for (label, fate, turn, base) in results {
                let cost = Turn { cpu: turn.cpu - base.cpu, wall: turn.wall - base.wall };
                costs.entry((label, fate)).or_default().push(cost);
            }
        }
    }
    // ddtrace sends once a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    ensure!(contenders.sink.datadog() > datadog, "ddtrace has sent no snapshot");
    let sent = contenders.sink.sdk() - sdk;
    let wanted = (rounds as u64 + 1) * HITS;
    ensure!(sent == wanted, "tracekit-apm has sent {sent} snapshots of {wanted}");
    print(&costs, &last, rounds)
}

/// The alternatives, by the order of the processes in [`measure`].
fn list() -> Vec<Contender> {
    let by_hand = |label, never, limited, condition, captured| {
        [
            (Fate::Never, never),
            (Fate::Limited, limited),
            (Fate::Condition, condition),
            (Fate::Captured, captured),
        ]
        .map(|(fate, way)| Contender { label, fate, process: 0, way, base: (0, "plain") })
    };
    let mut list = Vec::new();
    list.extend(by_hand(
        MONITORING,
        "monitoring:never",
        "monitoring:limited",
        "monitoring:condition",
        "monitoring:capture",
    ));
    list.extend(by_hand(
        SETTRACE,
        "settrace:never",
        "settrace:limited",
        "settrace:condition",
        "settrace:capture",
    ));
    let fates = [Fate::Never, Fate::Limited, Fate::Condition, Fate::Captured];
    list.extend(fates.into_iter().zip(2..).map(|(fate, process)| Contender {
        label: DATADOG,
        fate,
        process,
        way: "plain",
        base: (1, "plain"),
    }));
    // It has no limit of its rate.
    let fates = [Fate::Never, Fate::Condition, Fate::Captured];
    list.extend(fates.into_iter().zip(6..).map(|(fate, process)| Contender {
        label: SEEDS,
        fate,
        process,
        way: "sdk",
        base: (process, "plain"),
    }));
    list
}

fn ask(processes: &mut [Running], process: usize, way: &str, turns: u64) -> Result<Turn> {
    let running = processes.get_mut(process).context("there is such a process")?;
    let answer = running.ask(&format!("{way} {turns}")).with_context(|| format!("{way} of {process}"))?;
    let (cpu, wall) = answer.trim().split_once(' ').with_context(|| format!("the loop said {answer}"))?;
    let one = |text: &str| -> Result<f64> { Ok(text.parse::<f64>()? / turns as f64) };
    Ok(Turn { cpu: one(cpu)?, wall: one(wall)? })
}

fn turn_of(round: &Json, mode: &str, turns: u64) -> Result<Turn> {
    let one = |at: usize| {
        let time = round[mode][at].as_f64().with_context(|| format!("no {mode} in {round}"))?;
        Ok::<f64, anyhow::Error>(time / turns as f64)
    };
    Ok(Turn { cpu: one(0)?, wall: one(1)? })
}

fn print(costs: &Costs, last: &Json, rounds: usize) -> Result<()> {
    let of = |label, fate, field: fn(&Turn) -> f64| -> Option<f64> {
        Some(median(costs.get(&(label, fate))?.iter().map(field).collect()))
    };
    println!(
        "What one execution costs the thread that runs the line: processor time, in brackets time; medians of {rounds} \
         rounds of {HITS} hits, or {UNHIT} turns of the loop without a hit.\n"
    );
    println!(
        "| what logs the line | set, not hit, ns a turn | over its rate, µs | condition false, µs | captured, µs |"
    );
    println!("|---|---|---|---|---|");
    for label in [AGENT, MONITORING, SETTRACE, DATADOG, SEEDS] {
        let never = of(label, Fate::Never, |turn| turn.cpu).context("measured")?;
        let hit = |fate| match (of(label, fate, |turn| turn.cpu), of(label, fate, |turn| turn.wall)) {
            (Some(cpu), Some(wall)) => format!("{:.1} ({:.1})", cpu / 1e3, wall / 1e3),
            _ => "–".to_owned(),
        };
        println!(
            "| {label} | {never:.1} | {} | {} | {} |",
            hit(Fate::Limited),
            hit(Fate::Condition),
            hit(Fate::Captured)
        );
    }
    let number = |key: &str| last[key].as_u64().with_context(|| format!("no {key} in {last}"));
    let trap = number("trap")? as f64 / 1e3;
    let counted = of(AGENT, Fate::Counted, |turn| turn.cpu).context("measured")? / 1e3;
    let captured = of(AGENT, Fate::Captured, |turn| turn.cpu).context("measured")? / 1e3;
    println!(
        "\nThe agent's bare trap takes {trap:.1} µs, a hit that is only counted {counted:.1} µs, one that is captured \
         {:.1} µs above the trap ({} objects, {} bytes, of which its program says {:.1} µs).\n",
        captured - trap,
        number("objects")?,
        number("bytes")?,
        number("took")? as f64 / 1e3
    );
    Ok(())
}
