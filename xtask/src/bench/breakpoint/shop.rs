//! Throughput of Flask behind gunicorn with a line that runs in every request, or never.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;
use tracekit_tests::agent::command_of;
use tracekit_tests::app::App;
use tracekit_tests::process::{Process, free_port, run as output_of, wait_for};
use tracekit_tests::stage::Stage;

use super::contenders::{Contenders, probe};
use super::{Breakpoint, HIT, NEVER, place};
use crate::bench::median;
use crate::bench::overhead::{Sample, parse_wrk};
use crate::setup::step;

const FILE: &str = "shop_lines.py";
const SOON: Duration = Duration::from_secs(20);

/// What is measured, with an application of its own unless it is the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Variant {
    Untraced,
    Agent,
    AgentNever,
    AgentHit,
    Monitoring,
    Settrace,
    Datadog,
    DatadogNever,
    DatadogHit,
    Sdk,
    SdkHit,
}

impl Variant {
    const ALL: [Self; 11] = [
        Self::Untraced,
        Self::Agent,
        Self::AgentNever,
        Self::AgentHit,
        Self::Monitoring,
        Self::Settrace,
        Self::Datadog,
        Self::DatadogNever,
        Self::DatadogHit,
        Self::Sdk,
        Self::SdkHit,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Untraced => "nothing",
            Self::Agent => "agent, no breakpoint",
            Self::AgentNever => "agent, breakpoint not hit",
            Self::AgentHit => "agent, breakpoint hit in every request",
            Self::Monitoring => "sys.monitoring, hit",
            Self::Settrace => "sys.settrace, hit",
            Self::Datadog => "ddtrace, no probe",
            Self::DatadogNever => "ddtrace, probe not hit",
            Self::DatadogHit => "ddtrace, probe hit",
            Self::Sdk => "tracekit-apm, no call",
            Self::SdkHit => "tracekit-apm, capture_snapshot in every request",
        }
    }

    /// What it is compared with: the same without the breakpoint.
    fn reference(self) -> Self {
        match self {
            Self::Untraced | Self::Agent | Self::Datadog | Self::Sdk => Self::Untraced,
            Self::Monitoring | Self::Settrace => Self::Untraced,
            Self::AgentNever | Self::AgentHit => Self::Agent,
            Self::DatadogNever | Self::DatadogHit => Self::Datadog,
            Self::SdkHit => Self::Sdk,
        }
    }

    /// Whose application it runs on.
    fn host(self) -> Self {
        if matches!(self, Self::AgentNever | Self::AgentHit) { Self::Agent } else { self }
    }

    /// The line that the agent's breakpoint is on.
    fn line(self) -> Option<&'static str> {
        match self {
            Self::AgentNever => Some(NEVER),
            Self::AgentHit => Some(HIT),
            _ => None,
        }
    }
}

/// A running agent.
struct Agent {
    program: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl Agent {
    fn attach(program: &Path, logs: &Path, runtime: &Path, pids: &[u32]) -> Result<Self> {
        let (ready, socket) = (logs.join("agent.ready"), runtime.join("agent.sock"));
        let mut command = command_of(program, &["attach", "--print", "none"]);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.arg("--ready-file").arg(&ready).arg("--control-socket").arg(&socket);
        command.arg("--state-dir").arg(runtime.join("state"));
        let mut process = Process::start("agent", logs, command)?;
        process.ready(SOON, || Ok(ready.exists().then_some(())))?;
        Ok(Self { program: program.to_owned(), socket, process })
    }

    fn json(&self, arguments: &[&str]) -> Result<Json> {
        let mut command = command_of(&self.program, arguments);
        let text = output_of(command.args(["-o", "json"]).env("TRACEKIT_AGENT", &self.socket))?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed {text}"))
    }

    /// Arms a breakpoint with the default limits and gives its id.
    fn arm(&self, marker: &str) -> Result<String> {
        let added = self.json(&["break", "add", &place(FILE, marker)?])?;
        let id = added["id"].as_str().with_context(|| format!("no id in {added}"))?.to_owned();
        wait_for("an armed breakpoint", SOON, || {
            let now = self.json(&["break", "get", &id])?;
            ensure!(now["state"] == "ACTIVE", "it is {now}");
            Ok(Some(()))
        })?;
        Ok(id)
    }

    fn disarm(&self, id: &str) -> Result<()> {
        let mut command = command_of(&self.program, &["break", "rm", id]);
        output_of(command.env("TRACEKIT_AGENT", &self.socket)).map(|_| ())
    }
}

/// Everything that runs.
struct Place {
    apps: BTreeMap<Variant, App>,
    agent: Agent,
    seconds: u64,
    /// Hits and snapshots of the agent's breakpoints, and requests that should be hits.
    hits: u64,
    captured: u64,
    wanted: f64,
    /// Runs in which the budget of hits was spent.
    over_budget: usize,
}

impl Place {
    /// One run of wrk on a variant.
    fn load(&mut self, variant: Variant) -> Result<Sample> {
        let armed = variant.line().map(|line| self.agent.arm(line)).transpose()?;
        let app = self.apps.get(&variant.host()).context("it has an application")?;
        let sample = wrk(app, self.seconds)?;
        if let Some(id) = armed {
            // The agent looks at its counters now and then.
            std::thread::sleep(Duration::from_millis(500));
            let now = self.agent.json(&["break", "get", &id])?;
            let number = |key: &str| {
                now.pointer(key).and_then(Json::as_u64).with_context(|| format!("no {key} in {now}"))
            };
            // Over its rate it is called paused, and is armed all the same; over its budget it rests.
            let reason = now["reason"].as_str().unwrap_or_default();
            ensure!(
                now["state"] == "ACTIVE" || matches!(reason, "rate" | "budget"),
                "the breakpoint is no longer armed: {now}"
            );
            self.over_budget += usize::from(reason == "budget");
            let (hits, captured) = (number("/counters/hits")?, number("/counters/captured")?);
            if variant == Variant::AgentHit {
                self.hits += hits;
                self.captured += captured;
                self.wanted += sample.requests;
            } else {
                ensure!(hits == 0, "the line that never runs was hit: {now}");
            }
            self.agent.disarm(&id)?;
        }
        Ok(sample)
    }
}

/// Measures every variant in turn and prints the ratios.
///
/// # Errors
/// Something does not start, requests fail, or hits are missing.
pub fn measure(
    contenders: &Contenders<'_>,
    stage: &Stage,
    agent: &Path,
    arguments: &Breakpoint,
) -> Result<()> {
    step("start the applications");
    let mut apps = BTreeMap::new();
    for variant in Variant::ALL {
        if variant.host() == variant {
            let app = start(contenders, stage, variant)?;
            wrk(&app, 2)?;
            apps.insert(variant, app);
        }
    }
    let pids = apps.get(&Variant::Agent).context("it has been started")?.pids();
    let runtime = std::env::temp_dir().join(format!("tracekit-bench-{}", std::process::id()));
    let agent = Agent::attach(agent, stage.logs(), &runtime, &pids)?;
    let mut place =
        Place { apps, agent, seconds: arguments.seconds, hits: 0, captured: 0, wanted: 0.0, over_budget: 0 };
    let (datadog, sdk) = (contenders.sink.datadog(), contenders.sink.sdk());
    place.load(Variant::Agent)?;
    // Pairs, whose order alternates.
    let mut pairs = Vec::new();
    for pair in 1..=arguments.pairs {
        step(&format!("pair {pair} of {}: a breakpoint that is not hit", arguments.pairs));
        let mut order = [Variant::Agent, Variant::AgentNever];
        order.rotate_left(pair % 2);
        let mut rates = BTreeMap::new();
        for variant in order {
            rates.insert(variant, place.load(variant)?.requests_per_second);
        }
        pairs.push(rates[&Variant::AgentNever] / rates[&Variant::Agent]);
    }
    let mut samples: BTreeMap<Variant, Vec<Sample>> = BTreeMap::new();
    let mut order = Variant::ALL;
    for round in 1..=arguments.rounds {
        order.rotate_left(3);
        for variant in order {
            let sample = place.load(variant)?;
            eprintln!("    round {round}, {}: {:.0} requests/s", variant.label(), sample.requests_per_second);
            samples.entry(variant).or_default().push(sample);
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(contenders.sink.datadog() > datadog, "ddtrace has sent no snapshot");
    ensure!(contenders.sink.sdk() > sdk, "tracekit-apm has sent no snapshot");
    let status = place.agent.process.stop(SOON)?;
    ensure!(status.success(), "the agent ended with {status}:\n{}", place.agent.process.log_tail());
    let _ = std::fs::remove_dir_all(&runtime);
    print(&place, &samples, &pairs, arguments);
    for (_, app) in place.apps {
        app.stop()?;
    }
    Ok(())
}

fn start(contenders: &Contenders<'_>, stage: &Stage, variant: Variant) -> Result<App> {
    let (venv, logger) = match variant {
        Variant::Sdk => (&contenders.sdk, "sdk-off"),
        Variant::SdkHit => (&contenders.sdk, "sdk"),
        Variant::Monitoring => (&contenders.datadog, "monitoring"),
        Variant::Settrace => (&contenders.datadog, "settrace"),
        _ => (&contenders.datadog, ""),
    };
    let name = format!("{variant:?}").to_lowercase();
    let probe = match variant {
        Variant::DatadogNever => Some(probe(FILE, NEVER, 1.0, None)?),
        Variant::DatadogHit => Some(probe(FILE, HIT, 1.0, None)?),
        _ => None,
    };
    let mut command = if matches!(variant, Variant::Datadog | Variant::DatadogNever | Variant::DatadogHit) {
        let mut command = contenders.command(venv, "ddtrace-run");
        command.arg(venv.join("bin/gunicorn"));
        contenders.probe(&mut command, &name, probe.as_ref())?;
        command
    } else {
        contenders.command(venv, "gunicorn")
    };
    let port = free_port()?;
    command.args(["--bind", &format!("127.0.0.1:{port}"), "--workers", "2"]);
    command.args(["--worker-tmp-dir", "/dev/shm", "--no-control-socket", "shop_lines:app"]);
    command.env("SHOP_LINES", logger).env("SHOP_DB", "psycopg2").envs(stage.environment());
    App::start(&name, stage.logs(), command, port, 2)
}

fn wrk(app: &App, seconds: u64) -> Result<Sample> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", "4", "--latency", "--duration", &format!("{seconds}s")]);
    let text = output_of(command.arg(format!("http://127.0.0.1:{}/bench", app.port)))?;
    parse_wrk(&text).with_context(|| format!("cannot read what wrk said:\n{text}"))
}

fn print(place: &Place, samples: &BTreeMap<Variant, Vec<Sample>>, pairs: &[f64], arguments: &Breakpoint) {
    let least = |ratios: &[f64]| ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |ratios: &[f64]| ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "Flask under gunicorn (2 sync workers), one SQL and one Redis call a request; wrk with 1 thread and 4 \
         connections, {} s each time, in turn; one snapshot a second.\n",
        arguments.seconds
    );
    println!(
        "A breakpoint that is not hit leaves {:.4} of the throughput (median of {} pairs, {:.4} to {:.4}).\n",
        median(pairs.to_vec()),
        pairs.len(),
        least(pairs),
        most(pairs)
    );
    println!("| what logs the line | requests/s | p99 ms | ratio | least | most | to |");
    println!("|---|---|---|---|---|---|---|");
    for (variant, mine) in samples {
        let reference = samples.get(&variant.reference()).unwrap_or(mine);
        let ratios: Vec<f64> = mine
            .iter()
            .zip(reference)
            .map(|(mine, reference)| mine.requests_per_second / reference.requests_per_second)
            .collect();
        println!(
            "| {} | {:.0} | {:.2} | {:.3} | {:.3} | {:.3} | {} |",
            variant.label(),
            median(mine.iter().map(|sample| sample.requests_per_second).collect()),
            median(mine.iter().map(|sample| sample.p99_ms).collect()),
            median(ratios.clone()),
            least(&ratios),
            most(&ratios),
            variant.reference().label()
        );
    }
    println!(
        "\nThe agent counted {} hits in {:.0} requests, made {} snapshots, and rested for its budget in {} of {} runs.",
        place.hits,
        place.wanted,
        place.captured,
        place.over_budget,
        samples.get(&Variant::AgentHit).map_or(0, Vec::len)
    );
}
