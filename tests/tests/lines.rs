//! Which line of the application made this call? Under the servers and clients of `tests/apps/work`, each of which notes
//! the line of every call itself.
//!
//! `TRACEKIT_LINES_ONLY=uvloop` takes the servers whose name contains that, on both interpreters.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::interpreters::{Running, installed};
use tracekit_tests::lines::{Line, Verdict, noted};
use tracekit_tests::load::Load;
use tracekit_tests::parents::call_of;
use tracekit_tests::paths;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;
use tracekit_tests::work::{Python, SERVERS, Server, Upstream};

/// Ways in which the loads of different servers differ: one of each.
const SERVED: &[&str] = &[
    "gunicorn gthread, Flask",
    "gunicorn gevent, Flask",
    "uvicorn asyncio, FastAPI",
    "uvicorn uvloop, FastAPI",
    "aiohttp",
];

fn runs() -> Vec<(&'static Server, Python)> {
    let only = std::env::var("TRACEKIT_LINES_ONLY").ok();
    let chosen = SERVERS.iter().filter(|server| match &only {
        Some(only) => server.name.contains(only),
        None => SERVED.contains(&server.name),
    });
    chosen.flat_map(|server| Python::ALL.into_iter().map(move |python| (server, python))).collect()
}

fn lines_under(stage: &Stage, upstream: &Upstream, server: &Server, python: Python) -> Result<Verdict> {
    let name = format!("{}-{}", server.name.replace(',', "").replace(' ', "-"), python.name());
    let calls = stage.logs().join(format!("{name}.calls"));
    std::fs::create_dir_all(&calls).with_context(|| format!("make {}", calls.display()))?;
    let mut environment = stage.environment();
    environment.push(upstream.environment());
    environment.push(("CALLS_DIR".into(), calls.display().to_string()));
    let app = server.start(&name, python, stage.logs(), &environment)?;
    let agent = Agent::start(stage, &format!("{name}-agent"), &["attach"], &app.pids(), &[])?;
    let load = Load { clients: 20, rounds: 2, first: 1000 };
    load.send(server, app.port).with_context(|| app.process.stderr())?;
    std::thread::sleep(Duration::from_millis(300));
    let noted = noted(&calls)?;
    agent.spans_when(Duration::from_secs(30), |spans| {
        spans.iter().filter(|span| call_of(span).is_some()).count() >= noted.len()
    })?;
    let spans = agent.finish()?;
    app.stop()?;
    Ok(Verdict::of(&spans, &noted))
}

#[test]
fn lines_under_servers() -> Result<()> {
    Stage::run("lines", |stage| {
        let stage = stage.with_postgres()?.with_mariadb()?.with_redis()?;
        let upstream = Upstream::start(stage.logs())?;
        let mut failures = Vec::new();
        for (server, python) in runs() {
            let verdict = lines_under(&stage, &upstream, server, python)?;
            let sum = verdict.sum();
            eprintln!("{}; {}: {sum:?}", server.name, python.name());
            for example in verdict.examples.iter().take(12) {
                failures.push(format!("{}; {}: {example}", server.name, python.name()));
            }
            ensure!(sum.right + sum.none + sum.wrong > 300, "{} calls", sum.right + sum.none + sum.wrong);
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

/// What of `tests/apps/lines` cannot be known: it may not be said, and of the first ones it is known that it is not.
const UNKNOWN: &[&str] = &["soon", "thread"];
const PERHAPS: &[&str] = &["pool", "pooled"];

/// What is wrong with a call's stack: it begins with the call's line, and leads through coroutines and tasks to `main`.
fn stack_complaint(span: &Span) -> Option<String> {
    let (stack, line) = (span.text("code.stacktrace"), Line::of(span));
    let Some((stack, line)) = stack.as_deref().zip(line.as_ref()) else {
        return (stack.is_some() || line.is_some()).then(|| "a line or a stack alone".to_owned());
    };
    let mut frames = stack.lines();
    let first = format!("  File \"{}\", line {}, in {}", line.file, line.number, line.function);
    if frames.next() != Some(&first) {
        return Some(format!("the stack does not begin with {first}"));
    }
    let mut functions = frames.filter_map(|frame| frame.rsplit(' ').next());
    let own = call_of(span).is_some_and(|call| call.contains("_own"));
    let whole = (!own || functions.next() == Some("calls")) && functions.next() == Some("main");
    (!whole).then(|| "the stack does not lead to main".to_owned())
}

/// One run of `tests/apps/lines`.
struct Run {
    name: String,
    event_loop: &'static str,
    start: &'static str,
    command: Command,
    /// The tree that the interpreter sees as the whole file system.
    root: Option<PathBuf>,
}

/// What is wrong with what is said of the calls of `tests/apps/lines`.
fn lines_of_library_calls(
    stage: &Stage,
    upstream: &Upstream,
    Run { name, event_loop, start, mut command, root }: Run,
) -> Result<Vec<String>> {
    let is_foreign = root.is_some();
    let home = stage.logs().join(format!("{name}.home"));
    // An interpreter with a root of its own sees only what is below that.
    let (home, inside) = match root {
        Some(root) => {
            let inside = PathBuf::from(format!("/tmp/tracekit-{name}"));
            (root.join(inside.strip_prefix("/")?), inside)
        }
        None => (home.clone(), home),
    };
    let calls = home.join("calls");
    if calls.exists() {
        std::fs::remove_dir_all(&calls)?;
    }
    std::fs::create_dir_all(&calls).with_context(|| format!("make {}", calls.display()))?;
    for (from, to) in [
        ("lines/app.py", "app.py"),
        ("lines/site-packages/wire.py", "site-packages/wire.py"),
        ("work/tokens.py", "tokens.py"),
    ] {
        let to = home.join(to);
        std::fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        std::fs::copy(paths::apps().join(from), &to).with_context(|| format!("write {}", to.display()))?;
    }
    command.arg(inside.join("app.py")).args([event_loop, start, &upstream.environment().1]);
    command.env("CALLS_DIR", inside.join("calls")).env("PYTHONPATH", inside.join("site-packages"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut running = Running::start(command, Stdio::piped())?;
    let verb = ["attach", "--slow-call", "0"];
    let agent = Agent::start(stage, &format!("{name}-agent"), &verb, &[running.pid()], &[])?;
    running.ask("go")?;
    let noted = noted(&calls)?;
    agent.spans_when(Duration::from_secs(20), |spans| {
        spans.iter().filter(|span| call_of(span).is_some()).count() >= noted.len()
    })?;
    let spans = agent.finish()?;
    let verdict = Verdict::of(&spans, &noted);
    eprintln!("{name}: {:?}", verdict.sum());
    if is_foreign {
        std::fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))?;
    }
    let mut wrong = Vec::new();
    for ((kind, _), count) in &verdict.cells {
        let is_right = match kind.as_str() {
            kind if UNKNOWN.contains(&kind) => count.right + count.wrong == 0,
            kind if PERHAPS.contains(&kind) => count.wrong == 0,
            _ => count.none + count.wrong == 0,
        };
        if !is_right {
            let mark = format!("_{kind}_");
            let example = verdict.examples.iter().find(|example| example.contains(&mark));
            wrong.push(format!("{name}, {kind}: {count:?}, {}", example.map_or("", String::as_str)));
        }
    }
    for span in spans.iter().filter(|span| call_of(span).is_some()) {
        wrong.extend(stack_complaint(span).map(|what| format!("{name}: {what}: {span}")));
    }
    ensure!(verdict.cells.len() > 15, "{name}: only {} kinds of calls", verdict.cells.len());
    Ok(wrong)
}

#[test]
fn lines_of_library_calls_in_all_versions() -> Result<()> {
    Stage::run("lines-library", |stage| {
        let upstream = Upstream::start(stage.logs())?;
        let only = std::env::var("TRACEKIT_LINES_ONLY").unwrap_or_default();
        let mut runs = Vec::new();
        for start in STARTS {
            let mut run = |python: &str, event_loop, command, root| {
                let name = format!("{python}-{event_loop}-{start}");
                runs.push(Run { name, event_loop, start, command, root });
            };
            for one in installed()?.iter().filter(|one| VERSIONS.contains(&one.id.as_str())) {
                let root = one.root.as_ref().map(|root| paths::workspace().join(root));
                run(&one.id, "asyncio", one.command(), root);
            }
            for python in ["servers", "servers-pyenv"] {
                run(python, "uvloop", Command::new(paths::venv(python, "python")?), None);
            }
        }
        let mut wrong = Vec::new();
        for run in runs.into_iter().filter(|run| run.name.contains(&only)) {
            let name = run.name.clone();
            wrong.extend(lines_of_library_calls(&stage, &upstream, run).context(name)?);
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}

/// Interpreters: of each minor version one, stripped or not.
const VERSIONS: &[&str] = &[
    "3.8-pyenv-stripped",
    "3.9-pyenv",
    "3.10-pyenv-stripped",
    "3.11-pyenv-static-stripped",
    "3.12-pyenv",
    "3.13-pyenv-stripped",
    "3.14-debian-sid",
];
/// Ways to start an event loop.
const STARTS: &[&str] = &["run", "until", "forever"];
