//! `cargo xtask demo`: a shop that nobody prepared, and its traces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tracekit_tests::agent;
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::process::Process;
use tracekit_tests::stage::Stage;

use crate::setup::{self, Profile, build_agent, step};

/// How the demo ends.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// End after a few requests, and fail if they were not traced.
    #[arg(long)]
    once: bool,
}

/// What a visitor of the shop does, and what of it must be in the traces.
const VISIT: &[(&str, &str)] = &[
    ("GET", "/products/3"),
    ("GET", "/checkout/7"),
    ("POST", "/orders"),
    ("GET", "/call/urllib3/status/200"),
    ("GET", "/pipeline"),
    ("GET", "/products/99"),
    ("GET", "/sql-error"),
];

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Ctrl-C ends the loop below, and so everything that was started is dropped.
fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = on_interrupt as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Builds, starts the shop, attaches, sends traffic until Ctrl-C.
///
/// # Errors
/// Something does not start; with `--once` also if a request was not traced.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install(setup::Extent::Minimal)?;
    build_agent(Profile::Release)?;
    catch_interrupts();
    step("start PostgreSQL, Redis, a backend, and the Flask shop under gunicorn (2 workers)");
    let stage = Stage::new("demo")?.with_postgres()?.with_redis()?.with_backend()?;
    let app = Setup::FlaskSync.start(stage.logs(), &stage.environment(), &Tracing::None)?;
    visit(&app, Duration::ZERO)?;
    let pids = app.pids();
    let shown: Vec<String> = pids.iter().map(u32::to_string).collect();
    step(&format!(
        "the shop has been serving for a while; attach: tracekit attach --pid {}",
        shown.join(" --pid ")
    ));
    let ready = stage.logs().join("agent.ready");
    let mut command = agent::command(&["attach", "--print", "pretty"])?;
    for pid in &shown {
        command.args(["--pid", pid]);
    }
    command.arg("--ready-file").arg(&ready);
    let mut agent = if arguments.once {
        Process::start("agent", stage.logs(), command)?
    } else {
        Process::start_in_foreground("agent", stage.logs(), command)?
    };
    agent.ready(Duration::from_secs(20), || Ok(ready.exists().then_some(()))).context("attach")?;
    eprint!("{}", agent.stderr());
    if arguments.once {
        return once(&app, agent);
    }
    step(&format!("traces of http://127.0.0.1:{}/ follow; Ctrl-C ends the demo", app.port));
    while !INTERRUPTED.load(Ordering::Relaxed) {
        visit(&app, Duration::from_millis(700))?;
        if let Some(status) = agent.exited()? {
            bail!("the agent ended ({status}):\n{}", agent.log_tail());
        }
    }
    eprintln!();
    step("stop everything");
    agent.stop(Duration::from_secs(10))?;
    Ok(())
}

fn visit(app: &App, pause: Duration) -> Result<()> {
    for (method, target) in VISIT {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Ok(());
        }
        let request = Request { method: (*method).into(), close: true, ..Request::get(target) };
        send_once(app.port, &request)?;
        let end = Instant::now() + pause;
        while Instant::now() < end && !INTERRUPTED.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Sends the visit twice and looks for its parts in what the agent printed.
fn once(app: &App, mut agent: Process) -> Result<()> {
    visit(app, Duration::from_millis(50))?;
    visit(app, Duration::from_millis(50))?;
    std::thread::sleep(Duration::from_secs(1));
    let status = agent.stop(Duration::from_secs(10))?;
    let output = agent.stdout();
    print!("{output}");
    if !status.success() {
        bail!("the agent ended with {status}:\n{}", agent.stderr());
    }
    for expected in ["GET", "POST", "SELECT", "INSERT", "SET", "/checkout/7", "/products/3"] {
        if !output.contains(expected) {
            bail!("the traces hold no {expected}:\n{}", agent.log_tail());
        }
    }
    Ok(())
}
