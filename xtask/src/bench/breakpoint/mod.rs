//! `cargo xtask bench breakpoint`: what a line breakpoint costs the application, beside what does the same from inside.

mod contenders;
mod cost;
mod shop;
mod sink;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tracekit_tests::interpreters::installed;
use tracekit_tests::paths;
use tracekit_tests::process::run as output_of;
use tracekit_tests::stage::Stage;

use self::contenders::{Contenders, line_of};
use self::sink::Sink;
use super::build_example_in;
use crate::setup::{Profile, build_agent, make_virtual_environment};

/// How long to measure, and on what.
#[derive(Debug, clap::Args)]
pub struct Breakpoint {
    /// The interpreter: a path, or its name in `cargo xtask interpreters --list`; 3.12 or newer.
    #[arg(long, default_value = "3.12-pyenv")]
    python: String,
    /// What to measure; may be repeated.
    #[arg(long, value_enum, default_values_t = [Part::Cost, Part::Shop])]
    part: Vec<Part>,
    /// Rounds of the loop; each runs every contender once.
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// Rounds of the shop; each runs every contender once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Pairs of the agent without a breakpoint and with one that is not hit.
    #[arg(long, default_value_t = 12)]
    pairs: usize,
    /// How the agent is built; what runs in the application's thread is the same object in all of them.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// A directory with `tracekit` and `examples/watchpoints` that were built before, instead of building them.
    #[arg(long)]
    built: Option<PathBuf>,
    /// Seconds of load for a contender in a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Cost in the thread that runs the line.
    Cost,
    /// Throughput of Flask behind gunicorn.
    Shop,
}

/// Measures and prints.
///
/// # Errors
/// Something does not start, requests fail under load, or hits are missing.
pub fn run(arguments: &Breakpoint) -> Result<()> {
    let python = interpreter(&arguments.python)?;
    let venv = |name: &str| -> Result<PathBuf> {
        let requirements =
            paths::workspace().join("tests/requirements/breakpoint").join(format!("{name}.txt"));
        let name = format!("breakpoint-{name}");
        make_virtual_environment(&name, &requirements, &python)?;
        Ok(paths::target().join("venvs").join(name))
    };
    let (sink, stage) = (Sink::start()?, Stage::new("bench-breakpoint")?);
    let contenders =
        Contenders { datadog: venv("ddtrace")?, sdk: venv("sdk")?, sink: &sink, logs: stage.logs() };
    let built = arguments.built.as_ref().map_or(arguments.profile.name(), |_| "built before");
    println!("{}; agent: {built}\n", machine(&contenders)?);
    if arguments.part.contains(&Part::Cost) {
        let example = match &arguments.built {
            Some(directory) => directory.join("examples/watchpoints"),
            None => build_example_in(arguments.profile, "watchpoints")?,
        };
        cost::measure(&contenders, &example, arguments.turns)?;
    }
    if arguments.part.contains(&Part::Shop) {
        let agent = match &arguments.built {
            Some(directory) => directory.join("tracekit"),
            None => build_agent(arguments.profile)?,
        };
        let stage = Stage::new("bench-breakpoint-shop")?.with_postgres()?.with_redis()?;
        shop::measure(&Contenders { logs: stage.logs(), ..contenders }, &stage, &agent, arguments)?;
    }
    Ok(())
}

fn interpreter(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let all = installed()?;
    let found = all.iter().find(|row| row.id == name);
    let row = found.with_context(|| format!("no interpreter {name}: see cargo xtask interpreters --list"))?;
    Ok(paths::workspace().join(&row.python))
}

/// The machine, and the versions that the numbers belong to.
fn machine(contenders: &Contenders<'_>) -> Result<String> {
    let versions = |venv: &Path, packages: &str| {
        let program = "import sys; from importlib.metadata import version as v; \
                       print(sys.version.split()[0], *(f'{p} {v(p)}' for p in sys.argv[1].split()), sep=', ')";
        output_of(std::process::Command::new(venv.join("bin/python")).args(["-c", program, packages]))
    };
    let kernel = output_of(std::process::Command::new("uname").args(["-r", "-m"]))?;
    let python = versions(&contenders.datadog, "Flask gunicorn ddtrace")?;
    let sdk = versions(&contenders.sdk, "tracekit-apm")?;
    let sdk = sdk.trim().split_once(", ").map_or("", |(_, rest)| rest);
    Ok(format!("Linux {}; Python {}, {sdk}", kernel.trim(), python.trim()))
}

/// The ends of the lines of the programs that breakpoints are set on.
const HIT: &str = "# the line that is hit";
const NEVER: &str = "# the line that never runs";

/// `line_target.py:24`, as the agent takes it.
fn place(file: &str, marker: &str) -> Result<String> {
    Ok(format!("{file}:{}", line_of(file, marker)?))
}
