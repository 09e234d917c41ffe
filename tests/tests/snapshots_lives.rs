//! Breakpoints outlive what they are in: agents that are killed, deploys, and more lines than the machine can watch.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;
use tracekit_tests::agent::Agent;
use tracekit_tests::app::App;
use tracekit_tests::client::{Connection, Request};
use tracekit_tests::debugger::{Driven, debugged, line_of, place};
use tracekit_tests::kernel::bpf_objects;
use tracekit_tests::paths;
use tracekit_tests::process::{free_port, wait_for};
use tracekit_tests::traffic::Random;

/// Agents that are killed.
const KILLS: usize = 8;

fn load(port: u16, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut connection = Connection::new(([127, 0, 0, 1], port).into());
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.send(&Request::get("/pay/3"))?.context("abandoned")?;
        ensure!(answer.status == 200, "status {}", answer.status);
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[test]
fn killed_while_hits_arrive() -> Result<()> {
    debugged("snapshots-killed", |stage| {
        let port = free_port()?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg("orders.py").arg(port.to_string()).current_dir(paths::apps());
        let app = App::start("orders", stage.logs(), command, port, 0)?;
        let objects = bpf_objects()?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let place = place("orders.py", "paid")?;
        std::thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| load(port, &stop, &done))).collect();
            let mut random = Random::new(u64::from(port));
            let mut torment = || -> Result<()> {
                for round in 0..KILLS {
                    let mut agent = Agent::attach(&stage, &app.pids())?;
                    let id = agent.add(&["break", "add", &place, "--rate", "10", "--hits", "1000"])?;
                    // Some are killed while they arm, others while they capture.
                    if round % 2 == 0 {
                        agent.when(&id, "hit", |view| view["counters"]["hits"].as_u64() > Some(0))?;
                    }
                    std::thread::sleep(Duration::from_millis(random.below(300) as u64));
                    agent.process.signal(libc::SIGKILL);
                    agent.process.wait(Duration::from_secs(20))?;
                }
                Ok(())
            };
            let outcome = torment();
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("a client panicked").context("a request failed")?;
            }
            outcome
        })?;
        ensure!(done.load(Ordering::Relaxed) > 100, "{done:?} requests");
        wait_for("the kernel to free what the agents had", Duration::from_secs(20), || {
            let mut left = bpf_objects()?;
            left.retain(|key, name| !objects.contains_key(key) && name.starts_with("line_hit"));
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })?;

        // All registers are free: as many lines as there are can be watched at once.
        let agent = Agent::attach(&stage, &app.pids())?;
        let line = line_of(&paths::apps().join("orders.py"), "paid")?;
        let lines = [line - 5, line - 4, line - 3, line - 1];
        let ids: Vec<String> = lines
            .iter()
            .map(|line| agent.arm(&["break", "add", &format!("orders.py:{line}"), "--rate", "1/h"], 1))
            .collect::<Result<_>>()?;
        let mut connection = Connection::new(([127, 0, 0, 1], port).into());
        let mut pay = |count: usize| -> Result<()> {
            for _ in 0..count {
                connection.send(&Request::get("/pay/3"))?;
            }
            Ok(())
        };
        pay(30)?;
        for id in &ids {
            let view = agent.hits(id, 30)?;
            ensure!(view["mode"] != "rotating", "{view:#}");
        }
        // One more, and they take turns, and say so.
        let one_more = agent.add(&["break", "add", &place, "--rate", "1/h"])?;
        let is_rotating = |view: &Json| view["mode"] == "rotating";
        for id in ids.iter().chain([&one_more]) {
            agent.when(id, "rotating", |view| is_rotating(view) || view["reason"] == "rate")?;
        }
        let (_, table, _) = agent.verb(&["break", "ls"])?;
        ensure!(table.contains("ACTIVE (rotating)"), "{table}");
        wait_for("a hit of the one more", Duration::from_secs(60), || {
            pay(5)?;
            let view = agent.breakpoint(&one_more)?;
            Ok((view["counters"]["hits"].as_u64() > Some(0)).then_some(()))
        })?;
        // And no more when it is gone.
        agent.verb(&["break", "rm", &one_more])?;
        for id in &ids {
            agent.when(id, "active", |view| view["state"] == "ACTIVE" && view["mode"] == "cpu-wide")?;
        }
        Ok(())
    })
}

const FIRST: &str = "
def helper(number):
    return number + 1


def pay(number):
    total = number * 2
    total += helper(number)
    return total  # break: paid
";

/// The same function further down; at its place before is another.
const MOVED: &str = "
# A new release
# has more to say.
def helper(number):
    return number + 1


def refund(number):
    return -number


def pay(number):
    total = number * 2
    total += helper(number)
    return total  # break: paid
";

/// Another function of that name.
const CHANGED: &str = "
def helper(number):
    return number + 1


def pay(number):
    if number < 0:
        raise ValueError(number)
    return number * 3 + helper(number)  # break: paid
";

fn release(folder: &Path, text: &str) -> Result<Driven> {
    std::fs::write(folder.join("release.py"), text)?;
    let mut app = Driven::start(&[folder])?;
    app.ask("load('release')")?;
    Ok(app)
}

#[test]
fn deploys() -> Result<()> {
    debugged("snapshots-deploys", |stage| {
        let folder = stage.logs().join("site");
        std::fs::create_dir_all(&folder)?;
        let mut app = release(&folder, FIRST)?;
        let pattern = format!("driven.py {}$", folder.display());
        let verb = ["run", "--cmdline", &pattern, "--service-name", "releases"];
        let mut agent = Agent::start(&stage, "agent", &verb, &[], &[])?;
        let file = folder.join("release.py");
        let place = format!("release.py:{}", line_of(&file, "paid")?);
        let id = agent.arm(&["break", "add", &place, "--rate", "10", "--label", "kept"], 1)?;
        ensure!(app.ask("release.pay(3)")? == 10);
        let mut hits = 1;
        agent.hits(&id, hits)?;

        let mut check = |agent: &Agent, text: &str, line: Option<usize>| -> Result<()> {
            let gone = app.pid();
            app = release(&folder, text)?;
            let pid = app.pid();
            agent.when(&id, "in the new process", |view| {
                let all = view["processes"].as_array().cloned().unwrap_or_default();
                all.len() == 1
                    && all[0]["pid"] == pid
                    && all[0]["pid"] != gone
                    && all[0]["state"] != "PENDING"
            })?;
            for number in 1..=5 {
                app.ask(&format!("release.pay({number})"))?;
                app.ask("release.refund(1) if hasattr(release, 'refund') else None")?;
                app.ask("release.helper(1)")?;
            }
            if line.is_some() {
                hits += 5;
            }
            let view = agent.hits(&id, hits)?;
            let expected = if line.is_some() { "ACTIVE" } else { "STALE" };
            ensure!(view["state"] == expected || view["reason"] == "rate", "{view:#}");
            if let Some(line) = line {
                let snapshots = agent.snapshots(&id)?;
                let of_this = snapshots.iter().filter(|snapshot| snapshot["process"]["pid"] == pid);
                let mut count = 0;
                for snapshot in of_this {
                    let frame = &snapshot["stack"][0];
                    ensure!(frame["line"] == line && frame["function"] == "pay", "{frame:#}");
                    count += 1;
                }
                ensure!(count > 0, "nothing was captured");
            }
            Ok(())
        };
        let line_in =
            |text: &str| text.lines().position(|line| line.ends_with("# break: paid")).map(|at| at + 1);
        check(&agent, MOVED, line_in(MOVED))?;
        check(&agent, CHANGED, None)?;
        // Its function, and what has become of it, are not forgotten with the agent.
        agent = agent.replace(&stage, "next", &verb, &[])?;
        let view = agent.when(&id, "stale again", |view| view["state"] == "STALE")?;
        ensure!(view["label"] == "kept", "{view:#}");
        hits = 0;
        let mut check = |agent: &Agent, text: &str| -> Result<()> {
            app = release(&folder, text)?;
            agent.armed(&id, 1)?;
            for number in 1..=5 {
                app.ask(&format!("release.pay({number})"))?;
            }
            hits += 5;
            agent.when(&id, "hit", |view| view["processes"][0]["hits"] == 5)?;
            Ok(())
        };
        check(&agent, FIRST)?;
        Ok(())
    })
}
