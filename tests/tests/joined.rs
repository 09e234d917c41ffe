//! Two services on one host, both traced, without a header between them: one trace for each request.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::{Agent, listing};
use tracekit_tests::app::{Setup, Tracing};
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

/// Asks for all of `targets` at once, by ten clients.
fn ask(port: u16, targets: &[String]) -> Result<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = targets
            .chunks(targets.len().div_ceil(10))
            .map(|targets| {
                scope.spawn(move || {
                    targets.iter().try_for_each(|target| {
                        let answer = send_once(port, &Request { close: true, ..Request::get(target) })?;
                        ensure!(answer.status == 200, "{target}: status {}", answer.status);
                        Ok(())
                    })
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| match client.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Front, call and back of each request are one trace, each below the other.
fn check(spans: &[Span], front: u16, count: usize) -> Result<()> {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let port = |span: &Span| span.text("server.port");
    let backs: Vec<&Span> =
        spans.iter().filter(|span| span.is_server() && port(span) != Some(front.to_string())).collect();
    ensure!(backs.len() == count, "{} requests at the back, not {count}", backs.len());
    let mut traces = BTreeMap::new();
    for back in backs {
        let above = |span: &Span| by_id.get(span.parent_span_id.as_deref()?).copied();
        let call = above(back).with_context(|| format!("no call above {back}"))?;
        let first = above(call).with_context(|| format!("no request above {call}"))?;
        ensure!(call.kind == "client" && first.is_server(), "not below each other: {back}\n{call}\n{first}");
        ensure!(first.trace_id == back.trace_id && call.trace_id == back.trace_id, "several traces: {back}");
        // The number of the request is in its URL, and is handed on.
        ensure!(
            back.request_id().is_none() || back.request_id() == first.request_id(),
            "mixed: {back}\n{first}"
        );
        *traces.entry(back.trace_id.clone()).or_insert(0) += 1;
    }
    ensure!(traces.len() == count, "{} traces of {count} requests", traces.len());
    Ok(())
}

fn joined(name: &str, setup: Setup, targets: impl Fn(usize) -> String) -> Result<()> {
    Stage::run(name, |stage| {
        let stage = if setup == Setup::FastApi { stage.with_postgres()? } else { stage.with_redis()? };
        let back_port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg(paths::apps().join("backend.py")).arg(back_port.to_string());
        let back = Process::start("back", stage.logs(), command)?;
        wait_for("the back's port", Duration::from_secs(20), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", back_port)).map(Some)?)
        })?;
        let mut environment = stage.environment();
        for name in ["BACKEND_PORT", "UPSTREAM_PORT"] {
            environment.push((name.into(), back_port.to_string()));
        }
        if setup != Setup::FastApi {
            environment.push(("PG_PORT".into(), "1".into()));
        }
        let app = setup.start(stage.logs(), &environment, &Tracing::None)?;
        let mut pids = app.pids();
        pids.push(back.pid());
        // Headers would say it, too.
        let agent = Agent::start(&stage, "agent", &["attach", "--propagate", "off"], &pids, &[])?;
        let targets: Vec<String> = (0..100).map(targets).collect();
        ask(app.port, &targets)?;
        let is_enough = |spans: &[Span]| spans.iter().filter(|span| span.is_server()).count() >= 200;
        let seen = agent.spans_when(Duration::from_secs(5), is_enough);
        let spans = agent.finish()?;
        check(&spans, app.port, 100).with_context(|| listing(&spans))?;
        seen.map(drop)
    })
}

#[test]
fn gunicorn_calls_by_three_libraries() -> Result<()> {
    joined("joined-gunicorn", Setup::FlaskGthread, |number| {
        let library = ["requests", "urllib3", "http.client"][number % 3];
        format!("/call/{library}/status/200?id=j{number}")
    })
}

#[test]
fn uvicorn_calls_by_httpx() -> Result<()> {
    joined("joined-uvicorn", Setup::FastApi, |number| format!("/bench?id=j{number}"))
}
