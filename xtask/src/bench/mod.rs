//! `cargo xtask bench`: what tracing costs, measured.

mod attach;
mod overhead;
mod stack;

use std::process::Command;

use anyhow::{Context as _, Result};
use tracekit_tests::process::run as output_of;

use crate::setup;

/// Benchmarks.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Throughput, latency and cost of Flask/gunicorn untraced, with the agent, and with the OpenTelemetry SDK.
    Overhead(overhead::Overhead),
    /// Time from the start of `tracekit attach` to its first span.
    Attach(attach::Attach),
    /// What a Python stack that the kernel side reads costs the traced thread.
    Stack(stack::Stack),
}

/// Runs a benchmark.
///
/// # Errors
/// Something does not start, or requests fail under load.
pub fn run(bench: &Bench) -> Result<()> {
    setup::install(setup::Extent::Minimal)?;
    match bench {
        Bench::Overhead(arguments) => overhead::run(arguments),
        Bench::Attach(arguments) => attach::run(arguments),
        Bench::Stack(arguments) => stack::run(arguments),
    }
}

/// Kernel, processor and versions that the numbers belong to.
fn machine() -> Result<String> {
    let kernel = output_of(Command::new("uname").args(["-r", "-m"]))?;
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = cpu_info.lines().find_map(|line| {
        line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let venv = tracekit_tests::paths::venv("otel", "python")?;
    let versions = output_of(Command::new(venv).args([
        "-c",
        "import sys; from importlib.metadata import version as v; print('Python ' + sys.version.split()[0] + ''.join(\
         f', {p} {v(p)}' for p in ('Flask', 'gunicorn', 'psycopg2-binary', 'redis', 'opentelemetry-sdk')))",
    ]))?;
    let model = model.unwrap_or_else(|| "unknown processor".into());
    Ok(format!("Linux {}, {model}, {cores} cores; {}", kernel.trim(), versions.trim()))
}
