//! Who caused this call? Under every server, on two interpreters, with every client, requests at once make calls that
//! carry their request's number: each client span's parent is the server span of that request, or there is none.
//!
//! `TRACEKIT_PARENTS=50` sends 100 requests at once 50 times to every server on both interpreters; without it they are
//! sent twice, and most servers are met on one. `TRACEKIT_PARENTS_ONLY=uvloop` takes the servers whose name contains that;
//! `TRACEKIT_TABLE=path` writes the tables of `docs/compatibility.md`.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::app::{App, Environment};
use tracekit_tests::load::Load;
use tracekit_tests::parents::{Column, Count, Knowable, Verdict, answered_calls, knowable, table};
use tracekit_tests::stage::Stage;
use tracekit_tests::work::{Python, SERVERS, Server, Upstream, server};

/// What could be known and is not yet: kinds of calls that need not have a parent under these servers. Everything else
/// that is knowable must be right, and nothing may be wrong. The list only ever gets shorter.
const NOT_YET: &[(&str, &[&str])] = &[];

/// Servers that are met on both interpreters in every run: where tracing from outside goes wrong first.
const ON_BOTH: &[&str] = &["gunicorn gevent, Flask", "uvicorn uvloop, FastAPI"];

/// How often to send, if every server is to be met on both interpreters.
fn rounds() -> Option<u64> {
    std::env::var("TRACEKIT_PARENTS").ok().and_then(|rounds| rounds.parse().ok())
}

fn load() -> Load {
    Load { clients: 100, rounds: rounds().unwrap_or(2), first: 1000 }
}

/// The runs that are asked for.
fn runs() -> Vec<(&'static Server, Python)> {
    let only = std::env::var("TRACEKIT_PARENTS_ONLY").unwrap_or_default();
    let mut runs = Vec::new();
    for (index, server) in SERVERS.iter().enumerate().filter(|(_, server)| server.name.contains(&only)) {
        let both = rounds().is_some() || !only.is_empty() || ON_BOTH.contains(&server.name);
        let pythons = Python::ALL.into_iter().enumerate().filter(|(turn, _)| both || turn % 2 == index % 2);
        runs.extend(pythons.map(|(_, python)| (server, python)));
    }
    runs
}

/// Databases, and what every application has to know.
struct Work {
    stage: Stage,
    environment: Environment,
    _upstream: Upstream,
}

impl Work {
    fn new(stage: Stage) -> Result<Self> {
        let stage = stage.with_postgres()?.with_mariadb()?.with_redis()?;
        let upstream = Upstream::start(stage.logs())?;
        let mut environment = stage.environment();
        environment.push(upstream.environment());
        Ok(Self { stage, environment, _upstream: upstream })
    }

    /// Where the processes of a run note their calls.
    fn calls(&self, name: &str) -> Result<PathBuf> {
        let directory = self.stage.logs().join(format!("{name}.calls"));
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(directory)
    }

    /// Starts a server whose HTTP calls go to `upstream`, if that is another one than usual.
    fn start(&self, server: &Server, python: Python, name: &str, upstream: Option<&App>) -> Result<App> {
        let mut environment = self.environment.clone();
        let directory = name.split('+').next().unwrap_or(name);
        environment.push(("CALLS_DIR".into(), self.calls(directory)?.display().to_string()));
        if let Some(upstream) = upstream {
            environment.push(("UPSTREAM_PORT".into(), upstream.port.to_string()));
        }
        server.start(name, python, self.stage.logs(), &environment)
    }

    fn attach(&self, name: &str, apps: &[&App]) -> Result<Agent> {
        let pids: Vec<u32> = apps.iter().flat_map(|app| app.pids()).collect();
        Agent::start(&self.stage, &format!("{name}-agent"), &["attach"], &pids, &[])
    }
}

fn run_name(server: &Server, python: Python) -> String {
    let name = server.name.replace(',', "").replace(' ', "-");
    format!("{name}-{}", python.name())
}

/// Lets calls end that are made after the last answer.
fn rest() {
    std::thread::sleep(Duration::from_millis(300));
}

/// Ends the agent when it has printed all that was noted, or has printed nothing for a while that is long even where
/// much else runs, and judges what it printed.
fn judge(agent: Agent, calls: &Path) -> Result<Verdict> {
    let calls = answered_calls(calls)?;
    // Much may wait in the ring buffer where much was sent.
    let patience = Duration::from_secs(60 + 5 * load().rounds);
    let deadline = Instant::now() + patience;
    let (mut size, mut since) = (0, Instant::now());
    loop {
        ensure!(Instant::now() < deadline, "the agent still prints after {patience:?}");
        std::thread::sleep(Duration::from_millis(100));
        let now = std::fs::metadata(agent.process.stdout_path())?.len();
        if now != size {
            (size, since) = (now, Instant::now());
            continue;
        }
        let quiet = since.elapsed();
        if quiet > Duration::from_secs(8) {
            break;
        }
        if quiet > Duration::from_millis(400) {
            let text = agent.process.stdout();
            let words: HashSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
            let served = text.matches("\"kind\":\"server\"").count();
            if served >= load().numbers().count() && calls.iter().all(|call| words.contains(&**call)) {
                break;
            }
        }
    }
    let said = agent.process.stderr_path().to_owned();
    let spans = agent.finish()?;
    let said = std::fs::read_to_string(&said)?;
    ensure!(said.contains(" 0 events lost"), "the agent lost events:\n{said}");
    Ok(Verdict::of(&spans, &calls, load().numbers()))
}

fn one_service(work: &Work, server: &Server, python: Python) -> Result<Verdict> {
    let name = run_name(server, python);
    let app = work.start(server, python, &name, None)?;
    let agent = work.attach(&name, &[&app])?;
    load().send(server, app.port).with_context(|| app.process.stderr())?;
    rest();
    let verdict = judge(agent, &work.calls(&name)?)?;
    app.stop()?;
    Ok(verdict)
}

/// What is not as it must be.
fn complaints(server: &str, verdict: &Verdict) -> Vec<String> {
    let not_yet: &[&str] = NOT_YET.iter().find(|(name, _)| *name == server).map_or(&[], |(_, kinds)| *kinds);
    let mut complaints = Vec::new();
    for ((kind, client), count) in &verdict.cells {
        if count.wrong + count.orphaned + count.missing > 0 {
            complaints.push(format!("{kind}, {client}: {count}"));
        } else if knowable(kind) == Knowable::Always && !count.is_right() && !not_yet.contains(&kind.as_str())
        {
            complaints.push(format!("{kind}, {client} has been right before: {count}"));
        }
    }
    let kinds: BTreeSet<&str> = verdict.cells.keys().map(|(kind, _)| kind.as_str()).collect();
    for kind in not_yet.iter().filter(|kind| kinds.contains(*kind)) {
        if verdict.sum(|found, _| found == *kind).is_right() {
            eprintln!(
                "    {server}: {kind} is right now: take it from NOT_YET if it is so on both interpreters"
            );
        }
    }
    for (count, what) in [
        (verdict.unserved, "requests without a server span"),
        (verdict.doubled, "requests with several server spans"),
        (verdict.false_status, "spans with a false status"),
        (verdict.merged, "traces with several requests"),
    ] {
        if count > 0 {
            complaints.push(format!("{count} {what}"));
        }
    }
    complaints
}

fn tell(row: &str, verdict: &Verdict, started: Instant) {
    let all = verdict.sum(|_, _| true);
    let (unnumbered, of_them) = verdict.unnumbered;
    let seconds = started.elapsed().as_secs_f32();
    let calls = all.all();
    eprintln!(
        "{row}: {calls} calls: {all}; without a number {unnumbered}, {of_them} with a parent; {seconds:.1} s"
    );
    for example in &verdict.examples {
        eprintln!("    {example}");
    }
}

/// The tables so far, which are also written where they are asked for.
fn tables(verdicts: &[(String, Verdict)]) -> Result<String> {
    let text = format!("{}\n{}", table(verdicts, Column::Kind), table(verdicts, Column::Client));
    if let Some(path) = std::env::var_os("TRACEKIT_TABLE") {
        std::fs::write(&path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(text)
}

#[test]
fn parents_under_every_server() -> Result<()> {
    Stage::run("parents", |stage| {
        let work = Work::new(stage)?;
        let mut verdicts: Vec<(String, Verdict)> = Vec::new();
        let mut failures = Vec::new();
        for (server, python) in runs() {
            let started = Instant::now();
            let row = format!("{}; {}", server.name, python.name());
            match one_service(&work, server, python) {
                Ok(verdict) => {
                    tell(&row, &verdict, started);
                    let found = complaints(server.name, &verdict);
                    failures.extend(found.into_iter().map(|complaint| format!("{row}: {complaint}")));
                    verdicts.push((row, verdict));
                    tables(&verdicts)?;
                }
                Err(error) => failures.push(format!("{row}: {error:#}")),
            }
        }
        eprintln!("{}", tables(&verdicts)?);
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

/// Two services and a database deep: `first` calls `second`, which makes calls of its own.
fn two_services(first: &str, second: &str, python: Python) -> Result<()> {
    let first = server(first).context("no such server")?;
    let second = server(second).context("no such server")?;
    let name = run_name(first, python);
    Stage::run(&format!("parents-two-{name}"), |stage| {
        let started = Instant::now();
        let work = Work::new(stage)?;
        let called = work.start(second, python, &format!("{name}+second"), None)?;
        let calling = work.start(first, python, &name, Some(&called))?;
        let agent = work.attach(&name, &[&called, &calling])?;
        load().send(first, calling.port).with_context(|| calling.process.stderr())?;
        rest();
        let verdict = judge(agent, &work.calls(&name)?)?;
        calling.stop()?;
        called.stop()?;
        tell(&format!("{} calls {}", first.name, second.name), &verdict, started);
        let of_second = verdict.sum(|kind, _| kind == "leaf");
        eprintln!(
            "    calls to the second service: {}; calls of it: {of_second}; requests in several traces: {}",
            verdict.joined, verdict.split
        );
        let found = complaints(first.name, &verdict);
        ensure!(found.is_empty(), "{}", found.join("\n"));
        // Joined or not: never with another call.
        let Count { wrong, orphaned, .. } = verdict.joined;
        ensure!(wrong + orphaned == 0, "calls to the second service: {}", verdict.joined);
        Ok(())
    })
}

#[test]
fn two_services_with_threads() -> Result<()> {
    two_services("gunicorn gthread, Flask", "gunicorn gthread, Flask", Python::Debian)
}

#[test]
fn two_services_with_event_loops() -> Result<()> {
    two_services("uvicorn uvloop, FastAPI", "uvicorn uvloop, FastAPI", Python::Pyenv)
}

/// Agents come and go while requests are open. What an agent has not seen whole may lack a parent, or have one that
/// ended with the agent; none may have another request's.
fn attach_and_detach(server: &str, python: Python) -> Result<()> {
    let server = tracekit_tests::work::server(server).context("no such server")?;
    let name = run_name(server, python);
    Stage::run(&format!("parents-attach-{name}"), |stage| {
        let work = Work::new(stage)?;
        let app = work.start(server, python, &name, None)?;
        let enough = AtomicBool::new(false);
        let (agents, sent) = std::thread::scope(|scope| -> Result<_> {
            let sending = scope.spawn(|| -> Result<u64> {
                let mut load = Load { rounds: 3, ..load() };
                while !enough.load(Ordering::Relaxed) {
                    load.send(server, app.port).with_context(|| app.process.stderr())?;
                    load.first = load.numbers().end;
                }
                Ok(load.first)
            });
            let mut agents = Vec::new();
            let result = (0..3).try_for_each(|index| {
                std::thread::sleep(Duration::from_millis(300));
                let agent = work.attach(&format!("{name}-{index}"), &[&app])?;
                std::thread::sleep(Duration::from_millis(1200));
                agents.push(agent.finish()?);
                Ok(())
            });
            enough.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("the load panicked")?;
            result.map(|()| (agents, sent))
        })?;
        app.stop()?;
        for (index, spans) in agents.iter().enumerate() {
            let verdict = Verdict::of(spans, &BTreeSet::new(), load().first..sent);
            let all = verdict.sum(|_, _| true);
            eprintln!("{name}, agent {index}: {all}; {} requests, {} calls", verdict.served, all.all());
            ensure!(all.wrong == 0, "wrong parents:\n{}", verdict.examples.join("\n"));
            ensure!(all.orphaned == 0, "{} calls whose request was not exported", all.orphaned);
            ensure!(verdict.served > 0, "agent {index} saw no request");
            ensure!(verdict.doubled == 0, "{} requests with several server spans", verdict.doubled);
        }
        Ok(())
    })
}

#[test]
fn attach_and_detach_under_threads() -> Result<()> {
    attach_and_detach("gunicorn gthread, Flask", Python::Debian)
}

#[test]
fn attach_and_detach_under_an_event_loop() -> Result<()> {
    attach_and_detach("uvicorn uvloop, FastAPI", Python::Pyenv)
}
