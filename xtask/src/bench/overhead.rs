//! `cargo xtask bench overhead`: what tracing costs an application, measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tracekit_tests::agent;
use tracekit_tests::app::{App, Environment, Setup, Tracing};
use tracekit_tests::process::{Process, cpu_seconds, resident_kib, run as output_of};
use tracekit_tests::stage::Stage;
use tracekit_tests::work::Upstream;

use super::programs::Programs;
use super::{Packages, SHOP, machine};
use crate::setup::{Profile, build_agent, step};
use crate::sink::Sink;

/// How long to measure.
#[derive(Debug, clap::Args)]
pub struct Overhead {
    /// Rounds; each starts the application anew, and once more with the SDK.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Turns of every variant in a round, one after the other: the agent attaches to the running application and goes.
    #[arg(long, default_value_t = 4)]
    turns: usize,
    /// Seconds of load for a turn.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections that wrk keeps open.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// The application that is measured.
    #[arg(long, value_enum, default_value_t = Application::Flask)]
    app: Application,
    /// Measure this build of the agent instead of one that is built for it.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Also measure, in one more run, how long each program of the kernel side takes for a request.
    #[arg(long)]
    programs: bool,
    /// What to compare with the untraced application; may be repeated.
    #[arg(long, value_enum, default_values_t = [Variant::Agent, Variant::Sdk])]
    variant: Vec<Variant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Application {
    /// Flask under gunicorn with 2 sync workers: psycopg2 and redis.
    Flask,
    /// FastAPI under uvicorn with uvloop: asyncpg and httpx.
    Fastapi,
}

impl Application {
    fn setup(self) -> Setup {
        match self {
            Self::Flask => Setup::FlaskSync,
            Self::Fastapi => Setup::FastApi,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Flask => "Flask under gunicorn (2 sync workers), one SQL and one Redis call a request",
            Self::Fastapi => {
                "FastAPI under uvicorn (1 process, uvloop), one SQL call (asyncpg) and one HTTP call (httpx) a request"
            }
        }
    }

    /// Packages whose versions belong to the numbers.
    fn packages(self) -> Packages {
        match self {
            Self::Flask => SHOP,
            Self::Fastapi => {
                ("otel-fastapi", &["fastapi", "uvicorn", "uvloop", "asyncpg", "httpx", "opentelemetry-sdk"])
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Variant {
    /// Nothing: the reference, always measured.
    Untraced,
    /// The agent traces the application and exports.
    Agent,
    /// The agent traces the application, but exports nothing.
    AgentOnly,
    /// The agent traces another process: what neighbours pay for the probes.
    Elsewhere,
    /// The OpenTelemetry SDK instruments the application.
    Sdk,
}

impl Variant {
    fn exports(self) -> bool {
        matches!(self, Self::Agent | Self::Sdk)
    }

    fn has_agent(self) -> bool {
        matches!(self, Self::Agent | Self::AgentOnly | Self::Elsewhere)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Untraced => "agent off",
            Self::Agent => "agent on",
            Self::AgentOnly => "agent on, no export",
            Self::Elsewhere => "agent on another process",
            Self::Sdk => "opentelemetry-instrument",
        }
    }
}

/// One run of wrk, and what the agent used meanwhile.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    pub(super) requests: f64,
    pub(super) requests_per_second: f64,
    p50_ms: f64,
    pub(super) p99_ms: f64,
    app_cpu_us: f64,
    agent_cpu_percent: f64,
    agent_cpu_us: f64,
    agent_rss_mib: f64,
    server_spans: f64,
}

/// The path that wrk asks for: two calls, see [`Application::label`].
const TARGET: &str = "/bench";

/// Measures every variant in turn.
///
/// # Errors
/// Something does not start, or requests fail under load.
pub fn run(arguments: &Overhead) -> Result<()> {
    let agent = arguments.agent.clone().map_or_else(|| build_agent(Profile::Dist), Ok)?;
    let mut variants = vec![Variant::Untraced];
    variants.extend(arguments.variant.iter().filter(|variant| **variant != Variant::Untraced));
    let stage = Stage::new("bench-overhead")?.with_postgres()?.with_redis()?;
    let upstream = Upstream::start(stage.logs())?;
    let mut environment = stage.environment();
    environment.push(upstream.environment());
    let bench = Bench { stage, environment, sink: Sink::start()?, agent };
    let mut samples: BTreeMap<Variant, Vec<Sample>> = BTreeMap::new();
    let (apart, mut attached): (Vec<_>, Vec<_>) =
        variants.into_iter().partition(|variant| *variant == Variant::Sdk);
    for round in 1..=arguments.rounds {
        let mut take = |app: &App, variant: Variant| -> Result<()> {
            step(&format!("round {round} of {}: {}", arguments.rounds, variant.label()));
            let sample = bench.measure(app, variant, arguments, None)?;
            eprintln!(
                "    {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms, {:.0} µs a request",
                sample.requests_per_second, sample.p50_ms, sample.p99_ms, sample.app_cpu_us
            );
            samples.entry(variant).or_default().push(sample);
            Ok(())
        };
        let app = bench.start(arguments, Variant::Untraced)?;
        for _ in 0..arguments.turns {
            // The order turns, so that no variant always has the warmest or the coldest machine.
            attached.rotate_left(1);
            attached.iter().try_for_each(|&variant| take(&app, variant))?;
        }
        app.stop()?;
        for &variant in &apart {
            let app = bench.start(arguments, variant)?;
            (0..arguments.turns).try_for_each(|_| take(&app, variant))?;
            app.stop()?;
        }
    }
    print!("{}", markdown(arguments, &samples)?);
    if arguments.programs {
        step("the kernel side's programs, one by one");
        let mut programs = Programs::default();
        let app = bench.start(arguments, Variant::AgentOnly)?;
        let sample = bench.measure(&app, Variant::AgentOnly, arguments, Some(&mut programs))?;
        app.stop()?;
        print!("{}", programs.markdown(sample.requests));
    }
    Ok(())
}

/// What all measurements share.
struct Bench {
    stage: Stage,
    environment: Environment,
    sink: Sink,
    agent: PathBuf,
}

impl Bench {
    /// Starts the application, and warms it up.
    fn start(&self, arguments: &Overhead, variant: Variant) -> Result<App> {
        let tracing = match variant {
            Variant::Sdk => Tracing::Sdk { collector: self.sink.port, stdlib: false },
            _ => Tracing::None,
        };
        let app = arguments.app.setup().start(self.stage.logs(), &self.environment, &tracing)?;
        wrk(&app, Duration::from_secs(2), arguments.connections)?;
        Ok(app)
    }

    fn measure(
        &self,
        app: &App,
        variant: Variant,
        arguments: &Overhead,
        mut programs: Option<&mut Programs>,
    ) -> Result<Sample> {
        let Self { stage, sink, agent, .. } = self;
        let mut sleep = Command::new(tracekit_tests::paths::venv("web", "python")?);
        sleep.args(["-c", "import time; time.sleep(1e6)"]);
        let bystander = Process::start("bystander", stage.logs(), sleep)?;
        let before = programs.as_ref().map(|_| Programs::read()).transpose()?;
        let mut agent = match variant {
            Variant::Agent => Some(attach(stage, agent, &app.pids(), Some(sink))?),
            Variant::AgentOnly => Some(attach(stage, agent, &app.pids(), None)?),
            Variant::Elsewhere => Some(attach(stage, agent, &[bystander.pid()], None)?),
            Variant::Untraced | Variant::Sdk => None,
        };
        // The start of the agent, the end of the one before, and the spans of the warm-up are not part of the measurement.
        // In its first ten seconds with a process the agent looks often at what that has imported.
        std::thread::sleep(Duration::from_secs(if agent.is_some() { 11 } else { 1 }));
        let pid = agent.as_ref().map(Process::pid);
        let app_cpu = || -> f64 { app.pids().into_iter().filter_map(cpu_seconds).sum() };
        let app_cpu_before = app_cpu();
        let (cpu_before, started) = (pid.and_then(cpu_seconds), Instant::now());
        sink.take_server_spans()?;
        if let (Some(programs), Some(before)) = (&mut programs, &before) {
            programs.begin(before)?;
        }
        let mut sample = wrk(app, Duration::from_secs(arguments.seconds), arguments.connections)?;
        if let Some(programs) = &mut programs {
            programs.end()?;
        }
        let elapsed = started.elapsed().as_secs_f64();
        sample.app_cpu_us = (app_cpu() - app_cpu_before) * 1e6 / sample.requests.max(1.0);
        if let (Some(pid), Some(before)) = (pid, cpu_before) {
            let used = cpu_seconds(pid).context("the agent ended under load")? - before;
            sample.agent_cpu_percent = used / elapsed * 100.0;
            sample.agent_cpu_us = used * 1e6 / sample.requests.max(1.0);
            sample.agent_rss_mib = resident_kib(pid).unwrap_or(0) as f64 / 1024.0;
        }
        if let Some(agent) = &mut agent {
            let status = agent.stop(Duration::from_secs(20))?;
            if !status.success() {
                bail!("the agent ended with {status}:\n{}", agent.log_tail());
            }
        }
        if variant.exports() {
            // The SDK exports every 5 s.
            std::thread::sleep(Duration::from_secs(if variant == Variant::Sdk { 6 } else { 1 }));
            sample.server_spans = sink.take_server_spans()? as f64;
        }
        Ok(sample)
    }
}

fn attach(stage: &Stage, agent: &Path, pids: &[u32], sink: Option<&Sink>) -> Result<Process> {
    let ready = stage.logs().join("agent.ready");
    if ready.exists() {
        std::fs::remove_file(&ready)?;
    }
    let mut command = agent::command_of(agent, &["attach", "--print", "none"]);
    for pid in pids {
        command.args(["--pid", &pid.to_string()]);
    }
    command.arg("--ready-file").arg(&ready);
    if let Some(sink) = sink {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", sink.port));
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf").env("OTEL_METRICS_EXPORTER", "none");
    }
    let mut process = Process::start("agent", stage.logs(), command)?;
    process.ready(Duration::from_secs(20), || Ok(ready.exists().then_some(())))?;
    Ok(process)
}

fn wrk(app: &App, duration: Duration, connections: usize) -> Result<Sample> {
    let text = output_of(
        Command::new("wrk")
            .args(["--threads", "1", "--connections", &connections.to_string(), "--latency", "--duration"])
            .arg(format!("{}s", duration.as_secs()))
            .arg(format!("http://127.0.0.1:{}{TARGET}", app.port)),
    )?;
    parse_wrk(&text).with_context(|| format!("cannot read what wrk said:\n{text}"))
}

/// From wrk's text report.
pub(super) fn parse_wrk(text: &str) -> Result<Sample> {
    let mut sample = Sample::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", value] => sample.p50_ms = milliseconds(value)?,
            ["99%", value] => sample.p99_ms = milliseconds(value)?,
            ["Requests/sec:", value] => sample.requests_per_second = value.parse()?,
            [count, "requests", "in", ..] => sample.requests = count.parse()?,
            ["Non-2xx", ..] => bail!("requests failed: {line}"),
            ["Socket", "errors:", "connect", connect, "read", read, "write", write, ..]
                if [connect, read, write].iter().any(|count| count.trim_end_matches(',') != "0") =>
            {
                bail!("requests failed: {line}")
            }
            _ => {}
        }
    }
    if sample.requests_per_second == 0.0 || sample.p99_ms == 0.0 {
        bail!("no result");
    }
    Ok(sample)
}

fn milliseconds(text: &str) -> Result<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => bail!("no time: {text}"),
    };
    Ok(number.parse::<f64>()? * factor)
}

fn median(samples: &[Sample], field: impl Fn(&Sample) -> f64) -> f64 {
    super::median(samples.iter().map(field).collect())
}

fn markdown(arguments: &Overhead, samples: &BTreeMap<Variant, Vec<Sample>>) -> Result<String> {
    let base = samples.get(&Variant::Untraced).context("no baseline")?;
    let mut text = format!(
        "{}\n\n{}; wrk with 1 thread and {} connections; {} rounds with {} turns of {} s for each variant, interleaved; the agent attaches to \
         the application that was measured without it, the SDK has one of its own; medians, in brackets that of the \
         ratios to \"agent off\" of the same turn.\n\n",
        machine(arguments.app.packages())?,
        arguments.app.label(),
        arguments.connections,
        arguments.rounds,
        arguments.turns,
        arguments.seconds
    );
    text.push_str("| variant | requests/s | p50 ms | p99 ms | app CPU µs a request | agent CPU, % of a core | agent CPU µs a request | agent RSS MiB | server spans lost |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for (variant, samples) in samples {
        let with_ratio = |field: fn(&Sample) -> f64| {
            let ratios = samples.iter().zip(base).map(|(sample, base)| field(sample) / field(base));
            format!("{:.2} ({:.3})", median(samples, field), super::median(ratios.collect()))
        };
        let is_agent = variant.has_agent();
        let of_agent = |field: fn(&Sample) -> f64| {
            if is_agent { format!("{:.1}", median(samples, field)) } else { "–".into() }
        };
        let lost = if !variant.exports() {
            "–".into()
        } else {
            // Requests that wrk gave up at its end have spans but are not counted by it.
            let requests: f64 = samples.iter().map(|sample| sample.requests).sum();
            let lost: f64 =
                samples.iter().map(|sample| (sample.requests - sample.server_spans).max(0.0)).sum();
            format!("{lost:.0} of {requests:.0}")
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {lost} |\n",
            variant.label(),
            with_ratio(|sample| sample.requests_per_second),
            with_ratio(|sample| sample.p50_ms),
            with_ratio(|sample| sample.p99_ms),
            with_ratio(|sample| sample.app_cpu_us),
            of_agent(|sample| sample.agent_cpu_percent),
            of_agent(|sample| sample.agent_cpu_us),
            of_agent(|sample| sample.agent_rss_mib),
        ));
    }
    text.push_str(
        "\nwrk, the databases, the collector and the agent share the machine's cores with the application, so the \
         ratios hold the CPU time that the agent takes as well as what its probes add to every system call. The \
         CPU time of the application (user and system, its probes included) does not depend on what else runs.\n",
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://127.0.0.1:8000/bench
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.71ms    1.02ms  20.11ms   92.11%
    Req/Sec     1.49k    98.21     1.60k    80.00%
  Latency Distribution
     50%    2.53ms
     75%    2.80ms
     90%  950.00us
     99%    1.02s
  2984 requests in 2.00s, 524.51KB read
Requests/sec:   1490.21
Transfer/sec:    261.94KB
";

    #[test]
    fn reads_the_report_of_wrk() {
        let sample = parse_wrk(REPORT).unwrap();
        assert_eq!((sample.p50_ms, sample.p99_ms), (2.53, 1020.0));
        assert_eq!((sample.requests, sample.requests_per_second), (2984.0, 1490.21));
    }

    #[test]
    fn failed_requests_spoil_the_measurement() {
        let failed = format!("{REPORT}  Non-2xx or 3xx responses: 12\n");
        assert!(parse_wrk(&failed).is_err());
        let closed = format!("{REPORT}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(parse_wrk(&closed).is_err());
    }

    #[test]
    fn median_of_even_and_odd_counts() {
        let samples: Vec<Sample> =
            [3.0, 1.0, 2.0, 10.0].iter().map(|&p50_ms| Sample { p50_ms, ..Sample::default() }).collect();
        assert_eq!(median(&samples, |sample| sample.p50_ms), 2.5);
        assert_eq!(median(&samples[..3], |sample| sample.p50_ms), 2.0);
    }
}
