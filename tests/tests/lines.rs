//! Which line of the application made this call? Under the servers and clients of `tests/apps/work`, each of which notes
//! the line of every call itself.
//!
//! `TRACEKIT_LINES_ONLY=uvloop` takes the servers whose name contains that, on both interpreters.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::interpreters::{Running, installed};
use tracekit_tests::lines::{Verdict, noted};
use tracekit_tests::load::Load;
use tracekit_tests::parents::call_of;
use tracekit_tests::paths;
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

/// What is wrong with what is said of the calls of `tests/apps/lines`.
fn lines_of_library_calls(stage: &Stage, upstream: &Upstream, name: &str, mut command: Command) -> Result<Vec<String>> {
    let (loop_name, start) = name.rsplit_once('-').and_then(|(rest, start)| Some((rest.rsplit_once('-')?.1, start))).context("name")?;
    let calls = stage.logs().join(format!("{name}.calls"));
    std::fs::create_dir_all(&calls).with_context(|| format!("make {}", calls.display()))?;
    let app = paths::apps().join("lines");
    let modules = format!("{}:{}", app.join("site-packages").display(), paths::apps().join("work").display());
    command.arg(app.join("app.py")).args([loop_name, start, &upstream.environment().1]);
    command.env("CALLS_DIR", &calls).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut running = Running::start(command, Stdio::piped())?;
    let agent = Agent::start(stage, &format!("{name}-agent"), &["attach"], &[running.pid()], &[])?;
    running.ask("go")?;
    let noted = noted(&calls)?;
    agent.spans_when(Duration::from_secs(20), |spans| {
        spans.iter().filter(|span| call_of(span).is_some()).count() >= noted.len()
    })?;
    let verdict = Verdict::of(&agent.finish()?, &noted);
    eprintln!("{name}: {:?}", verdict.sum());
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
    ensure!(verdict.cells.len() > 15, "{name}: only {} kinds of calls", verdict.cells.len());
    Ok(wrong)
}

#[test]
fn lines_of_library_calls_in_all_versions() -> Result<()> {
    Stage::run("lines-library", |stage| {
        let upstream = Upstream::start(stage.logs())?;
        let only = std::env::var("TRACEKIT_LINES_ONLY").unwrap_or_default();
        let mut commands = Vec::new();
        for interpreter in installed()?.iter().filter(|one| VERSIONS.contains(&one.id.as_str())) {
            for start in STARTS {
                commands.push((format!("{}-asyncio-{start}", interpreter.id), interpreter.command()));
            }
        }
        for python in ["servers", "servers-pyenv"] {
            for start in STARTS {
                commands.push((format!("{python}-uvloop-{start}"), Command::new(paths::venv(python, "python")?)));
            }
        }
        let mut wrong = Vec::new();
        for (name, command) in commands.into_iter().filter(|(name, _)| name.contains(&only)) {
            wrong.extend(lines_of_library_calls(&stage, &upstream, &name, command).with_context(|| name.clone())?);
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
];
/// Ways to start an event loop.
const STARTS: &[&str] = &["run", "until", "forever"];
