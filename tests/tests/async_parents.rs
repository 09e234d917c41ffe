//! Calls of tasks hang under the request for which the task acts: on uvicorn with both event loops, and on every
//! version of Python on asyncio's own streams, whose task for a connection shows itself only by its answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::app::App;
use tracekit_tests::client::{Connection, Request, send_once};
use tracekit_tests::interpreters::{Running, installed};
use tracekit_tests::paths;
use tracekit_tests::process::free_port;
use tracekit_tests::span::Span;
use tracekit_tests::stage::Stage;

/// Connections at once, and requests that follow each other on each.
const CONNECTIONS: u64 = 20;
const ROUNDS: u64 = 3;
/// The number of a request that comes before these: with it the application loads what it needs.
const FIRST: u64 = 1000;
/// After that time the agent knows what was loaded.
const LOOKED: Duration = Duration::from_millis(700);
/// Calls of one request by kind.
const CALLS: [(&str, usize); 4] = [("nested", 1), ("gather", 2), ("executor", 1), ("background", 1)];

/// The number that a path of these requests and calls has, and the kind of call.
fn number_of(url: &str) -> Option<(u64, &str)> {
    let (number, kind) = match url.rsplit('/').next()?.split_once('-') {
        Some((number, kind)) => (number, kind),
        None => (url.rsplit('/').next()?, ""),
    };
    let number = number.parse().ok().filter(|number| *number < FIRST)?;
    Some((number, kind))
}

fn send(port: u16) -> Result<()> {
    std::thread::scope(|scope| {
        let client = |index| {
            move || -> Result<()> {
                let mut connection = Connection::new(SocketAddr::from(([127, 0, 0, 1], port)));
                for round in 0..ROUNDS {
                    let request = Request::get(&format!("/work/{}", round * CONNECTIONS + index));
                    let answer = connection.send(&request)?.context("no answer")?;
                    ensure!(answer.status == 200, "status {}", answer.status);
                }
                Ok(())
            }
        };
        let clients: Vec<_> = (0..CONNECTIONS).map(|index| scope.spawn(client(index))).collect();
        for client in clients {
            if client.join().is_ok_and(|sent| sent.is_ok()) {
                continue;
            }
            bail!("a client failed");
        }
        Ok(())
    })
}

/// Sends the requests and checks the parent of every call, and the function that made it if the application has a
/// file.
fn check(agent: Agent, port: u16, file: bool) -> Result<()> {
    send_once(port, &Request { close: true, ..Request::get(&format!("/work/{FIRST}")) })?;
    std::thread::sleep(LOOKED);
    send(port)?;
    let requests = (CONNECTIONS * ROUNDS) as usize;
    let calls: usize = CALLS.iter().map(|(_, count)| count).sum();
    let numbered = |span: &&Span| {
        let url = span.text("url.full").or_else(|| span.text("url.path")).unwrap_or_default();
        number_of(&url).is_some()
    };
    let enough = |spans: &[Span]| spans.iter().filter(numbered).count() >= requests * (calls + 1);
    agent.spans_when(Duration::from_secs(30), enough)?;
    let spans = agent.finish()?;
    let mut served = HashMap::new();
    for span in spans.iter().filter(|span| span.is_server()) {
        if let Some((number, _)) = number_of(&span.text("url.path").unwrap_or_default()) {
            served.insert(number, span);
        }
    }
    ensure!(served.len() == requests, "{} of {requests} requests have a span", served.len());
    let mut counts: HashMap<(u64, String), usize> = HashMap::new();
    for span in spans.iter().filter(|span| !span.is_server()) {
        let url = span.text("url.full").unwrap_or_default();
        let Some((number, kind)) = number_of(&url) else { continue };
        let server = served.get(&number).context("a call of no request")?;
        let right =
            span.parent_span_id.as_deref() == Some(&server.span_id) && span.trace_id == server.trace_id;
        ensure!(right, "{span} is not under {server}");
        ensure!(
            !file || kind == "executor" || span.text("code.function.name").as_deref() == Some("call"),
            "{span} was called by `call`"
        );
        *counts.entry((number, kind.to_owned())).or_default() += 1;
    }
    for (kind, count) in CALLS {
        for number in served.keys() {
            let found = counts.get(&(*number, kind.to_owned())).copied().unwrap_or(0);
            ensure!(found == count, "request {number} has {found} calls of kind {kind}, not {count}");
        }
    }
    Ok(())
}

fn uvicorn(event_loop: &str) -> Result<()> {
    Stage::run(&format!("async-parents-{event_loop}"), |stage| {
        let stage = stage.with_backend()?;
        let port = free_port()?;
        let mut command = Command::new(paths::venv("web", "uvicorn")?);
        command.args(["async_parents:app", "--log-level", "warning", "--loop", event_loop, "--port"]);
        command.arg(port.to_string()).current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(stage.environment());
        let app = App::start("uvicorn", stage.logs(), command, port, 0)?;
        let agent = Agent::attach(&stage, &app.pids())?;
        check(agent, port, true)
    })
}

#[test]
fn tasks_of_uvicorn_on_asyncio() -> Result<()> {
    uvicorn("asyncio")
}

#[test]
fn tasks_of_uvicorn_on_uvloop() -> Result<()> {
    uvicorn("uvloop")
}

/// One interpreter of each version; where there are several, one that is stripped.
#[test]
fn tasks_of_connections_on_every_version() -> Result<()> {
    let script = std::fs::read_to_string(paths::apps().join("async_parents.py"))?;
    let mut interpreters = HashMap::new();
    for interpreter in installed()? {
        let free_threaded = interpreter.id.contains("3.13t");
        let stripped = interpreter.id.ends_with("stripped");
        if !free_threaded && (stripped || !interpreters.contains_key(interpreter.minor())) {
            interpreters.insert(interpreter.minor().to_owned(), interpreter);
        }
    }
    ensure!(interpreters.len() >= 8, "only {:?}", interpreters.keys());
    for (version, interpreter) in interpreters {
        Stage::run(&format!("async-parents-{version}"), |stage| {
            let stage = stage.with_backend()?;
            let port = free_port()?;
            let mut command = interpreter.command();
            command.args(["-c", &script, &port.to_string()]).envs(stage.environment());
            let running = Running::start(command, Stdio::null())?;
            let agent = Agent::attach(&stage, &[running.pid()])?;
            check(agent, port, false).with_context(|| interpreter.id.clone())
        })?;
    }
    Ok(())
}
