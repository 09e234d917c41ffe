//! Agents that are killed and started again at random: the application does not notice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tracekit_tests::agent::Agent;
use tracekit_tests::app::{App, Setup, Tracing};
use tracekit_tests::client::{Connection, Request};
use tracekit_tests::kernel::bpf_objects;
use tracekit_tests::process::{resident_kib, wait_for};
use tracekit_tests::stage::Stage;
use tracekit_tests::traffic::Random;

/// Seconds of load; ten minutes are `TRACEKIT_CHAOS_SECONDS=600`.
fn duration() -> Result<Duration> {
    let seconds = match std::env::var("TRACEKIT_CHAOS_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("TRACEKIT_CHAOS_SECONDS={text}"))?,
        Err(_) => 60,
    };
    Ok(Duration::from_secs(seconds))
}

/// Requests without a pause until `stop`; any answer but 200 is an error.
fn load(port: u16, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut connection = Connection::new(([127, 0, 0, 1], port).into());
    while !stop.load(Ordering::Relaxed) {
        for target in ["/products/3", "/checkout/7", "/pipeline"] {
            let request = Request::get(target);
            let answer = connection.send(&request)?.context("abandoned")?;
            if answer.status != 200 {
                bail!("GET {target}: {}", answer.status);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn memory(app: &App) -> u64 {
    app.pids().into_iter().filter_map(resident_kib).sum()
}

/// Kills with SIGKILL, or ends politely now and then; sometimes two agents are there at once.
fn torment(stage: &Stage, app: &App, end: Instant) -> Result<u64> {
    let mut random = Random::new(u64::from(app.port));
    let mut killed = 0;
    while Instant::now() < end {
        let agents: Vec<Agent> = (0..1 + random.below(2))
            .map(|index| Agent::start(stage, &format!("agent{index}"), &["attach"], &app.pids(), &[]))
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
        for mut agent in agents {
            if random.below(5) == 0 {
                agent.finish()?;
            } else {
                agent.process.signal(libc::SIGKILL);
                agent.process.wait(Duration::from_secs(5))?;
                killed += 1;
            }
        }
        // Killed while it loads and attaches, too.
        let mut command = tracekit_tests::agent::command(&["attach", "--print", "none", "--no-control"])?;
        for pid in app.pids() {
            command.args(["--pid", &pid.to_string()]);
        }
        let mut young = tracekit_tests::process::Process::start("young", stage.logs(), command)?;
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        young.signal(libc::SIGKILL);
        young.wait(Duration::from_secs(5))?;
        killed += 1;
    }
    Ok(killed)
}

#[test]
fn killed_agents_leave_nothing_behind() -> Result<()> {
    Stage::run("chaos", |stage| {
        let stage = stage.with_postgres()?.with_redis()?.with_backend()?;
        let app = Setup::FlaskGthread.start(stage.logs(), &stage.environment(), &Tracing::None)?;
        let objects_before = bpf_objects()?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let port = app.port;
        let (memory_before, memory_after, killed) = std::thread::scope(|scope| -> Result<_> {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| load(port, &stop, &done))).collect();
            // Allocators and caches settle first.
            std::thread::sleep(Duration::from_secs(5));
            let before = memory(&app);
            let killed = torment(&stage, &app, Instant::now() + duration()?);
            let after = memory(&app);
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("a client panicked").context("a request failed")?;
            }
            Ok((before, after, killed?))
        })?;
        let requests = done.load(Ordering::Relaxed);
        println!("{requests} requests, {killed} agents killed, memory {memory_before} → {memory_after} KiB");
        ensure!(killed > 0 && requests > 100, "{killed} agents killed, {requests} requests");
        // Python's own heap moves by a few per cent under load.
        let allowed = memory_before + memory_before / 20 + 4096;
        ensure!(memory_after <= allowed, "memory grew from {memory_before} to {memory_after} KiB");
        wait_for("the kernel to free what the agents had", Duration::from_secs(10), || {
            let mut left = bpf_objects()?;
            left.retain(|key, _| !objects_before.contains_key(key));
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
    })
}
