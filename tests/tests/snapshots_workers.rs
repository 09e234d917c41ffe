//! Every execution is counted: in all threads, in all workers, those that start after the breakpoint was armed included.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;
use tracekit_tests::agent::Agent;
use tracekit_tests::app::App;
use tracekit_tests::client::{Request, send_once};
use tracekit_tests::debugger::{Driven, SOON, debugged, place};
use tracekit_tests::paths;
use tracekit_tests::process::{Process, free_port, run, wait_for};
use tracekit_tests::stage::Stage;

/// Counts, and captures next to nothing.
const RARELY: [&str; 2] = ["--rate", "1/h"];

fn break_add(place: &str) -> Vec<&str> {
    [&["break", "add", place], &RARELY[..]].concat()
}

/// Requests by several clients, each on a connection of its own; how many each process has answered.
fn requests(port: u16, count: usize) -> Result<BTreeMap<u64, u64>> {
    let by_pid = Mutex::new(BTreeMap::new());
    let client = |part: usize| -> Result<()> {
        for number in (part..count).step_by(4) {
            let request = Request { close: true, ..Request::get(&format!("/pay/{}", number + 1)) };
            let answer = send_once(port, &request)?;
            ensure!(answer.status == 200, "status {}", answer.status);
            let seen: Json = serde_json::from_slice(&answer.body)?;
            let pid = seen["pid"].as_u64().context("no pid")?;
            *by_pid.lock().expect("a client panicked").entry(pid).or_insert(0) += 1;
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..4).map(|part| scope.spawn(move || client(part))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client panicked"))
    })?;
    Ok(by_pid.into_inner().expect("a client panicked"))
}

fn gunicorn(stage: &Stage, arguments: &[&str]) -> Result<App> {
    let port = free_port()?;
    let mut command = Command::new(paths::venv("web", "gunicorn")?);
    command.args(["--bind", &format!("127.0.0.1:{port}"), "--workers", "4", "--no-control-socket"]);
    command.args(["--worker-tmp-dir", "/dev/shm"]).args(arguments).arg("orders:wsgi");
    command.current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
    App::start("gunicorn", stage.logs(), command, port, 4)
}

/// Hits in each process that the breakpoint lists.
fn hits_by_pid(view: &Json) -> BTreeMap<u64, u64> {
    let processes = view["processes"].as_array().into_iter().flatten();
    processes
        .filter_map(|process| Some((process["pid"].as_u64()?, process["hits"].as_u64()?)))
        .filter(|(_, hits)| *hits > 0)
        .collect()
}

#[test]
fn threads_before_and_after() -> Result<()> {
    debugged("snapshots-threads", |stage| {
        let mut app = Driven::start(&[&paths::apps().join("debugged")])?;
        let agent = Agent::attach(&stage, &[app.pid()])?;
        let place = place("debugged/counted.py", "step")?;

        // Not loaded yet.
        let id = agent.add(&break_add(&place))?;
        ensure!(agent.breakpoint(&id)?["state"] == "PENDING");
        app.ask("load('counted')")?;
        agent.armed(&id, 1)?;
        ensure!(app.number("loop(counted.step, range(50))")? == 50);
        agent.hits(&id, 50)?;
        agent.verb(&["break", "rm", &id])?;

        // Four threads run it already, and four start after it was armed.
        app.ask("begin(counted.step, range(10**9), threads=4, pause=0.02)")?;
        let id = agent.arm(&break_add(&place), 1)?;
        app.ask("end()")?;
        std::thread::sleep(Duration::from_millis(300));
        let before = agent.breakpoint(&id)?["counters"]["hits"].as_u64().context("no hits")?;
        ensure!(app.number("loop(counted.step, range(400), threads=8, pause=0.02)")? == 400);
        agent.hits(&id, before + 400)?;

        // Threads that are there when it is armed and go on.
        app.ask("begin(counted.step, range(10**9), threads=4, pause=0.02)")?;
        let first = app.number("count()")?;
        wait_for("hits in threads that were there", SOON, || {
            let hits = agent.breakpoint(&id)?["counters"]["hits"].as_u64().unwrap_or(0);
            Ok((hits > before + 420).then_some(()))
        })?;
        let ended = app.number("end()")?;
        ensure!(ended >= first, "{first} {ended}");
        agent.hits(&id, before + 400 + ended)?;
        Ok(())
    })
}

#[test]
fn gunicorn_workers() -> Result<()> {
    debugged("snapshots-gunicorn", |stage| {
        let app = gunicorn(&stage, &[])?;
        let agent = Agent::attach(&stage, &[app.process.pid()])?;
        let place = place("orders.py", "paid")?;
        let id = agent.arm(&break_add(&place), 4)?;
        // On the same line of the same workers, and on another: more than there are registers for four processes.
        let other = agent.arm(&["break", "add", &place, "--label", "other", "--rate", "1/h"], 4)?;
        let answered = requests(app.port, 80)?;
        let view = agent.hits(&id, 80)?;
        ensure!(hits_by_pid(&view) == answered, "{answered:?} are {:?}", hits_by_pid(&view));
        agent.hits(&other, 80)?;
        agent.verb(&["break", "rm", &other])?;

        // Workers that come later import the module themselves.
        for workers in [5, 6] {
            app.process.signal(libc::SIGTTIN);
            wait_for("one more worker", SOON, || Ok((app.worker_pids().len() == workers).then_some(())))?;
        }
        agent.armed(&id, 6)?;
        requests(app.port, 80)?;
        agent.hits(&id, 160)?;
        let old = app.worker_pids();
        app.process.signal(libc::SIGHUP);
        wait_for("other workers", SOON, || {
            let now = app.worker_pids();
            Ok((now.len() == 4 && !now.iter().any(|pid| old.contains(pid))).then_some(()))
        })?;
        agent.armed(&id, 4)?;
        let answered = requests(app.port, 80)?;
        let view = agent.hits(&id, 240)?;
        ensure!(hits_by_pid(&view) == answered, "{answered:?} are {:?}", hits_by_pid(&view));
        Ok(())
    })
}

/// Workers that end after a few requests, and others that are forked with the code that is watched already.
#[test]
fn gunicorn_workers_come_and_go() -> Result<()> {
    debugged("snapshots-gunicorn-preload", |stage| {
        let app = gunicorn(&stage, &["--preload", "--max-requests", "10"])?;
        let agent = Agent::attach(&stage, &[app.process.pid()])?;
        let id = agent.arm(&break_add(&place("orders.py", "paid")?), 5)?;
        let answered = requests(app.port, 200)?;
        ensure!(answered.len() > 8, "{answered:?}");
        agent.hits(&id, 200)?;
        Ok(())
    })
}

#[test]
fn uvicorn() -> Result<()> {
    debugged("snapshots-uvicorn", |stage| {
        for event_loop in ["asyncio", "uvloop"] {
            let port = free_port()?;
            let mut command = Command::new(paths::venv("web", "uvicorn")?);
            command.args([
                "--port",
                &port.to_string(),
                "--loop",
                event_loop,
                "--no-access-log",
                "orders:asgi",
            ]);
            command.current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
            let app = App::start(event_loop, stage.logs(), command, port, 0)?;
            let agent = Agent::attach(&stage, &app.pids())?;
            let line = place("orders.py", "later")?;
            let id = agent.arm(&["break", "add", &line, "--rate", "10/s", "--expr", "str(number)"], 1)?;
            requests(app.port, 100)?;
            agent.hits(&id, 100)?;
            // Requests at once are not mistaken for each other.
            let snapshots = agent.snapshots(&id)?;
            ensure!(!snapshots.is_empty(), "no snapshot");
            for snapshot in snapshots {
                let url = snapshot.pointer("/request/url").and_then(Json::as_str).unwrap_or_default();
                let number = url.rsplit('/').next().unwrap_or_default();
                let watches = snapshot["watches"].to_string();
                ensure!(
                    watches.contains(&format!("\"{number}\"")),
                    "{event_loop}: {url:?}, {watches}: {snapshot:#}"
                );
                ensure!(snapshot["span_id"].is_string(), "{event_loop}: {snapshot:#}");
            }
            agent.finish()?;
        }
        Ok(())
    })
}

#[test]
fn celery_workers() -> Result<()> {
    debugged("snapshots-celery", |stage| {
        let stage = stage.with_redis()?;
        let celery = |program: &str| -> Result<Command> {
            let mut command = Command::new(paths::venv("celery", program)?);
            command.current_dir(paths::apps()).env("PYTHONDONTWRITEBYTECODE", "1");
            command.envs(stage.environment());
            Ok(command)
        };
        let mut worker = celery("celery")?;
        worker.args(["-A", "orders:tasks", "worker", "--pool", "prefork", "-c", "4", "-l", "info"]);
        worker.args(["--max-tasks-per-child", "20", "--without-gossip", "--without-mingle"]);
        let mut worker = Process::start("celery", stage.logs(), worker)?.stopped_by(libc::SIGQUIT);
        let said = worker.pid();
        let ready = stage.logs().join("celery.err");
        worker.ready(SOON, || Ok(std::fs::read_to_string(&ready)?.contains(" ready.").then_some(())))?;
        let agent = Agent::attach(&stage, &[said])?;
        let id = agent.arm(&break_add(&place("orders.py", "paid")?), 5)?;
        let send = || -> Result<BTreeMap<String, u64>> {
            let mut client = celery("python")?;
            client.args(["orders.py", "send", "120"]);
            Ok(serde_json::from_str(run(&mut client)?.trim())?)
        };
        let by_pid = send()?;
        ensure!(by_pid.len() >= 4 && by_pid.values().sum::<u64>() == 120, "{by_pid:?}");
        agent.hits(&id, 120)?;
        let by_pid = send()?;
        ensure!(by_pid.values().sum::<u64>() == 120, "{by_pid:?}");
        agent.hits(&id, 240)?;
        Ok(())
    })
}
