//! Who caused this call? Under every server, on two interpreters, with every client, requests at once make calls that
//! carry their request's number: each client span's parent is the server span of that request, or there is none.
//!
//! `TRACEKIT_PARENTS=full` sends 100 requests at once 50 times to every server on both interpreters;
//! `TRACEKIT_PARENTS_ONLY=uvloop` takes the servers whose name contains that; `TRACEKIT_TABLE=path` writes the table.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::load::Load;
use tracekit_tests::parents::{Verdict, answered_calls, table};
use tracekit_tests::process::{Process, free_port, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::work::{Python, SERVERS, Server};

fn is_full() -> bool {
    std::env::var("TRACEKIT_PARENTS").is_ok_and(|value| value == "full")
}

fn load() -> Load {
    if is_full() {
        Load { clients: 100, rounds: 50, first: 1000 }
    } else {
        Load { clients: 100, rounds: 3, first: 1000 }
    }
}

/// The HTTP service that the calls go to, as the applications find it.
fn upstream(stage: &Stage) -> Result<(Process, (String, String))> {
    let port = free_port()?;
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.arg("upstream.py").arg(port.to_string()).current_dir(tracekit_tests::paths::apps().join("work"));
    let process = Process::start("upstream", stage.logs(), command)?;
    wait_for("the port of upstream", Duration::from_secs(20), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).map(Some)?)
    })?;
    Ok((process, ("UPSTREAM_PORT".to_owned(), port.to_string())))
}

/// Waits until the agent has printed nothing for a while.
fn settle(agent: &Agent) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut size, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(800) {
        ensure!(Instant::now() < deadline, "the agent still prints after a minute");
        std::thread::sleep(Duration::from_millis(50));
        let now = std::fs::metadata(agent.process.stdout_path())?.len();
        if now != size {
            (size, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn run(stage: &Stage, server: &Server, python: Python, upstream: &(String, String)) -> Result<Verdict> {
    let name = format!("{}-{}", server.name.replace([' ', ','], "-"), python.name());
    let calls = stage.logs().join(format!("{name}.calls"));
    std::fs::create_dir_all(&calls)?;
    let mut environment = stage.environment();
    environment.push(upstream.clone());
    environment.push(("CALLS_DIR".into(), calls.display().to_string()));
    let app = server.start(&name, python, stage.logs(), &environment)?;
    let agent = Agent::start(stage, &format!("{name}-agent"), &["attach"], &app.pids(), &[])?;
    let load = load();
    let sent = load.send(server, app.port);
    if let Err(error) = sent {
        bail!("{error:#}\n{}", app.process.stderr());
    }
    settle(&agent)?;
    let complaints = agent.process.stderr();
    let spans = agent.finish()?;
    app.stop()?;
    if !complaints.trim().is_empty() {
        eprintln!("{name}: the agent said: {}", complaints.trim());
    }
    Ok(Verdict::of(&spans, &answered_calls(&calls)?, load.numbers()))
}

#[test]
fn parents_under_every_server() -> Result<()> {
    let only = std::env::var("TRACEKIT_PARENTS_ONLY").unwrap_or_default();
    Stage::run("parents", |stage| {
        let stage = stage.with_postgres()?.with_mariadb()?.with_redis()?;
        let (_upstream, address) = upstream(&stage)?;
        let mut runs: Vec<(String, Verdict)> = Vec::new();
        let mut failures = Vec::new();
        for server in SERVERS.iter().filter(|server| server.name.contains(&only)) {
            for python in Python::ALL {
                let started = Instant::now();
                let row = format!("{}, {}", server.name, python.name());
                match run(&stage, server, python, &address) {
                    Ok(verdict) => {
                        let all = verdict.sum(|_, _| true);
                        eprintln!(
                            "{row}: {all}; {} calls, served {} unserved {} doubled {}, false status {}, \
                             unnumbered {:?}; {:.1} s",
                            all.all(),
                            verdict.served,
                            verdict.unserved,
                            verdict.doubled,
                            verdict.false_status,
                            verdict.unnumbered,
                            started.elapsed().as_secs_f32(),
                        );
                        for example in &verdict.examples {
                            eprintln!("    {example}");
                        }
                        runs.push((row, verdict));
                    }
                    Err(error) => failures.push(format!("{row}: {error:#}")),
                }
            }
        }
        let text = format!(
            "{}\n{}",
            table(&runs, |(kind, _)| kind.as_str()),
            table(&runs, |(_, client)| client.as_str())
        );
        eprintln!("{text}");
        if let Some(path) = std::env::var_os("TRACEKIT_TABLE") {
            std::fs::write(path, &text)?;
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}
