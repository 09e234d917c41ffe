//! `tracekit attach` and `tracekit run`.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;

use super::control::ControlArgs;
use super::redaction::RedactionArgs;
use crate::{
    agent::{Agent, AgentConfig, Ended, priority},
    discovery::{Inspected, Inspector, Selector, SelectorArgs},
    exit::{ExitCode, Failure},
    export::{Counter, Counters, ExportConfig, Pipeline, PrintMode, Summary},
    probes::{ProbeError, ProbeOptions, Probes, Sampling},
    snapshot::debugger::Debugger,
    trace::{peer::ServiceMap, repeats::Insight},
};

/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(5);

/// What both verbs take.
#[derive(Debug, Args)]
struct TraceArgs {
    /// service.name of all traced processes, instead of what they say or are called
    #[arg(long, value_name = "NAME")]
    service_name: Option<String>,
    /// Name the service at a host for service.peer.name; may be repeated
    #[arg(long, value_name = "HOST[:PORT]=NAME", value_delimiter = ',', env = "TRACEKIT_SERVICE_MAP")]
    service_map: Vec<String>,
    /// Create this file when tracing has begun
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Size of the buffer between kernel and agent: a power of two
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024 * 1024, value_parser = ring_bytes)]
    ring_bytes: u32,
    /// Put traceparent into outgoing plaintext HTTP/1 requests, so that the services that get them join the trace
    #[arg(long, value_enum, value_name = "ON|OFF", default_value_t = Switch::On, env = "TRACEKIT_PROPAGATE")]
    propagate: Switch,
    /// Leave the requests of this service as they are; may be repeated
    #[arg(long, value_name = "SERVICE", value_delimiter = ',', env = "TRACEKIT_PROPAGATE_NOT")]
    propagate_not: Vec<String>,
    /// Say of calls that take this long from where in the application they came (such as 200ms, 2s; 0: of all; off)
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = slow_call)]
    slow_call: SlowCall,
    /// Say of a request that it makes the same call from the same line more often than this; 0: never
    #[arg(long, value_name = "N", default_value_t = 5)]
    n_plus_one: u32,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    redaction: RedactionArgs,
}

/// Something that can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    /// Done where it can be.
    On,
    /// Not done.
    Off,
}

/// Arguments of `tracekit attach`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub struct AttachArgs {
    #[command(flatten)]
    selector: SelectorArgs,
    /// How to print spans
    #[arg(long, value_enum, default_value_t = PrintMode::Pretty)]
    print: PrintMode,
    #[command(flatten)]
    common: TraceArgs,
}

/// Arguments of `tracekit run`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    selector: SelectorArgs,
    /// How to print spans
    #[arg(long, value_enum, default_value_t = PrintMode::None)]
    print: PrintMode,
    #[command(flatten)]
    common: TraceArgs,
}

const EXPORT_HELP: &str = "Export by OTLP follows the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT, \
    OTEL_EXPORTER_OTLP_PROTOCOL (grpc, http/protobuf), OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, … \
    `attach` exports only if an endpoint is set; `run` also to the default one.";

/// How long a call takes that is slow, if any is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlowCall(Option<Duration>);

fn slow_call(text: &str) -> Result<SlowCall, String> {
    match text {
        "off" => Ok(SlowCall(None)),
        "0" => Ok(SlowCall(Some(Duration::ZERO))),
        _ => {
            let duration = text.parse::<jiff::SignedDuration>().ok();
            let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
            duration
                .map(|duration| SlowCall(Some(duration)))
                .ok_or_else(|| "give a duration such as 200ms or 2s, 0, or off".to_owned())
        }
    }
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes.is_power_of_two() && (65_536..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("must be a power of two between 65536 and 1073741824".to_owned()),
    }
}

/// Traces processes that run now.
///
/// # Errors
/// Nothing to trace, or the host can't.
pub fn attach(args: &AttachArgs) -> Result<ExitCode> {
    let selector = args.selector.compile_required()?;
    // Says why a process can't be traced before anything is loaded.
    let inspector = Inspector::default();
    inspector.select(&selector)?;
    let mut export = ExportConfig::from_process_env().map_err(usage)?;
    if !export.endpoint_configured {
        export.traces.otlp = false;
        export.metrics.otlp = false;
        export.logs.otlp = false;
    }
    trace(inspector, selector, export, args.print, &args.common, false)
}

/// Traces every process that matches, now and later.
///
/// # Errors
/// The host can't.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let selector = args.selector.compile()?.unwrap_or_else(Selector::all);
    let export = ExportConfig::from_process_env().map_err(usage)?;
    trace(Inspector::default(), selector, export, args.print, &args.common, true)
}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Failure::new(ExitCode::Usage, error.to_string()).into()
}

fn probe_failure(error: ProbeError) -> anyhow::Error {
    let code = match error {
        ProbeError::NotPermitted { .. } => ExitCode::NotPermitted,
        ProbeError::NoBtf(_)
        | ProbeError::Btf(_)
        | ProbeError::Layout(_)
        | ProbeError::ControlGroup(_)
        | ProbeError::Program { .. } => ExitCode::Unsupported,
        ProbeError::Load(_) | ProbeError::Map { .. } => ExitCode::Error,
    };
    Failure::new(code, error.to_string()).into()
}

fn trace(
    inspector: Inspector,
    selector: Selector,
    export: ExportConfig,
    print: PrintMode,
    args: &TraceArgs,
    follow: bool,
) -> Result<ExitCode> {
    args.redaction.install()?;
    let mut services = ServiceMap::default();
    for mapping in &args.service_map {
        services.add(mapping).map_err(usage)?;
    }
    let stop = stop_on_signals()?;
    let debugging = args.control.start(&inspector)?;
    // At full priority, because somebody is waiting for the first span; then the agent gives way.
    let sampler = export.sampler;
    let propagate = (args.propagate == Switch::On)
        .then(|| Sampling { below: sampler.bound(), as_parent: sampler.follows_parent() });
    let options = ProbeOptions { ring_bytes: args.ring_bytes, follow_all: follow, propagate };
    let loaded = Probes::load(options).map_err(probe_failure)?;
    if let Err(error) = priority::give_way() {
        tracing::warn!(%error, "can't lower the agent's own priority");
    }
    let counters = Arc::new(Counters::new());
    let target = export.traces.otlp.then(|| export.traces_otlp.display_endpoint());
    let pipeline = Pipeline::start(export, print, Arc::clone(&counters))?;
    let registry = Arc::clone(&debugging.registry);
    let outlet = debugging.outlet(pipeline.handle());
    let debugger = Debugger::start(registry, outlet, inspector.proc.clone())
        .context("start the thread of breakpoints")?;
    let config = AgentConfig {
        inspector,
        selector,
        service_name: args.service_name.clone(),
        services,
        insight: Insight {
            slow_call: args.slow_call.0,
            repeats: Some(args.n_plus_one).filter(|&limit| limit > 0),
        },
        sampler,
        propagate_not: args.propagate_not.clone(),
        breakpoints: Arc::clone(&debugging.registry),
        follow,
    };
    let mut agent = Agent::start(config, loaded, debugger, pipeline.handle(), Arc::clone(&counters));

    announce(&mut agent.selected(), target.as_deref(), follow);
    if !debugging.controlled.is_empty() {
        eprintln!("controlled by {}", debugging.controlled.join(", "));
    }
    if let Some(path) = &args.ready_file {
        std::fs::write(path, "ready\n")
            .with_context(|| format!("create the ready file {}", path.display()))?;
    }
    let ended = agent.run(&stop);
    // Detach first: the process is left alone while the last spans leave.
    drop(agent);
    drop(debugging);
    if ended == Ended::ProcessesGone {
        eprintln!("all traced processes have exited");
    }
    report(&pipeline.shutdown(FLUSH), &counters);
    Ok(ExitCode::Ok)
}

/// A first signal ends the agent in order, a second at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::{consts, flag};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register_conditional_shutdown(signal, ExitCode::Interrupted as i32, Arc::clone(&stop))
            .context("handle signals")?;
        flag::register(signal, Arc::clone(&stop)).context("handle signals")?;
    }
    Ok(stop)
}

fn announce(processes: &mut dyn Iterator<Item = &Arc<Inspected>>, target: Option<&str>, follow: bool) {
    let mut processes: Vec<_> = processes.collect();
    processes.sort_by_key(|process| process.pid());
    for process in &processes {
        let version =
            process.interpreter.version.as_ref().map_or(String::new(), |(version, _)| format!(" {version}"));
        eprintln!(
            "attached to PID {} ({}{version}, service {})",
            process.pid(),
            process.interpreter.implementation,
            process.service.name,
        );
    }
    if follow {
        eprintln!("following {} processes and those that start", processes.len());
    }
    if let Some(target) = target {
        eprintln!("exporting to {target}");
    }
}

fn report(summary: &Summary, counters: &Counters) {
    let made = counters.get(Counter::SpansFinished);
    let lost = counters.get(Counter::EventsLost);
    eprintln!(
        "{made} spans, {} exported, {} dropped, {lost} events lost",
        summary.exported,
        summary.dropped()
    );
}
