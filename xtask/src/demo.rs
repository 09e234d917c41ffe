//! `cargo xtask demo`: a shop that nobody prepared, its traces, and what it has in its hands at the checkout.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tracekit_tests::agent;
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, wait_for};
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

/// Where the second act sets its breakpoint: on this statement of the shop.
const CHECKOUT: (&str, &str) = ("shop_flask.py", "UPDATE products SET stock = stock - 1");
/// A card number of the shop's customer, which nobody must see.
const SECRET: &str = "4111";

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
    let control = Control::new()?;
    command.arg("--control-socket").arg(control.socket()).arg("--state-dir").arg(control.folder.path());
    let mut agent = if arguments.once {
        Process::start("agent", stage.logs(), command)?
    } else {
        Process::start_in_foreground("agent", stage.logs(), command)?
    };
    agent.ready(Duration::from_secs(20), || Ok(ready.exists().then_some(()))).context("attach")?;
    eprint!("{}", agent.stderr());
    if arguments.once {
        return once(&app, agent, &control);
    }
    step(&format!("traces of http://127.0.0.1:{}/ follow; Ctrl-C ends the demo", app.port));
    visit(&app, Duration::from_millis(700))?;
    if !INTERRUPTED.load(Ordering::Relaxed) {
        control.second_act(&app)?;
    }
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

/// The agent's other end.
struct Control {
    folder: tempfile::TempDir,
}

impl Control {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tracekit-demo-").tempdir();
        Ok(Self { folder: folder.context("make a folder for the agent's socket")? })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Runs `tracekit` and gives what it printed.
    fn tracekit(&self, arguments: &[&str]) -> Result<String> {
        let output = agent::command(arguments)?.env("TRACEKIT_AGENT", self.socket()).output()?;
        if !output.status.success() {
            bail!("tracekit {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A breakpoint on the checkout's line, a customer who comes by, and what was seen.
    fn second_act(&self, app: &App) -> Result<String> {
        let (file, statement) = CHECKOUT;
        let source = std::fs::read_to_string(paths::apps().join(file))?;
        let line =
            source.lines().position(|line| line.contains(statement)).context("the shop has a checkout")?;
        let place = format!("{file}:{}", line + 1);
        let condition = "status == 200 and len(basket['lines']) > 1";
        step(&format!(
            "a breakpoint that stops nothing: tracekit break add {place} --if \"{condition}\" --expr number"
        ));
        print!("{}", self.tracekit(&["break", "add", &place, "--if", condition, "--expr", "number"])?);
        let snapshots = wait_for("the snapshot of a checkout", Duration::from_secs(20), || {
            send_once(app.port, &Request { close: true, ..Request::get("/checkout/7") })?;
            let listed: serde_json::Value =
                serde_json::from_str(&self.tracekit(&["snapshots", "ls", "-o", "json"])?)?;
            Ok(listed.pointer("/0/id").and_then(|id| id.as_str()).map(str::to_owned))
        })?;
        step(&format!("what it has seen: tracekit snapshots get {snapshots}"));
        let seen = self.tracekit(&["snapshots", "get", &snapshots])?;
        println!("{seen}");
        Ok(seen)
    }
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
fn once(app: &App, mut agent: Process, control: &Control) -> Result<()> {
    visit(app, Duration::from_millis(50))?;
    visit(app, Duration::from_millis(50))?;
    std::thread::sleep(Duration::from_secs(1));
    let seen = control.second_act(app)?;
    for expected in ["checkout", "basket", "espresso", "/checkout/7"] {
        if !seen.contains(expected) {
            bail!("the snapshot holds no {expected}:\n{seen}");
        }
    }
    if seen.contains(SECRET) {
        bail!("the snapshot shows the card number:\n{seen}");
    }
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
