//! `cargo xtask bench`: what tracing costs, measured.

mod attach;
mod breakpoint;
mod dumps;
mod overhead;
mod programs;
mod reader;
mod stack;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;
use tracekit_tests::paths;
use tracekit_tests::process::run as output_of;

use crate::setup::{self, Profile, cargo, checked, step};

/// Benchmarks.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Throughput, latency and cost of Flask/gunicorn untraced, with the agent, and with the OpenTelemetry SDK.
    Overhead(overhead::Overhead),
    /// Time from the start of `tracekit attach` to its first span.
    Attach(attach::Attach),
    /// What a Python stack that the kernel side reads costs the traced thread.
    Stack(stack::Stack),
    /// Time of a dump of a Django process with 64 threads, beside py-spy's, and of a search for code objects.
    Reader(reader::Reader),
    /// What a breakpoint costs, armed and hit, beside `sys.monitoring`, `sys.settrace`, ddtrace and tracekit-apm.
    Breakpoint(breakpoint::Breakpoint),
    /// Dumps of a process that changes its objects all the time: what is wrong, and what they cost it.
    Dumps(dumps::Dumps),
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
        Bench::Reader(arguments) => reader::run(arguments),
        Bench::Breakpoint(arguments) => breakpoint::run(arguments),
        Bench::Dumps(arguments) => dumps::run(arguments),
    }
}

/// Builds `tests/examples/<name>.rs`, which does what a running agent would, and gives its path.
fn build_example(name: &str) -> Result<PathBuf> {
    build_example_in(Profile::Release, name)
}

/// As [`build_example`], in this profile.
fn build_example_in(profile: Profile, name: &str) -> Result<PathBuf> {
    step(&format!("build the example {name}"));
    let package = ["--quiet", "--package", "tracekit-tests", "--example", name];
    checked(cargo(&["build", "--profile", profile.name()]).args(package))?;
    Ok(paths::target().join(profile.directory()).join("examples").join(name))
}

/// Runs the example `reader` on a process and gives what it measured.
fn read_process(reader: &Path, pid: u32, arguments: &[&str]) -> Result<Json> {
    let text = output_of(Command::new(reader).args(["--pid", &pid.to_string()]).args(arguments))?;
    serde_json::from_str(&text).with_context(|| format!("the reader said {text}"))
}

/// A number of what it measured.
fn number(json: &Json, key: &str) -> Result<f64> {
    json[key].as_f64().with_context(|| format!("no {key} in {json}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle), values.get(middle.wrapping_sub(1))) {
        (0, Some(high), Some(low)) => f64::midpoint(*high, *low),
        (_, Some(value), _) => *value,
        _ => f64::NAN,
    }
}

/// Packages of a virtual environment, whose versions belong to numbers.
type Packages = (&'static str, &'static [&'static str]);

/// Those of the Flask shop.
const SHOP: Packages = ("otel", &["Flask", "gunicorn", "psycopg2-binary", "redis", "opentelemetry-sdk"]);

/// Kernel, processor and versions that the numbers belong to.
fn machine((venv, packages): Packages) -> Result<String> {
    let kernel = output_of(Command::new("uname").args(["-r", "-m"]))?;
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = cpu_info.lines().find_map(|line| {
        line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let tell = "import sys; from importlib.metadata import version as v; print('Python ' + sys.version.split()[0] + \
                ''.join(f', {p} {v(p)}' for p in sys.argv[1:]))";
    let versions = output_of(Command::new(paths::venv(venv, "python")?).args(["-c", tell]).args(packages))?;
    let model = model.unwrap_or_else(|| "unknown processor".into());
    Ok(format!("Linux {}, {model}, {cores} cores; {}", kernel.trim(), versions.trim()))
}
