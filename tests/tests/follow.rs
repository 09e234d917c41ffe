//! `tracekit run` follows processes that start, fork, are replaced and end.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::process::{free_port, wait_for};
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

fn ask(port: u16, ids: std::ops::Range<usize>) -> Result<()> {
    for index in ids {
        send_once(port, &Request { close: true, ..Request::get(&format!("/ping?id=f{index}")) })?;
    }
    Ok(())
}

fn seen(spans: &[Span], ids: std::ops::Range<usize>) -> bool {
    ids.into_iter().all(|index| spans.iter().any(|span| span.request_id() == Some(format!("f{index}"))))
}

fn follow(stage: &Stage, pattern: &str) -> Result<Agent> {
    Agent::start(stage, "agent", &["run", "--cmdline", pattern], &[], &[])
}

#[test]
fn gunicorn_that_starts_later_and_replaces_a_killed_worker() -> Result<()> {
    Stage::run("follow-gunicorn", |stage| {
        let stage = stage.with_redis()?;
        let agent = follow(&stage, "gunicorn.*shop_flask")?;
        let environment = [stage.environment(), vec![("PG_PORT".into(), "1".into())]].concat();
        let app = Setup::FlaskSync.start(stage.logs(), &environment, &Tracing::None)?;
        // A process that starts later is found soon, not at once.
        std::thread::sleep(Duration::from_secs(2));
        ask(app.port, 0..20)?;
        agent.spans_when(Duration::from_secs(5), |spans| seen(spans, 0..20))?;

        let before = app.worker_pids();
        let victim = before[0];
        // SAFETY: kill takes two integers; the worker is a child of the server that this test started.
        unsafe { libc::kill(victim.cast_signed(), libc::SIGKILL) };
        wait_for("a worker instead of the killed one", Duration::from_secs(20), || {
            let now = app.worker_pids();
            Ok((now.len() == before.len() && !now.contains(&victim)).then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(500));
        ask(app.port, 20..60)?;
        let spans = agent.spans_when(Duration::from_secs(5), |spans| seen(spans, 20..60))?;
        let new = app.worker_pids().into_iter().find(|pid| !before.contains(pid));
        let by_new = spans.iter().filter(|span| {
            span.resource.get("process.pid").and_then(serde_json::Value::as_u64) == new.map(u64::from)
        });
        println!("{} spans carry the pid of the new worker", by_new.count());
        let services: std::collections::BTreeSet<&str> = spans.iter().map(Span::service).collect();
        ensure!(services.len() == 1, "the workers are one service, not {services:?}");
        agent.finish().map(drop)
    })
}

#[test]
fn process_that_becomes_python_by_exec() -> Result<()> {
    Stage::run("follow-exec", |stage| {
        let agent = follow(&stage, "sockets.py")?;
        let port = free_port()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 1; exec /usr/bin/python3 \"$@\"", "sh"]);
        command.arg(paths::apps().join("sockets.py")).args(["blocking", &format!("127.0.0.1:{port}")]);
        let app = App::start("server", stage.logs(), command, port, 0)?;
        std::thread::sleep(Duration::from_secs(2));
        ask(port, 0..10)?;
        agent.spans_when(Duration::from_secs(5), |spans| seen(spans, 0..10))?;
        // The process ends; the agent goes on, and finds the next one.
        app.stop()?;
        let port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg(paths::apps().join("sockets.py")).args(["blocking", &format!("127.0.0.1:{port}")]);
        let _next = App::start("next", stage.logs(), command, port, 0)?;
        std::thread::sleep(Duration::from_secs(2));
        ask(port, 10..20)?;
        agent.spans_when(Duration::from_secs(5), |spans| seen(spans, 10..20))?;
        agent.finish().map(drop)
    })
}

/// What does not match is left alone.
#[test]
fn only_what_is_selected() -> Result<()> {
    Stage::run("follow-selected", |stage| {
        let start = |name: &str, mode: &str| -> Result<App> {
            let port = free_port()?;
            let mut command = Command::new("/usr/bin/python3");
            command.arg(paths::apps().join("sockets.py")).args([mode, &format!("127.0.0.1:{port}")]);
            App::start(name, stage.logs(), command, port, 0)
        };
        let (chosen, other) = (start("chosen", "select")?, start("other", "blocking")?);
        let agent = Agent::start(&stage, "agent", &["attach", "--port", &chosen.port.to_string()], &[], &[])?;
        ask(other.port, 100..120)?;
        ask(chosen.port, 0..10)?;
        let spans = agent.spans_when(Duration::from_secs(5), |spans| seen(spans, 0..10))?;
        ensure!(spans.len() == 10, "spans of a process that was not selected:\n{}", listing(&spans));
        agent.finish().map(drop)
    })
}
