//! Which line of the application made this call? Under the servers and clients of `tests/apps/work`, each of which notes
//! the line of every call itself.
//!
//! `TRACEKIT_LINES_ONLY=uvloop` takes the servers whose name contains that, on both interpreters.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::lines::{Verdict, noted};
use tracekit_tests::load::Load;
use tracekit_tests::parents::call_of;
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
